"""DrQ-v2 by the command line: a run that is stopped and resumed, and one on a frozen encoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wmplatform.checkpoint import Checkpoints
from wmplatform.cli import main
from wmplatform.config import load
from wmplatform.errors import ExitCode
from wmplatform.json_lines import read_json_lines
from wmplatform.run_folder import RunFolder
from wmplatform.training.online import Online, OnlineRun, train

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"

SMALL = {
    "encoders.drq.width": "4",
    "behaviors.drq.features": "5",
    "behaviors.drq.units": "8",
    "envs.gym.time_limit": "15",
    "envs.gym.size": "20",
    "Transitions.batch": "8",
    "Replay.capacity": "200",
    "Collection.agent_steps_per_collect": "5",
    "Online.prefill_agent_steps": "20",
    "Online.total_agent_steps": "80",
    "Online.eval_every": "40",
    "Online.log_every": "10",
    "Evaluation.episodes": "1",
}

WORLD_MODEL = """
include '{experiments}/dreamerv2_metaworld_resnet.gin'

encoders.resnet.depth = 2
decoders.resnet.depth = 2
dynamics.rssm.deter = 8
dynamics.rssm.hidden = 8
dynamics.rssm.groups = 4
dynamics.rssm.classes = 4
heads.reward.units = 8
behaviors.imagination.units = 8
behaviors.imagination.horizon = 3
Segments.batch = 2
Segments.length = 6
"""

FROZEN = """
include '{experiments}/crossovers/drqv2_frozen_encoder_metaworld.gin'

Online.load_from = '{source}'
encoders.resnet.depth = 2
behaviors.drq.features = 5
behaviors.drq.units = 8
Transitions.batch = 8
"""

SHORT = """
envs.metaworld.time_limit = 10
envs.metaworld.render_profile = 'fast'
Collection.agent_steps_per_collect = 2
Replay.capacity = 100
Online.prefill_agent_steps = 12
Online.pretrain_updates = 1
Online.updates_every = 2
Online.total_agent_steps = 20
Online.eval_every = 1000
Evaluation.episodes = 1
Evaluation.prediction_records = 8
"""


def bindings(extra: dict[str, str]) -> list[str]:
    return [f"{name} = {value}" for name, value in {**SMALL, **extra}.items()]


class StopAfter:
    """A stop request that comes when the run has taken so many agent steps."""

    def __init__(self, agent_steps: int) -> None:
        self.agent_steps = agent_steps
        self.run: OnlineRun | None = None

    @property
    def requested(self) -> bool:
        assert self.run is not None
        return self.run.agent_steps >= self.agent_steps


def play(path: Path, stop_at: int = 10**9, **extra: str) -> OnlineRun:
    """Run (or resume) a tiny DrQ-v2 in a folder; returns the closed run."""
    config = load([EXPERIMENTS / "drqv2_pendulum_small.gin"], bindings(extra))
    config.activate()
    online: Online = config.build("Online")
    stop = StopAfter(stop_at)
    with RunFolder.open(path, config_text=config.text) as folder:
        run = stop.run = OnlineRun(online, folder, seed=3, device="cpu")
        try:
            run.resume()
            train(run, stop)  # type: ignore[arg-type]
        finally:
            run.close()
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnlineRun, Path]:
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return play(path), path


def test_a_resumed_run_equals_the_uninterrupted_one(
    whole: tuple[OnlineRun, Path], tmp_path: Path
) -> None:
    one, _ = whole
    play(tmp_path / "two", stop_at=45)
    two = play(tmp_path / "two")
    assert one.counters == two.counters
    assert one.counters["updates"] == 1 + 80 - 20
    assert one.counters["env_frames"] == 160
    for name, value in one.agent.state_dict().items():
        assert torch.equal(value, two.agent.state_dict()[name]), name
    for group, optimizer in one.learner.optimizers.items():
        for mine, theirs in zip(
            optimizer.second, two.learner.optimizers[group].second, strict=True
        ):
            assert torch.equal(mine, theirs)
    assert torch.equal(
        one.replay.sampler.generator.get_state(), two.replay.sampler.generator.get_state()
    )


def test_a_run_logs_both_losses_and_is_evaluated(whole: tuple[OnlineRun, Path]) -> None:
    lines = list(read_json_lines(whole[1] / "metrics.jsonl"))
    losses = [line for line in lines if "critic_loss" in line]
    assert losses
    assert {"actor_loss", "value", "encoder_grad_norm"} <= set(losses[-1])
    assert [line["agent_steps"] for line in lines if "eval/return" in line] == [20, 60]


def run(path: Path, text: str, **names: Any) -> None:
    path.mkdir()
    gin = path / "experiment.gin"
    gin.write_text(text.format(experiments=EXPERIMENTS, **names) + SHORT)
    folder = str(path / "run")
    assert main(["--gin", str(gin), "--run-dir", folder, "--device", "cpu"]) == ExitCode.OK


def test_drqv2_learns_on_the_frozen_encoder_of_a_world_model(tmp_path: Path) -> None:
    """By gin files alone: a world model learns on Meta-World, then DrQ-v2 on its encoder."""
    pytest.importorskip("metaworld")
    run(tmp_path / "model", WORLD_MODEL)
    source = tmp_path / "model" / "run"
    run(tmp_path / "drq", FROZEN, source=source)
    folder = tmp_path / "drq" / "run"
    found = json.loads((folder / "transfer.json").read_text())
    assert list(found["loaded"]) == ["encoder.frame"]
    assert found["fresh"] == ["behavior"]
    theirs = Checkpoints(source / "checkpoints").load_part(
        "world_model", Checkpoints(source / "checkpoints").latest()
    )
    state = Checkpoints(folder / "checkpoints")
    mine = state.load_part("world_model", state.latest())
    names = [name for name in theirs if name.startswith("encoder.")]
    assert names
    for name in names:
        assert torch.equal(mine[name.replace("encoder.", "encoder.frame.", 1)], theirs[name]), name
    counters = state.load_part("loop", state.latest())["counters"]
    assert counters["updates"] == 1 + (20 - 12) // 2
