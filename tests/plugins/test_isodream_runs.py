"""Runs by the command line: Iso-Dream on two movers, and what crosses agents on Meta-World."""

from pathlib import Path

import pytest

from wmplatform.cli import main
from wmplatform.json_lines import read_json_lines

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"

SHORT = {
    "Segments.batch": "2",
    "Segments.length": "6",
    "Replay.capacity": "100",
    "Online.prefill_agent_steps": "14",
    "Online.total_agent_steps": "24",
    "Online.pretrain_updates": "1",
    "Online.updates_every": "5",
    "Online.eval_every": "20",
    "Online.log_every": "5",
    "Evaluation.episodes": "1",
    "Evaluation.prediction_records": "7",
    "Evaluation.prediction_clips": "1",
}
METAWORLD = {
    **SHORT,
    "envs.metaworld.render_profile": "'fast'",
    "envs.metaworld.time_limit": "10",
    "heads.reward.units": "8",
}
ISODREAM = {
    "encoders.branches.depth": "2",
    "dynamics.isolated.stoch": "3",
    "dynamics.isolated.deter": "4",
    "dynamics.isolated.hidden": "4",
    "heads.inverse_dynamics.units": "8",
    "behaviors.isolated.units": "8",
    "behaviors.isolated.horizon": "3",
}
MASKS = {"context_encoders.background.depth": "2", "decoders.masks.depth": "2"}
CONTEXT = {"context_encoders.resnet.depth": "2", "decoders.cross_attention.depth": "2"}
CURIOUS = {
    "encoders.cnn.depth": "2",
    "decoders.cnn.depth": "2",
    "dynamics.rssm.deter": "8",
    "dynamics.rssm.hidden": "8",
    "dynamics.rssm.groups": "4",
    "dynamics.rssm.classes": "4",
    "behaviors.imagination.units": "8",
    "behaviors.imagination.horizon": "3",
    "explorers.video_bonus.queue": "64",
    "explorers.video_bonus.projection": "4",
    "explorers.video_bonus.neighbours": "3",
    "explorers.video_bonus.window": "2",
}


@pytest.mark.parametrize(
    ("file", "bind", "metrics"),
    [
        (
            "isodream_two_movers",
            {**SHORT, **ISODREAM, **MASKS, "envs.two_movers.time_limit": "10"},
            {"inverse_loss", "kl_free_loss", "critic_loss"},
        ),
        (
            "isodream_metaworld",
            {**METAWORLD, **ISODREAM, **MASKS},
            {"inverse_loss", "kl_ctrl_loss", "critic_loss"},
        ),
        (
            "crossovers/dreamerv2_video_bonus_metaworld",
            {**METAWORLD, **CURIOUS},
            {"intrinsic_raw", "critic_loss"},
        ),
        (
            "crossovers/contextwm_over_isodream_metaworld",
            {**METAWORLD, **ISODREAM, **CONTEXT},
            {"inverse_loss", "image_loss", "critic_loss"},
        ),
    ],
)
def test_the_experiment_trains_and_is_evaluated(
    file: str, bind: dict[str, str], metrics: set[str], tmp_path: Path
) -> None:
    binds = [text for name, value in bind.items() for text in ("--bind", f"{name} = {value}")]
    run = str(tmp_path / "run")
    assert main(["run", "--gin", str(EXPERIMENTS / f"{file}.gin"), "--run-dir", run, *binds]) == 0
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    known = {key for line in lines for key in line}
    assert metrics <= known
    assert {"eval/return", "eval/open_loop_mse"} <= known
