"""The online loop: collect, learn, evaluate, save.

Everything that decides what happens next is a function of the counters and of checkpointed state,
so a run that was killed and resumed is the run that was never killed.
"""

import shutil
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from annotated_types import Ge, Gt
from tensordict import TensorDict

from wmplatform.agent import Agent
from wmplatform.checkpoint import Checkpoints, DiskFull, UnreadableCheckpoint
from wmplatform.collect import Collection, EpisodeStats
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.evaluation import Evaluation
from wmplatform.factory import Factory
from wmplatform.interfaces.env_adapter import EnvAdapter
from wmplatform.logging import Progress, RunLogger
from wmplatform.replay import CapacityTooLarge, Prefetcher, Replay, prune
from wmplatform.run_folder import RunFolder
from wmplatform.saved_agent import load_agent_state
from wmplatform.signals import StopRequest
from wmplatform.training.clock import Clock
from wmplatform.training.learner import Learner
from wmplatform.training.random_state import random_state, restore_random_state

__all__ = ["Diverged", "Online", "OnlineRun", "train"]


class Diverged(PlatformError):
    """Too many updates in a row were not finite."""

    exit_code = ExitCode.DIVERGED


class Online:
    """Settings of an online run, and its assembly.

    Periods are in agent steps. With the defaults of Meta-World: 5,000 random steps, 100 updates,
    then one update every 5 agent steps, and an evaluation at 5,000, 15,000, 25,000, ...
    """

    def __init__(
        self,
        *,
        env: Factory[EnvAdapter],
        agent: Factory[Agent],
        learner: Factory[Learner],
        replay: Factory[Replay] = Replay,
        collection: Factory[Collection] = Collection,
        evaluation: Factory[Evaluation] = Evaluation,
        total_agent_steps: Annotated[int, Ge(1)] = 255_000,
        prefill_agent_steps: Annotated[int, Ge(1)] = 5_000,
        pretrain_updates: Annotated[int, Ge(0)] = 100,
        updates_every: Annotated[int, Ge(1)] = 5,
        updates_each: Annotated[int, Ge(1)] = 1,
        eval_every: Annotated[int, Ge(1)] = 10_000,
        log_every: Annotated[int, Ge(1)] = 1_000,
        save_every: Annotated[int, Ge(1)] = 10_000,
        save_every_s: Annotated[float, Gt(0.0)] = 1_200.0,
        keep_checkpoints: Annotated[int, Ge(1)] = 2,
        replay_device: Literal["auto", "learner", "cpu"] = "auto",
        prefetch: bool = False,
    ) -> None:
        """Keep the settings; nothing is started.

        Args:
            env: the environment's adapter.
            agent: what acts and learns.
            learner: how it learns.
            replay: where records are kept.
            collection: how the environment is played.
            evaluation: what is evaluated and shown.
            total_agent_steps: when the run ends.
            prefill_agent_steps: random steps at the start; goes on until replay can serve a batch.
            pretrain_updates: updates after the prefill.
            updates_every: agent steps between updates.
            updates_each: updates each time.
            eval_every: agent steps between evaluations, the first one after the pretraining.
            log_every: agent steps between lines of training metrics.
            save_every: agent steps between checkpoints.
            save_every_s: seconds after which one is saved even so.
            keep_checkpoints: newest generations that stay.
            replay_device: `auto` keeps records on the learner's device where there is room.
            prefetch: draw the next batch in a thread while the learner works; it then lacks the
                newest records. Repeats and resumes bit for bit as well.
        """
        self.env, self.agent, self.learner = env, agent, learner
        self.replay, self.collection, self.evaluation = replay, collection, evaluation
        self.total_agent_steps = total_agent_steps
        self.prefill_agent_steps, self.pretrain_updates = prefill_agent_steps, pretrain_updates
        self.updates_every, self.updates_each = updates_every, updates_each
        self.eval_every, self.log_every = eval_every, log_every
        self.save_every, self.save_every_s = save_every, save_every_s
        self.keep_checkpoints, self.replay_device = keep_checkpoints, replay_device
        self.prefetch = prefetch

    def run(
        self, folder: RunFolder, *, seed: int, device: str = "cpu", resume_from: int | None = None
    ) -> ExitCode:
        """Train to the end, or until asked to stop, in an open run folder.

        Args:
            folder: new, or that of the run to resume.
            seed: of everything random.
            device: of agent and learner.
            resume_from: an older generation; newer ones are set aside.

        Raises:
            Diverged: too many updates in a row were not finite; the batch was saved.
            PlatformError: as environments, checkpoints and the disk say.
        """
        with StopRequest() as stop:
            run = OnlineRun(self, folder, seed=seed, device=device)
            try:
                run.resume(resume_from)
                train(run, stop)
            finally:
                run.close()
        return ExitCode.INTERRUPTED if stop.requested else ExitCode.OK


def train(run: "OnlineRun", stop: StopRequest) -> None:
    """Collect, learn, evaluate, save. Killing the process between any two lines loses no save."""
    while not run.finished and not stop.requested:
        if run.updates_due():
            run.learn()
        elif run.eval_due():
            run.evaluate()
        else:
            run.collect()
        if run.log_due():
            run.log()
        if run.save_due():
            run.save()
    run.log()
    run.save(last=True)


class OnlineRun:
    """The state of a running online loop."""

    def __init__(self, settings: Online, folder: RunFolder, *, seed: int, device: str) -> None:
        self.settings, self.folder, self.seed = settings, folder, seed
        self.device = torch.device(device)
        torch.manual_seed(seed)
        self.adapter = settings.env()
        self.spec = self.adapter.spec()
        self.agent = settings.agent(self.spec).to(self.device)
        self.learner = settings.learner(self.agent)
        self.collection = settings.collection(self.adapter, self.agent, seed)
        self.evaluation = settings.evaluation()
        self.progress = Progress(settings.total_agent_steps)
        self.replay = self._build_replay()
        self.prefetcher: Prefetcher | None = None
        if settings.prefetch:
            self.prefetcher = Prefetcher(self.replay, self.learner.data, self.device)
        self.logger = RunLogger(folder.path, progress=self.progress)
        self.checkpoints = Checkpoints(folder.checkpoints, keep=settings.keep_checkpoints)
        self.clock = Clock(settings.save_every_s)
        self.counters = {"env_frames": 0, "agent_steps": 0, "updates": 0, "episodes": 0}
        self.evaluations, self.logs = 0, 0
        self.learn_from: int | None = None
        """Agent steps at which the prefill ended."""
        self._saved_steps = 0
        self._saved: tuple[int, int, int] | None = None

    def _build_replay(self) -> Replay:
        """Keep records with the learner where there is room, else in the machine's memory."""
        where = self.settings.replay_device
        if where != "cpu" and self.device.type == "cuda":
            try:
                return self._replay_on(self.device)
            except CapacityTooLarge:
                if where == "learner":
                    raise
                self.progress.console.print("replay does not fit on the device; kept in memory")
        return self._replay_on(torch.device("cpu"))

    def _replay_on(self, device: torch.device) -> Replay:
        streams, working = self.collection.streams, self.folder.path / "replay-working"
        return self.settings.replay(self.spec, streams, device, working, self.seed)

    @property
    def agent_steps(self) -> int:
        """Agent steps collected."""
        return self.counters["agent_steps"]

    @property
    def finished(self) -> bool:
        """Whether all steps are collected, all updates made and all evaluations played."""
        reached = self.agent_steps >= self.settings.total_agent_steps
        return reached and not self.updates_due() and not self.eval_due()

    @property
    def warming_up(self) -> bool:
        """Whether actions are still random."""
        return self.learn_from is None

    def updates_due(self) -> int:
        """Updates that the schedule is ahead of the learner."""
        if self.learn_from is None:
            return 0
        turns = (self.agent_steps - self.learn_from) // self.settings.updates_every
        due = self.settings.pretrain_updates + turns * self.settings.updates_each
        return due - self.learner.updates

    def eval_due(self) -> bool:
        """Whether an evaluation is due: after the pretraining, then every `eval_every`."""
        if self.learn_from is None:
            return False
        due = 1 + (self.agent_steps - self.learn_from) // self.settings.eval_every
        return self.evaluations < due

    def log_due(self) -> bool:
        """Whether a line of training metrics is due."""
        return self.logs < self.agent_steps // self.settings.log_every

    def save_due(self) -> bool:
        """Whether a checkpoint is due, by agent steps or by the clock."""
        steps = self.agent_steps - self._saved_steps
        return steps >= self.settings.save_every or (steps > 0 and self.clock.due())

    def collect(self) -> None:
        """Play `agent_steps_per_collect` steps and store their records."""
        found = self.collection.collect(warmup=self.warming_up)
        self.replay.extend(found.records)
        self.counters["agent_steps"] += found.agent_steps
        self.counters["env_frames"] += found.agent_steps * self.spec.action_repeat
        for episode in found.episodes:
            self.counters["episodes"] += 1
            self._log_episode(episode)
        filled = self.agent_steps >= self.settings.prefill_agent_steps
        if self.warming_up and filled and self.replay.can_sample(self.learner.data.records):
            self.learn_from = self.agent_steps
        self.progress.update(self.counters)

    def learn(self) -> None:
        """Make one update."""
        if self.prefetcher:
            batch = self.prefetcher.sample()
        else:
            batch = self.learner.data.sample(self.replay)
        if batch.device != self.device:
            batch = batch.to(self.device, non_blocking=True)
        self.logger.add(self.learner.update(batch, self.agent_steps))
        self.counters["updates"] = self.learner.updates
        # Reading the streak waits for the device: every time on a CPU, now and then elsewhere.
        if self.device.type == "cpu" or self.learner.updates % 20 == 0:
            self._check_streak(batch)
        self.progress.update(self.counters)

    def _check_streak(self, batch: TensorDict) -> None:
        """End the run if too many updates in a row were not finite.

        Raises:
            Diverged: names the batch that was saved.
        """
        streak = int(self.learner.bad_streak.item())
        if streak < self.learner.max_bad_updates:
            return
        path = self.folder.path / f"bad-batch-{self.learner.updates:09d}.safetensors"
        flat = batch.flatten_keys("/").cpu().contiguous()
        safetensors.torch.save_file(dict(flat.items()), path)
        raise Diverged(
            f"{streak} updates in a row were not finite",
            where=[f"update {self.learner.updates}", f"the last batch lies in {path}"],
            hint="lower the learning rate, or use Learner.precision = 'fp32'; the same command "
            "goes on from the last checkpoint",
        )

    def evaluate(self) -> None:
        """Play evaluation episodes; log return, success, videos and a prediction."""
        result = self.evaluation.run(self.adapter, self.agent, self.seed, self.counters)
        self.evaluation.report(result, self.agent, self.logger, self.counters)
        self.evaluations += 1
        facts = {k.replace("/", " "): v for k, v in result.metrics().items() if "return" in k}
        self.progress.update(self.counters, **facts)

    def log(self) -> None:
        """Write the means of the training metrics."""
        self.logs = self.agent_steps // self.settings.log_every
        self.logger.flush(self.counters, {"replay_records": float(len(self.replay))})

    def _log_episode(self, episode: EpisodeStats) -> None:
        kind = "random" if self.warming_up else "train"
        values = {f"{kind}/return": episode.return_, f"{kind}/length": float(episode.length)}
        values |= {f"{kind}/{name}": value for name, value in episode.signals.items()}
        self.logger.scalars(self.counters, values)
        self.progress.update(self.counters, last_return=episode.return_)

    def save(self, *, last: bool = False) -> None:
        """Write a checkpoint; a full disk loses none, and ends the run only at its end.

        Raises:
            DiskFull: while saving for the last time.
        """
        if last and self._saved == self._moment():
            return
        try:
            manifest = self.replay.save(self.folder.replay)
            generation = (self.checkpoints.latest() or 0) + 1
            self.checkpoints.save(generation, self.state_dict(manifest))
            self._saved = self._moment()
            self._prune()
        except DiskFull as error:
            if last:
                raise
            self.progress.console.print(f"not saved, will try again\n{error}", highlight=False)
        self._saved_steps = self.agent_steps
        self.clock.reset()

    def _moment(self) -> tuple[int, int, int]:
        """What has been done so far; equal where a checkpoint would hold nothing new."""
        return self.agent_steps, self.learner.updates, self.evaluations

    def _prune(self) -> None:
        """Delete chunks of records that no kept checkpoint needs."""
        try:
            kept = [
                self.checkpoints.load_part("replay", generation)
                for generation in self.checkpoints.generations()
            ]
        except UnreadableCheckpoint as error:
            # Somebody may still want to mend it: then nothing that it could need is deleted.
            self.progress.console.print(f"old records are kept\n{error}", highlight=False)
            return
        prune(self.folder.replay, kept)

    def state_dict(self, manifest: Any) -> dict[str, Any]:
        """Everything one generation holds."""
        agent = {name: part.state_dict() for name, part in self.agent.named_children()}
        return {
            **agent,
            "learner": self.learner.state_dict(),
            "collection": self.collection.state_dict(),
            "replay": manifest,
            "prefetch": self.prefetcher.state_dict() if self.prefetcher else {"ready": None},
            "logger": self.logger.state_dict(),
            "loop": {
                "counters": self.counters,
                "evaluations": self.evaluations,
                "logs": self.logs,
                "learn_from": self.learn_from,
                "seed": self.seed,
            },
            "random": random_state(self.device),
        }

    def resume(self, generation: int | None = None) -> None:
        """Go on from a checkpoint, if there is one; the newest unless a number is given."""
        self.checkpoints.clean()
        if self.checkpoints.latest() is None and generation is None:
            self.logger.start_over()
            shutil.rmtree(self.folder.replay, ignore_errors=True)
            return
        state = self.checkpoints.load(generation)
        if generation is not None:
            self.checkpoints.set_aside(generation)
        load_agent_state(self.agent, state)
        self.learner.load_state_dict(state["learner"])
        self.replay.restore(self.folder.replay, state["replay"])
        if self.prefetcher:
            self.prefetcher.load_state_dict(state["prefetch"])
        self.logger.load_state_dict(state["logger"])
        self._load_loop(state["loop"])
        self.collection.load_state_dict(state["collection"])
        restore_random_state(state["random"], self.device)

    def _load_loop(self, state: Mapping[str, Any]) -> None:
        self.counters = {name: int(value) for name, value in state["counters"].items()}
        self.evaluations, self.logs = state["evaluations"], state["logs"]
        self.learn_from = state["learn_from"]
        self._saved_steps, self._saved = self.agent_steps, self._moment()

    def close(self) -> None:
        """Close environments and files."""
        if self.prefetcher:
            self.prefetcher.close()
        self.collection.close()
        self.evaluation.close()
        self.logger.close()
        shutil.rmtree(self.folder.path / "replay-working", ignore_errors=True)
