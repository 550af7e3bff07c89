"""Dense stacks, residual blocks, and rules of initialisation.

Shape letters: N product of leading dims, C H W image.
"""

from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_Layer = TypeVar("_Layer", bound=nn.Module)
_Weighted = TypeVar("_Weighted", nn.Linear, nn.Conv2d)

__all__ = [
    "MLP",
    "Act",
    "Init",
    "Norm",
    "ResidualBlock",
    "dense",
    "flatten_lead",
    "glorot_",
    "image_norm",
    "in_fp32",
    "linear",
    "orthogonal_",
]

Norm = Literal["batch", "layer", "group", "none"]
Act = Literal["elu", "relu", "silu"]
Init = Literal["glorot", "torch"]
"""`glorot` as DreamerV2, `torch` for PyTorch's own defaults."""

_ACTS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU, "silu": nn.SiLU}


def glorot_(module: _Layer) -> _Layer:
    """Initialise one linear or convolution layer: Glorot-uniform weights, zero bias. Returns it."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return module


def orthogonal_(layer: _Weighted, gain: float = 1.0) -> _Weighted:
    """Initialise one layer: orthogonal weights (a row for each output), zero bias. Returns it."""
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def linear(inputs: int, outputs: int, init: Init = "glorot") -> nn.Linear:
    """One linear layer, initialised by name."""
    layer = nn.Linear(inputs, outputs)
    return glorot_(layer) if init == "glorot" else layer


def dense(
    inputs: int, units: int, norm: Norm = "none", act: Act = "elu", init: Init = "glorot"
) -> nn.Sequential:
    """One linear layer, an optional LayerNorm (eps 1e-3), an activation."""
    layers: list[nn.Module] = [linear(inputs, units, init)]
    if norm == "layer":
        layers.append(nn.LayerNorm(units, eps=1e-3))
    return nn.Sequential(*layers, _ACTS[act]())


class MLP(nn.Module):
    """`layers` dense layers of `units`, then a linear output of `outputs` entries.

    Maps `[*lead, inputs]` to `[*lead, outputs]`. Parameters: 1,301,201 for 2048 -> 4 x 400 -> 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        layers: int = 4,
        units: int = 400,
        norm: Norm = "none",
        act: Act = "elu",
        init: Init = "glorot",
    ) -> None:
        super().__init__()
        sizes = [inputs, *[units] * layers]
        self.trunk = nn.Sequential(*[dense(a, b, norm, act, init) for a, b in pairwise(sizes)])
        self.out = linear(sizes[-1], outputs, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*lead, inputs]` to `[*lead, outputs]`."""
        y: Tensor = self.out(self.trunk(x))
        return y


def in_fp32(network: nn.Module, x: Tensor, enabled: bool = True) -> Tensor:
    """Run a network in fp32 even inside an autocast region, fp32 out.

    Returns near 1000 are half a unit apart in fp16, which is why heads are kept out of it.

    Args:
        network: maps one tensor to one tensor.
        x: its input.
        enabled: False leaves autocast as it is; the output is fp32 all the same.
    """
    if not enabled:
        y: Tensor = network(x)
        return y.float()
    with torch.autocast(x.device.type, enabled=False):
        z: Tensor = network(x.float())
        return z


class _ChannelLayerNorm(nn.GroupNorm):
    """LayerNorm over C, H, W of each frame: a group norm with a single group."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=1e-3)


def image_norm(kind: Norm, channels: int) -> nn.Module:
    """Normalisation after a convolution; batch norm has eps 1e-5 and momentum 0.1."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "layer":
        return _ChannelLayerNorm(channels)
    if kind == "group":
        return nn.GroupNorm(8, channels)
    return nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with normalisation and a skip path (ContextWM table 1).

    Convolutions have no bias and keep PyTorch's default initialisation, as in the authors' code.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm = "batch") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = image_norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = image_norm(norm, outputs)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), image_norm(norm, outputs)
            )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map `[N, inputs, H, W]` to `[N, outputs, H, W]`."""
        return self.body(x_NCHW, x_NCHW)

    def body(self, x_NCHW: Tensor, skip_NCHW: Tensor) -> Tensor:
        """As `forward`, with another input on the skip path (for blocks that are conditioned)."""
        h = F.relu(self.norm1(self.conv1(x_NCHW)), inplace=True)
        h = self.norm2(self.conv2(h))
        return F.relu(self.skip(skip_NCHW) + h)


def flatten_lead(x: Tensor, event_dims: int) -> tuple[Tensor, torch.Size]:
    """Fold all leading dims into one; returns `[N, *event]` and the lead to restore."""
    lead = x.shape[: x.dim() - event_dims]
    return x.reshape(-1, *x.shape[len(lead) :]), lead
