"""Divergences against known numbers, NumPy and quadrature; balance and free nats."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor

from wmplugins.blocks import Gaussian, balanced_kl, categorical_kl, kl_metrics

from . import dreamer_reference as ref

POST = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
PRIOR = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


# Categoricals


def logits(flat: Tensor) -> Tensor:
    """One batch, one record."""
    return flat[None, None].clone().requires_grad_()


def test_divergence_of_known_logits() -> None:
    assert_allclose(categorical_kl(POST, PRIOR), 0.83155719, atol=1e-6)
    assert_allclose(categorical_kl(PRIOR, POST), 0.88473465, atol=1e-6)
    each = categorical_kl(POST[:, None], PRIOR[:, None])
    assert_allclose(each, [0.26621671, 0.56534049], atol=1e-6)


def test_balanced_divergence_trains_the_prior_four_times_harder() -> None:
    post, prior = logits(POST), logits(PRIOR)
    loss, kl = balanced_kl(post, prior, 0.8, 0.0, categorical_kl)
    loss.backward()
    assert_allclose(loss.detach(), 0.83155719, atol=1e-6)
    assert_allclose(kl, [[0.83155719]], atol=1e-6)
    assert not kl.requires_grad
    assert post.grad is not None
    assert prior.grad is not None
    expected = [[-0.26552610, 0.07088389, 0.19464221], [0.04612863, 0.33746889, -0.38359752]]
    assert_allclose(prior.grad[0, 0], expected, atol=1e-6)
    expected = [[0.05651749, -0.02815407, -0.02836342], [-0.02724219, -0.05809834, 0.08534053]]
    assert_allclose(post.grad[0, 0], expected, atol=1e-6)


def test_no_gradient_at_all_below_the_free_nats() -> None:
    post, prior = logits(POST), logits(PRIOR)
    loss, _ = balanced_kl(post, prior, 0.8, 1.0, categorical_kl)
    loss.backward()
    assert loss.item() == 1.0
    assert post.grad is not None
    assert prior.grad is not None
    assert (post.grad == 0).all()
    assert (prior.grad == 0).all()


def test_free_nats_clip_the_batch_mean_not_each_record() -> None:
    """Divergences 0.3 and 2.1 under one free nat give 1.2; clipping each would give 1.55."""

    def with_divergence(kl: float) -> Tensor:
        """Logits [x, 0] whose divergence from [0, 0] is `kl`, over several groups."""
        share = kl / 4
        low, high = 0.0, 60.0
        for _ in range(200):
            middle = (low + high) / 2
            below = float(ref.kl([[middle, 0.0]], [[0.0, 0.0]])) < share
            low, high = (middle, high) if below else (low, middle)
        return torch.tensor([[low, 0.0]]).expand(4, 2)

    post = torch.stack([with_divergence(0.3), with_divergence(2.1)])[None]
    loss, kl = balanced_kl(post, torch.zeros_like(post), 0.8, 1.0, categorical_kl)
    assert_allclose(kl, [[0.3, 2.1]], atol=1e-5)
    assert_allclose(loss, 1.2, atol=1e-5)


def test_divergence_stays_finite_where_the_prior_underflows() -> None:
    post, prior = torch.zeros(1, 2), torch.tensor([[0.0, -200.0]], requires_grad=True)
    kl = categorical_kl(post, prior)
    kl.backward()
    assert_allclose(kl.detach(), 99.30685282, rtol=1e-6)
    assert prior.grad is not None
    assert torch.isfinite(prior.grad).all()


@given(st.integers(0, 2**16), st.floats(0, 1), st.floats(0, 30))
def test_balanced_divergence_against_numpy(seed: int, balance: float, free: float) -> None:
    rng = np.random.default_rng(seed)
    post, prior = rng.normal(size=(2, 3, 4, 5)) * 2, rng.normal(size=(2, 3, 4, 5)) * 2
    a, b = (torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in (post, prior))
    loss, _ = balanced_kl(a, b, balance, free, categorical_kl)
    loss.backward()
    mean = ref.kl(post, prior).mean()
    assert_allclose(loss.detach(), max(mean, free), rtol=1e-5)
    if abs(mean - free) < 1e-3:
        return
    active = float(mean > free) / 6
    by_post, by_prior = ref.kl_grad_post(post, prior), ref.kl_grad_prior(post, prior)
    assert a.grad is not None
    assert b.grad is not None
    assert_allclose(a.grad, (1 - balance) * active * by_post, atol=1e-6)
    assert_allclose(b.grad, balance * active * by_prior, atol=1e-6)


def test_metrics_are_the_mean_divergence_and_both_entropies() -> None:
    post, prior = POST[None, None], PRIOR[None, None]
    found = kl_metrics(categorical_kl(post, prior), post, prior, "af_")
    assert_allclose(found["af_model_kl"], 0.83155719, atol=1e-6)
    assert_allclose(found["af_post_entropy"], ref.entropy(POST).sum(), atol=1e-6)
    assert_allclose(found["af_prior_entropy"], ref.entropy(PRIOR).sum(), atol=1e-6)


# Normals


def test_scales_of_latents() -> None:
    raw = torch.tensor([[0.0, -4.0], [0.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    found = Gaussian.of(raw, 0.1)
    assert_allclose(found.std.flatten(), [0.33840584, 1.1, 1.56211716], rtol=1e-6)
    assert_allclose(found.mean, np.zeros((3, 1)))


def test_divergence_of_two_normals() -> None:
    post = Gaussian(torch.tensor([1.0, -0.5]), torch.tensor([0.5, 1.1]))
    prior = Gaussian(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.8]))
    assert post.kl(prior).item() == pytest.approx(1.72625595, abs=1e-6)


@pytest.mark.parametrize(
    ("nats", "loss", "to_post", "to_prior"), [(0.3, 1.0, 0, 0), (2.7, 2.7, 0.2, 0.8)]
)
def test_free_nats_are_on_the_mean_and_the_balance_favours_the_prior(
    nats: float, loss: float, to_post: float, to_prior: float
) -> None:
    """Records of unequal divergence with this mean; the derivative of each KL is its shift."""
    shift = torch.tensor([[2 * nats - 0.1], [0.1]]).mul(2).sqrt()[..., None].requires_grad_()
    zero = torch.zeros(2, 1, 1, requires_grad=True)
    one = torch.ones(2, 1, 1)
    found, each = balanced_kl(Gaussian(shift, one), Gaussian(zero, one), 0.8, 1.0, Gaussian.kl)
    assert each.mean().item() == pytest.approx(nats, abs=1e-6)
    assert found.item() == pytest.approx(loss, abs=1e-6)
    post, prior = torch.autograd.grad(found, (shift, zero))
    assert_allclose(post, to_post * shift.detach() / 2, atol=1e-6)
    assert_allclose(prior, -to_prior * shift.detach() / 2, atol=1e-6)


@given(st.floats(-2, 2), st.floats(0.2, 2), st.floats(-2, 2), st.floats(0.2, 2))
def test_divergence_of_normals_is_the_integral(m: float, s: float, n: float, t: float) -> None:
    x = torch.linspace(m - 12 * s, m + 12 * s, 20_001, dtype=torch.float64)

    def log_density(mean: float, std: float) -> Tensor:
        return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))

    p, q = log_density(m, s), log_density(n, t)
    integral = torch.trapezoid(p.exp() * (p - q), x)
    post, prior = (Gaussian(*(torch.tensor([v]) for v in pair)) for pair in ((m, s), (n, t)))
    assert_allclose(post.kl(prior), integral, rtol=1e-4, atol=1e-5)


def test_noise_is_moved_with_a_gradient() -> None:
    mean, std = (torch.tensor([v], requires_grad=True) for v in (0.5, 2.0))
    x = Gaussian(mean, std).sample(torch.tensor([-1.5]))
    assert x.item() == pytest.approx(0.5 - 3.0)
    assert [g.item() for g in torch.autograd.grad(x, (mean, std))] == [1.0, -1.5]
    assert not Gaussian(mean, std).detach().sample(torch.ones(1)).requires_grad
