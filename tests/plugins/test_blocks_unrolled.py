"""Layers inside of loops: the plain layer's outputs to the bit, its gradients in one product."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.nn import functional as F

from wmplugins.blocks import Unrolled

STEPS, ROWS, WIDTH = 4, 3, 5
Loop = Callable[[nn.Linear, Tensor, Tensor], Tensor]


def plain(layer: nn.Linear, base: Tensor, x: Tensor) -> Tensor:
    """Two layers in a recurrence; the first one adds to `base`, the second one has a bias."""
    for t in range(STEPS):
        x = torch.tanh(base[t] + F.linear(x, layer.weight))
        x = torch.tanh(layer(x))
    return x


def unrolled(layer: nn.Linear, base: Tensor, x: Tensor) -> Tensor:
    added = Unrolled(layer.weight, base)
    biased = Unrolled(layer.weight, layer.bias.expand(STEPS, ROWS, -1), is_bias=True)
    for t in range(STEPS):
        x = torch.tanh(biased(t, torch.tanh(added(t, x))))
    return x


def case() -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(1)
    base = torch.randn(STEPS, ROWS, WIDTH, requires_grad=True)
    return nn.Linear(WIDTH, WIDTH), base, torch.randn(ROWS, WIDTH, requires_grad=True)


def test_outputs_are_equal_bit_for_bit_and_gradients_up_to_rounding() -> None:
    layer, base, x = case()
    leaves = [layer.weight, layer.bias, base, x]
    ours, theirs = unrolled(layer, base, x), plain(layer, base, x)
    assert torch.equal(ours, theirs)
    found = torch.autograd.grad(ours.square().sum(), leaves)
    expected = torch.autograd.grad(theirs.square().sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_second_pass_back_finds_the_same_gradients() -> None:
    layer, base, x = case()
    y = unrolled(layer, base, x).sum()
    torch.autograd.grad(y, [x], retain_graph=True)
    first = torch.autograd.grad(y, [layer.weight], retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(y, [layer.weight])[0])


def test_frozen_weights_let_gradients_through() -> None:
    layer, base, x = case()
    layer.requires_grad_(False)
    found = torch.autograd.grad(unrolled(layer, base, x).sum(), [base, x])
    expected = torch.autograd.grad(plain(layer, base, x).sum(), [base, x])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_graph_is_freed_without_the_garbage_collector() -> None:
    layer, base, x = case()
    gc.disable()
    try:
        y = unrolled(layer, base, x)
        node = weakref.ref(y)
        kept = weakref.ref(x)
        del x, y, base
        assert node() is None
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("loop", [plain, unrolled])
def test_autocast_keeps_gradients_of_the_parameters_in_fp32(loop: Loop) -> None:
    layer, base, x = case()
    with torch.autocast("cpu", torch.bfloat16):
        y = loop(layer, base.bfloat16(), x)
    assert y.dtype == torch.bfloat16
    grads = torch.autograd.grad(y.float().square().sum(), [layer.weight, layer.bias])
    exact = torch.autograd.grad(plain(layer, base, x).square().sum(), [layer.weight, layer.bias])
    for a, b in zip(grads, exact, strict=True):
        assert a.dtype == torch.float32
        assert_allclose(a, b, rtol=0.1, atol=0.1)
