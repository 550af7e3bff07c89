"""Distributions against SciPy, closed forms and published numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats
from torch import Tensor

from wmplatform.distributions import Bernoulli, OneHot, TruncatedNormal, UnitNormal

from ..plugins import dreamer_reference as ref

SMALL = st.floats(-3, 3)


def truncated(u: list[float], v: list[float]) -> TruncatedNormal:
    """The actor's distribution from its raw outputs (DreamerV2's `tanh` and `sigmoid2`)."""
    loc, raw = torch.tensor(u), torch.tensor(v)
    return TruncatedNormal(torch.tanh(loc), 2 * torch.sigmoid(raw / 2) + 0.1)


def test_image_likelihood_of_known_errors() -> None:
    zero = UnitNormal(torch.zeros(2, 3, 64, 64), event_dims=3)
    assert_allclose(-zero.log_prob(torch.full((2, 3, 64, 64), 0.1)), 61.44, rtol=1e-5)
    assert_allclose(-zero.log_prob(torch.full((2, 3, 64, 64), -0.5)), 1536.0, rtol=1e-6)


def test_unit_normal_drops_only_the_constant() -> None:
    mean, value = torch.randn(4, 5), torch.randn(4, 5)
    ours = UnitNormal(mean, event_dims=1).log_prob(value)
    full = stats.norm(mean.double(), 1).logpdf(value.double()).sum(-1)
    assert_allclose(ours.double() - torch.as_tensor(full), 2.5 * math.log(2 * math.pi), atol=1e-5)


def test_unit_normal_scalar_keeps_every_dim_as_lead() -> None:
    dist = UnitNormal(torch.zeros(4, 5), event_dims=0)
    assert dist.log_prob(torch.ones(4, 5)).shape == (4, 5)
    assert_allclose(dist.log_prob(torch.full((4, 5), 3.0)), -4.5)
    assert_allclose(dist.entropy(), 0.5 * math.log(2 * math.pi * math.e), rtol=1e-6)


def test_densities_are_fp32_for_half_precision_input() -> None:
    half = torch.zeros(2, 3, dtype=torch.bfloat16)
    value = torch.zeros(2, 3)
    for dist in (
        UnitNormal(half, 1),
        OneHot(half),
        Bernoulli(half),
        TruncatedNormal(half, half + 1),
    ):
        assert dist.log_prob(value).dtype == torch.float32
        assert dist.mean.dtype == torch.float32
        assert dist.entropy().dtype == torch.float32


@pytest.mark.parametrize(("logit", "expected"), [(0.0, 0.69314718), (2.0, 0.14692801)])
def test_soft_bernoulli_target(logit: float, expected: float) -> None:
    loss = -Bernoulli(torch.tensor([logit])).log_prob(torch.tensor([0.99]))
    assert_allclose(loss, [expected], atol=1e-6)


@given(SMALL, st.floats(0, 1))
def test_bernoulli_is_minimal_at_its_target(logit: float, target: float) -> None:
    p = Bernoulli(torch.tensor(logit)).mean
    at = -Bernoulli(torch.tensor(logit)).log_prob(p)
    off = -Bernoulli(torch.tensor(logit)).log_prob(torch.tensor(target))
    assert torch.isfinite(off)
    assert_allclose(at, Bernoulli(torch.tensor(logit)).entropy(), atol=1e-6)


def test_straight_through_gradient_does_not_depend_on_the_sample() -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        logits = torch.tensor([[0.0, 1.0]], requires_grad=True)
        (OneHot(logits).sample() * torch.tensor([1.0, 0.0])).sum().backward()
        assert logits.grad is not None
        assert_allclose(logits.grad, [[0.19661193, -0.19661193]], atol=1e-7)


def test_one_hot_samples_are_exactly_one_hot() -> None:
    sample = OneHot(torch.randn(500, 7) * 3).sample()
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    assert (sample.sum(-1) == 1).all()


def test_one_hot_samples_follow_the_probabilities() -> None:
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0])
    counts = OneHot(logits.expand(20_000, 4)).sample().sum(0)
    expected = np.exp(ref.log_softmax(logits)) * 20_000
    assert stats.chisquare(counts.double(), expected).pvalue > 1e-3


def test_one_hot_samples_never_pick_an_impossible_class() -> None:
    logits = torch.tensor([0.0, -200.0, -math.inf]).expand(2_000, 3)
    assert (OneHot(logits).sample()[:, 0] == 1).all()


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6))
def test_one_hot_density_and_entropy(values: list[float]) -> None:
    dist = OneHot(torch.tensor(values))
    assert_allclose(dist.entropy(), ref.entropy(values), atol=2e-5)
    for k, expected in enumerate(ref.log_softmax(values)):
        assert_allclose(dist.log_prob(torch.eye(len(values))[k]), expected, rtol=1e-5, atol=1e-5)
    assert int(dist.mode.argmax()) == int(torch.tensor(values).argmax())


def test_truncated_normal_of_known_parameters() -> None:
    dist = truncated([0.5, -2.0], [0.0, -3.0])
    assert_allclose(dist.mode, [0.46211716, -0.96402758], atol=1e-6)
    assert_allclose(dist.scale, [1.1, 0.46485105], atol=1e-6)
    assert_allclose(dist.mass, [0.59568221, 0.53082935], atol=1e-6)
    assert_allclose(dist.log_prob(torch.tensor([0.3, -0.8])), -0.08890194, atol=2e-6)
    assert_allclose(dist.entropy(), 0.66691430 - 0.00961763, atol=2e-6)
    assert_allclose(dist.mean, [0.11297131, -0.61576191], atol=2e-6)
    assert_allclose(dist.icdf(torch.tensor([0.25, 0.9])), [-0.31194520, -0.21303342], atol=2e-6)


def test_truncated_normal_at_initialisation() -> None:
    dist = truncated([0.0] * 4, [0.0] * 4)
    assert_allclose(dist.entropy(), 2.74391102, atol=1e-5)
    assert_allclose(dist.log_prob(torch.zeros(4)), 4 * -0.56278866, atol=1e-5)


@given(SMALL, st.floats(-6, 6), st.floats(-0.999, 0.999), st.floats(0.001, 0.999))
def test_truncated_normal_against_scipy(u: float, v: float, x: float, p: float) -> None:
    ours = truncated([u], [v])
    scipy = ref.truncnorm(np.tanh([u]), ref.actor_scale([v]))
    assert_allclose(ours.log_prob(torch.tensor([x])), scipy.logpdf([x])[0], rtol=2e-4, atol=2e-4)
    assert_allclose(ours.entropy(), scipy.entropy()[0], atol=2e-4)
    assert_allclose(ours.mean, scipy.mean(), atol=2e-5)
    assert_allclose(ours.icdf(torch.tensor([p])), scipy.ppf([p]), atol=2e-4)


@pytest.mark.parametrize(("u", "v"), [(0.0, 0.0), (3.0, -6.0), (-1.0, 4.0)])
def test_truncated_samples_follow_scipy(u: float, v: float) -> None:
    sample = truncated([u] * 5_000, [v] * 5_000).sample().double()
    scipy = ref.truncnorm(np.tanh(u), ref.actor_scale(v))
    assert stats.kstest(sample.numpy(), scipy.cdf).pvalue > 1e-3


@given(st.floats(-20, 20), st.floats(-30, 30), st.integers(0, 2**16))
def test_truncated_samples_stay_inside_the_margin(u: float, v: float, seed: int) -> None:
    torch.manual_seed(seed)
    sample = truncated([u] * 64, [v] * 64).sample()
    assert torch.isfinite(sample).all()
    assert (sample.abs() <= 1 - 5e-7).all()


def pathwise(loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A sample and its gradients with respect to location and scale."""
    a = loc.clone().requires_grad_()
    b = scale.clone().requires_grad_()
    torch.manual_seed(3)
    sample = TruncatedNormal(a, b).sample()
    da, db = torch.autograd.grad(sample.sum(), (a, b))
    return sample.detach(), da, db


def test_truncated_sample_gradient_is_pathwise() -> None:
    """With the quantile p held fixed, the gradient is that of SciPy's inverse CDF."""
    loc, scale = torch.tensor([0.3, -0.7, 0.0]), torch.tensor([0.5, 1.1, 0.2])
    sample, by_loc, by_scale = pathwise(loc, scale)
    p = ref.truncnorm(loc.double(), scale.double()).cdf(sample.double())
    h = 1e-5

    def quantile(d_loc: float, d_scale: float) -> np.ndarray:
        return np.asarray(ref.truncnorm(loc.double() + d_loc, scale.double() + d_scale).ppf(p))

    assert_allclose(by_loc, (quantile(h, 0) - quantile(-h, 0)) / (2 * h), rtol=2e-3, atol=2e-3)
    assert_allclose(by_scale, (quantile(0, h) - quantile(0, -h)) / (2 * h), rtol=2e-3, atol=2e-3)


def test_truncated_gradients_survive_extreme_parameters() -> None:
    u = torch.tensor([30.0, -30.0, 0.0], requires_grad=True)
    v = torch.tensor([-60.0, 60.0, -60.0], requires_grad=True)
    dist = TruncatedNormal(torch.tanh(u), 2 * torch.sigmoid(v / 2) + 0.1)
    sample = dist.sample()
    total = sample.sum() + dist.entropy().sum() + dist.log_prob(sample.detach()).sum()
    total.backward()
    for raw in (u, v):
        assert raw.grad is not None
        assert torch.isfinite(raw.grad).all()
