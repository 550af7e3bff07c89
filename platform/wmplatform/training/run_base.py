"""What every training loop has: updates with a guard, log lines, checkpoints, resuming.

A loop adds what it does between updates, and names the parts of its own that a checkpoint holds.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import safetensors.torch
from tensordict import TensorDict

from wmplatform.agent import Agent
from wmplatform.checkpoint import Checkpoints, DiskFull
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import replace_file
from wmplatform.forms import Whole
from wmplatform.logging import Progress, RunLogger, SilentLogger
from wmplatform.run_folder import RunFolder
from wmplatform.saved_agent import LARGEST_SEED, read_agent
from wmplatform.training.clock import Clock
from wmplatform.training.learner import Learner
from wmplatform.training.processes import ALONE, LeaderFailed, Processes
from wmplatform.training.random_state import (
    random_state,
    random_state_form,
    restore_random_state,
)

__all__ = ["Diverged", "PartLoader", "TrainingRun"]

PartLoader: TypeAlias = Callable[[str, Any, Callable[[Any], None]], None]
"""Reads a part of a checkpoint by name, compares it with a form, and hands it to whom it belongs,
who raises a ValueError where it is none of its own."""


class Diverged(PlatformError):
    """Too many updates in a row were not finite."""

    exit_code = ExitCode.DIVERGED


class TrainingRun(ABC):
    """The state of a running loop.

    Args:
        folder: of the run, open.
        agent: on its device.
        learner: of the agent.
        seed: of everything random.
        progress: shows how far the run is; its axis is the counter of all schedules.
        axis: the counter that pictures and TensorBoard are named by.
        counters: all counters at their start; `updates` among them.
        log_every: units of the progress' axis between lines of training metrics.
        save_every: likewise between checkpoints.
        save_every_s: seconds after which one is saved even so.
        keep_checkpoints: newest generations that stay.
        processes: that make this run together; the first one writes.
    """

    def __init__(
        self,
        folder: RunFolder,
        agent: Agent,
        learner: Learner,
        *,
        seed: int,
        progress: Progress,
        axis: str,
        counters: Mapping[str, int],
        log_every: int,
        save_every: int,
        save_every_s: float,
        keep_checkpoints: int,
        processes: Processes = ALONE,
    ) -> None:
        self.folder, self.agent, self.learner = folder, agent, learner
        self.seed, self.device, self.processes = seed, agent.device, processes
        self.progress = progress
        make = RunLogger if processes.leads else SilentLogger
        self.logger = make(folder.path, axis=axis, progress=progress)
        self.checkpoints = Checkpoints(folder.checkpoints, keep=keep_checkpoints)
        self.clock = Clock(save_every_s)
        self.counters = dict(counters)
        self.logs = 0
        """Turns of `log_every` that have been logged."""
        self._log_every, self._save_every = log_every, save_every
        self._saved_at = 0
        self._saved: tuple[int, ...] | None = None

    @property
    def position(self) -> int:
        """The counter that the schedules go by."""
        return self.counters[self.progress.axis]

    @abstractmethod
    def moment(self) -> tuple[int, ...]:
        """What has been done so far; equal where a checkpoint would hold nothing new."""

    def update_on(self, batch: TensorDict) -> None:
        """Make one update.

        Raises:
            Diverged: too many in a row were not finite.
        """
        self.logger.add(self.learner.update(batch, self.counters.get("agent_steps", 0)))
        self.counters["updates"] = self.learner.updates
        # Reading the streak waits for the device: every time on a CPU, now and then elsewhere.
        if self.device.type == "cpu" or self.learner.updates % 20 == 0:
            self._check_streak(batch)

    def _check_streak(self, batch: TensorDict) -> None:
        """End the run if too many updates in a row were not finite.

        Raises:
            Diverged: names the batch that was saved.
        """
        streak = int(self.learner.bad_streak.item())
        if streak < self.learner.max_bad_updates:
            return
        whose = "" if self.processes.leads else f"-process{self.processes.rank}"
        name = f"bad-batch-{self.learner.updates:09d}{whose}.safetensors"
        flat = batch.flatten_keys("/").cpu().contiguous()
        replace_file(self.folder.path / name, safetensors.torch.save(dict(flat.items())))
        raise Diverged(
            f"{streak} updates in a row were not finite",
            where=[
                f"update {self.learner.updates}",
                f"the last batch lies in {self.folder.path / name}",
            ],
            hint="lower the learning rate, or use Learner.precision = 'fp32'; the same command "
            "goes on from the last checkpoint",
        )

    def log_due(self) -> bool:
        """Whether a line of training metrics is due."""
        return self.logs < self.position // self._log_every

    def log(self) -> None:
        """Write the means of the training metrics."""
        self.logs = self.position // self._log_every
        self.logger.flush(self.counters, self.facts())

    def facts(self) -> dict[str, float]:
        """Further values of a line of training metrics."""
        return {}

    def save_due(self) -> bool:
        """Whether a checkpoint is due, by its schedule or by the first process' clock."""
        since = self.position - self._saved_at
        if since >= self._save_every:
            return True
        return self.processes.any(self.processes.leads and since > 0 and self.clock.due())

    def save(self, *, last: bool = False) -> None:
        """Write a checkpoint; a full disk loses none, and ends the run only at its end.

        Raises:
            DiskFull: while saving for the last time.
        """
        if last and self._saved == self.moment():
            return
        try:
            parts = self.parts()
            self.processes.first(lambda: self._write(parts))
            self._saved = self.moment()
        except (DiskFull, LeaderFailed) as error:
            if last:
                raise
            where = ", ".join(error.where)
            self.progress.say(f"not saved, the run goes on and tries again: {error.what} ({where})")
        self._saved_at = self.position
        self.clock.reset()

    def _write(self, parts: Mapping[str, Any]) -> None:
        self.checkpoints.save((self.checkpoints.latest() or 0) + 1, self._state_with(parts))
        self.folder.write_operative()
        self.after_save()

    def after_save(self) -> None:
        """Tidy up, or keep what has to be kept, in the first process; nothing by default."""

    def state_dict(self) -> dict[str, Any]:
        """Everything one generation holds."""
        return self._state_with(self.parts())

    def _state_with(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        agent = {name: part.state_dict() for name, part in self.agent.named_children()}
        return {
            **agent,
            **parts,
            "learner": self.learner.state_dict(),
            "logger": self.logger.state_dict(),
            "loop": {
                "counters": self.counters,
                "logs": self.logs,
                "seed": self.seed,
                **self.schedule(),
            },
            "random": self.random_state(),
        }

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """States of what only this loop has, by name."""

    @abstractmethod
    def load_parts(self, load: PartLoader) -> None:
        """Restore what `parts` gave; the counters are restored by then."""

    def schedule(self) -> dict[str, Any]:
        """What this loop remembers beside the counters: JSON values."""
        return {}

    def schedule_form(self) -> dict[str, Any]:
        """Of which form `load_schedule` takes its entries of a state."""
        return {}

    def load_schedule(self, state: Mapping[str, Any]) -> None:
        """Restore what `schedule` gave."""
        del state

    def begin(self) -> None:
        """Prepare a run that does not resume; nothing by default."""

    def resume(self, generation: int | None = None) -> None:
        """Go on from a checkpoint, if there is one; the newest unless a number is given.

        Raises:
            UnreadableCheckpoint: it is missing or damaged, or a part is of another form than this
                run's.
            OtherAgent: its weights are of another agent.
        """
        chosen = self.processes.first(lambda: self._choose(generation))
        if chosen is None:
            self.logger.start_over()
            self.begin()
            return
        load: PartLoader = partial(self.checkpoints.restore_part, chosen)
        read_agent(self.agent, self.checkpoints, chosen)
        load("learner", self.learner.state_form(), self.learner.load_state_dict)
        load("loop", self._loop_form(), self._load_loop)
        self.load_parts(load)
        # Only now, as all of it could be read, is anything in the folder changed.
        if generation is not None and self.processes.leads:
            self.checkpoints.set_aside(generation)
        load("logger", self.logger.state_form(), self.logger.load_state_dict)
        self.load_random(load)

    def _choose(self, generation: int | None) -> int | None:
        self.checkpoints.clean()
        return self.checkpoints.latest() if generation is None else generation

    def _loop_form(self) -> dict[str, Any]:
        counters = dict.fromkeys(self.counters, Whole())
        seed = Whole(most=LARGEST_SEED)
        return {"counters": counters, "logs": Whole(), "seed": seed, **self.schedule_form()}

    def _load_loop(self, state: Mapping[str, Any]) -> None:
        if state["counters"]["updates"] != self.learner.updates:
            raise ValueError(f"the learner has made {self.learner.updates} updates")
        self.counters = dict(state["counters"])
        self.logs = state["logs"]
        self.load_schedule(state)
        self._saved_at, self._saved = self.position, self.moment()

    def random_state(self) -> dict[str, Any]:
        """Random states of this process."""
        return random_state(self.device)

    def load_random(self, load: PartLoader) -> None:
        """Restore this process' random states."""
        load("random", random_state_form(), self.restore_random)

    def restore_random(self, state: Mapping[str, Any]) -> None:
        """Take random states over."""
        restore_random_state(state, self.device)

    def close(self) -> None:
        """Close files."""
        self.logger.close()
