"""Reward and discount heads, the explorer and the loss balancer."""

import math

import pytest
import torch
from numpy.testing import assert_allclose
from tensordict import TensorDict
from torch import Tensor

from wmplatform.distributions import OneHot, TruncatedNormal
from wmplatform.types import ActionSpec, ArraySpec
from wmplugins.dreamer.balancers import FixedScales
from wmplugins.dreamer.explorers import Sampling
from wmplugins.dreamer.heads import DiscountMLP, RewardMLP

WIDE = ArraySpec((2048,))
NARROW = ArraySpec((5,))


def batch(**columns: Tensor) -> TensorDict:
    """Two segments of three records."""
    return TensorDict(dict(columns), batch_size=[2, 3])


@pytest.mark.parametrize(
    ("features", "expected"), [(2048, 1_301_201), (1224, 971_601), (1624, 1_131_601)]
)
def test_published_counts(features: int, expected: int) -> None:
    for kind in (RewardMLP, DiscountMLP):
        with torch.device("meta"):
            head = kind(ArraySpec((features,)))
        assert sum(p.numel() for p in head.parameters()) == expected


def test_reward_loss_is_half_the_squared_error() -> None:
    head = RewardMLP(NARROW)
    features, target = torch.randn(2, 3, 5), torch.randn(2, 3)
    error = head(features).mean - target
    assert error.shape == (2, 3)
    assert_allclose(head.loss(features, target).detach(), 0.5 * error.detach() ** 2, rtol=1e-6)


REWARD = torch.tensor([[-4.0, 0.0, 1.0], [2.0, 0.5, -0.5]])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, REWARD),
        ({"transform": "tanh"}, torch.tanh(REWARD)),
        ({"transform": "sign"}, torch.tensor([[-1.0, 0.0, 1.0], [1.0, 1.0, -1.0]])),
        ({"divide_by": 4.0}, REWARD / 4),
    ],
)
def test_reward_transforms(settings: dict[str, object], expected: Tensor) -> None:
    target = RewardMLP(NARROW, **settings).target(batch(reward=REWARD))
    assert_allclose(target.values, expected, rtol=1e-6)
    assert target.records == slice(None)


def test_intrinsic_reward_is_added_to_the_records_it_covers() -> None:
    bonus = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    records = {"reward": REWARD, "intrinsic": bonus}
    target = RewardMLP(NARROW).target(records)
    assert_allclose(target.values, REWARD[:, :2] + bonus)
    assert torch.arange(3)[target.records].tolist() == [0, 1]
    assert_allclose(RewardMLP(NARROW, intrinsic=False).target(records).values, REWARD)


def test_discount_target_is_gamma_unless_terminal() -> None:
    terminal = torch.tensor([[False, False, True], [False, True, False]])
    target = DiscountMLP(NARROW, gamma=0.99).target(batch(is_terminal=terminal))
    assert_allclose(target.values, [[0.99, 0.99, 0.0], [0.99, 0.0, 0.99]], rtol=1e-6)


def test_discount_loss_is_the_soft_cross_entropy() -> None:
    head = DiscountMLP(NARROW)
    with torch.no_grad():
        head.mlp.out.weight.zero_()
    target = torch.full((2,), 0.99)
    for logit, expected in ((0.0, 0.69314718), (2.0, 0.14692801)):
        with torch.no_grad():
            head.mlp.out.bias.fill_(logit)
        features = torch.randn(2, 5)
        assert_allclose(head.loss(features, target).detach(), expected, atol=1e-6)
        assert_allclose(head(features).mean.detach(), 1 / (1 + math.exp(-logit)), rtol=1e-6)


def test_heads_stay_in_fp32_under_autocast() -> None:
    features = torch.randn(2, 3, 5)
    for kind in (RewardMLP, DiscountMLP):
        head = kind(NARROW)
        exact = head(features).mean
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(
                head(features.bfloat16().float()).mean.float(), head(features.bfloat16()).mean
            )
            assert torch.equal(head(features).mean, exact)


# Explorer


def test_evaluation_is_quiet_and_training_samples() -> None:
    explorer = Sampling(ActionSpec(2), {}, noise=0.5)
    policy = TruncatedNormal(torch.tensor([[0.3, -2.0]]), torch.ones(1, 2))
    state = torch.get_rng_state()
    assert_allclose(explorer.act(policy, "eval", 0), [[0.3, -1.0]])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(explorer.act(policy, "train", 0), explorer.act(policy, "train", 0))


def test_noise_is_normal_and_clipped() -> None:
    class Fixed(TruncatedNormal):
        def sample(self) -> Tensor:
            return torch.zeros(20_000, 1)

    actions = Sampling(ActionSpec(1), {}, noise=0.2).act(Fixed(*torch.ones(2, 1)), "train", 0)
    assert_allclose(float(actions.std()), 0.2, rtol=0.03)
    loud = Sampling(ActionSpec(1), {}, noise=1.0).act(Fixed(*torch.ones(2, 1)), "train", 0)
    assert float(loud.abs().max()) == 1.0


def test_discrete_noise_mixes_with_uniform_actions() -> None:
    logits = torch.tensor([50.0, 0.0, 0.0, 0.0]).expand(20_000, 4)
    actions = Sampling(ActionSpec(4, "discrete"), {}, noise=0.4).act(OneHot(logits), "train", 0)
    assert_allclose(actions.mean(0), [0.7, 0.1, 0.1, 0.1], atol=0.015)
    assert (actions.sum(-1) == 1).all()


def test_warmup_is_uniform() -> None:
    actions = Sampling(ActionSpec(3), {}).warmup(20_000)
    assert_allclose(actions.mean(0), [0, 0, 0], atol=0.03)
    assert_allclose(actions.std(0), [3**-0.5] * 3, rtol=0.03)
    assert float(actions.abs().max()) <= 1
    hot = Sampling(ActionSpec(4, "discrete"), {}).warmup(20_000)
    assert_allclose(hot.mean(0), [0.25] * 4, atol=0.02)


# Balancer


def test_scales_default_to_one() -> None:
    total, _ = FixedScales(["a", "b"], scales={"b": 5.0})(
        {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    )
    assert total.item() == 17.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_of_scale_zero_does_not_exist(bad: float) -> None:
    a, b = (torch.tensor(x, requires_grad=True) for x in (2.0, bad))
    balancer = FixedScales(["a", "b"], scales={"b": 0.0})
    total, _ = balancer({"a": a, "b": b})
    total.backward()
    assert total.item() == 2.0
    assert b.grad is None
    assert not balancer.needed("b")


@pytest.mark.parametrize("scales", [{"c": 1.0}, {"a": -1.0}])
def test_scales_of_no_loss_and_negative_scales_are_refused(scales: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="scales"):
        FixedScales(["a", "b"], scales=scales)
