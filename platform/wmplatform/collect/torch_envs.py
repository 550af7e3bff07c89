"""Streams of episodes as TorchRL environments.

A TensorDict holds, beside TorchRL's own keys: the observations, each signal float32 `[..., 1]`,
`is_init` bool `[..., 1]`, `stream` and `fault` int64 `[..., 1]`. Everything lies on the CPU.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wmplatform.collect.faults import FaultBudget, FaultBudgetSpent, FaultReport
from wmplatform.collect.isolated import IsolatedAdapter, Isolation
from wmplatform.collect.stream_env import IS_INIT, Outcome, Snapshot, StreamEnv
from wmplatform.interfaces.env_adapter import ArraySpec, EnvAdapter, EnvSpec
from wmplatform.torchrl_parts import Binary, Bounded, Composite, EnvBase, OneHot, Unbounded

__all__ = ["FAULT", "FaultTolerance", "OneStream", "ProcessStream", "VectorStreams"]

FAULT = "fault"
"""Key that tells of faults: at `is_init` how many resets failed before it, in `next` what became of
the step: 0, `LOST` or `SPENT`."""


@dataclass(frozen=True, kw_only=True)
class FaultTolerance:
    """What is done about environments that fail."""

    fault_budget: int = 10
    """Faults of one environment that are put up with ..."""
    fault_window: int = 10_000
    """... within so many of its agent steps."""
    isolate: bool = False
    """Put an environment into a process of its own, whatever it is for."""
    isolation: Isolation = field(default_factory=Isolation)

    def budget(self) -> FaultBudget:
        """Give one environment a budget."""
        return FaultBudget(self.fault_budget, self.fault_window)

    def wrap(self, adapter: EnvAdapter, *, isolate: bool = False) -> EnvAdapter:
        """Put an adapter's environments into processes where that is wanted."""
        return IsolatedAdapter(adapter, self.isolation) if isolate or self.isolate else adapter


class _Streams(EnvBase):  # type: ignore[misc]
    """What one and many streams have in common: specs, and arrays into TensorDicts."""

    def __init__(
        self,
        adapter: EnvAdapter,
        run_seed: int,
        streams: Sequence[int],
        batch: list[int],
        first_episode: int,
        tolerance: FaultTolerance | None,
    ) -> None:
        super().__init__(device=None, batch_size=torch.Size(batch))
        self.is_closed = False  # TorchRL begins with True, and its collectors then close nothing
        spec = adapter.spec()
        self._streams = [
            StreamEnv(
                adapter, run_seed, stream, first_episode, tolerance.budget() if tolerance else None
            )
            for stream in streams
        ]
        self._keys = (*spec.observations, *spec.signals)
        self._numbers = torch.tensor(streams, dtype=torch.int64).view(*batch, 1)
        self.observation_spec = self._observation_spec(spec, batch)
        self.action_spec = _action_spec(spec, batch)
        self.reward_spec = Unbounded((*batch, 1), dtype=torch.float32)
        flags = ("done", "terminated", "truncated")
        self.full_done_spec = Composite(
            {key: Binary(1, shape=(*batch, 1), dtype=torch.bool) for key in flags}, shape=batch
        )

    def _observation_spec(self, spec: EnvSpec, batch: list[int]) -> Composite:
        scalar = (*batch, 1)
        specs: dict[str, Any] = {
            key: _array_spec(array, batch) for key, array in spec.observations.items()
        }
        specs |= {name: Unbounded(scalar, dtype=torch.float32) for name in spec.signals}
        specs[IS_INIT] = Binary(1, shape=scalar, dtype=torch.bool)
        specs["stream"] = Unbounded(scalar, dtype=torch.int64)
        specs[FAULT] = Unbounded(scalar, dtype=torch.int64)
        return Composite(specs, shape=batch)

    def take_reports(self) -> list[FaultReport]:
        """Return the faults since the last call."""
        found = [report for stream in self._streams for report in stream.reports]
        for stream in self._streams:
            stream.reports.clear()
        return found

    @property
    def spent(self) -> FaultBudgetSpent | None:
        """What ends the run, once an environment has failed too often."""
        return next((stream.spent for stream in self._streams if stream.spent), None)

    def snapshots(self) -> list[Snapshot]:
        """Describe where each stream stands."""
        return [stream.snapshot() for stream in self._streams]

    def resume(self, snapshots: Sequence[Snapshot]) -> None:
        """Go on from there at the next reset."""
        for stream, snapshot in zip(self._streams, snapshots, strict=True):
            stream.resume = snapshot

    def _pack(self, failed: Sequence[int], outcomes: Sequence[Outcome] = ()) -> TensorDict:
        """What the streams see now, and what came of their steps, if they took one."""
        values: dict[str, Any] = {key: self._seen(key) for key in self._keys}
        ended = self._column([each.terminated for each in outcomes] or [False] * len(failed))
        cut = self._column([each.truncated for each in outcomes] or [False] * len(failed))
        values |= {
            IS_INIT: self._seen(IS_INIT).bool(),
            "stream": self._numbers.clone(),
            FAULT: self._column(failed),
            "terminated": ended,
            "truncated": cut,
            "done": ended | cut,
        }
        if outcomes:
            values["reward"] = self._column([each.reward for each in outcomes]).float()
        return TensorDict(values, self.batch_size)

    def _seen(self, key: str) -> Tensor:
        arrays = [stream.last[key] for stream in self._streams]
        return torch.from_numpy(np.stack(arrays) if self.batch_size else arrays[0])

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values).view(*self.batch_size, 1)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        actions: NDArray[np.float32] = tensordict["action"].reshape(len(self._streams), -1).numpy()
        for stream, action in zip(self._streams, actions, strict=True):
            stream.send(action)
        outcomes = [stream.receive() for stream in self._streams]
        return self._pack([each.fault for each in outcomes], outcomes)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            for stream in self._streams:
                stream.run_seed = seed


class OneStream(_Streams):
    """One stream, played in this process.

    Args:
        adapter: makes the environment.
        run_seed: see `StreamEnv`.
        stream: number of the stream.
        first_episode: number of the first episode.
        tolerance: of faults; errors are raised unless given.
    """

    def __init__(
        self,
        adapter: EnvAdapter,
        run_seed: int = 0,
        stream: int = 0,
        first_episode: int = 0,
        tolerance: FaultTolerance | None = None,
    ) -> None:
        wrapped = tolerance.wrap(adapter) if tolerance else adapter
        super().__init__(wrapped, run_seed, [stream], [], first_episode, tolerance)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the simulator."""
        super().close(raise_if_closed=raise_if_closed)
        self._streams[0].close()

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        return self._pack([self._streams[0].reset()])


class ProcessStream(OneStream):
    """One stream in the process of a collector, which tells of its faults by itself."""

    def _pack(self, failed: Sequence[int], outcomes: Sequence[Outcome] = ()) -> TensorDict:
        for report in self.take_reports():
            sys.stderr.write(f"{report}\n")
        return super()._pack(failed, outcomes)


class VectorStreams(_Streams):
    """N streams, each in a process of its own, stepped together.

    Args:
        adapter: makes the environments; pickled.
        run_seed: see `StreamEnv`.
        num_envs: number of streams.
        tolerance: of faults; errors are raised unless given.
    """

    def __init__(
        self,
        adapter: EnvAdapter,
        run_seed: int = 0,
        num_envs: int = 2,
        tolerance: FaultTolerance | None = None,
    ) -> None:
        wrapped = (tolerance or FaultTolerance()).wrap(adapter, isolate=True)
        super().__init__(wrapped, run_seed, range(num_envs), [num_envs], 0, tolerance)
        # Starting and resetting take long, so they happen side by side.
        self._pool = ThreadPoolExecutor(num_envs, "streams")

    def close(self, *, raise_if_closed: bool = True) -> None:
        """End the processes."""
        super().close(raise_if_closed=raise_if_closed)
        list(self._pool.map(StreamEnv.close, self._streams))
        self._pool.shutdown()

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        wanted = None if tensordict is None else tensordict.get("_reset", None)
        mask = [True] * len(self._streams) if wanted is None else wanted.reshape(-1).tolist()
        chosen = [stream for stream, reset in zip(self._streams, mask, strict=True) if reset]
        failed = iter(list(self._pool.map(StreamEnv.reset, chosen)))
        return self._pack([next(failed) if reset else 0 for reset in mask])


def _action_spec(spec: EnvSpec, batch: list[int]) -> Any:
    shape = (*batch, spec.action.size)
    if spec.action.kind == "discrete":
        return OneHot(spec.action.size, shape=shape, dtype=torch.float32)
    return Bounded(-1.0, 1.0, shape=shape, dtype=torch.float32)


def _array_spec(array: ArraySpec, batch: list[int]) -> Any:
    shape = (*batch, *array.shape)
    dtype = getattr(torch, array.dtype)
    if array.dtype == "uint8":
        return Bounded(0, 255, shape=shape, dtype=dtype)
    return Unbounded(shape, dtype=dtype)
