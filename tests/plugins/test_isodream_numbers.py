"""Iso-Dream's equations and sizes against numbers that were computed independently."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from wmplatform import assembly
from wmplatform.agent import Agent
from wmplatform.config import load
from wmplatform.replay import Replay, Segments
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec, Latent
from wmplugins.isodream.behavior import Attention, IsolatedActorCritic, LooseNormal
from wmplugins.isodream.decoders import MaskDecoder

from .tiny_isodream import isodream_agent, isodream_learner, records

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
VECTOR = ArraySpec((4,))
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def waves(shape: tuple[int, ...], k: int) -> Tensor:
    """0.5 sin(1 + j + 7k), j counting in row-major order."""
    j = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(0.5 * np.sin(1 + j + 7 * k)).reshape(shape)


def fill(layer: nn.Linear, k: int) -> None:
    layer.weight.data, layer.bias.data = (
        waves(layer.weight.shape, k),
        waves(layer.bias.shape, k + 1),
    )


def numpy_cell(layers: dict[str, Tensor], x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The recurrent cell of a branch, rows `[N, ...]`, in float64."""
    parts = np.concatenate([x, h], -1) @ f64(layers["cell.linear.weight"]).T
    parts += f64(layers["cell.linear.bias"])
    parts = (parts - parts.mean(-1, keepdims=True)) / np.sqrt(parts.var(-1, keepdims=True) + 1e-5)
    parts = parts * f64(layers["cell.norm.weight"]) + f64(layers["cell.norm.bias"])
    reset, candidate, update = np.split(parts, 3, -1)
    gate = 1 / (1 + np.exp(1 - update))
    return gate * np.tanh(candidate / (1 + np.exp(-reset))) + (1 - gate) * h


def numpy_dense(layers: dict[str, Tensor], name: str, x: np.ndarray) -> np.ndarray:
    """One layer, without its activation."""
    return x @ f64(layers[f"{name}.weight"]).T + f64(layers[f"{name}.bias"])


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(x))


def f64(x: Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.float64)


@pytest.mark.parametrize("mark_start", [True, False], ids=["ours", "authors"])
def test_the_authors_take_the_action_that_leads_into_a_segment(mark_start: bool) -> None:
    """From a state of zeros; an episode's first record has an action of zeros itself."""
    agent = isodream_agent(driving=True, latent={"parity": True})
    replay = Replay(agent.spec, capacity=30)
    episode = records(length=20)[:1]
    episode["is_last"][:], episode["is_last"][:, -1] = False, True
    replay.extend(episode.reshape(-1).set("stream", torch.zeros(20, dtype=torch.int64)))
    batch = Segments(batch=8, length=6, mark_start=mark_start).sample(replay)
    with torch.no_grad():
        observed = agent.world_model.losses(batch).observed

    action = f64(batch["action"][:, 0]) * (0 if mark_start else 1)
    assert mark_start or (np.abs(action).max(-1) > 0.01).sum() > 4
    layers = agent.world_model.dynamics.ctrl.state_dict()
    x = elu(numpy_dense(layers, "inputs", np.concatenate([np.zeros((8, 3)), action], -1)))
    deter = numpy_cell(layers, x, np.zeros((8, 5)))
    assert_allclose(observed.states["ctrl"]["deter"][:, 0], deter, atol=1e-6)


@pytest.mark.parametrize("parity", [False, True], ids=["ours", "authors"])
def test_the_authors_look_ahead_with_the_stepped_model(
    parity: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = isodream_agent(driving=True, latent={"parity": parity})
    dynamics, seen = agent.world_model.dynamics, []
    imagine = dynamics.imagine

    def spy(start: Latent, *args: Any, **kwargs: Any) -> Any:
        seen.append((start, {k: v.clone() for k, v in dynamics.free.state_dict().items()}))
        return imagine(start, *args, **kwargs)

    def without_noise(*lead: int, like: Tensor, deterministic: bool) -> Tensor:
        return like.new_zeros((*lead, 3))

    monkeypatch.setattr(dynamics, "imagine", spy)
    monkeypatch.setattr(dynamics.free, "noise", without_noise)
    before = {k: v.clone() for k, v in dynamics.free.state_dict().items()}
    isodream_learner(agent).update(records())

    ((start, stepped),) = seen
    for layers, theirs in ((before, False), (stepped, True)):
        stoch, deter = (f64(start["free"][name]) for name in ("stoch", "deter"))
        window = [np.concatenate([stoch, deter], -1)]
        for _ in range(2):
            deter = numpy_cell(layers, elu(numpy_dense(layers, "inputs", stoch)), deter)
            hidden = elu(numpy_dense(layers, "prior_hidden", deter))
            stoch = numpy_dense(layers, "prior_out", hidden)[:, :3]  # the mean
            window.append(np.concatenate([stoch, deter], -1))
        error = np.abs(start["ahead"].numpy() - np.stack(window, 1)).max()
        assert error < 1e-6 if theirs == parity else error > 1e-4


# Attention


def test_attention() -> None:
    made = Attention(2).double()
    for k, layer in zip((0, 2, 4, 6), (made.query, made.key, made.value, made.out), strict=True):
        fill(layer, k)
    ctrl = torch.tensor([0.3, -0.6], dtype=torch.float64)
    future = torch.tensor([[0.1, 0.2], [-0.5, 0.4], [0.9, -0.1]], dtype=torch.float64)
    weights = made.weights(ctrl, future).detach()
    assert_allclose(weights, [0.33482957, 0.36626397, 0.29890646], atol=1e-7)
    assert_allclose(made(ctrl, future).detach(), [0.70043530, -0.36036274], atol=1e-7)


# Composition


class Constant(nn.Module):
    """The same four channels everywhere."""

    def __init__(self, colour: float, logit: float) -> None:
        super().__init__()
        self.register_buffer("channels", torch.tensor([colour, colour, colour, logit]))

    def forward(self, f_NF: Tensor) -> Tensor:
        return self.channels[:, None, None].expand(len(f_NF), -1, 64, 64)


def decoder(ctrl: tuple[float, float], free: tuple[float, float]) -> MaskDecoder:
    pixels = {"pixels": ArraySpec((3, 64, 64), "uint8")}
    made = MaskDecoder({"ctrl": VECTOR, "free": VECTOR}, pixels, depth=1)
    made.stacks["ctrl"], made.stacks["free"] = Constant(*ctrl), Constant(*free)
    return made


FEATURES = {"ctrl": torch.zeros(2, 3, 4), "free": torch.zeros(2, 3, 4)}
BACKGROUND = {"background": torch.full((2, 3, 64, 64), 0.1)}


@pytest.mark.parametrize(
    ("colour", "logits", "masks", "pixel"),
    [
        (0.4, (1.0, -2.0), (0.73105858, 0.11920292, 0.14973850), 0.27163640),
        (0.8, (1.0, -2.0), (0.73105858, 0.11920292, 0.14973850), 0.34474226),  # clamped to 0.5
        (0.4, (3.0, 3.0), (0.95257413, 0.95257413, -0.90514825), 0.00474259),
    ],
)
def test_an_image_is_two_masked_layers_over_the_background(
    colour: float, logits: tuple[float, float], masks: tuple[float, ...], pixel: float
) -> None:
    made = decoder((colour, logits[0]), (-0.3, logits[1]))
    layers = made.layers(FEATURES, BACKGROUND)
    found = (layers.masks["ctrl"], layers.masks["free"], layers.rest)
    assert all(mask.shape == (2, 3, 1, 64, 64) for mask in found)
    assert_allclose([mask.flatten()[0] for mask in found], masks, atol=1e-6)
    image = made(FEATURES, BACKGROUND)["pixels"].mean
    assert_allclose(image, np.full((2, 3, 3, 64, 64), pixel), atol=1e-6)


def test_without_a_background_masks_share_the_image_and_nothing_is_clamped() -> None:
    made = decoder((0.8, 1.0), (-0.3, -2.0))
    layers = made.layers(FEATURES)
    weight = 1 / (1 + math.exp(-3))
    assert_allclose(layers.masks["ctrl"].flatten()[0], weight, atol=1e-6)
    assert_allclose(layers.rest, 0, atol=1e-6)
    pixel = 0.8 * weight - 0.3 * (1 - weight)
    assert_allclose(made(FEATURES)["pixels"].mean.flatten()[0], pixel, atol=1e-6)


# Returns and policies


def actor_critic(**settings: object) -> IsolatedActorCritic:
    views = {"policy": VECTOR, "value": VECTOR}
    small = {"units": 4, "gamma": 0.9}
    return IsolatedActorCritic(views, ActionSpec(2), **(small | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("reversed_returns", [False, True])
def test_returns_belong_to_their_states_unless_the_authors_order_is_asked_for(
    reversed_returns: bool,
) -> None:
    reward = torch.tensor([[1.0, 2, 3, 4, 9]])
    value = torch.tensor([[10.0, 20, 30, 40, 50]])
    found = actor_critic(reversed_returns=reversed_returns).returns(reward, value)[0]
    expected = [38.89946, 43.27422, 46.695, 49.0]
    assert_allclose(found, expected[::-1] if reversed_returns else expected, rtol=1e-6)


def test_the_authors_normal_leaves_the_bounds_in_imagination_only() -> None:
    raw = torch.zeros(1000, 4)
    policy = actor_critic(truncated=False).distribution(raw)
    assert isinstance(policy, LooseNormal)
    assert policy.loose().abs().max() > 1.5
    assert policy.sample().abs().max() <= 1
    plain = torch.distributions.Normal(torch.zeros(2), torch.full((2,), 1.1))
    assert_allclose(policy.entropy(), plain.entropy().sum().expand(1000), rtol=1e-6)
    assert_allclose(
        policy.log_prob(raw[:, :2] + 0.5), plain.log_prob(torch.tensor(0.5))[0].expand(1000) * 2
    )
    bounded = actor_critic().distribution(raw)
    assert bounded.sample().abs().max() <= 1
    assert bounded.entropy().max() < policy.entropy().min()


def test_the_slow_critic_equals_the_critic_at_first() -> None:
    made = actor_critic()
    assert all(
        (a == b).all()
        for a, b in zip(made.critic.parameters(), made.slow_critic.parameters(), strict=True)
    )


# Sizes and initialisation


def build(name: str, action: int, *binds: str, device: str = "meta", parity: bool = False) -> Agent:
    files = [FOLDER / f"{name}.gin", *([FOLDER / "base/parity_isodream.gin"] if parity else [])]
    config = load(files, list(binds))
    spec = EnvSpec({"pixels": ArraySpec((3, 64, 64), "uint8")}, ActionSpec(action))
    torch.manual_seed(0)
    with torch.device(device):
        return assembly.build_agent(config, spec)


def count(*modules: nn.Module | None) -> int:
    return sum(p.numel() for module in modules if module for p in module.parameters())


IDLE = "dynamics.isolated.parity = True"  # builds the posterior head that the authors' code has


@pytest.mark.parametrize(
    ("name", "action", "dynamics", "inputs", "reward", "inverse", "total", "actor", "attention"),
    [
        (
            "isodream_dmc",
            6,
            1_350_800,
            (11_400, 205_000),
            261_201,
            572_806,
            25_866_610,
            586_412,
            0,
        ),
        (
            "isodream_carla",
            2,
            1_155_200,
            (10_600, 10_200),
            361_201,
            571_202,
            25_769_406,
            583_204,
            501_750,
        ),
    ],
)
def test_published_counts(
    name: str,
    action: int,
    dynamics: int,
    inputs: tuple[int, int],
    reward: int,
    inverse: int,
    total: int,
    actor: int,
    attention: int,
) -> None:
    agent = build(name, action, IDLE)
    model, behavior = agent.world_model, agent.behavior
    background = model.context_encoder
    assert background is not None
    assert count(model.encoder.trunk) == 34_400
    assert count(model.encoder.stages["ctrl"]) == count(background.stage) == 655_744
    assert count(model.encoder, background.stage) == 2_001_632
    assert count(background.decoder) == 14_045_795
    assert count(model.decoder.stacks["ctrl"]) == 3_817_188
    assert count(model.decoder) == 7_634_376
    for branch, size in zip((model.dynamics.ctrl, model.dynamics.free), inputs, strict=True):
        assert count(branch.inputs) == size
        assert count(branch.cell) == 241_800
        assert count(branch.prior_hidden), count(branch.prior_out) == (40_200, 20_100)
    assert count(model.dynamics.ctrl.post_hidden) == 245_000
    assert count(model.dynamics.ctrl.post_out) == 20_100
    assert count(model.dynamics) == dynamics
    assert count(model.head("reward")) == reward
    assert count(model.head("inverse")) == inverse
    assert count(model) == total
    assert count(behavior.actor) == actor
    assert count(behavior.critic) == count(behavior.slow_critic) == 421_601
    assert count(behavior.attention) == attention


def test_the_idle_posterior_is_left_out_unless_parity_is_asked_for() -> None:
    idle = 245_000 + 20_100
    assert count(build("isodream_dmc", 6).world_model) == 25_866_610 - idle
    assert count(build("isodream_dmc", 6, parity=True).world_model) == 25_866_610


def bound(weight: Tensor) -> float:
    return weight.detach().abs().max().item()


def test_layers_start_as_pytorch_starts_them() -> None:
    """Uniform up to one over the root of the fan-in, which for transposed ones is the outputs'."""
    agent = build("isodream_dmc", 6, device="cpu")
    model, behavior = agent.world_model, agent.behavior
    deconvolution = model.decoder.stacks["ctrl"].layers[0].weight
    assert deconvolution.shape[:2] == (1024, 128)
    assert bound(deconvolution) == pytest.approx(0.01767767, rel=1e-3)
    assert bound(model.encoder.stages["ctrl"][0].weight) == pytest.approx(0.03125, rel=1e-3)
    assert bound(model.dynamics.ctrl.cell.linear.weight) == pytest.approx(0.05, rel=1e-3)
    for mlp in (
        model.head("reward").mlp,
        model.head("inverse").mlp,
        behavior.actor.mlp,
        behavior.critic,
    ):
        assert bound(mlp.trunk[1][0].weight) == pytest.approx(0.05, rel=1e-3)
        assert bound(mlp.out.weight) == pytest.approx(0.05, rel=2e-2)
        assert bound(mlp.out.bias) > 0


def test_losses_at_the_start_and_the_constants_that_they_leave_out() -> None:
    """On uniform noise, with the constants of unit normals added back."""
    pixels = 3 * 64 * 64 * HALF_LOG_2PI
    assert pixels == pytest.approx(11_291.9167, abs=1e-3)
    assert pytest.approx(0.91893853, abs=1e-8) == HALF_LOG_2PI
    agent = build("isodream_carla", 6, device="cpu")
    lead = (2, 4)
    batch = {
        "pixels": torch.randint(256, (*lead, 3, 64, 64), dtype=torch.uint8),
        "action": torch.rand(*lead, 6) * 2 - 1,
        "reward": torch.zeros(lead),
        "is_first": torch.zeros(lead, dtype=torch.bool),
        "is_terminal": torch.zeros(lead, dtype=torch.bool),
    }
    with torch.no_grad():
        losses = agent.world_model.losses(batch).losses
    assert losses["image"].item() + pixels == pytest.approx(11_816.9, abs=15)
    assert losses["inverse"].item() + 6 * HALF_LOG_2PI == pytest.approx(6.5, abs=0.6)
    assert losses["reward"].item() == pytest.approx(0.0, abs=0.05)
    assert losses["kl_ctrl"].item() + losses["kl_free"].item() == 2.0
