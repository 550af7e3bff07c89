"""DrQ-v2's published sizes, initialisation and schedule, from the experiments' own gin files."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from tensordict import TensorDict
from torch import nn

from wmplatform import assembly
from wmplatform.agent import Agent
from wmplatform.config import load
from wmplatform.contracts import check
from wmplatform.replay import Replay, Transitions
from wmplatform.training.online import Online, OnlineRun
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec
from wmplatform.world_model import IncompatibleParts, WorldModel
from wmplugins.blocks import orthogonal_
from wmplugins.drqv2.augmentations import Shift
from wmplugins.drqv2.behavior import DrQActorCritic
from wmplugins.drqv2.encoders import DrQEncoder, FrameByFrame
from wmplugins.drqv2.noise import ScheduledNoise

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
BASE, PARITY = FOLDER / "base" / "drqv2.gin", FOLDER / "base" / "parity_drqv2.gin"
GYM = "Online.env = @envs.gym"


def spec_of(size: int, action: int) -> EnvSpec:
    return EnvSpec({"pixels": ArraySpec((3, size, size), "uint8")}, ActionSpec(action))


def build(size: int, action: int, features: int = 50) -> Agent:
    """The published agent, without memory or arithmetic."""
    config = load([BASE], [GYM, f"behaviors.drq.features = {features}"])
    with torch.device("meta"):
        return assembly.build_agent(config, spec_of(size, action))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("action", "features", "size", "actor", "critic", "trained"),
    [
        (1, 50, 84, 3_062_999, 4_167_896, 7_261_263),
        (2, 50, 84, 3_064_024, 4_169_944, 7_264_336),
        (4, 50, 84, 3_066_074, 4_174_040, 7_270_482),
        (6, 50, 84, 3_068_124, 4_178_136, 7_276_628),
        (12, 50, 84, 3_074_274, 4_190_424, 7_295_066),
        (21, 100, 84, 5_094_849, 6_271_406, 11_396_623),
        (4, 50, 64, 2_106_074, 3_214_040, 5_350_482),
    ],
)
def test_parameter_counts(
    action: int, features: int, size: int, actor: int, critic: int, trained: int
) -> None:
    agent = build(size, action, features)
    behavior = agent.behavior
    assert isinstance(behavior, DrQActorCritic)
    assert count(agent.world_model) == count(agent.world_model.encoder) == 30_368
    assert (count(behavior.actor), count(behavior.critic)) == (actor, critic)
    assert count(behavior.slow_critic) == critic
    assert sum(p.numel() for p in agent.parameters() if p.requires_grad) == trained


@pytest.mark.parametrize(
    ("size", "sides", "flat"), [(84, (41, 39, 37, 35), 39_200), (64, (31, 29, 27, 25), 20_000)]
)
def test_sizes_of_the_convolutions(size: int, sides: tuple[int, ...], flat: int) -> None:
    encoder = DrQEncoder({"pixels": ArraySpec((9, size, size), "uint8")})
    shapes: list[tuple[int, ...]] = []
    for layer in encoder.layers:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, y: shapes.append(tuple(y.shape[1:])))
    out = encoder({"pixels": torch.zeros(1, 9, size, size, dtype=torch.uint8)})["embed"]
    assert shapes == [(32, side, side) for side in sides]
    assert out.shape == (1, flat) == (1, *encoder.embed_specs["embed"].shape)


def test_embeddings_are_in_the_order_of_channels_rows_columns() -> None:
    encoder = DrQEncoder({"pixels": ArraySpec((9, 20, 20), "uint8")}, width=4)
    image = torch.rand(1, 9, 20, 20) - 0.5
    assert_allclose(
        encoder({"pixels": image})["embed"].detach(),
        encoder.layers(image).flatten(1).detach(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_initial_weights_are_orthogonal() -> None:
    torch.manual_seed(0)
    encoder = DrQEncoder({"pixels": ArraySpec((9, 84, 84), "uint8")})
    for layer in encoder.layers:
        if isinstance(layer, nn.Conv2d):
            rows = layer.weight.detach().flatten(1)
            assert_allclose(rows @ rows.T, 2 * torch.eye(32), atol=1e-5)
            assert layer.bias is not None
            assert not layer.bias.any()
    wide = orthogonal_(nn.Linear(39_200, 50))
    rows = wide.weight.detach()
    assert_allclose(rows @ rows.T, torch.eye(50), atol=1e-4)
    assert not wide.bias.any()


def test_actor_and_critic_start_orthogonal_with_plain_normalisation() -> None:
    view = {"policy": ArraySpec((300,))}
    behavior = DrQActorCritic(view, ActionSpec(3), features=20, units=40)
    for module in behavior.modules():
        if isinstance(module, nn.Linear):
            short = module.weight.detach()
            short = short if short.shape[0] <= short.shape[1] else short.T
            assert_allclose(short @ short.T, torch.eye(len(short)), atol=1e-5)
            assert not module.bias.any()
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5
            assert (module.weight == 1).all()
            assert not module.bias.any()
    assert not torch.equal(behavior.critic.heads[0][0].weight, behavior.critic.heads[1][0].weight)


# Replay and schedule


def filled(steps: int) -> Replay:
    """One episode of so many agent steps; the reward is the step's number."""
    number = torch.arange(steps + 1)
    columns = {
        "pixels": (number % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2),
        "action": number[:, None].float(),
        "reward": number.float(),
        "is_first": number == 0,
        "is_last": number == steps,
        "is_terminal": torch.zeros(steps + 1, dtype=torch.bool),
        "stream": torch.zeros(steps + 1, dtype=torch.int64),
    }
    spec = EnvSpec({"pixels": ArraySpec((1, 2, 2), "uint8")}, ActionSpec(1))
    replay = Replay(spec, capacity=steps + 1)
    replay.extend(TensorDict(columns, [steps + 1]))
    return replay


@pytest.mark.parametrize("n", [1, 3])
def test_starts_of_the_authors_code(n: int) -> None:
    """The first action of a start is number 1 .. N - n + 1, each as likely."""
    config = load([BASE, PARITY], [GYM, f"Transitions.n = {n}", "Transitions.batch = 60000"])
    config.activate()
    request = config.build("Transitions")
    batch = request.sample(filled(500))
    index = batch["action"][:, 0].long()
    last = 500 - n + 1
    counts = torch.bincount(index, minlength=last + 1)[1:]
    assert len(counts) == last
    assert counts.min() > 0
    assert (counts / 60_000 - 1 / last).abs().max() < 6 * (1 / last / 60_000) ** 0.5


def test_returns_of_the_published_request() -> None:
    config = load([BASE], [GYM])
    config.activate()
    request: Transitions = config.build("Transitions")
    assert (request.batch, request.n, request.gamma, request.stack) == (256, 3, 0.99, 3)
    batch = request.sample(filled(4))
    second = batch[batch["action"][:, 0] == 2][0]  # rewards 2, 3, 4
    assert second["reward"].item() == pytest.approx(8.8904)
    assert second["discount"].item() == pytest.approx(0.970299)
    assert second["pixels"][:, 0, 0].tolist() == [0, 0, 1]  # the first frame fills the stack
    assert second["next", "pixels"][:, 0, 0].tolist() == [2, 3, 4]
    last = batch[batch["action"][:, 0] == 4][0]
    assert last["reward"].item() == pytest.approx(4.0)
    assert last["discount"].item() == pytest.approx(0.99)


class Played:
    """The counters of a run, without the run."""

    def __init__(self, settings: Online) -> None:
        self.settings, self.agent_steps, self.learn_from = settings, 0, None
        self.learner = type("Counted", (), {"updates": 0})()


def test_updates_begin_at_step_2000_and_come_every_other_step() -> None:
    """As many as the authors' code makes before the last of 550,000 steps, then one more."""
    config = load([BASE], [GYM])
    config.activate()
    run: Any = Played(config.build("Online"))
    assert run.settings.prefill_agent_steps == 2000
    run.learn_from, due = 2000, {}
    for agent_steps in (2000, 2001, 2002, 549_999, 550_000):
        run.agent_steps = agent_steps
        due[agent_steps] = OnlineRun.updates_due(run)
    assert due == {2000: 1, 2001: 1, 2002: 2, 549_999: 274_000, 550_000: 274_001}


# What does not fit


@pytest.mark.parametrize("part", [DrQActorCritic, ScheduledNoise])
def test_discrete_actions_are_refused(part: Any) -> None:
    view = {"policy": ArraySpec((4,))}
    wiring = (ActionSpec(3, "discrete"), view)
    with pytest.raises(ValueError, match="discrete"):
        part(*(wiring if part is ScheduledNoise else reversed(wiring)))


def test_a_dynamics_with_a_memory_is_refused() -> None:
    from wmplugins.dreamer.rssm import RSSM

    agent = Agent(
        spec_of(20, 2),
        world_model=partial(
            WorldModel,
            encoder=partial(DrQEncoder, width=2),
            dynamics=partial(RSSM, deter=4, hidden=4, groups=2, classes=2),
        ),
        behavior=partial(DrQActorCritic, features=4, units=4),
        explorer=ScheduledNoise,
    )
    with pytest.raises(IncompatibleParts, match="RSSM remembers"):
        agent.plan()


def test_images_that_are_too_small_or_no_stack_are_refused() -> None:
    with pytest.raises(ValueError, match="15 x 15"):
        DrQEncoder({"pixels": ArraySpec((9, 14, 14), "uint8")})
    with pytest.raises(ValueError, match="no stack of 3"):
        FrameByFrame({"pixels": ArraySpec((8, 20, 20), "uint8")}, encoder=DrQEncoder)


def test_frames_of_a_stack_are_embedded_one_by_one() -> None:
    stack = torch.randint(256, (2, 5, 9, 20, 20), dtype=torch.uint8)
    encoder = FrameByFrame({"pixels": ArraySpec((9, 20, 20), "uint8")}, encoder=DrQEncoder)
    embed = encoder({"pixels": stack})["embed"]
    assert embed.shape == (2, 5, 3, *encoder.frame.embed_specs["embed"].shape)
    newest = encoder.frame({"pixels": stack[:, :, 6:]})["embed"]
    assert_allclose(embed[:, :, 2].detach(), newest.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("group", "part"),
    [
        ("encoders", DrQEncoder),
        ("encoders", FrameByFrame),
        ("behaviors", DrQActorCritic),
        ("explorers", ScheduledNoise),
        ("augmentations", Shift),
    ],
)
def test_laws_hold(group: str, part: Any) -> None:
    assert check(group, part).ok
