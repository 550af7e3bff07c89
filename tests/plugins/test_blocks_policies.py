"""Policies: sizes, initial weights, known outputs, and densities that are densities."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from wmplatform.distributions import OneHot
from wmplatform.types import ActionSpec
from wmplugins.blocks import Actor, NoisyMean

# Actor


def actor(size: int, kind: str = "continuous", inputs: int = 2048, units: int = 400) -> Actor:
    return Actor(
        inputs,
        ActionSpec(size, kind),
        layers=4,
        units=units,
        norm="none",
        act="elu",
        min_std=0.1,
        init_std=0.0,
        fp32=True,
    )


@pytest.mark.parametrize(("size", "expected"), [(2, 1_302_404), (4, 1_304_008), (6, 1_305_612)])
def test_actor_counts(size: int, expected: int) -> None:
    assert sum(p.numel() for p in actor(size).parameters()) == expected


def test_actor_outputs_are_initialised_as_two_layers() -> None:
    out = actor(4).mlp.out
    assert out.weight.shape == (8, 400)
    for half in out.weight.detach().chunk(2):
        bound = math.sqrt(6 / 404)
        assert 0.99 * bound < float(half.abs().max()) <= bound * (1 + 1e-6)
    assert (out.bias == 0).all()


def test_actor_distribution_of_known_outputs() -> None:
    dist = actor(2, inputs=3, units=4).distribution(torch.tensor([0.5, -2.0, 0.0, -3.0]))
    assert_allclose(dist.mode, [0.46211716, -0.96402758], atol=1e-6)
    assert_allclose(dist.log_prob(torch.tensor([0.3, -0.8])), -0.08890194, atol=1e-5)


def test_scale_starts_at_1_1_and_stays_between_0_1_and_2_1() -> None:
    made = actor(1, inputs=3, units=4)
    for raw, expected in ((0.0, 1.1), (-100.0, 0.1), (100.0, 2.1)):
        assert_allclose(made.distribution(torch.tensor([0.0, raw])).scale, [expected], rtol=1e-5)


def test_discrete_actions_are_drawn_by_their_logits() -> None:
    made = actor(3, kind="discrete", inputs=2, units=4)
    raw = made(torch.zeros(5, 2))
    assert raw.shape == (5, 3)
    policy = made.distribution(torch.tensor([0.0, math.log(2.0), math.log(5.0)]))
    assert isinstance(policy, OneHot)
    assert_allclose(policy.mean, [1 / 8, 2 / 8, 5 / 8], rtol=1e-6)


def test_an_actor_stays_in_fp32_under_autocast_unless_told_otherwise() -> None:
    x = torch.randn(4, 3)
    for fp32 in (True, False):
        made = actor(2, inputs=3, units=4)
        made.fp32 = fp32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = made(x)
        assert found.dtype == torch.float32
        assert torch.equal(found, made(x)) == fp32


# Noise around a mean


def test_learning_noise_is_clipped_and_lets_gradients_through() -> None:
    mean = torch.tensor([[0.95]], requires_grad=True)
    action = NoisyMean(mean, 0.5).perturbed(torch.tensor([[1.2]]), clip=0.3)
    assert action.item() == pytest.approx(0.999999, abs=1e-7)
    assert torch.autograd.grad(action.sum(), mean)[0].item() == 1.0
    free = NoisyMean(torch.tensor([[0.1]]), 0.5).perturbed(torch.tensor([[1.2]]))
    assert free.item() == pytest.approx(0.7)
    clipped = NoisyMean(torch.tensor([[0.1]]), 0.5).perturbed(torch.tensor([[-1.2]]), clip=0.3)
    assert clipped.item() == pytest.approx(-0.2)


def test_densities_are_those_of_the_plain_normal() -> None:
    noise = NoisyMean(torch.tensor([0.95]), 0.5)
    assert noise.entropy().item() == pytest.approx(0.72579135)
    assert noise.log_prob(torch.tensor([0.9])).item() == pytest.approx(-0.23079135)
    wide = NoisyMean(torch.zeros(3, 4), 0.5)
    assert_allclose(wide.entropy(), np.full(3, 4 * 0.72579135), rtol=1e-6)
    assert wide.log_prob(torch.zeros(3, 4)).shape == (3,)


def test_the_density_integrates_to_one() -> None:
    grid = torch.linspace(-6, 6, 4001)[:, None]
    density = NoisyMean(torch.full_like(grid, 0.3), 0.7).log_prob(grid).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-5)
