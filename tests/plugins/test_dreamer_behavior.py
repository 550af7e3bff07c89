"""Learning in imagination: returns, losses, gradients, order and targets."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.interfaces import Update
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec
from wmplatform.world_model import WorldModel
from wmplugins.blocks import discount_weights, lambda_return
from wmplugins.dreamer.behavior import ImaginationActorCritic
from wmplugins.dreamer.decoders import CNNDecoder, ResNetDecoder
from wmplugins.dreamer.encoders import CNNEncoder, ResNetEncoder
from wmplugins.dreamer.explorers import Sampling
from wmplugins.dreamer.heads import DiscountMLP, RewardMLP
from wmplugins.dreamer.rssm import RSSM

from ..core.tiny_dreamer import tiny_agent
from . import dreamer_reference as ref

REWARD = torch.tensor([[1.0, 0.0, 2.0, -1.0]])
VALUE = torch.tensor([[10.0, 8.0, 6.0, 4.0]])
DISCOUNT = torch.full((1, 4), 0.99)


# Losses


class Stub:
    """A policy of given entropies and log-probabilities."""

    def __init__(self, entropy: Tensor, log_prob: Tensor | None = None) -> None:
        self._entropy, self._log_prob = entropy, log_prob

    def entropy(self) -> Tensor:
        return self._entropy

    def log_prob(self, _value: Tensor) -> Tensor:
        assert self._log_prob is not None
        return self._log_prob


def behavior(gradient: str = "dynamics", **settings: Any) -> ImaginationActorCritic:
    views = {"policy": ArraySpec((6,)), "value": ArraySpec((6,))}
    return ImaginationActorCritic(views, ActionSpec(2), gradient=gradient, units=4, **settings)


def test_losses_of_a_known_rollout() -> None:
    returns = lambda_return(REWARD, VALUE, DISCOUNT, 0.95)
    weight = discount_weights(DISCOUNT)
    policy = Stub(torch.tensor([[2.0, 1.5, 7.0]]))
    loss, entropy = behavior().actor_loss(
        returns, VALUE, weight, policy, torch.zeros(1, 3, 2), 1e-4, 0.1
    )
    assert_allclose(loss, -5.90156425, atol=1e-5)
    online = torch.tensor([[9.0, 7.5, 6.5]])
    assert_allclose(behavior().critic_loss(online, returns, weight), 1.17111641, atol=1e-5)
    leaked = returns + 1e-4 * torch.nn.functional.pad(entropy[:, :-1], (1, 0))
    assert_allclose(leaked, [[6.94718839, 5.90258, 5.96015]], atol=1e-5)


def rollout(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"reward": 6, "value": 6, "log_prob": 5, "entropy": 5}
    found = {k: torch.randn(4, n, generator=draw) for k, n in shapes.items()}
    found["discount"] = torch.rand(4, 6, generator=draw)
    found["returns"] = lambda_return(found["reward"], found["value"], found["discount"], 0.95)
    found["weight"] = discount_weights(found["discount"])
    return found


@given(st.integers(0, 2**16), st.sampled_from(["dynamics", "reinforce", "both"]))
def test_actor_loss_against_numpy(seed: int, gradient: str) -> None:
    roll, eta, mix = rollout(seed), 0.3, 0.25
    policy = Stub(roll["entropy"], roll["log_prob"])
    loss, _ = behavior(gradient).actor_loss(
        roll["returns"], roll["value"], roll["weight"], policy, torch.zeros(4, 5, 2), eta, mix
    )
    time_first = {k: v.T for k, v in roll.items()}
    target, weight, entropy = (time_first[k] for k in ("returns", "weight", "entropy"))
    dynamics = ref.actor_loss(target, weight, entropy, eta)
    score = ref.reinforce_loss(
        target, time_first["value"], time_first["log_prob"], weight, entropy, eta
    )
    expected = {
        "dynamics": dynamics,
        "reinforce": score,
        "both": mix * dynamics + (1 - mix) * score,
    }
    assert_allclose(loss, expected[gradient], rtol=1e-4, atol=1e-5)


@given(st.integers(0, 2**16))
def test_critic_loss_against_numpy(seed: int) -> None:
    roll = rollout(seed)
    online = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
    loss = behavior().critic_loss(online, roll["returns"], roll["weight"])
    assert_allclose(loss, ref.critic_loss(online.T, roll["returns"].T, roll["weight"].T), rtol=1e-4)


def test_auto_means_dynamics_for_continuous_and_reinforce_for_discrete_actions() -> None:
    views = {"policy": ArraySpec((6,)), "value": ArraySpec((6,))}
    for kind, expected in (("continuous", "dynamics"), ("discrete", "reinforce")):
        made = ImaginationActorCritic(views, ActionSpec(2, kind), units=4)
        assert made.gradient == expected
        assert made.needs_differentiable_rollout == (expected == "dynamics")


@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_the_slow_critic_equals_the_critic_of_a_new_agent(fraction: float) -> None:
    agent = tiny_agent(slow_target_fraction=fraction)
    assert equal_critics(agent)
    assert agent.behavior.critic.out.weight.any()
    assert not any(p.requires_grad for p in agent.behavior.slow_critic.parameters())


# Gradients and targets


def perturbed(agent: Agent) -> None:
    with torch.no_grad():
        for p in agent.behavior.critic.parameters():
            p.add_(torch.randn_like(p))


def equal_critics(agent: Agent) -> bool:
    fast, slow = agent.behavior.critic, agent.behavior.slow_critic
    return all(torch.equal(a, b) for a, b in zip(fast.parameters(), slow.parameters(), strict=True))


def copies(agent: Agent, updates: int) -> Iterator[int]:
    """Numbers, counted from 1, of the updates that copy the critic."""
    after = agent.plan()[-1].after
    assert after is not None
    for index in range(updates):
        perturbed(agent)
        after(Update({}, updates=index))
        if equal_critics(agent):
            yield index + 1


@pytest.mark.parametrize(
    ("every", "updates", "expected"), [(100, 250, [100, 200]), (1, 3, [1, 2, 3]), (4, 9, [4, 8])]
)
def test_the_slow_critic_is_copied_after_every_nth_update(
    every: int, updates: int, expected: list[int]
) -> None:
    assert list(copies(tiny_agent(slow_target_every=every), updates)) == expected


@pytest.mark.parametrize(("every", "moves"), [(1, 2), (2, 1)])
def test_the_slow_critic_may_move_by_a_share_at_every_nth_update(every: int, moves: int) -> None:
    agent = tiny_agent(slow_target_fraction=0.25, slow_target_every=every)
    expected = [ref.f64(p.detach()) for p in agent.behavior.slow_critic.parameters()]
    after = agent.plan()[-1].after
    for index in range(2):
        perturbed(agent)
        after(Update({}, updates=index))
        if index + moves >= 2:
            fast = agent.behavior.critic.parameters()
            pairs = zip(expected, fast, strict=True)
            expected = [0.75 * old + 0.25 * ref.f64(p.detach()) for old, p in pairs]
        slow = agent.behavior.slow_critic.parameters()
        for mine, theirs in zip(slow, expected, strict=True):
            assert_allclose(mine.detach(), theirs, rtol=1e-5, atol=1e-6)


# Published sizes


@pytest.mark.parametrize(
    ("action", "channels", "parts", "size", "expected"),
    [
        (4, 3, (CNNEncoder, CNNDecoder), 1024, 31_036_830),
        (4, 3, (ResNetEncoder, ResNetDecoder), 1024, 28_987_446),
        (6, 3, (CNNEncoder, CNNDecoder), 1024, 31_040_482),
        (6, 3, (CNNEncoder, CNNDecoder), 200, 16_575_986),
        (18, 1, (CNNEncoder, CNNDecoder), 600, 23_376_999),
    ],
    ids=["metaworld", "metaworld-resnet", "remastered", "dmc-vision", "atari"],
)
def test_published_counts_with_actor_and_both_critics(
    action: int, channels: int, parts: tuple[type, type], size: int, expected: int
) -> None:
    kind = "discrete" if channels == 1 else "continuous"
    spec = EnvSpec({"pixels": ArraySpec((channels, 64, 64), "uint8")}, ActionSpec(action, kind))
    heads = {"reward": RewardMLP} | ({"continue": DiscountMLP} if channels == 1 else {})
    model = partial(
        WorldModel,
        encoder=parts[0],
        dynamics=partial(RSSM, deter=size, hidden=size),
        decoder=parts[1],
        heads=heads,
    )
    with torch.device("meta"):
        agent = Agent(spec, world_model=model, behavior=ImaginationActorCritic, explorer=Sampling)
    assert sum(p.numel() for p in agent.parameters()) == expected
