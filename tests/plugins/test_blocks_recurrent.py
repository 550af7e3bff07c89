"""The GRU against known numbers; the RSSM's cell is tested with its dynamics."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from wmplugins.blocks import GRUCell

from . import dreamer_reference as ref

GRU_WEIGHT = [
    [0.1, -0.2, 0.3, 0.4],
    [-0.5, 0.2, 0.1, 0.0],
    [0.3, 0.3, -0.1, 0.2],
    [0.0, -0.4, 0.5, 0.1],
    [0.2, 0.1, 0.0, -0.3],
    [-0.1, 0.6, -0.2, 0.3],
]
GRU_BIAS = [0.01, -0.02, 0.03, -0.04, 0.05, -0.06]
GRU_GAIN = [1, 1.1, 0.9, 1.2, 0.8, 1]
GRU_SHIFT = [0, 0.1, -0.1, 0.2, 0, -0.2]


def parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters())


def waves(shape: tuple[int, ...], k: int) -> Tensor:
    """0.5 sin(1 + j + 7k), j counting in row-major order."""
    j = np.arange(np.prod(shape), dtype=np.float64)
    return torch.from_numpy(0.5 * np.sin(1 + j + 7 * k)).reshape(shape)


def known_gru() -> GRUCell:
    cell = GRUCell(2, 2)
    with torch.no_grad():
        cell.linear.weight.copy_(torch.tensor(GRU_WEIGHT))
        cell.linear.bias.copy_(torch.tensor(GRU_BIAS))
        cell.norm.weight.copy_(torch.tensor(GRU_GAIN))
        cell.norm.bias.copy_(torch.tensor(GRU_SHIFT))
    return cell


def test_gru_of_known_weights() -> None:
    out = known_gru()(torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.3]]))
    assert_allclose(out.detach(), [[0.05835723, -0.25679824]], atol=1e-6)
    args = (GRU_WEIGHT, GRU_BIAS, GRU_GAIN, GRU_SHIFT)
    assert_allclose(ref.gru([0.5, -1], [0.2, -0.3], *args), [0.05835723, -0.25679824], atol=1e-8)


def test_gru_counts_and_initial_bounds() -> None:
    cell = GRUCell(1024, 1024)
    assert parameters(cell) == 6_300_672
    assert parameters(cell.linear) == 6_294_528
    weight = cell.linear.weight.detach()
    bound = math.sqrt(6 / (2048 + 3072))
    assert 0.99 * bound < float(weight.abs().max()) <= bound * (1 + 1e-6)
    assert (cell.linear.bias == 0).all()


def test_gru_of_the_torch_initialisation() -> None:
    linear = GRUCell(1024, 1024, init="torch").linear
    for p in (linear.weight.detach(), linear.bias.detach()):
        assert 0.0215 < float(p.abs().max()) <= 0.022097 * (1 + 2e-5)


@pytest.mark.parametrize(
    ("eps", "expected"),
    [
        (1e-5, [-0.05683595, -0.40434692, -0.00277373]),
        (1e-3, [-0.05622361, -0.40212958, 0.00008468]),
    ],
)
def test_recurrent_cell(eps: float, expected: list[float]) -> None:
    cell = GRUCell(2, 3, "torch", eps=eps)
    cell.linear.weight.data = waves((9, 5), 1).float()
    cell.linear.bias.data = waves((9,), 0).float()
    h = cell(torch.tensor([[0.2, -0.4]]), torch.tensor([[0.1, -0.3, 0.5]]))
    assert_allclose(h.detach().flatten(), expected, atol=1e-6)
