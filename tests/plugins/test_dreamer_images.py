"""Encoders and decoders: published parameter counts layer by layer, shapes, initial weights."""

import math
from collections.abc import Iterator

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.nn import functional as F

from wmplatform.types import ArraySpec
from wmplugins.dreamer.decoders import CNNDecoder, ResNetDecoder
from wmplugins.dreamer.encoders import CNNEncoder, ResNetEncoder

from . import dreamer_reference as ref

COLOUR = {"pixels": ArraySpec((3, 64, 64), "uint8")}
GREY = {"pixels": ArraySpec((1, 64, 64), "uint8")}
FEATURES = ArraySpec((2048,))


def count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters())


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """Linear and convolution layers in order."""
    kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
    return (m for m in module.modules() if isinstance(m, kinds))


@pytest.fixture
def meta() -> Iterator[None]:
    """Build without memory."""
    with torch.device("meta"):
        yield


@pytest.mark.usefixtures("meta")
def test_plain_encoder_counts() -> None:
    assert [count(m) for m in layers(CNNEncoder(COLOUR))] == [2_352, 73_824, 295_104, 1_180_032]
    assert count(CNNEncoder(COLOUR)) == 1_551_312
    assert count(CNNEncoder(GREY)) == 1_549_776


@pytest.mark.usefixtures("meta")
def test_plain_decoder_counts() -> None:
    decoder = CNNDecoder(FEATURES, COLOUR)
    expected = [3_147_264, 7_372_992, 460_896, 165_936, 5_187]
    assert [count(m) for m in layers(decoder)] == expected
    assert count(decoder) == 11_152_275
    assert count(CNNDecoder(ArraySpec((1224,)), COLOUR)) == 9_886_611
    assert count(CNNDecoder(ArraySpec((1624,)), GREY)) == 10_497_553


@pytest.mark.usefixtures("meta")
def test_resnet_encoder_counts() -> None:
    encoder = ResNetEncoder(COLOUR)
    parts = [count(encoder.stem), *[count(stage) for stage in encoder.stages]]
    assert parts == [1_344, 83_328, 295_872, 1_181_568]
    assert count(encoder) == 1_562_112


@pytest.mark.usefixtures("meta")
def test_resnet_decoder_counts() -> None:
    decoder = ResNetDecoder(FEATURES, COLOUR)
    parts = [count(decoder.inputs), *[count(s) for s in decoder.stages], count(decoder.output)]
    assert parts == [6_294_528, 932_160, 233_376, 58_512, 651]
    assert count(decoder) == 7_519_227


@pytest.mark.usefixtures("meta")
def test_resnets_share_the_published_number_of_normalisation_buffers() -> None:
    modules = nn.ModuleList([ResNetEncoder(COLOUR), ResNetDecoder(FEATURES, COLOUR)])
    assert sum(b.numel() for b in modules.buffers()) == 5_645


def sizes(module: nn.Module, kind: type[nn.Module], x: Tensor | dict[str, Tensor]) -> list[int]:
    """Edge lengths of the outputs of every `kind`, in the order they run."""
    seen: list[int] = []
    handles = [
        m.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-1]))
        for m in module.modules()
        if isinstance(m, kind)
    ]
    module(x)
    for handle in handles:
        handle.remove()
    return seen


def test_plain_encoder_sizes() -> None:
    images = {"pixels": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}
    assert sizes(CNNEncoder(COLOUR, depth=2), nn.Conv2d, images) == [31, 14, 6, 2]
    assert CNNEncoder(COLOUR, depth=48).embed_specs == {"embed": ArraySpec((1536,))}


def test_plain_decoder_sizes() -> None:
    decoder = CNNDecoder(ArraySpec((8,)), COLOUR, depth=2)
    assert sizes(decoder, nn.ConvTranspose2d, torch.zeros(1, 8)) == [5, 13, 30, 64]


def test_resnet_encoder_sizes() -> None:
    encoder = ResNetEncoder(COLOUR, depth=2)
    pyramid = encoder.pyramid(torch.zeros(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in pyramid] == [
        (2, 32, 32),
        (4, 16, 16),
        (8, 8, 8),
        (8, 4, 4),
    ]
    with torch.device("meta"):
        assert ResNetEncoder(COLOUR).embed_specs == {"embed": ArraySpec((3072,))}


def test_resnet_decoder_sizes_and_channels() -> None:
    decoder = ResNetDecoder(ArraySpec((8,)), COLOUR, depth=4)
    shapes: list[tuple[int, ...]] = []
    for stage in decoder.stages:
        stage.register_forward_hook(
            lambda _m, i, out: shapes.extend([i[0].shape[1:], out.shape[1:]])
        )
    image = decoder(torch.zeros(2, 8))["pixels"].mean
    assert image.shape == (2, 3, 64, 64)
    expected = [(16, 8, 8), (8, 8, 8), (8, 16, 16), (4, 16, 16), (4, 32, 32), (2, 32, 32)]
    assert [tuple(s) for s in shapes] == expected
    for stage in decoder.stages:  # channels change in the second block
        first, second = stage.children()
        assert first.conv1.in_channels == first.conv1.out_channels
        assert second.conv1.out_channels == second.conv1.in_channels // 2


def test_encoder_stages_change_channels_in_the_first_block() -> None:
    encoder = ResNetEncoder(COLOUR, depth=4)
    widths = [(b.conv1.in_channels, b.conv1.out_channels) for s in encoder.stages for b in s]
    assert widths == [(4, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]


def test_plain_encoder_computes_elu_of_each_convolution() -> None:
    encoder = CNNEncoder(COLOUR, depth=2)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    x = images.float() / 255 - 0.5
    for layer in layers(encoder):
        x = F.elu(F.conv2d(x, layer.weight, layer.bias, stride=2))
    assert_allclose(encoder({"pixels": images})["embed"].detach(), x.flatten(1).detach(), atol=1e-6)


def test_plain_decoder_has_no_activation_at_its_ends() -> None:
    decoder = CNNDecoder(ArraySpec((8,)), COLOUR, depth=2)
    features = torch.randn(2, 8)
    first, *rest = layers(decoder)
    x = F.linear(features, first.weight, first.bias).reshape(2, 64, 1, 1)
    for i, layer in enumerate(rest):
        x = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)
        x = F.elu(x) if i < 3 else x
    assert_allclose(decoder(features)["pixels"].mean.detach(), x.detach(), atol=1e-6)


def test_stem_is_elu_without_normalisation() -> None:
    encoder = ResNetEncoder(COLOUR, depth=2)
    images = torch.rand(2, 3, 64, 64) - 0.5
    stem = F.elu(F.conv2d(images, encoder.stem.weight, encoder.stem.bias, stride=2, padding=1))
    seen: list[Tensor] = []
    encoder.stages[0].register_forward_hook(lambda _m, i, _o: seen.append(i[0]))
    encoder({"pixels": images})
    assert_allclose(seen[0].detach(), stem.detach(), atol=1e-6)


def test_initial_weights_are_glorot_outside_the_residual_blocks() -> None:
    stem = ResNetEncoder(COLOUR).stem.weight.detach()
    assert 0.11 < float(stem.abs().max()) <= 0.114332 + 1e-6
    decoder = CNNDecoder(FEATURES, COLOUR, depth=4)
    for layer in layers(decoder):
        fans = layer.weight.shape[0] + layer.weight.shape[1]
        bound = math.sqrt(6 / (fans * layer.weight[0, 0].numel()))
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound * (1 + 1e-6)
        assert (layer.bias == 0).all()


def test_initial_weights_inside_residual_blocks_are_torch_defaults() -> None:
    stage = ResNetEncoder(COLOUR).stages[0]
    convs = [m for m in stage.modules() if isinstance(m, nn.Conv2d)]
    for layer in convs:
        assert 0.0475 < float(layer.weight.detach().abs().max()) <= 0.048113 + 1e-6


def test_image_loss_sums_pixels_and_drops_the_constant() -> None:
    decoder = CNNDecoder(ArraySpec((8,)), COLOUR, depth=2)
    for p in decoder.parameters():
        nn.init.zeros_(p)
    dist = decoder(torch.zeros(2, 5, 8))["pixels"]
    assert_allclose(-dist.log_prob(torch.full((2, 5, 3, 64, 64), -0.5)).detach(), 1536.0)
    assert_allclose(-dist.log_prob(torch.full((2, 5, 3, 64, 64), 0.1)).detach(), 61.44, rtol=1e-5)


def test_embeddings_are_flattened_channels_first() -> None:
    encoder = ResNetEncoder(COLOUR, depth=2).eval()
    images = torch.rand(1, 3, 64, 64) - 0.5
    grid = encoder.pyramid(images)[-1]
    embed = encoder({"pixels": images})["embed"]
    assert grid.shape == (1, 8, 4, 4)
    assert_allclose(embed.detach(), grid.reshape(1, 128).detach(), atol=1e-6)


def test_decoders_agree_in_eval_mode_bit_for_bit() -> None:
    for kind in (CNNDecoder, ResNetDecoder):
        decoder = kind(ArraySpec((8,)), COLOUR, depth=2).eval()
        features = torch.randn(2, 3, 8)
        first, second = (decoder(features)["pixels"].mean for _ in range(2))
        assert torch.equal(first, second)


def test_reference_counts_match_the_modules_at_other_sizes() -> None:
    with torch.device("meta"):
        assert count(CNNEncoder(GREY, depth=12)) == ref.cnn_encoder(1, 12)
        assert count(ResNetEncoder(GREY, depth=12)) == ref.resnet_encoder(1, 12)
        assert count(CNNDecoder(ArraySpec((10,)), GREY, depth=12)) == ref.cnn_decoder(10, 1, 12)
        assert count(ResNetDecoder(ArraySpec((10,)), GREY, depth=12)) == ref.resnet_decoder(
            10, 1, 12
        )
