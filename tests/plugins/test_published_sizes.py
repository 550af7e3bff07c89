"""Parameter counts of the published configurations, assembled from the experiments' gin files.

Sizes of ContextWM's modules as its authors' code has them; the paper's "102M" and "95M" are the
megabytes of the two pre-training checkpoints. Built on the meta device: no memory, no arithmetic.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from wmplatform import assembly
from wmplatform.agent import Agent
from wmplatform.cli import main
from wmplatform.config import load
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
DUAL = "contextwm_metaworld"
SINGLE = "ablations/contextwm_no_dual_reward"
CONCAT_EMBED = "dynamics.stacked.concat_embed = True"  # as for CARLA
CNN = ("WorldModel.encoder = @encoders.cnn", "WorldModel.decoder = @decoders.cnn")
PARTS = ("encoder", "action_free", "conditional", "decoder", "reward", "aux_reward")


def build(name: str, *binds: str, action: int = 4) -> Agent:
    config = load([FOLDER / f"{name}.gin"], list(binds))
    spec = assembly.build_spec(config)
    if assembly.root_of(config) != assembly.VIDEOS:
        spec = EnvSpec({"pixels": ArraySpec((3, 64, 64), "uint8")}, ActionSpec(action))
    with torch.device("meta"):
        return assembly.build_agent(config, spec)


def count(*modules: nn.Module | None) -> int:
    return sum(p.numel() for module in modules if module for p in module.parameters())


def counts(agent: Agent) -> list[int]:
    """Parameters of each of `PARTS`; 0 for what is not there."""
    model = agent.world_model
    dynamics = dict(model.dynamics.named_children())
    heads = dict(model.heads.items())
    return [
        count(model.encoder, model.context_encoder),
        count(dynamics.get("action_free")),
        count(dynamics.get("conditional")),
        count(model.decoder),
        count(heads.get("reward")),
        count(heads.get("aux_reward")),
    ]


Z, S, S_EMBED = 14_745_600, 13_697_024, 16_842_752
RESNET, RESNETS, PLAIN, CONTEXT, HEAD = 1_562_112, 3_124_224, 7_519_227, 7_779_003, 1_301_201


@pytest.mark.parametrize(
    ("name", "binds", "action", "parts", "model", "projected", "total"),
    [
        (DUAL, (), 4, [RESNETS, Z, S, CONTEXT, HEAD, HEAD], 41_948_253, 42_210_397, 46_116_807),
        (SINGLE, (), 4, [RESNETS, Z, S, CONTEXT, HEAD, 0], 40_647_052, 40_909_196, 44_815_606),
        (
            "apv_metaworld",
            (),
            4,
            [RESNET, Z, S, PLAIN, HEAD, 0],
            38_825_164,
            39_087_308,
            42_993_718,
        ),
        (
            "apv_metaworld_cnn",
            (),
            4,
            [1_551_312, 13_172_736, S, 11_152_275, HEAD, 0],
            40_874_548,
            41_136_692,
            45_043_102,
        ),
        (
            "contextwm_dmc",  # and DMC Remastered
            (),
            6,
            [RESNETS, Z, S_EMBED, CONTEXT, HEAD, HEAD],
            45_093_981,
            45_356_125,
            49_264_139,
        ),
        (
            "apv_dmc",
            (),
            6,
            [RESNET, Z, S_EMBED, PLAIN, HEAD, 0],
            41_970_892,
            42_233_036,
            46_141_050,
        ),
        (
            DUAL,
            (CONCAT_EMBED,),
            2,
            [RESNETS, Z, S_EMBED, CONTEXT, HEAD, HEAD],
            45_093_981,
            45_356_125,
            49_260_931,
        ),
    ],
    ids=["dual", "single", "plain", "cnn", "suite", "suite-plain", "carla"],
)
def test_fine_tuning(
    name: str,
    binds: tuple[str, ...],
    action: int,
    parts: list[int],
    model: int,
    projected: int,
    total: int,
) -> None:
    """Each part, their sum, with the bonus' fixed projection, and with actor and both critics."""
    agent = build(name, *binds, action=action)
    assert dict(zip(PARTS, counts(agent), strict=True)) == dict(zip(PARTS, parts, strict=True))
    assert count(agent.world_model) == sum(parts) == model
    assert agent.explorer is not None
    projection = agent.explorer.get_buffer("random").numel()
    assert model + projection == projected
    assert projected + count(agent.behavior) == total


def test_dreamer_v2_of_the_control_suite() -> None:
    agent = build("dreamerv2_dmc", action=6)
    model = agent.world_model
    parts = [count(model.encoder), count(model.dynamics), count(model.decoder)]
    assert parts == [1_551_312, 1_247_248, 9_886_611]
    assert count(model) == sum(parts) + 971_601
    assert count(agent.world_model, agent.behavior) == 16_575_986


@pytest.mark.parametrize(
    ("name", "binds", "parts", "total"),
    [
        ("contextwm_pretrain_ssv2", (), [RESNETS, Z, 0, CONTEXT, 0, 0], 25_648_827),
        ("apv_pretrain_ssv2", (), [RESNET, Z, 0, PLAIN, 0, 0], 23_826_939),
        ("apv_pretrain_ssv2", CNN, [1_551_312, 13_172_736, 0, 11_152_275, 0, 0], 25_876_323),
    ],
    ids=["contextwm", "plain", "cnn"],
)
def test_pre_training(name: str, binds: tuple[str, ...], parts: list[int], total: int) -> None:
    agent = build(name, *binds)
    assert counts(agent) == parts
    assert count(agent) == total


@pytest.mark.parametrize("name", [DUAL, "apv_metaworld"])
def test_what_was_pre_trained_rests_for_100_updates(name: str) -> None:
    """Its learning rate is first not zero at update 101, counted from 1."""
    agent = build(name)
    config = load([FOLDER / f"{name}.gin"], [])
    optimizers = assembly.build_part(config, "learner", agent).optimizers
    rates = [optimizers["pretrained"].rate(updates) for updates in (0, 99, 100, 10_000)]
    assert rates == [0.0, 0.0, 3e-4, 3e-4]
    assert [optimizers[group].rate(0) for group in ("model", "actor", "critic")] == [
        3e-4,
        8e-5,
        8e-5,
    ]


def test_the_concatenation_ablation() -> None:
    assert count(build("ablations/contextwm_concat").world_model.decoder) == 7_933_947
    assert count(build("ablations/contextwm_pretrain_concat").world_model.decoder) == 7_933_947


def statistics(agent: Agent) -> int:
    """Values of the batch normalisations' buffers."""
    norms = (m for m in agent.modules() if isinstance(m, nn.BatchNorm2d))
    return sum(buffer.numel() for norm in norms for buffer in norm.buffers())


def test_buffers() -> None:
    """Batch statistics, the queue and the projection of the bonus, and its magnitude."""
    contextwm, plain = build(DUAL), build("apv_metaworld")
    assert statistics(contextwm) == 9_501
    assert statistics(plain) == 5_645
    assert statistics(build("contextwm_pretrain_ssv2")) == 9_501
    assert contextwm.explorer is not None
    sizes = {name: buffer.numel() for name, buffer in contextwm.explorer.named_buffers()}
    assert sizes == {"random": 262_144, "queue": 524_288, "pushed": 1, "magnitude": 1}


@pytest.mark.parametrize(
    ("name", "megabytes"), [("contextwm_pretrain_ssv2", 102.7), ("apv_pretrain_ssv2", 95.4)]
)
def test_the_checkpoint_has_the_published_size(name: str, megabytes: float) -> None:
    agent = build(name)
    size = sum(x.numel() * x.element_size() for x in agent.world_model.state_dict().values())
    assert size / 1e6 == pytest.approx(megabytes, abs=0.1)  # plus the file format


def test_describe_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--gin", str(FOLDER / f"{DUAL}.gin"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = found["components"]
    named = {
        "encoder": parts["encoder"]["parameters"] + parts["context_encoder"]["parameters"],
        "action_free": parts["dynamics"]["children"]["action_free"]["parameters"],
        "conditional": parts["dynamics"]["children"]["conditional"]["parameters"],
        "decoder": parts["decoder"]["parameters"],
        "reward": parts["heads.reward"]["parameters"],
        "aux_reward": parts["heads.aux_reward"]["parameters"],
    }
    assert named == dict(zip(PARTS, [RESNETS, Z, S, CONTEXT, HEAD, HEAD], strict=True))
    assert found["totals"]["parameters"] == 46_116_807 - 262_144
    assert found["optimizers"]["pretrained"] == RESNETS + Z
    assert found["optimizers"]["model"] == S + CONTEXT + 2 * HEAD
