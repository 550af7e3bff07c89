"""Dense stacks, residual blocks and the initialisation rule."""

import math
from collections.abc import Callable

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.nn import functional as F

from wmplugins.blocks import MLP, ResidualBlock, flatten_lead, glorot_, in_fp32, orthogonal_

from . import dreamer_reference as ref


def assert_uniform(weight: Tensor, bound: float) -> None:
    """Within +-bound, filling the range, with a uniform distribution's standard deviation."""
    weight = weight.detach()
    assert float(weight.abs().max()) <= bound * (1 + 2e-5)  # bounds are given to 6 digits
    assert float(weight.abs().max()) > bound * 0.99
    assert_allclose(float(weight.std()), bound / math.sqrt(3), rtol=0.05)


@pytest.mark.parametrize(
    ("layer", "bound"),
    [
        (lambda: nn.Linear(1074, 1024), 0.053478),
        (lambda: nn.Linear(4096, 1024), 0.034233),
        (lambda: nn.Linear(3072, 1024), 0.038273),
        (lambda: nn.Linear(2048, 400), 0.049507),
        (lambda: nn.Conv2d(3, 48, 3), 0.114332),
        (lambda: nn.ConvTranspose2d(48, 3, 6), math.sqrt(6 / (51 * 36))),
    ],
)
def test_glorot_bounds(layer: Callable[[], nn.Module], bound: float) -> None:
    module = glorot_(layer())
    assert_uniform(module.weight, bound)
    assert (module.bias == 0).all()


def test_mlp_has_the_published_parameters_and_bounds() -> None:
    mlp = MLP(2048, 1)
    assert sum(p.numel() for p in mlp.parameters()) == 1_301_201
    weights = [p for p in mlp.parameters() if p.dim() == 2]
    biases = [p for p in mlp.parameters() if p.dim() == 1]
    assert_uniform(weights[0], 0.049507)
    assert_uniform(weights[1], math.sqrt(6 / 800))
    assert all((b == 0).all() for b in biases)


def test_mlp_is_elu_of_linear_maps_ending_in_a_linear_one() -> None:
    mlp = MLP(5, 2, layers=2, units=7)
    x = torch.randn(3, 4, 5)
    layers = [m for m in mlp.modules() if isinstance(m, nn.Linear)]
    y = ref.f64(x)
    for layer in layers[:-1]:
        y = ref.elu(y @ ref.f64(layer.weight.detach()).T + ref.f64(layer.bias.detach()))
    y = y @ ref.f64(layers[-1].weight.detach()).T + ref.f64(layers[-1].bias.detach())
    assert_allclose(mlp(x).detach(), y, atol=1e-5)


def test_mlp_norm_is_layer_norm_before_the_activation() -> None:
    modules = MLP(5, 2, layers=3, units=7, norm="layer").modules()
    norms = [m for m in modules if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 3
    assert {m.eps for m in norms} == {1e-3}


@pytest.mark.parametrize(("n_in", "n_out"), [(48, 48), (48, 96), (96, 48)])
def test_residual_block_parameters(n_in: int, n_out: int) -> None:
    block = ResidualBlock(n_in, n_out)
    assert sum(p.numel() for p in block.parameters()) == ref.block(n_in, n_out)


def test_residual_convolutions_keep_the_default_initialisation() -> None:
    assert_uniform(ResidualBlock(48, 48).conv1.weight, 0.048113)


@pytest.mark.parametrize("widths", [(4, 4), (4, 6)])
def test_residual_block_is_relu_of_skip_plus_body(widths: tuple[int, int]) -> None:
    block = ResidualBlock(*widths)
    x = torch.randn(2, widths[0], 5, 5)

    def norm(y: Tensor) -> Tensor:
        mean = y.mean((0, 2, 3), keepdim=True)
        var = y.var((0, 2, 3), unbiased=False, keepdim=True)
        return (y - mean) / torch.sqrt(var + 1e-5)

    h = F.relu(norm(F.conv2d(x, block.conv1.weight, padding=1)))
    h = norm(F.conv2d(h, block.conv2.weight, padding=1))
    skip = x
    if widths[0] != widths[1]:
        kernels = [p for n, p in block.skip.named_parameters() if p.dim() == 4]
        skip = norm(F.conv2d(x, kernels[0]))
    assert_allclose(block(x).detach(), F.relu(skip + h).detach(), atol=1e-5)


def test_batch_norm_settings() -> None:
    norms = [m for m in ResidualBlock(4, 6).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3
    assert {(m.eps, m.momentum, m.affine, m.track_running_stats) for m in norms} == {
        (1e-5, 0.1, True, True)
    }


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_leading_dims_fold_and_unfold(lead: tuple[int, ...]) -> None:
    x = torch.randn(*lead, 2, 4, 4)
    folded, back = flatten_lead(x, 3)
    assert folded.shape == (math.prod(lead), 2, 4, 4)
    assert torch.equal(folded.reshape(*back, 2, 4, 4), x)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
def test_orthogonal_weights_keep_lengths_times_the_gain(shape: tuple[int, int]) -> None:
    layer = orthogonal_(nn.Linear(*shape), gain=2.0)
    weight = layer.weight.detach()
    short = weight if weight.shape[0] <= weight.shape[1] else weight.T
    assert_allclose(short @ short.T, 4 * torch.eye(5), atol=1e-5)
    assert (layer.bias == 0).all()


def test_a_network_is_kept_out_of_autocast_unless_told_otherwise() -> None:
    network, x = nn.Linear(4, 2), torch.randn(3, 4)
    exact = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(in_fp32(network, x), exact)
        loose = in_fp32(network, x, enabled=False)
    assert loose.dtype == torch.float32
    assert torch.equal(loose, loose.bfloat16().float())
