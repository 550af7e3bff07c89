"""Lambda returns against known numbers, NumPy and TorchRL, and their gradients."""

from functools import partial

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torchrl.objectives.value.functional import td_lambda_return_estimate

from wmplugins.blocks import discount_weights, lambda_return

from . import dreamer_reference as ref

REWARD = torch.tensor([[1.0, 0.0, 2.0, -1.0]])
VALUE = torch.tensor([[10.0, 8.0, 6.0, 4.0]])
DISCOUNT = torch.full((1, 4), 0.99)


def test_returns_of_a_known_rollout() -> None:
    returns = lambda_return(REWARD, VALUE, DISCOUNT, 0.95)
    assert_allclose(returns, [[6.94718839, 5.90238, 5.96]], atol=1e-5)
    assert_allclose(discount_weights(DISCOUNT), [[1, 0.99, 0.9801, 0.970299]], atol=1e-6)


def test_returns_end_where_the_discount_is_zero() -> None:
    discount = DISCOUNT.clone()
    discount[0, 1] = 0
    returns = lambda_return(REWARD, VALUE, discount, 0.95)
    assert_allclose(returns, [[1.396, 0.0, 5.96]], atol=1e-5)
    assert_allclose(discount_weights(discount), [[1, 0.99, 0, 0]], atol=1e-6)


@given(st.integers(0, 2**16), st.integers(2, 16), st.floats(0, 1))
def test_returns_against_numpy(seed: int, length: int, lam: float) -> None:
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, length, 3)) * 10
    discount = rng.uniform(size=(length, 3)) * (rng.uniform(size=(length, 3)) > 0.2)
    expected = ref.lambda_return(reward, value, discount, lam)
    inputs = (torch.tensor(x, dtype=torch.float32).T for x in (reward, value, discount))
    assert_allclose(lambda_return(*inputs, lam), expected.T, rtol=1e-4, atol=1e-4)
    weights = discount_weights(torch.tensor(discount.T))
    assert_allclose(weights, ref.weights(discount).T, rtol=1e-5, atol=1e-7)


def test_returns_against_torchrl() -> None:
    """TorchRL pairs a reward with the state after it; ours belongs to its own state."""
    reward, value = torch.randn(2, 7, 16) * 5
    done = torch.zeros(7, 15, 1, dtype=torch.bool)
    theirs = td_lambda_return_estimate(
        gamma=0.99,
        lmbda=0.95,
        next_state_value=value[:, 1:, None],
        reward=reward[:, :-1, None],
        done=done,
        terminated=done,
    )
    ours = lambda_return(reward, value, torch.full((7, 16), 0.99), 0.95)
    assert_allclose(ours, theirs[..., 0], rtol=1e-5, atol=1e-5)


def test_return_gradients_follow_the_recursion() -> None:
    reward, value = (torch.randn(2, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    discount = torch.rand(2, 6, dtype=torch.float64, requires_grad=True)
    function = partial(lambda_return, lambda_=0.95)
    assert torch.autograd.gradcheck(function, (reward, value, discount))


def test_weights_are_detached() -> None:
    assert not discount_weights(DISCOUNT.requires_grad_()).requires_grad
    DISCOUNT.requires_grad_(False)
