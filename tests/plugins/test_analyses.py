"""The command `analyse` on a run folder and prepared videos."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wmplatform.cli import main
from wmplatform.errors import ExitCode
from wmplugins.videos.samples import moving_bar

GIN = """
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
Agent.world_model = @WorldModel
WorldModel.encoder = @encoders.resnet
WorldModel.dynamics = @dynamics.action_free
WorldModel.context_encoder = @context_encoders.resnet
WorldModel.decoder = @decoders.cross_attention
encoders.resnet.depth = 2
context_encoders.resnet.depth = 2
decoders.cross_attention.depth = 2
decoders.cross_attention.heads = 2
dynamics.action_free.deter = 8
dynamics.action_free.hidden = 8
dynamics.action_free.groups = 4
dynamics.action_free.classes = 4
Learner.groups = {{'model': ('world_model',)}}
Learner.optimizers = {{'model': @Adam}}
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
    gin = path / "run.gin"
    gin.write_text(GIN.format(shards=path / "shards"))
    words = ["--gin", str(gin), "--run-dir", str(path / "run"), "--device", "cpu"]
    assert main(["run", *words]) == ExitCode.OK
    return path


def analyse(
    capsys: pytest.CaptureFixture[str], folder: Path, kind: str, *words: str
) -> dict[str, Any]:
    capsys.readouterr()
    common = ["--observed", "2", "--predicted", "2", "--device", "cpu", "--json"]
    assert main(["analyse", kind, str(folder / "run"), *common, *words]) == ExitCode.OK
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
