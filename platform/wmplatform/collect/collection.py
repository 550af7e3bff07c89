"""Collection: the agent plays, and records come out.

    one environment      TorchRL's Collector over `OneStream`, in this process
    num_envs > 1         the same over `VectorStreams`: environments in processes, one batched
                         call of the agent for all of them
    processes > 0        TorchRL's process collectors: environment and a copy of the agent in each

The first two go on bit for bit after a restart: every episode has a seed of its own, so the running
one is played again from its seed and its actions. Process collectors run ahead of the learner; they
do not repeat, and their running episodes are lost at a restart.

An environment that raises, or gives what no record may hold, ends its episode as truncated and is
made anew, within a budget. One that hangs or dies does so too where it has a process of its own:
with `num_envs` > 1, or with `isolate`.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt
from tensordict import TensorDict, TensorDictBase

from wmplatform.collect.acting import ActingPolicy, Actor, pack_tree
from wmplatform.collect.episodes import EpisodeStats, EpisodeTally
from wmplatform.collect.faults import (
    CollectorLost,
    FaultBudgetSpent,
    FaultReport,
    describe_error,
)
from wmplatform.collect.isolated import Isolation, StartMethod
from wmplatform.collect.stream_env import IS_INIT, LOST, SPENT, Snapshot
from wmplatform.collect.torch_envs import (
    FAULT,
    FaultTolerance,
    OneStream,
    ProcessStream,
    VectorStreams,
)
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.forms import Array, Either, Many, Maybe, Whole, form_of
from wmplatform.interfaces.env_adapter import EnvAdapter, EnvSpec
from wmplatform.records import to_records
from wmplatform.torchrl_parts import BaseCollector, Collector
from wmplatform.types import TensorTree

__all__ = ["BadCollection", "Collected", "Collection", "EpisodeLost"]


class BadCollection(PlatformError):
    """Settings of `Collection` that do not go together."""

    exit_code = ExitCode.BAD_INPUT


class EpisodeLost(UserWarning):
    """An episode that was running when the run was saved cannot be continued."""


@dataclass(frozen=True)
class Collected:
    """What one call of `collect` brought."""

    records: TensorDict
    """`[K]` with a column `stream`, for `Replay.extend`; K is more than `agent_steps` where
    episodes began."""
    episodes: list[EpisodeStats]
    """Episodes that ended."""
    agent_steps: int
    """Steps taken; those of which no record came are not counted."""
    faults: list[FaultReport] = field(default_factory=list)
    """Environments that failed and were made anew."""
    spent: FaultBudgetSpent | None = None
    """What has to end the run: an environment failed too often. All else is as ever, and may be
    saved and gone on from; the next `collect` raises it."""


class Collection:
    """Plays environments with an agent. Making one starts nothing; the first `collect` does.

    Args:
        adapter: makes the environments.
        agent: acts; not copied unless `processes` is positive.
        seed: of the environments' episodes, with the stream's and the episode's number.
        num_envs: environments, stepped together.
        processes: collectors in processes of their own instead; 0 for none.
        agent_steps_per_collect: agent steps of one `collect`, all environments together.
        start_method: of processes.
        collects_per_sync: calls of `collect` between two copies of the weights to the processes;
            only where `processes` is positive.
        fault_budget: faults of one environment that are put up with ...
        fault_window: ... within so many of its agent steps.
        isolate: also a single environment, that of each collector in `processes`, and that of
            evaluation get a process of their own.
        step_timeout_s: seconds that an environment in a process of its own has for a step.
        reset_timeout_s: likewise for the start of its simulator, and for a reset.

    Raises:
        BadCollection: the settings do not go together.
    """

    def __init__(
        self,
        adapter: EnvAdapter,
        agent: Actor,
        seed: int = 0,
        *,
        num_envs: Annotated[int, Ge(1)] = 1,
        processes: Annotated[int, Ge(0)] = 0,
        agent_steps_per_collect: Annotated[int, Ge(1)] = 5,
        start_method: StartMethod = "forkserver",
        collects_per_sync: Annotated[int, Ge(1)] = 10,
        fault_budget: Annotated[int, Ge(0)] = 10,
        fault_window: Annotated[int, Ge(1)] = 10_000,
        isolate: bool = False,
        step_timeout_s: Annotated[float, Gt(0.0)] = 60.0,
        reset_timeout_s: Annotated[float, Gt(0.0)] = 300.0,
    ) -> None:
        _refuse_odd(num_envs, processes, agent_steps_per_collect)
        self.adapter, self.spec = adapter, adapter.spec()
        self.streams = processes or num_envs
        """Streams that replay must have."""
        self.agent_steps_per_collect = agent_steps_per_collect
        self.policy = ActingPolicy(copy.deepcopy(agent) if processes else agent, self.spec)
        self._agent = agent
        self._seed, self._num_envs, self._processes = seed, num_envs, processes
        self.tolerance = FaultTolerance(
            fault_budget=fault_budget,
            fault_window=fault_window,
            isolate=isolate,
            isolation=Isolation(
                start_method=start_method,
                step_timeout_s=step_timeout_s,
                reset_timeout_s=reset_timeout_s,
            ),
        )
        """What is done about environments that fail."""
        self._collects_per_sync = collects_per_sync
        self._tally = EpisodeTally(self.spec, self.streams)
        self._started = [0] * self.streams
        self._collects = self._agent_steps = 0
        self._env: OneStream | VectorStreams | None = None
        self._collector: BaseCollector | None = None
        self._batches: Iterator[TensorDictBase] = iter(())
        self._restored: Mapping[str, Any] | None = None
        self._spent: FaultBudgetSpent | None = None

    def collect(self, *, warmup: bool = False) -> Collected:
        """Take `agent_steps_per_collect` steps.

        Args:
            warmup: act at random (`Explorer.warmup`) instead of by the policy.

        Raises:
            CollectorLost: a process of `processes` is gone; what came before can be saved.
            FaultBudgetSpent: an earlier call said so in `Collected.spent`.
        """
        if self._spent is not None:
            raise self._spent
        if self._collector is None:
            self._start(warmup)
        else:
            changed = warmup != bool(self.policy.warming)
            self.policy.set_clock(self._agent_steps, warmup=warmup)
            if self._processes:
                self._sync(force=changed)
        self._collects += 1
        steps = self._next_batch()
        records = to_records(steps, self.spec)
        self._count_starts(steps)
        faults, self._spent = self._faults(steps)
        taken = len(records) - int(records["is_first"].sum())
        self._agent_steps += taken
        return Collected(records, self._tally.add(records), taken, faults, self._spent)

    def state_dict(self) -> dict[str, Any]:
        """Return where every stream stands: a tree of dicts, lists, tensors and JSON values."""
        if self._collector is None:
            return dict(self._restored or {"streams": None})
        snapshots = [] if self._env is None else self._env.snapshots()
        return {
            "streams": [_to_tensors(snapshot) for snapshot in snapshots],
            "agent_steps": self._agent_steps,
            "started": list(self._started),
            "tally": self._tally.state_dict(),
            "memory": self.policy.memory_state(),
        }

    def state_form(self, memory: TensorTree) -> Any:
        """Of which form `load_state_dict` takes a state.

        Args:
            memory: of the agent, for all streams, before the first observation; it is alike after
                every step, but for the precision of floats.
        """
        started = {
            "streams": Many(_snapshot_form(self.spec)),
            "agent_steps": Whole(),
            "started": Many(Whole()),
            "tally": self._tally.state_form(),
            "memory": Either(None, form_of(pack_tree(memory), any_float=True)),
        }
        return Either({"streams": None}, started)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there at the first `collect`, bit for bit where the environment allows it.

        The caller restores torch's random states.

        Raises:
            RuntimeError: this collection has been used.
            BadCollection: the state has another number of streams.
            ValueError: its parts do not go together.
        """
        if self._collector is not None:
            raise RuntimeError("load_state_dict comes before the first collect")
        if state["streams"] is not None and len(state["started"]) != self.streams:
            raise BadCollection(
                f"the saved run has {len(state['started'])} streams, this one {self.streams}",
                hint="use the configuration that the run was started with",
            )
        if state["streams"] is not None:
            _refuse_odd_state(state)
        self._restored = state

    def close(self) -> None:
        """Stop environments and processes; a second call does nothing."""
        if self._collector is not None and not getattr(self._collector, "closed", False):
            self._collector.shutdown()
        elif self._collector is None and self._env is not None:  # the first reset failed
            self._env.close(raise_if_closed=False)
            self._env = None

    def _start(self, warmup: bool) -> None:
        state = self._restored
        if state is not None and state["streams"] is not None:
            self._agent_steps = state["agent_steps"]
            self._started = list(state["started"])
            self._tally.load_state_dict(state["tally"])
            self.policy.load_memory(state["memory"])
        self.policy.set_clock(self._agent_steps, warmup=warmup)
        if self._processes:
            self._collector = self._in_processes()
        else:
            self._collector = self._here()
        self._restored = None
        self._batches = iter(self._collector)

    def _next_batch(self) -> TensorDictBase:
        try:
            return next(self._batches)
        except Exception as error:
            if not self._processes:
                raise
            raise CollectorLost(
                f"a collector's process is gone: {describe_error(error)}",
                where=self.adapter.name,
                hint="its own messages are above; Collection.isolate = True protects it from an "
                "environment that crashes",
            ) from error

    def _count_starts(self, steps: TensorDictBase) -> None:
        """Remember which episodes are used up."""
        begins = steps[IS_INIT]
        streams, failed = steps["stream"][begins].tolist(), steps[FAULT][begins].tolist()
        for stream, resets in zip(streams, failed, strict=True):
            self._started[stream] += 1 + resets

    def _faults(self, steps: TensorDictBase) -> tuple[list[FaultReport], FaultBudgetSpent | None]:
        if self._env is not None:
            return self._env.take_reports(), self._env.spent
        # Collectors in processes have told what happened; here only its traces arrive.
        arrivals = steps["next", FAULT]
        count = int((arrivals == LOST).sum() + steps[FAULT][steps[IS_INIT]].sum())
        stream = int(steps["stream"].reshape(-1)[0])
        what = "its process says above what happened"
        report = FaultReport(self.adapter.name, f"stream {stream}", 0, 0, what)
        limit, window = self.tolerance.fault_budget, self.tolerance.fault_window
        spent = FaultBudgetSpent(report, limit, window) if (arrivals == SPENT).any() else None
        return [report] * count, spent

    def _here(self) -> BaseCollector:
        if self._num_envs == 1:
            self._env = OneStream(self.adapter, self._seed, tolerance=self.tolerance)
        else:
            count = self._num_envs
            self._env = VectorStreams(self.adapter, self._seed, count, self.tolerance)
        saved = (self._restored or {}).get("streams") or []
        if saved:
            self._env.resume([_to_arrays(snapshot) for snapshot in saved])
        collector = Collector(
            self._env,
            self.policy,
            frames_per_batch=self.agent_steps_per_collect,
            total_frames=-1,
            trust_policy=True,
            use_buffers=False,  # with buffers the policy would be called once more at the start
            track_traj_ids=False,
            auto_register_policy_transforms=False,
        )
        self._drop_lost(saved, collector._carrier[IS_INIT].reshape(-1).tolist())
        return collector

    def _in_processes(self) -> BaseCollector:
        for stream, started in enumerate(self._started):
            if started:
                self._lose(stream)
        makers = [
            partial(ProcessStream, self.adapter, self._seed, stream, first, self.tolerance)
            for stream, first in enumerate(self._started)
        ]
        return Collector(
            makers,
            self.policy,
            num_collectors=self._processes,
            sync=False,
            frames_per_batch=self.agent_steps_per_collect,
            total_frames=-1,
            trust_policy=True,
            auto_register_policy_transforms=False,
        )

    def _sync(self, *, force: bool) -> None:
        if force or self._collects % self._collects_per_sync == 0:
            source, target = self._agent, self.policy.agent
            if isinstance(source, torch.nn.Module) and isinstance(target, torch.nn.Module):
                target.load_state_dict(source.state_dict())
            assert self._collector is not None
            self._collector.update_policy_weights_(self.policy)

    def _drop_lost(self, saved: list[Mapping[str, Any]], begins: list[bool]) -> None:
        """Notice streams that were within an episode and now begin one."""
        for stream, snapshot in enumerate(saved):
            # A just reset stream begins an episode anyway, and has no records of it yet.
            was_within = not bool(snapshot["observation"].get(IS_INIT, torch.ones(1)).item())
            if was_within and begins[stream]:
                self._lose(stream)

    def _lose(self, stream: int) -> None:
        self._tally.drop(stream)
        message = (
            f"{self.adapter.name}: the running episode of stream {stream} cannot be continued; "
            "it ends as truncated"
        )
        warnings.warn(EpisodeLost(message), stacklevel=2)


def _refuse_odd(num_envs: int, processes: int, steps: int) -> None:
    if processes and num_envs > 1:
        raise BadCollection(
            "Collection.num_envs and Collection.processes are both set",
            hint="set one of them: processes for a light policy, num_envs for a heavy one",
        )
    if steps % num_envs:
        raise BadCollection(
            f"Collection.agent_steps_per_collect = {steps} is not a multiple of "
            f"Collection.num_envs = {num_envs}",
            hint=f"set it to {-(-steps // num_envs) * num_envs}",
        )


def _snapshot_form(spec: EnvSpec) -> Any:
    """Of which form a saved `Snapshot` is."""
    seen = {key: Array(array.dtype, array.shape) for key, array in spec.observations.items()}
    seen |= {name: Array("float32", (1,)) for name in spec.signals}
    return {
        "episode": Whole(least=-1),
        "actions": Array("float32", (None, spec.action.size)),
        "observation": Either({}, {**seen, IS_INIT: Array("uint8", (1,))}),
        # Older runs did not count faults.
        "agent_steps": Maybe(Whole()),
        "faults": Maybe(Many(Whole())),
    }


def _refuse_odd_state(state: Mapping[str, Any]) -> None:
    """Compare the parts of a state with each other.

    Raises:
        ValueError: they do not go together.
    """
    streams = len(state["started"])
    if len(state["streams"]) not in (0, streams) or len(state["tally"]["running"]) != streams:
        raise ValueError(f"not all parts are of {streams} streams")
    for snapshot in state["streams"]:
        if snapshot["observation"] and snapshot["episode"] < 0:
            raise ValueError("a stream has seen something before its first episode")
        if len(snapshot["actions"]) > state["agent_steps"]:
            raise ValueError("an episode has more actions than there were agent steps")
        if not snapshot["actions"].isfinite().all():
            raise ValueError("an action is not finite")


def _to_tensors(snapshot: Snapshot) -> dict[str, Any]:
    # Copies: these outlive the environment's next step.
    seen = {key: torch.from_numpy(value.copy()) for key, value in snapshot["observation"].items()}
    actions = torch.from_numpy(snapshot["actions"].copy())
    return {**snapshot, "actions": actions, "observation": seen}


def _to_arrays(saved: Mapping[str, Any]) -> Snapshot:
    return {
        "episode": saved["episode"],
        "actions": np.asarray(saved["actions"].cpu().numpy(), np.float32),
        "observation": {key: value.cpu().numpy() for key, value in saved["observation"].items()},
        "agent_steps": saved.get("agent_steps", 0),
        "faults": list(saved.get("faults", ())),
    }
