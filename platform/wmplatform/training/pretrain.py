"""The pre-training loop: clips of videos without actions train a world model.

As in the online loop, what happens next is a function of the counters and of checkpointed state,
so a run that was killed and resumed is the run that was never killed.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt
from rich.console import Console
from tensordict import TensorDict
from torch import nn

from wmplatform.agent import Agent
from wmplatform.checkpoint import Checkpoints
from wmplatform.clip_source import ClipSource, video_spec
from wmplatform.errors import ExitCode
from wmplatform.evaluation import eval_mode, own_randomness
from wmplatform.factory import Factory
from wmplatform.forms import Many
from wmplatform.logging import Progress, RunningMeans
from wmplatform.prediction import predict
from wmplatform.run_folder import RunFolder
from wmplatform.signals import StopRequest
from wmplatform.training.learner import Learner
from wmplatform.training.processes import ALONE, Processes
from wmplatform.training.random_state import random_state_form, seed_process
from wmplatform.training.run_base import PartLoader, TrainingRun
from wmplatform.world_model import IncompatibleParts

__all__ = ["Pretrain", "PretrainRun", "pretrain"]


class Pretrain:
    """Settings of a pre-training run, and its assembly.

    Periods are in updates. The defaults are those of ContextWM (section 5.1 and the authors'
    code); the mixture of all datasets takes twice as many updates.
    """

    several_processes = True

    def __init__(
        self,
        *,
        agent: Factory[Agent],
        learner: Factory[Learner],
        clips: Factory[ClipSource],
        validation: Factory[ClipSource] | None = None,
        image_size: Annotated[int, Ge(1)] = 64,
        channels: Annotated[int, Ge(1)] = 3,
        total_updates: Annotated[int, Ge(1)] = 600_000,
        log_every: Annotated[int, Ge(1)] = 100,
        video_every: Annotated[int, Ge(1)] = 2_000,
        validate_every: Annotated[int, Ge(1)] = 5_000,
        validation_batches: Annotated[int, Ge(1)] = 8,
        save_every: Annotated[int, Ge(1)] = 5_000,
        save_every_s: Annotated[float, Gt(0.0)] = 1_200.0,
        keep_checkpoints: Annotated[int, Ge(1)] = 2,
        milestone_every: Annotated[int, Ge(0)] = 50_000,
        observed_frames: Annotated[int, Ge(1)] = 15,
        predicted_frames: Annotated[int, Ge(1)] = 10,
        video_clips: Annotated[int, Ge(1)] = 6,
        fps: Annotated[int, Ge(1)] = 10,
        batch_statistics: Literal["each", "joined"] = "each",
    ) -> None:
        """Keep the settings; nothing is started.

        Args:
            agent: a world model without behavior, explorer and heads that need actions or rewards.
            learner: how it learns.
            clips: what it learns from; several processes share each batch.
            validation: held-out clips, the same ones each time.
            image_size: height and width of the clips' images.
            channels: of the clips' images.
            total_updates: when the run ends.
            log_every: updates between lines of training metrics.
            video_every: updates between pictures and videos of a prediction.
            validate_every: updates between validations.
            validation_batches: batches of each validation.
            save_every: updates between checkpoints.
            save_every_s: seconds after which one is saved even so.
            keep_checkpoints: newest generations that stay.
            milestone_every: updates between world models that are kept for good; 0 for none.
            observed_frames: that the model sees before it predicts.
            predicted_frames: that it predicts then, at most; fewer where clips are shorter.
            video_clips: predictions side by side.
            fps: frames per second of videos.
            batch_statistics: with several processes, batch normalisation uses the statistics of
                each one's own share of the batch, and the first one's running means are kept; or
                `joined` over all processes, which takes accelerators.
        """
        self.agent, self.learner = agent, learner
        self.clips, self.validation = clips, validation
        self.spec = video_spec(channels, image_size)
        self.total_updates = total_updates
        self.log_every, self.video_every = log_every, video_every
        self.validate_every, self.validation_batches = validate_every, validation_batches
        self.save_every, self.save_every_s = save_every, save_every_s
        self.keep_checkpoints, self.milestone_every = keep_checkpoints, milestone_every
        self.observed_frames, self.predicted_frames = observed_frames, predicted_frames
        self.video_clips, self.fps = video_clips, fps
        self.batch_statistics = batch_statistics

    def run(
        self,
        folder: RunFolder,
        *,
        seed: int,
        device: str = "cpu",
        resume_from: int | None = None,
        processes: Processes = ALONE,
    ) -> ExitCode:
        """Train to the end, or until one of the processes is asked to stop.

        Args:
            folder: new, or that of the run to resume.
            seed: of everything random.
            device: of this process' agent and learner.
            resume_from: an older generation; newer ones are set aside.
            processes: that train together.

        Raises:
            Diverged: too many updates in a row were not finite; the batch was saved.
            PlatformError: as clips, checkpoints and the disk say.
        """
        with StopRequest() as stop:
            run = PretrainRun(self, folder, seed=seed, device=device, processes=processes)
            try:
                run.resume(resume_from)
                stopped = pretrain(run, stop)
            finally:
                run.close()
        return ExitCode.INTERRUPTED if stopped else ExitCode.OK


def pretrain(run: "PretrainRun", stop: StopRequest) -> bool:
    """ContextWM algorithm 1, lines 1-9; returns whether the run was stopped before its end."""
    while not run.finished and not run.stopping(stop):
        clips = run.draw()  # lines 2-3: clips of T frames
        run.learn(clips)  # lines 4-7: context, latents, image and KL loss, one step of Adam
        if run.log_due():
            run.log()
        if run.validation_due():
            run.validate()
        if run.video_due():
            run.show(clips)
        if run.save_due():
            run.save()
    run.log()
    run.save(last=True)
    return not run.finished


class PretrainRun(TrainingRun):
    """The state of a running pre-training loop."""

    def __init__(
        self,
        settings: Pretrain,
        folder: RunFolder,
        *,
        seed: int,
        device: str,
        processes: Processes = ALONE,
    ) -> None:
        self.settings = settings
        seed_process(seed)
        agent = settings.agent(settings.spec).to(torch.device(device))
        _check_parts(agent)
        if processes.size > 1 and settings.batch_statistics == "joined":
            _join_statistics(agent)
        processes.align(agent)
        console = None if processes.leads else Console(quiet=True)
        super().__init__(
            folder,
            agent,
            settings.learner(agent, processes if processes.size > 1 else None),
            seed=seed,
            progress=Progress(settings.total_updates, "updates", console=console),
            axis="updates",
            counters={"updates": 0, "frames_seen": 0},
            log_every=settings.log_every,
            save_every=settings.save_every,
            save_every_s=settings.save_every_s,
            keep_checkpoints=settings.keep_checkpoints,
            processes=processes,
        )
        self.milestones = Checkpoints(folder.milestones, keep=10**9)
        wiring = processes.rank, processes.size, self.device
        self.clips = settings.clips(_seed_of(seed, 0, "clips"), *wiring)
        self.validation: ClipSource | None = None
        if settings.validation and processes.leads:
            self.validation = settings.validation(
                _seed_of(seed, 0, "validation"), 0, 1, self.device
            )
            self._validation_start = self.validation.state_dict()
        if not processes.leads:  # equal weights everywhere, but own samples
            seed_process(_seed_of(seed, processes.rank, "samples"))

    @property
    def updates(self) -> int:
        """Updates made."""
        return self.learner.updates

    @property
    def finished(self) -> bool:
        """Whether all updates are made."""
        return self.updates >= self.settings.total_updates

    def stopping(self, stop: StopRequest) -> bool:
        """Whether one of the processes was asked to stop; all of them then do."""
        return self.processes.any(stop.requested)

    def moment(self) -> tuple[int, ...]:
        """Updates so far."""
        return (self.updates,)

    def draw(self) -> TensorDict:
        """Draw this process' clips `[B, T]`, on the device.

        Raises:
            IncompatibleParts: their images have another size than the model's.
        """
        clips = self.clips.sample()
        shape = self.settings.spec.observations["pixels"].shape
        if clips["pixels"].shape[2:] != shape:
            channels, height, width = clips["pixels"].shape[2:]
            raise IncompatibleParts(
                f"the clips' images are {channels} x {height} x {width}, the model's "
                f"{' x '.join(map(str, shape))}",
                where="Pretrain.clips",
                hint="set Pretrain.channels and Pretrain.image_size, or prepare other clips",
            )
        return clips.to(self.device, non_blocking=True)

    def learn(self, clips: TensorDict) -> None:
        """Make one update."""
        self.update_on(clips)
        self.counters["frames_seen"] += clips.numel() * self.processes.size
        self.progress.update(self.counters)

    def validation_due(self) -> bool:
        """Whether held-out clips are to be looked at: now and then, and at the end."""
        return self._due(self.settings.validate_every)

    def video_due(self) -> bool:
        """Whether a prediction is to be shown."""
        return self._due(self.settings.video_every)

    def _due(self, every: int) -> bool:
        return self.updates % every == 0 or self.finished

    def validate(self) -> None:
        """Log losses and errors on held-out clips, in eval mode; training does not notice."""
        if self.validation is None:
            return
        means, errors = RunningMeans(), RunningMeans()
        self.validation.load_state_dict(self._validation_start)
        with own_randomness(0), eval_mode(self.agent), torch.no_grad():
            for _ in range(self.settings.validation_batches):
                clips = self.validation.sample().to(self.device)
                found = self.agent.world_model.losses(clips)
                total, _ = self.agent.world_model.balancer(found.losses)
                means.add({"model_loss": total})
                means.add({f"{name}_loss": loss for name, loss in found.losses.items()})
                if prediction := predict(self.agent, self._cut(clips), self._observed):
                    found_errors = prediction.errors().items()
                    errors.add({name: torch.tensor(value) for name, value in found_errors})
        values = {f"validation/{k}": v for k, v in {**means.take(), **errors.take()}.items()}
        self.logger.scalars(self.counters, values)

    def show(self, clips: TensorDict) -> None:
        """Log a picture and a video of a prediction: of held-out clips, if there are any.

        Args:
            clips: are shown if there are none.
        """
        if not self.processes.leads:
            return
        if self.validation is not None:
            self.validation.load_state_dict(self._validation_start)
            clips = self.validation.sample()
        with own_randomness(0), eval_mode(self.agent):
            shown = self._cut(clips)[: self.settings.video_clips]
            prediction = predict(self.agent, shown, self._observed)
        if prediction is not None:
            prediction.show(
                self.logger,
                self.counters,
                clips=self.settings.video_clips,
                fps=self.settings.fps,
            )

    @property
    def _observed(self) -> int:
        return self.settings.observed_frames

    def _cut(self, clips: TensorDict) -> TensorDict:
        """Leave the frames that a prediction is about."""
        return clips[:, : self._observed + self.settings.predicted_frames]

    def after_save(self) -> None:
        """Keep the world model for good where a milestone is reached."""
        every, known = self.settings.milestone_every, self.milestones.generations()
        if every and self.updates and self.updates % every == 0 and self.updates not in known:
            parts = {"world_model": self.agent.world_model.state_dict()}
            loop = {"counters": self.counters, "seed": self.seed}
            self.milestones.save(self.updates, {**parts, "loop": loop})

    def save_due(self) -> bool:
        """Whether a checkpoint is due; milestones have one too."""
        every = self.settings.milestone_every
        return super().save_due() or bool(every and self.updates % every == 0)

    def parts(self) -> dict[str, Any]:
        """The clips to come, and each process' random states."""
        return {
            "clips": self.clips.state_dict(),
            "processes": self.processes.gather(self.random_state()),
        }

    def load_parts(self, load: PartLoader) -> None:
        """Restore what `parts` gave."""
        load("clips", self.clips.state_form(), self.clips.load_state_dict)
        if self.processes.leads:  # of a future that is no more
            self.milestones.set_aside(self.updates)
            self.after_save()

    def load_random(self, load: PartLoader) -> None:
        """Restore this process' random states; a process that is new gets its own ones."""
        load("processes", Many(random_state_form(), least=1), self._load_own_random)

    def _load_own_random(self, saved: Sequence[Mapping[str, Any]]) -> None:
        if self.processes.rank < len(saved):
            self.restore_random(saved[self.processes.rank])
        else:
            seed_process(_seed_of(self.seed, self.processes.rank, f"samples {self.updates}"))

    def close(self) -> None:
        """Stop workers and close files."""
        self.clips.close()
        if self.validation is not None:
            self.validation.close()
        super().close()


def _check_parts(agent: Agent) -> None:
    """Refuse an agent that videos cannot train.

    Raises:
        IncompatibleParts: says which part needs more than frames.
    """
    dynamics = agent.world_model.dynamics
    problem = ""
    if agent.behavior is not None or agent.explorer is not None:
        problem = "has a behavior or an explorer: remove Agent.behavior and Agent.explorer"
    elif not dynamics.capabilities.action_free:
        problem = f"has dynamics {type(dynamics).__name__}, which needs actions"
    for name in agent.world_model.heads:
        try:
            agent.world_model.head(name).target(_one_clip(agent))
        except KeyError as error:
            problem = f"has a head {name!r}, which needs {error}"
    if problem:
        raise IncompatibleParts(
            f"videos have frames only, but the agent {problem}", where="Pretrain"
        )


def _one_clip(agent: Agent) -> dict[str, torch.Tensor]:
    shape = agent.spec.observations["pixels"].shape
    return {
        "pixels": torch.zeros(1, 2, *shape, device=agent.device),
        "is_first": torch.zeros(1, 2, dtype=torch.bool, device=agent.device),
    }


def _join_statistics(agent: Agent) -> None:
    """Let batch normalisation use the statistics of all processes.

    Raises:
        IncompatibleParts: PyTorch does that on accelerators only.
    """
    if agent.device.type != "cuda":
        raise IncompatibleParts(
            "joined batch statistics take accelerators",
            where="Pretrain.batch_statistics",
            hint="set Pretrain.batch_statistics = 'each'",
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(agent)


def _seed_of(seed: int, rank: int, purpose: str) -> int:
    """Derive a seed 0..2^31 - 1 from the run's."""
    word = int.from_bytes(purpose.encode(), "big") % 2**64
    return int(np.random.SeedSequence([seed, rank, word]).generate_state(1)[0] >> 1)
