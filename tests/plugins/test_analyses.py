"""The command `analyse` on a run folder and prepared videos."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wmplatform.analysis.clips import clips_of
from wmplatform.cli import main
from wmplatform.errors import ExitCode
from wmplatform.evaluation import Evaluation
from wmplatform.saved_agent import open_saved
from wmplugins.videos.samples import moving_bar

PRETRAIN = """
Pretrain.agent = @Agent
Pretrain.learner = @Learner
Pretrain.clips = @Clips
Pretrain.validation = @Clips
Pretrain.total_updates = 1
Pretrain.validation_batches = 1
Pretrain.observed_frames = 2
Clips.data = '{shards}'
Clips.batch = 2
Clips.length = 4
WorldModel.dynamics = @dynamics.action_free
dynamics.action_free.deter = 8
dynamics.action_free.hidden = 8
dynamics.action_free.groups = 4
dynamics.action_free.classes = 4
Learner.groups = {{'model': ('world_model',)}}
Learner.optimizers = {{'model': @Adam}}
"""
FINETUNE = """
Online.env = @envs.gym
Online.agent = @Agent
Online.learner = @Learner
Online.load_from = '{run}'
Online.total_agent_steps = 40
Online.prefill_agent_steps = 36
Online.pretrain_updates = 1
Evaluation.episodes = 1
envs.gym.id = 'Pendulum-v1'
envs.gym.time_limit = 8
Replay.capacity = 100
Segments.batch = 2
Segments.length = 5
Agent.behavior = @behaviors.imagination
Agent.explorer = @explorers.sampling
WorldModel.dynamics = @dynamics.stacked
WorldModel.heads = {{'reward': @heads.reward}}
dynamics.stacked.deter = 8
dynamics.stacked.hidden = 8
dynamics.stacked.groups = 4
dynamics.stacked.classes = 4
heads.reward.units = 8
behaviors.imagination.units = 8
behaviors.imagination.horizon = 3
Learner.groups = {{
    'model': ('world_model',), 'actor': ('behavior.actor',), 'critic': ('behavior.critic',)}}
Learner.optimizers = {{'model': @Adam, 'actor': @Adam, 'critic': @Adam}}
"""
MODEL = """
Agent.world_model = @WorldModel
WorldModel.encoder = @encoders.resnet
WorldModel.context_encoder = @context_encoders.resnet
WorldModel.decoder = @decoders.cross_attention
encoders.resnet.depth = 2
context_encoders.resnet.depth = 2
decoders.cross_attention.depth = 2
decoders.cross_attention.heads = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two labels, and a run of one update."""
    path = tmp_path_factory.mktemp("analyses")
    for seed, label in enumerate(["push", "pull"] * 3):
        (path / "source" / label).mkdir(parents=True, exist_ok=True)
        name = path / "source" / label / f"{seed}.npz"
        np.savez(name, image=moving_bar(8, 64, 64, seed))
    source = f"root = '{path / 'source'}'"
    words = ["--bind", source, "--out", str(path / "shards"), "--processes", "0"]
    assert main(["prepare", "rlbench", *words]) == ExitCode.OK
    train(path / "run", PRETRAIN.format(shards=path / "shards"))
    return path


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Path:
    """The folder with a run that fine-tuned the model with actions."""
    train(folder / "tuned", FINETUNE.format(run=folder / "run"))
    return folder


def train(run: Path, settings: str) -> None:
    gin = run.with_suffix(".gin")
    gin.write_text(settings + MODEL)
    words = ["--gin", str(gin), "--run-dir", str(run), "--device", "cpu"]
    assert main(["run", *words]) == ExitCode.OK


def analyse(
    capsys: pytest.CaptureFixture[str], folder: Path, kind: str, *words: str, run: str = "run"
) -> dict[str, Any]:
    capsys.readouterr()
    common = ["--observed", "2", "--predicted", "2", "--device", "cpu", "--json"]
    assert main(["analyse", kind, str(folder / run), *common, *words]) == ExitCode.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("kind", ["predict", "attention", "compose"])
def test_pictures_and_videos_are_written(
    folder: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(folder / "shards"), "--clips", "2", "--out", str(tmp_path)]
    found = analyse(capsys, folder, kind, *words)
    with Image.open(found["picture"]) as picture:
        assert picture.size[0] > 128
    assert Path(found["video"]).stat().st_size > 0
    assert Path(found["video"]).parent == tmp_path
    if kind == "predict":
        assert len(json.loads(Path(found["numbers"]).read_text())["mse_per_frame"]) == 4


def test_without_data_the_held_out_clips_of_the_run_are_taken(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = analyse(capsys, folder, "predict")
    name = f"predict-{found['checkpoint']:09d}.png"
    assert Path(found["picture"]) == folder / "run" / "analyses" / name


@pytest.mark.parametrize("source", ["evaluation", "replay"])
@pytest.mark.parametrize("kind", ["predict", "attention", "compose"])
def test_a_model_with_actions_is_analysed_on_the_episodes_of_its_run(
    tuned: Path, kind: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--clips", "2", "--out", str(tmp_path), *(["--replay"] * (source == "replay"))]
    found = analyse(capsys, tuned, kind, *words, run="tuned")
    with Image.open(found["picture"]) as picture:
        assert picture.size[0] > 128
    if kind == "attention":
        weights = np.asarray(json.loads(Path(found["numbers"]).read_text())["weights"])
        assert weights.shape == (2, 4, 1, 16, 16)
        np.testing.assert_allclose(weights.sum((2, 3, 4)), 1.0, rtol=1e-5)


def test_the_actions_of_an_episode_reach_the_analysis(
    tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = open_saved(tuned / "tuned", device="cpu")
    monkeypatch.setattr(Evaluation, "run", None)  # replay plays nothing
    wanted: dict[str, Any] = {"clips": 3, "length": 4, "replay": tuned / "tuned"}
    clips = clips_of(saved, [], seed=0, **wanted)
    assert clips["action"].shape == (3, 4, 1)
    assert clips["action"][:, 1:].abs().min() > 0
    assert clips["is_first"].sum(1).tolist() == [1, 1, 1]
    again, other = (clips_of(saved, [], seed=seed, **wanted) for seed in (0, 1))
    assert torch.equal(clips["action"], again["action"])
    assert not torch.equal(clips["action"], other["action"])


def test_labelled_videos_are_placed_in_the_plane(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    words = ["--data", str(folder / "shards"), "--labels", "push", "pull"]
    found = analyse(capsys, folder, "tsne", *words)
    numbers = json.loads(Path(found["numbers"]).read_text())
    assert numbers["labels"] == ["push"] * 3 + ["pull"] * 3
    assert 0.0 <= found["purity"] <= 1.0


def test_mistakes_are_explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["analyse", "tsne", str(folder / "run"), "--data", str(folder / "shards")]
    assert main([*command, "--labels", "push"]) == ExitCode.BAD_INPUT
    assert "two labels" in capsys.readouterr().err
    words = ["--labels", "push", "lift", "--observed", "2", "--predicted", "2"]
    assert main([*command, *words]) == ExitCode.BAD_INPUT
    assert "known labels: pull, push" in capsys.readouterr().err
    assert main(["analyse", "predict", str(folder / "run"), "--replay"]) == ExitCode.BAD_INPUT
    assert "has no replay" in capsys.readouterr().err


def test_videos_without_actions_are_refused_where_they_are_needed(
    tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["analyse", "attention", str(tuned / "tuned"), "--data", str(tuned / "shards")]
    words = ["--observed", "2", "--predicted", "2", "--device", "cpu"]
    assert main([*command, *words]) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "needs actions" in said
    assert "--replay" in said
