"""From videos to an agent, by the command line: prepare, pre-train, describe, fine-tune."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from wmplatform.checkpoint import Checkpoints
from wmplatform.cli import main
from wmplatform.errors import ExitCode
from wmplatform.json_lines import read_json_lines
from wmplatform.saved_agent import open_saved
from wmplatform.training.processes import Processes
from wmplugins.videos.samples import moving_bar

MODEL = """
WorldModel.encoder = @encoders.resnet
WorldModel.context_encoder = @context_encoders.resnet
WorldModel.decoder = @decoders.cross_attention
WorldModel.balancer = @balancers.fixed
encoders.resnet.depth = 4
context_encoders.resnet.depth = 4
decoders.cross_attention.depth = 4
decoders.cross_attention.heads = 2
Agent.world_model = @WorldModel
"""

PRETRAIN = """
Pretrain.agent = @Agent
Pretrain.learner = @Learner
Pretrain.clips = @Clips
Pretrain.validation = @validation/Clips
Pretrain.total_updates = 4
Pretrain.log_every = 2
Pretrain.video_every = 4
Pretrain.validate_every = 4
Pretrain.validation_batches = 1
Pretrain.save_every = 2
Pretrain.milestone_every = 2
Pretrain.observed_frames = 5
Pretrain.predicted_frames = 3
Clips.data = '{shards}'
Clips.batch = 2
Clips.length = 8
Clips.held_out = 0.3
validation/Clips.part = 'held_out'
Learner.groups = {{'model': ('world_model',)}}
Learner.optimizers = {{'model': @Adam}}
WorldModel.dynamics = @dynamics.action_free
"""

FINETUNE = """
Online.env = @envs.gym
Online.agent = @Agent
Online.learner = @Learner
Online.load_from = '{run}'
Online.total_agent_steps = 16
Online.prefill_agent_steps = 12
Online.pretrain_updates = 1
Online.updates_every = 4
Online.eval_every = 1000
Evaluation.episodes = 1
Evaluation.prediction_records = 7
envs.gym.id = 'Pendulum-v1'
envs.gym.time_limit = 8
Replay.capacity = 100
Segments.batch = 2
Segments.length = 7
Agent.behavior = @behaviors.imagination
Agent.explorer = @explorers.sampling
WorldModel.dynamics = @dynamics.stacked
WorldModel.heads = {{'reward': @heads.reward}}
heads.reward.units = 8
behaviors.imagination.units = 8
behaviors.imagination.horizon = 3
Learner.optimizers = {{'model': @Adam, 'actor': @Adam, 'critic': @Adam}}
Learner.groups = {{
    'model': ('world_model',), 'actor': ('behavior.actor',), 'critic': ('behavior.critic',)
}}
"""


def sizes(dynamics: str) -> str:
    values = {"deter": 8, "hidden": 8, "groups": 4, "classes": 4, "pad_action": 6}
    return "".join(f"dynamics.{dynamics}.{name} = {value}\n" for name, value in values.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, their shards, and a finished pre-training run."""
    path = tmp_path_factory.mktemp("videos")
    (path / "source").mkdir()
    for seed in range(4):
        np.savez(path / "source" / f"{seed}.npz", image=moving_bar(12, 64, 64, seed))
    source = f"root = '{path / 'source'}'"
    shards = path / "shards"
    prepare = ["prepare", "rlbench", "--bind", source, "--out", str(shards), "--processes", "0"]
    assert main(prepare) == ExitCode.OK
    gin = path / "pretrain.gin"
    gin.write_text(PRETRAIN.format(shards=shards) + MODEL + sizes("action_free"))
    assert run(gin, path / "pretrained") == ExitCode.OK
    return path


def run(gin: Path, run_dir: Path, *more: str) -> int:
    return main(["--gin", str(gin), "--run-dir", str(run_dir), "--device", "cpu", *more])


def test_a_gin_file_that_binds_pretrain_pre_trains(folder: Path) -> None:
    lines = list(read_json_lines(folder / "pretrained" / "metrics.jsonl"))
    assert [line["updates"] for line in lines if "image_loss" in line] == [2, 4]
    assert any("validation/open_loop_mse" in line for line in lines)
    assert list((folder / "pretrained").glob("pictures/open-loop-*.png"))
    assert (folder / "pretrained" / "pictures" / "curve.png").exists()
    assert Checkpoints(folder / "pretrained" / "milestones").generations() == [2, 4]


def test_the_same_command_goes_on_and_finds_nothing_to_do(folder: Path) -> None:
    before = Checkpoints(folder / "pretrained" / "checkpoints").generations()
    assert run(folder / "pretrain.gin", folder / "pretrained") == ExitCode.OK
    assert Checkpoints(folder / "pretrained" / "checkpoints").generations() == before


def test_describe_counts_a_pre_training_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", "--gin", str(folder / "pretrain.gin"), "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert found["loop"] == "Pretrain"
    assert found["env"]["task"] == "videos"
    assert found["env"]["action"]["size"] == 0
    assert found["components"]["dynamics"]["name"] == "action_free"
    assert set(found["components"]["dynamics"]["children"]) == {"action_free"}
    assert found["optimizers"] == {"model": found["totals"]["trainable"]}
    assert main(["describe", "--gin", str(folder / "pretrain.gin")]) == ExitCode.OK


def test_there_is_nothing_to_play_with_a_video_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_saved(folder / "pretrained", device="cpu").adapter is None
    assert main(["evaluate", str(folder / "pretrained"), "--device", "cpu"]) == ExitCode.BAD_INPUT
    assert "pre-trains on videos" in capsys.readouterr().err


def test_fine_tuning_starts_from_what_was_pre_trained(folder: Path, tmp_path: Path) -> None:
    gin = tmp_path / "finetune.gin"
    text = FINETUNE.format(run=folder / "pretrained") + MODEL + sizes("stacked")
    gin.write_text(text)
    assert run(gin, tmp_path / "tuned") == ExitCode.OK
    found = json.loads((tmp_path / "tuned" / "transfer.json").read_text())
    names = ["encoder", "dynamics.action_free", "context_encoder", "decoder"]
    assert sorted(found["loaded"]) == sorted(names)
    assert found["fresh"] == ["dynamics.conditional", "heads.reward", "behavior"]
    assert found["updates"] == 4


def test_another_size_is_refused_and_leaves_no_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gin = tmp_path / "finetune.gin"
    gin.write_text(FINETUNE.format(run=folder / "pretrained") + MODEL + sizes("stacked"))
    wider = ["--bind", "dynamics.stacked.deter = 16"]
    assert run(gin, tmp_path / "tuned", *wider) == ExitCode.BAD_RUN
    message = capsys.readouterr().err
    assert "dynamics.action_free.gru.linear.weight: float32 [48, 24] here" in message
    assert not (tmp_path / "tuned").exists()


@pytest.mark.slow
def test_torchrun_starts_a_shared_run(folder: Path, repo_root: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = ["torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    program = ["-m", "wmplatform", "--gin", str(folder / "pretrain.gin")]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, *program, "--run-dir", str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    state = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert len(state["processes"]) == 2
    assert state["loop"]["counters"]["updates"] == 4


def test_the_online_loop_is_not_shared_by_processes(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def two(device: str) -> Iterator[tuple[Processes, str]]:
        yield Processes(0, 2), device

    monkeypatch.setattr("wmplatform.training.launch.joined", two)
    gin = tmp_path / "finetune.gin"
    gin.write_text(FINETUNE.format(run=folder / "pretrained") + MODEL + sizes("stacked"))
    assert run(gin, tmp_path / "tuned") == ExitCode.BAD_INPUT
    assert "Online runs in one process, and torchrun started 2" in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()
