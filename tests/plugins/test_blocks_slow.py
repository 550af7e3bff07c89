"""Modules that rest while others learn, and slow copies."""

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from wmplugins.blocks import follow, frozen


def test_frozen_modules_thaw_even_after_an_error() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)

    def fail() -> None:
        with frozen(layer):
            assert not any(p.requires_grad for p in layer.parameters())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad


def test_gradients_flow_through_frozen_modules_and_not_into_them() -> None:
    layer, x = nn.Linear(2, 1), torch.ones(3, 2, requires_grad=True)
    with frozen(layer):
        y = layer(x).sum()
    (by_input,) = torch.autograd.grad(y, x, retain_graph=True)
    assert_allclose(by_input, layer.weight.detach().expand(3, 2))
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(y, layer.weight)


def test_a_copy_equals_and_a_share_moves_along_the_line() -> None:
    slow, fast = nn.Linear(3, 2), nn.Linear(3, 2)
    start, goal = slow.weight.detach().clone(), fast.weight.detach().clone()
    follow(slow, fast, 0.25)
    assert_allclose(slow.weight.detach(), start + 0.25 * (goal - start), atol=1e-6)
    follow(slow, fast, 0.25)
    assert_allclose(slow.weight.detach(), start + (1 - 0.75**2) * (goal - start), atol=1e-6)
    follow(slow, fast)
    assert torch.equal(slow.weight, fast.weight)
    assert torch.equal(slow.bias, fast.bias)
    assert torch.equal(fast.weight, goal)
    assert slow.weight is not fast.weight
    assert slow.weight.requires_grad
