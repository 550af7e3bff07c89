"""What an episode came to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tensordict import TensorDictBase

from wmplatform.forms import REAL, Many, Whole
from wmplatform.interfaces.env_adapter import EnvSpec

__all__ = ["EpisodeStats", "EpisodeTally"]


@dataclass(frozen=True)
class EpisodeStats:
    """A finished episode."""

    return_: float
    """Sum of its rewards."""
    length: int
    """Agent steps."""
    signals: Mapping[str, float] = field(default_factory=dict)
    """Each signal of the environment's spec, summed up by its own rule over the agent steps."""
    stream: int = 0


class EpisodeTally:
    """Adds up the running episode of each stream.

    Args:
        spec: of the environment.
        streams: number of streams.
    """

    def __init__(self, spec: EnvSpec, streams: int) -> None:
        self._rules = dict(spec.signals)
        self._running: list[list[float]] = [self._fresh() for _ in range(streams)]

    def add(self, records: TensorDictBase) -> list[EpisodeStats]:
        """Count records `[K]` with a column `stream`; return the episodes that they finish.

        An episode that is cut short by `is_first` is dropped.
        """
        finished = []
        columns = [records[key].tolist() for key in ("stream", "is_first", "is_last", "reward")]
        signals = zip(*[records[name].tolist() for name in self._rules], strict=True)
        rows = list(signals) or [()] * len(columns[0])
        for stream, is_first, is_last, reward, values in zip(*columns, rows, strict=True):
            if is_first:
                self._running[stream] = self._fresh()
            else:
                self._count(self._running[stream], reward, values)
            if is_last:
                finished.append(self._stats(stream))
        return finished

    def drop(self, stream: int) -> None:
        """Forget a running episode."""
        self._running[stream] = self._fresh()

    def state_dict(self) -> dict[str, Any]:
        """Return the running sums."""
        return {"running": [list(sums) for sums in self._running]}

    def state_form(self) -> Any:
        """Of which form `load_state_dict` takes a state."""
        return {"running": Many([REAL, Whole(), *(REAL for _ in self._rules)])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over running sums."""
        self._running = [list(sums) for sums in state["running"]]

    def _fresh(self) -> list[float]:
        """Return, length, then one number a signal."""
        start = {"max": float("-inf"), "sum": 0.0, "mean": 0.0, "last": 0.0}
        return [0.0, 0, *(start[rule] for rule in self._rules.values())]

    def _count(self, sums: list[float], reward: float, values: tuple[float, ...]) -> None:
        sums[0] += reward
        sums[1] += 1
        for i, (rule, value) in enumerate(zip(self._rules.values(), values, strict=True), start=2):
            if rule == "max":
                sums[i] = max(sums[i], value)
            else:
                sums[i] = value if rule == "last" else sums[i] + value

    def _stats(self, stream: int) -> EpisodeStats:
        return_, length, *sums = self._running[stream]
        signals = {
            name: total / max(1, length) if rule == "mean" else total
            for (name, rule), total in zip(self._rules.items(), sums, strict=True)
        }
        return EpisodeStats(return_, int(length), signals, stream)
