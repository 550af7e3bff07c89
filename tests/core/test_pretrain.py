"""The pre-training loop: schedules, exact resuming, validation that training does not notice."""

import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from wmplatform.checkpoint import Checkpoints
from wmplatform.errors import ExitCode
from wmplatform.json_lines import read_json_lines
from wmplatform.run_folder import RunFolder
from wmplatform.training.online import Diverged
from wmplatform.training.pretrain import Pretrain, PretrainRun, pretrain
from wmplatform.world_model import IncompatibleParts, WorldModel
from wmplugins.dreamer.encoders import CNNEncoder
from wmplugins.dreamer.rssm import RSSM

from .. import warm
from .toy_clips import ToyClips, video_agent, video_learner, video_model

NOISY = {"noise": 0.1}
"""Draws random numbers in every update, so that resuming has to restore them."""


class StopAfter:
    """A stop request that comes after so many updates."""

    def __init__(self, updates: int = 10**9) -> None:
        self.updates = updates
        self.run: PretrainRun | None = None

    @property
    def requested(self) -> bool:
        assert self.run is not None
        return self.run.updates >= self.updates


def settings(**changes: Any) -> Pretrain:
    given: dict[str, Any] = {
        "agent": video_agent(**NOISY),
        "learner": video_learner(),
        "clips": ToyClips,
        "validation": partial(ToyClips, batch=3),
        "total_updates": 12,
        "log_every": 3,
        "video_every": 6,
        "validate_every": 4,
        "validation_batches": 2,
        "save_every": 5,
        "milestone_every": 6,
        "observed_frames": 3,
        "predicted_frames": 2,
    }
    return Pretrain(**(given | changes))


def play(
    path: Path, *, stop: int = 10**9, resume_from: int | None = None, **changes: Any
) -> PretrainRun:
    """Run, or resume, in a folder; returns the closed run."""
    request = StopAfter(stop)
    with RunFolder.open(path, config_text="") as folder:
        run = request.run = PretrainRun(settings(**changes), folder, seed=3, device="cpu")
        try:
            run.resume(resume_from)
            pretrain(run, request)  # type: ignore[arg-type]
        finally:
            run.close()
    return run


def lines(path: Path) -> list[dict[str, Any]]:
    """Metrics without what depends on the clock."""
    return [
        {k: v for k, v in line.items() if "speed/" not in k and k != "time_s"}
        for line in read_json_lines(path / "metrics.jsonl")
    ]


def assert_same(a: PretrainRun, b: PretrainRun) -> None:
    """Weights, moments, clips to come and counters are equal bit for bit."""
    mine = b.agent.state_dict()
    for key, value in a.agent.state_dict().items():
        assert torch.equal(value, mine[key]), key
    for one, other in zip(
        a.learner.optimizers["model"].first, b.learner.optimizers["model"].first, strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(a.clips.state_dict()["random"], b.clips.state_dict()["random"])
    assert a.counters == b.counters


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainRun, Path]:
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return play(path), path


def test_schedules_are_kept(whole: tuple[PretrainRun, Path]) -> None:
    run, path = whole
    assert run.counters == {"updates": 12, "frames_seen": 12 * 2 * 5}
    validated = [line["updates"] for line in lines(path) if "validation/model_loss" in line]
    assert validated == [4, 8, 12]
    assert [line["updates"] for line in lines(path) if "image_loss" in line] == [3, 6, 9, 12]
    assert len(list(path.glob("pictures/open-loop-*.png"))) == 2
    assert {file.stem[-2:] for file in path.glob("videos/open-loop-*")} == {"06", "12"}


def test_validation_says_losses_and_errors(whole: tuple[PretrainRun, Path]) -> None:
    last = [line for line in lines(whole[1]) if "validation/model_loss" in line][-1]
    assert last["validation/model_loss"] == pytest.approx(
        last["validation/image_loss"] + last["validation/prior_loss"], rel=1e-5
    )
    assert 0 < last["validation/reconstruction_mse"] < 1
    assert 0 < last["validation/open_loop_mse"] < 1


def test_milestones_are_kept_for_good(whole: tuple[PretrainRun, Path]) -> None:
    run, path = whole
    assert len(Checkpoints(path / "checkpoints").generations()) == 2
    milestones = Checkpoints(path / "milestones")
    assert milestones.generations() == [6, 12]
    for key, value in run.agent.world_model.state_dict().items():
        assert torch.equal(milestones.load(12)["world_model"][key], value)


@pytest.mark.parametrize("cut", [1, 7])
def test_resumed_run_equals_the_uninterrupted_one(
    cut: int, whole: tuple[PretrainRun, Path], tmp_path: Path
) -> None:
    one, path = whole
    assert not play(tmp_path / "two", stop=cut).finished
    two = play(tmp_path / "two")
    assert_same(one, two)
    # Stopping writes one more line of means; apart from those nothing differs.
    assert [line for line in lines(path) if "validation/model_loss" in line] == [
        line for line in lines(tmp_path / "two") if "validation/model_loss" in line
    ]


def test_same_seed_gives_the_same_run(whole: tuple[PretrainRun, Path], tmp_path: Path) -> None:
    assert_same(whole[0], play(tmp_path / "again"))
    assert lines(whole[1]) == lines(tmp_path / "again")


def test_validation_and_videos_do_not_change_training(
    whole: tuple[PretrainRun, Path], tmp_path: Path
) -> None:
    quiet = play(tmp_path / "quiet", validation=None, video_every=10**6, milestone_every=0)
    assert_same(whole[0], quiet)
    assert list((tmp_path / "quiet").glob("pictures/open-loop-000000012.png"))  # at the end


def test_an_older_generation_is_gone_on_from_exactly(
    whole: tuple[PretrainRun, Path], tmp_path: Path
) -> None:
    first = play(tmp_path / "run")
    assert first.finished
    oldest = Checkpoints(tmp_path / "run" / "checkpoints").generations()[0]
    again = play(tmp_path / "run", resume_from=oldest)
    assert_same(whole[0], again)
    assert Checkpoints(tmp_path / "run" / "milestones").generations() == [6, 12]


def test_training_on_clips_lowers_the_loss(tmp_path: Path) -> None:
    play(tmp_path / "run", total_updates=40, video_every=100, validate_every=100)
    losses = [line["image_loss"] for line in lines(tmp_path / "run") if "image_loss" in line]
    assert losses[-1] < 0.7 * losses[0]


def test_shorter_clips_than_the_prediction_show_none(tmp_path: Path) -> None:
    run = play(tmp_path / "run", observed_frames=5)
    assert run.finished
    assert not list((tmp_path / "run").glob("pictures/*"))
    assert not any("validation/open_loop_mse" in line for line in lines(tmp_path / "run"))


def test_too_many_bad_updates_stop_the_run_and_save_the_batch(tmp_path: Path) -> None:
    wild = partial(video_learner(lr=1e38), max_bad_updates=3)
    with pytest.raises(Diverged) as caught:
        play(tmp_path / "bad", learner=wild)
    assert caught.value.exit_code == ExitCode.DIVERGED
    assert len(list((tmp_path / "bad").glob("bad-batch-*.safetensors"))) == 1


def test_parts_that_need_more_than_frames_are_refused(tmp_path: Path) -> None:
    model = partial(video_model().func, **video_model().keywords | {"dynamics": RSSM})
    with pytest.raises(IncompatibleParts, match="RSSM, which needs actions"):
        play(tmp_path / "rssm", agent=partial(video_agent().func, world_model=model))
    from wmplugins.dreamer.heads import RewardMLP

    model = partial(WorldModel, **video_model().keywords, heads={"reward": RewardMLP})
    with pytest.raises(IncompatibleParts, match="head 'reward', which needs"):
        play(tmp_path / "head", agent=partial(video_agent().func, world_model=model))


def test_encoder_alone_trains_without_pictures(tmp_path: Path) -> None:
    """A model without decoder has nothing to show, and is no error."""
    model = partial(video_model().func, **video_model().keywords | {"decoder": None})
    run = play(tmp_path / "run", agent=partial(video_agent().func, world_model=model))
    assert run.finished
    assert isinstance(run.agent.world_model.encoder, CNNEncoder)


def test_clips_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleParts, match="3 x 48 x 48, the model's 3 x 64 x 64"):
        play(tmp_path / "run", clips=partial(ToyClips, size=48))


_COMMAND = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.core.test_pretrain import settings
from wmplatform.run_folder import RunFolder
path = Path(sys.argv[1])
with RunFolder.open(path, config_text="") as folder:
    sys.exit(int(settings(total_updates=10**6, save_every=50, log_every=1).run(folder, seed=3)))
"""


def test_sigterm_saves_and_says_so(tmp_path: Path) -> None:
    process = warm.start(_COMMAND, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    process.wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0)
    process.send_signal(signal.SIGTERM)
    done = process.finish()
    assert done.returncode == ExitCode.INTERRUPTED, done.stderr
    state = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert state["loop"]["counters"]["updates"] > 0
