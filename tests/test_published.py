"""One file brings the authors' behaviour to any experiment: `experiments/base/parity_*.gin`.

The numbers are those of the published configurations and code, by agent, domain and stage.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from wmplatform.config import Ref, load

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
BASE = FOLDER / "base"
AGENTS = (
    "pretrain_contextwm",
    "pretrain_apv",
    "contextwm",
    "apv",
    "dreamerv2",
    "isodream",
    "drqv2",
)
"""Names of base files; the first that an experiment includes says which agent and stage it is."""

QUIRKS = {
    "imagination": {
        "Adam.decay": "l2",
        "Learner.precision": "fp16",
        "Online.pretrain_updates": 101,
        "behaviors.imagination.entropy_in_critic_target": True,
        "behaviors.imagination.fp32": False,
        "heads.reward.fp32": False,
    },
    "dreamerv2": {"dynamics.rssm.gru_init": "torch", "dynamics.rssm.reset": "multiply"},
    "apv": {"dynamics.stacked.gru_init": "torch", "dynamics.stacked.reset": "multiply"},
    "contextwm": {
        "context_encoders.resnet.augment_in_eval": True,
        "context_encoders.resnet.reports": "random",
        "decoders.cross_attention.mask_in_eval": True,
    },
    "pretrain_apv": {
        "Adam.decay": "l2",
        "Clips.held_out": 0.0,
        "Learner.precision": "fp16",
        "Pretrain.validation": None,
        "dynamics.action_free.gru_init": "torch",
        "dynamics.action_free.reset": "multiply",
    },
    "pretrain_contextwm": {
        "context_encoders.resnet.reports": "random",
        "decoders.cross_attention.mask_in_eval": True,
    },
    "isodream": {
        "Learner.precision": "fp16",
        "Segments.mark_start": False,
        "behaviors.isolated.fp32": False,
        "behaviors.isolated.reversed_returns": True,
        "behaviors.isolated.truncated": False,
        "behaviors.isolated.value_gradient": False,
        "dynamics.isolated.parity": True,
        "heads.inverse_dynamics.fp32": False,
        "heads.reward.fp32": False,
    },
    "drqv2": {
        "Learner.precision": "fp32",
        "Transitions.by_length": False,
        "Transitions.short_ends": False,
    },
}
"""What the authors' code does otherwise than ours, by parity file, without what it includes."""
INCLUDED = {
    "dreamerv2": ("imagination",),
    "apv": ("imagination",),
    "contextwm": ("imagination", "apv"),
    "pretrain_contextwm": ("pretrain_apv",),
}


def included(file: Path) -> set[str]:
    """Names of all files that lead to this one's values, its own first."""
    found = {file.stem}
    for name in re.findall(r"^include '(.*)'", file.read_text(), re.MULTILINE):
        found |= included((file.parent / name).resolve())
    return found


def agent_of(file: Path) -> str:
    return next(name for name in AGENTS if name in included(file))


EXPERIMENTS = sorted(
    f for place in ("", "ablations", "crossovers") for f in (FOLDER / place).glob("*.gin")
)


def quirks(agent: str) -> dict[str, Any]:
    """Settings of a parity file with those that it includes."""
    names = (*INCLUDED.get(agent, ()), agent)
    return {key: value for name in names for key, value in QUIRKS[name].items()}


@pytest.mark.parametrize("file", sorted(BASE.glob("parity_*.gin")), ids=lambda file: file.stem)
def test_a_parity_file_is_short_and_some_agents_own(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 40
    assert file.stem.removeprefix("parity_") in QUIRKS
    assert {f"parity_{name}" for name in QUIRKS} == {f.stem for f in BASE.glob("parity_*.gin")}


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_one_file_brings_the_authors_behaviour_to_any_experiment_and_nothing_else(
    file: Path,
) -> None:
    agent = agent_of(file)
    ours, theirs = load([file]), load([file, BASE / f"parity_{agent}.gin"])
    expected = quirks(agent)
    for name, value in expected.items():
        selector, _, param = name.rpartition(".")
        if selector not in theirs.targets:  # a part that the experiment replaces
            continue
        assert theirs.parameter(name) == value, name
        assert ours.parameter(name) != value, f"{name} deviates in nothing"
        scopes = {key[0] for key in theirs.bound if key[1:] == (selector, param)}
        assert scopes == {""}, f"{name} is set for {scopes}, so not for all"
    before, after = ({k: b.raw for k, b in c.bound.items()} for c in (ours, theirs))
    moved = {key for key in {*before, *after} if before.get(key, ...) != after.get(key, ...)}
    assert {".".join(key[1:]) for key in moved if key[0] != "validation"} <= expected.keys()


def test_every_agent_meets_every_domain_and_stage() -> None:
    names = {file.stem for file in EXPERIMENTS}
    for agent in ("dreamerv2", "apv", "contextwm", "isodream", "drqv2"):
        assert {
            f"{agent}_{d}" for d in ("metaworld", "dmc", "dmcr", "dmcr_hopper", "carla")
        } <= names
    for agent in ("apv", "contextwm"):
        videos = ("ssv2", "human36m", "youtube_driving", "rlbench", "assembled")
        assert {f"{agent}_pretrain_{video}" for video in videos} <= names


# Published settings

IMAGINATION = {
    "Segments.length": 50,
    "Online.pretrain_updates": 101,  # 100, and the "benchmark" update
    "Online.updates_every": 5,
    "behaviors.imagination.horizon": 15,
    "behaviors.imagination.gamma": 0.99,
    "behaviors.imagination.lambda_": 0.95,
    "behaviors.imagination.entropy_scale": 1e-4,
    "behaviors.imagination.slow_target_every": 100,
    "model/Adam.lr": 3e-4,
    "actor/Adam.lr": 8e-5,
    "critic/Adam.lr": 8e-5,
    "Adam.eps": 1e-5,
    "Adam.clip_norm": 100.0,
    "Adam.weight_decay": 1e-6,
}
"""Of DreamerV2, APV and ContextWM on all domains."""
OF_VIDEOS = {
    "dynamics.stacked.deter": 1024,
    "dynamics.stacked.kl_balance": 0.8,
    "dynamics.stacked.pad_action": 50,
    "explorers.video_bonus.neighbours": 16,
    "explorers.video_bonus.window": 5,
    "explorers.video_bonus.projection": 128,
    "explorers.video_bonus.queue": 4096,
    "explorers.video_bonus.momentum": 0.99,
    "pretrained/Adam.lr": 3e-4,
}
METAWORLD = {
    "Segments.batch": 50,
    "Online.prefill_agent_steps": 5000,
    "Online.total_agent_steps": 255_000,
    "Online.eval_every": 10_000,
    "Evaluation.episodes": 10,
    "Replay.prioritize_ends": True,
    "envs.metaworld.camera": "corner",
    "envs.metaworld.size": 64,
    "envs.metaworld.action_repeat": 1,
    "envs.metaworld.time_limit": 500,
    "envs.metaworld.render_profile": "reference",
}
SUITE = {
    "Segments.batch": 16,
    "Online.prefill_agent_steps": 1000,
    "Online.total_agent_steps": 502_000,
    "Online.eval_every": 10_000,
    "Replay.prioritize_ends": False,
}
DOMAINS = {
    "metaworld": METAWORLD,
    "dmc": SUITE
    | {
        "Evaluation.episodes": 1,
        "envs.dmcontrol.size": 64,
        "envs.dmcontrol.action_repeat": 2,
        "envs.dmcontrol.render_profile": "reference",
    },
    "dmcr": SUITE
    | {
        "Evaluation.episodes": 10,
        "envs.dmcr.action_repeat": 2,
        "envs.dmcr.visual_seeds": (1, 1_000_000),
        "envs.dmcr.render_profile": "reference",
    },
    "carla": SUITE
    | {
        "Online.total_agent_steps": 151_000,  # theirs drives on to 156,000, unevaluated
        "Online.eval_every": 5000,
        "Evaluation.episodes": 5,
        "envs.carla.action_repeat": 1,
        "envs.carla.time_limit": 1000,
        "envs.carla.traffic": 20,
        "envs.carla.reward_impulse_weight": 1e-3,
        "envs.carla.reward_impulse_limit": 10.0,
        "envs.carla.weather_speed": 0.1,
    },
}
DOMAINS["dmcr_hopper"] = DOMAINS["dmcr"] | {"envs.dmcr.task": "hopper-stand"}


def table() -> dict[str, dict[str, Any]]:
    """Settings by experiment, with its parity file."""
    found: dict[str, dict[str, Any]] = {}
    for domain, values in DOMAINS.items():
        first = domain == "metaworld"
        nats, beta, rest = (0.0, 1.0, 100) if first else (1.0, 0.1, 0)
        deter = 200 if domain == "dmc" else 1024
        found[f"dreamerv2_{domain}"] = {
            **IMAGINATION,
            **values,
            "dynamics.rssm.deter": deter,
            "dynamics.rssm.free_nats": nats,
            "dynamics.rssm.kl_balance": 0.8,
        }
        found[f"apv_{domain}"] = {
            **IMAGINATION,
            **OF_VIDEOS,
            **values,
            "balancers.fixed.scales": {"af_kl": 0.0},
            "dynamics.stacked.free_nats": nats,
            "dynamics.stacked.concat_embed": not first,
            "explorers.video_bonus.scale": beta,
            "pretrained/Adam.frozen_updates": rest,
        }
        found[f"contextwm_{domain}"] = found[f"apv_{domain}"] | {
            "balancers.fixed.scales": {"af_kl": 0.0, "aux_reward": 1.0},
            "context_encoders.resnet.choice": "random",
            "context_encoders.resnet.augmentation": "@augmentations.erasing" if first else None,
            "decoders.cross_attention.keep": 0.25,
            "decoders.cross_attention.heads": 4,
            "decoders.cross_attention.dropout": 0.1,
            "decoders.cross_attention.augmented_skip": False,
        }
    found["contextwm_metaworld_drawer_open"] = found["contextwm_metaworld"] | {
        "context_encoders.resnet.augmentation": None
    }
    return found | videos() | isodream() | drqv2()


def videos() -> dict[str, dict[str, Any]]:
    """Pre-training."""
    found = {}
    for agent in ("apv", "contextwm"):
        for dataset in ("ssv2", "human36m", "youtube_driving", "rlbench", "assembled"):
            found[f"{agent}_pretrain_{dataset}"] = {
                "Adam.lr": 3e-4,
                "Clips.batch": 16,
                "Clips.length": 25,
                "Clips.prioritize_ends": dataset == "rlbench",
                "Pretrain.total_updates": 1_200_000 if dataset == "assembled" else 600_000,
                "balancers.fixed.scales": {"kl": 1.0},
                "dynamics.action_free.deter": 1024,
                "dynamics.action_free.free_nats": 0.0,
                "dynamics.action_free.kl_balance": 0.8,
            }
    return found


def isodream() -> dict[str, dict[str, Any]]:
    """Its authors' two domains, and the protocols of ContextWM, which compares itself with it."""
    common = {
        "Adam.eps": 1e-5,
        "Adam.clip_norm": 100.0,
        "Adam.weight_decay": 0.0,
        "Online.pretrain_updates": 100,
        "Online.updates_every": 5,
        "Replay.prioritize_ends": False,
        "Segments.batch": 50,
        "Segments.length": 50,
        "balancers.fixed.scales": {"reward": 2.0, "inverse": 1.0},
        "behaviors.isolated.entropy_scale": 1e-4,
        "behaviors.isolated.horizon": 15,
        "behaviors.isolated.lambda_": 0.95,
        "behaviors.isolated.slow_target_every": 100,
        "dynamics.isolated.deter": 200,
        "dynamics.isolated.free_nats": 1.0,
        "dynamics.isolated.kl_balance": 0.8,
        "dynamics.isolated.stoch": 50,
        "model/Adam.lr": 3e-4,
        "actor/Adam.lr": 8e-5,
        "critic/Adam.lr": 8e-5,
    }
    still = {"dynamics.isolated.ctrl_records": None, "dynamics.isolated.free_records": 40}
    driving = {
        "dynamics.isolated.ctrl_records": 20,
        "dynamics.isolated.free_records": None,
        "dynamics.isolated.window": 5,
        "WorldModel.reads": {"reward": "joint"},
    }
    found = {
        f"isodream_{domain}": values | common | (driving if domain == "carla" else still)
        for domain, values in DOMAINS.items()
    }
    theirs = {"Online.prefill_agent_steps": 2500, "Evaluation.episodes": 1}
    found["isodream_dmc"] |= {
        **theirs,
        "Online.total_agent_steps": 500_000,
        "Online.eval_every": 2500,
    }
    found["isodream_carla_authors"] = found["isodream_carla"] | {
        **theirs,
        "Online.total_agent_steps": 250_000,
        "Online.eval_every": 1250,
        "envs.carla.action_repeat": 4,
        "envs.carla.time_limit": 250,
        "envs.carla.reward_scale": 0.25,
        "envs.carla.reward_impulse_weight": 1e-4,
        "envs.carla.reward_impulse_limit": 1e6,
        "envs.carla.reward_centring": 0.0,
        "envs.carla.sun_altitude": (20.0, 90.0),
        "envs.carla.traffic": 30,
        "envs.carla.traffic_slower_percent": 0.0,
        "envs.carla.exit_roads": (),
    }
    return found


def drqv2() -> dict[str, dict[str, Any]]:
    """The suite by difficulty, as published; on the other domains nothing is."""

    def task(steps: int, noise: int) -> dict[str, Any]:
        std = f"linear(1.0, 0.1, {noise})"
        return {
            "Adam.lr": 1e-4,
            "Adam.eps": 1e-8,
            "Adam.clip_norm": 0.0,
            "Evaluation.episodes": 10,
            "Online.eval_every": 5000,
            "Online.prefill_agent_steps": 2000,
            "Online.total_agent_steps": steps,
            "Online.updates_every": 2,
            "Transitions.batch": 256,
            "Transitions.n": 3,
            "Transitions.gamma": 0.99,
            "augmentations.shift.pad": 4,
            "behaviors.drq.clip": 0.3,
            "behaviors.drq.features": 50,
            "behaviors.drq.slow_fraction": 0.01,
            "behaviors.drq.std": std,
            "behaviors.drq.units": 1024,
            "envs.dmcontrol.action_repeat": 2,
            "envs.dmcontrol.size": 84,
            "explorers.scheduled_noise.std": std,
        }

    hard = {"Adam.lr": 8e-5, "behaviors.drq.features": 100}
    return {
        "drqv2_dmc": task(550_000, 100_000),
        "drqv2_dmc_walker": task(550_000, 100_000) | {"Transitions.n": 1, "Transitions.batch": 512},
        "drqv2_dmc_medium": task(1_550_000, 500_000),
        "drqv2_dmc_humanoid": task(15_050_000, 2_000_000) | hard,
    }


@pytest.mark.parametrize(("name", "values"), table().items(), ids=table())
def test_settings_are_the_published_ones(name: str, values: dict[str, Any]) -> None:
    file = FOLDER / f"{name}.gin"
    config = load([file, BASE / f"parity_{agent_of(file)}.gin"])
    for setting, value in values.items():
        found = config.parameter(setting)
        assert (repr(found) if isinstance(found, Ref) else found) == value, setting
