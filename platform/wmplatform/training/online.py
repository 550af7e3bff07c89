"""The online loop: collect, learn, evaluate, save.

Everything that decides what happens next is a function of the counters and of checkpointed state,
so a run that was killed and resumed is the run that was never killed.
"""

import shutil
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt

from wmplatform.agent import Agent
from wmplatform.checkpoint import UnreadableCheckpoint
from wmplatform.collect import Collection, CollectionStopped, EpisodeStats
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.evaluation import Evaluation
from wmplatform.factory import Factory
from wmplatform.forms import Either, Maybe, Whole
from wmplatform.interfaces.env_adapter import EnvAdapter
from wmplatform.logging import Progress
from wmplatform.replay import CapacityTooLarge, Prefetcher, Replay, prune
from wmplatform.replay.chunks import MANIFEST
from wmplatform.run_folder import RunFolder
from wmplatform.signals import StopRequest
from wmplatform.training.fault_log import FaultLog
from wmplatform.training.learner import Learner
from wmplatform.training.processes import ALONE, Processes
from wmplatform.training.random_state import seed_process
from wmplatform.training.records_on_disk import prune_records, restore_records
from wmplatform.training.run_base import Diverged, PartLoader, TrainingRun
from wmplatform.transfer import transfer

__all__ = ["Diverged", "EpisodesTooShort", "Online", "OnlineRun", "OtherEvalEnv", "train"]


class EpisodesTooShort(PlatformError):
    """No episode can hold what the learner samples, so it would never learn.

    Args:
        need: records that the learner's request needs.
        records: of the longest episode.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, need: int, records: int) -> None:
        self.need, self.records = need, records
        super().__init__(
            f"the learner samples {need} consecutive records, and an episode has {records} at most",
            hint=f"ask for {records} or fewer (e.g. Segments.length), or set the environment's "
            f"time_limit to {need - 1} or more",
        )


class OtherEvalEnv(PlatformError):
    """The evaluation's environment gives other records, or takes other actions, than training's."""

    exit_code = ExitCode.BAD_INPUT


class Online:
    """Settings of an online run, and its assembly.

    Periods are in agent steps. With the defaults of Meta-World: 5,000 random steps, 100 updates,
    then one update every 5 agent steps, and an evaluation at 5,000, 15,000, 25,000, ...
    """

    several_processes = False

    def __init__(
        self,
        *,
        env: Factory[EnvAdapter],
        agent: Factory[Agent],
        learner: Factory[Learner],
        replay: Factory[Replay] = Replay,
        collection: Factory[Collection] = Collection,
        evaluation: Factory[Evaluation] = Evaluation,
        eval_env: Factory[EnvAdapter] | None = None,
        load_from: str | None = None,
        load_modules: tuple[str, ...] | dict[str, str] | None = None,
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
            eval_env: adapter of the evaluation's environment; `env` unless given. It may differ in
                anything but what its records hold: another server, other draws of the scene.
            load_from: a run folder (its newest checkpoint), or one checkpoint, whose world model
                the agent starts with; read when the run begins, not when it is resumed.
            load_modules: modules of the world model to load, e.g. `("encoder", "decoder")`, or by
                their names here and in the checkpoint, `{"encoder.frame": "encoder"}`; all that the
                checkpoint has unless given.
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
        self.eval_env = eval_env
        self.load_from, self.load_modules = load_from, load_modules
        self.total_agent_steps = total_agent_steps
        self.prefill_agent_steps, self.pretrain_updates = prefill_agent_steps, pretrain_updates
        self.updates_every, self.updates_each = updates_every, updates_each
        self.eval_every, self.log_every = eval_every, log_every
        self.save_every, self.save_every_s = save_every, save_every_s
        self.keep_checkpoints, self.replay_device = keep_checkpoints, replay_device
        self.prefetch = prefetch

    def run(
        self,
        folder: RunFolder,
        *,
        seed: int,
        device: str = "cpu",
        resume_from: int | None = None,
        processes: Processes = ALONE,
    ) -> ExitCode:
        """Train to the end, or until asked to stop, in an open run folder.

        Args:
            folder: new, or that of the run to resume.
            seed: of everything random.
            device: of agent and learner.
            resume_from: an older generation; newer ones are set aside.
            processes: this one alone.

        Raises:
            Diverged: too many updates in a row were not finite; the batch was saved.
            CollectionStopped: environments failed too often; the run was saved.
            PlatformError: as environments, checkpoints and the disk say.
        """
        assert processes.size == 1
        with StopRequest() as stop:
            run = OnlineRun(self, folder, seed=seed, device=device)
            try:
                run.resume(resume_from)
                train(run, stop)
            finally:
                run.close()
            run.explain(stop)
        return ExitCode.INTERRUPTED if stop.requested else ExitCode.OK


def train(run: "OnlineRun", stop: StopRequest) -> None:
    """Collect, learn, evaluate, save. Killing the process between any two lines loses no save.

    Raises:
        CollectionStopped: environments failed too often; all that was done is saved.
    """
    broken: CollectionStopped | None = None
    try:
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
    except CollectionStopped as error:
        broken = error
    run.log()
    run.save(last=True)
    if broken is not None:
        raise broken


class OnlineRun(TrainingRun):
    """The state of a running online loop."""

    def __init__(self, settings: Online, folder: RunFolder, *, seed: int, device: str) -> None:
        self.settings = settings
        seed_process(seed)
        self.adapter = settings.env()
        self.spec = self.adapter.spec()
        self.eval_adapter = settings.eval_env() if settings.eval_env else self.adapter
        _refuse_other_records(self.adapter, self.eval_adapter)
        agent = settings.agent(self.spec).to(torch.device(device))
        super().__init__(
            folder,
            agent,
            settings.learner(agent),
            seed=seed,
            progress=Progress(settings.total_agent_steps),
            axis="env_frames",
            counters={"env_frames": 0, "agent_steps": 0, "updates": 0, "episodes": 0},
            log_every=settings.log_every,
            save_every=settings.save_every,
            save_every_s=settings.save_every_s,
            keep_checkpoints=settings.keep_checkpoints,
        )
        self.collection = settings.collection(self.adapter, self.agent, seed)
        self.evaluation = settings.evaluation()
        self._refuse_short_episodes()
        self.replay = self._build_replay()
        self.prefetcher: Prefetcher | None = None
        if settings.prefetch:
            self.prefetcher = Prefetcher(self.replay, self.learner.data, self.device)
        self.evaluations = 0
        self.faults = FaultLog(self.collection.tolerance, self.logger, self.progress)
        self.learn_from: int | None = None
        """Agent steps at which the prefill ended."""

    def _refuse_short_episodes(self) -> None:
        limit, need = self.spec.time_limit, self.learner.data.records
        if limit is not None and need > limit + 1:
            raise EpisodesTooShort(need, limit + 1)

    def _build_replay(self) -> Replay:
        """Keep records with the learner where there is room, else in the machine's memory."""
        where = self.settings.replay_device
        if where != "cpu" and self.device.type == "cuda":
            try:
                return self._replay_on(self.device)
            except CapacityTooLarge:
                if where == "learner":
                    raise
                self.progress.say("replay does not fit on the device; kept in memory")
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
        """Updates that the schedule is ahead of the learner; 0 where a changed one is behind it."""
        if self.learn_from is None:
            return 0
        turns = (self.agent_steps - self.learn_from) // self.settings.updates_every
        due = self.settings.pretrain_updates + turns * self.settings.updates_each
        return max(0, due - self.learner.updates)

    def eval_due(self) -> bool:
        """Whether an evaluation is due: after the pretraining, then every `eval_every`."""
        if self.learn_from is None:
            return False
        due = 1 + (self.agent_steps - self.learn_from) // self.settings.eval_every
        return self.evaluations < due

    def collect(self) -> None:
        """Play `agent_steps_per_collect` steps and store their records.

        Raises:
            CollectionStopped: an environment failed too often; what came before is stored.
        """
        found = self.collection.collect(warmup=self.warming_up)
        if len(found.records):
            self.replay.extend(found.records)
        self.counters["agent_steps"] += found.agent_steps
        self.counters["env_frames"] += found.agent_steps * self.spec.action_repeat
        for episode in found.episodes:
            self.counters["episodes"] += 1
            self._log_episode(episode)
        for report in found.faults:
            self.faults.note("collect", report, self.counters)
        filled = self.agent_steps >= self.settings.prefill_agent_steps
        if self.warming_up and filled and self.replay.can_sample(self.learner.data.records):
            self.learn_from = self.agent_steps
        self.progress.update(self.counters)
        if found.spent is not None:
            raise found.spent

    def learn(self) -> None:
        """Make one update."""
        if self.prefetcher:
            batch = self.prefetcher.sample()
        else:
            batch = self.learner.data.sample(self.replay)
        if batch.device != self.device:
            batch = batch.to(self.device, non_blocking=True)
        self.update_on(batch)
        self.progress.update(self.counters)

    def evaluate(self) -> None:
        """Play evaluation episodes; log return, success, videos and a prediction.

        Raises:
            CollectionStopped: the environment failed too often; this evaluation is still due.
        """
        result = self.evaluation.run(
            self.collection.tolerance.wrap(self.eval_adapter),
            self.agent,
            self.seed,
            self.counters,
            on_fault=lambda report: self.faults.on_eval_fault(report, self.counters),
        )
        self.evaluation.report(result, self.agent, self.logger, self.counters)
        self.evaluations += 1
        facts = {k.replace("/", " "): v for k, v in result.metrics().items() if "return" in k}
        self.progress.update(self.counters, **facts)

    def explain(self, stop: StopRequest) -> None:
        """Say so if the run ended without having learned anything."""
        if self.learner.updates == 0 and not stop.requested:
            self.progress.say(
                f"note: no update was made: they begin after {self.settings.prefill_agent_steps} "
                f"agent steps (Online.prefill_agent_steps) and an episode of "
                f"{self.learner.data.records} records"
            )

    def facts(self) -> dict[str, float]:
        """How full replay is."""
        return {"replay_records": float(len(self.replay))}

    def _log_episode(self, episode: EpisodeStats) -> None:
        kind = "random" if self.warming_up else "train"
        values = {f"{kind}/return": episode.return_, f"{kind}/length": float(episode.length)}
        values |= {f"{kind}/{name}": value for name, value in episode.signals.items()}
        self.logger.scalars(self.counters, values)
        self.progress.update(self.counters, last_return=episode.return_)

    def moment(self) -> tuple[int, ...]:
        """Steps, updates, evaluations and faults so far."""
        faults = sum(self.faults.counts.values())
        return self.agent_steps, self.learner.updates, self.evaluations, faults

    def after_save(self) -> None:
        """Delete chunks of records that no kept checkpoint needs."""
        try:
            prune_records(self.checkpoints, self.folder.replay)
        except UnreadableCheckpoint as error:
            # Somebody may still want to mend it: then nothing that it could need is deleted.
            self.progress.say(f"old records are kept: {error.what} ({error.path})")

    def parts(self) -> dict[str, Any]:
        """Replay, its prefetched batch, and running episodes."""
        return {
            "collection": self.collection.state_dict(),
            "replay": self.replay.save(self.folder.replay),
            "prefetch": self.prefetcher.state_dict() if self.prefetcher else {"ready": None},
        }

    def load_parts(self, load: PartLoader) -> None:
        """Restore what `parts` gave."""
        load("replay", MANIFEST, self._restore_replay)
        if self.prefetcher:
            load("prefetch", self.prefetcher.state_form(), self.prefetcher.load_state_dict)
        memory = self.agent.initial_memory(self.collection.streams)
        load("collection", self.collection.state_form(memory), self._load_collection)

    def _load_collection(self, state: Mapping[str, Any]) -> None:
        if state.get("agent_steps", 0) != self.agent_steps:
            raise ValueError(f"the loop counts {self.agent_steps} agent steps")
        self.collection.load_state_dict(state)

    def _restore_replay(self, manifest: Any) -> None:
        if sum(manifest["heads"]) < self.agent_steps:
            raise ValueError(f"there are fewer records than {self.agent_steps} agent steps")
        restore_records(self.replay, self.checkpoints, self.folder.replay, manifest)

    def schedule(self) -> dict[str, Any]:
        """Evaluations and faults so far, and when the learning began."""
        return {
            "evaluations": self.evaluations,
            "learn_from": self.learn_from,
            "fault_log": self.faults.state_dict(),
        }

    def schedule_form(self) -> dict[str, Any]:
        """Of which form `load_schedule` takes its entries of a state."""
        return {
            "evaluations": Whole(),
            "learn_from": Either(None, Whole()),
            "fault_log": Maybe(self.faults.state_form()),  # older runs kept none
        }

    def load_schedule(self, state: Mapping[str, Any]) -> None:
        """Restore what `schedule` gave."""
        self.evaluations, self.learn_from = state["evaluations"], state["learn_from"]
        if "fault_log" in state:
            self.faults.load_state_dict(state["fault_log"])

    def begin(self) -> None:
        """Remove records that an earlier process left unsaved, and load what is to be loaded."""
        prune(self.folder.replay, kept=[])
        if self.settings.load_from is not None:
            loaded = transfer(self.agent, self.settings.load_from, self.settings.load_modules)
            loaded.record(self.folder.path)
            self.progress.say(str(loaded))

    def close(self) -> None:
        """Close environments and files."""
        if self.prefetcher:
            self.prefetcher.close()
        self.collection.close()
        self.evaluation.close()
        super().close()
        shutil.rmtree(self.folder.path / "replay-working", ignore_errors=True)


def _refuse_other_records(train: EnvAdapter, evaluation: EnvAdapter) -> None:
    ours, theirs = train.spec(), evaluation.spec()
    for name in ("observations", "action", "signals"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine != other:
            raise OtherEvalEnv(
                f"{name} of Online.eval_env differ from those of Online.env: {other}, not {mine}",
                where=[f"Online.env = {train.name}", f"Online.eval_env = {evaluation.name}"],
                hint="give both the same settings, or leave Online.eval_env out",
            )
