"""What the analyses of a ContextWM read: attention, contexts, predictions."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.analysis.attention import attend, overlay
from wmplatform.analysis.compose import compose
from wmplatform.analysis.open_loop import error_per_frame, open_loop
from wmplatform.analysis.results import CannotAnalyse
from wmplatform.analysis.tsne import time_mean
from wmplatform.clip_source import video_spec
from wmplatform.types import ArraySpec
from wmplatform.world_model import WorldModel
from wmplugins.apv.dynamics import ActionFreeRSSM
from wmplugins.contextwm.context import ResNetContext
from wmplugins.contextwm.decoder import (
    SCALES,
    ConcatContextDecoder,
    ContextDecoder,
    CrossAttention,
)
from wmplugins.dreamer.encoders import ResNetEncoder

from . import video_reference as ref
from .dreamer_reference import f64

FEATURES = ArraySpec((12,))
PIXELS = {"pixels": ArraySpec((3, 64, 64), "uint8")}
OBSERVED, LENGTH = 3, 5


def contexts(frames: int = 1) -> dict[str, ArraySpec]:
    return {
        "scale_8": ArraySpec((frames, 8, 8, 8)),
        "scale_16": ArraySpec((frames, 4, 16, 16)),
    }


def shaken_decoder(frames: int = 1, **settings: Any) -> ContextDecoder:
    made = ContextDecoder(FEATURES, PIXELS, contexts(frames), depth=2, heads=2, **settings).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def drawn(batch: int, frames: int = 1) -> dict[str, Tensor]:
    return {name: torch.randn(batch, *spec.shape) for name, spec in contexts(frames).items()}


def agent(**decoder: Any) -> Agent:
    torch.manual_seed(0)
    latent = {"deter": 8, "hidden": 8, "groups": 4, "classes": 4}
    model = partial(
        WorldModel,
        encoder=partial(ResNetEncoder, depth=2),
        context_encoder=partial(ResNetContext, depth=2),
        dynamics=partial(ActionFreeRSSM, **latent),
        decoder=partial(ContextDecoder, depth=2, heads=2, **decoder),
    )
    made = Agent(video_spec(3, 64), world_model=model)
    with torch.no_grad():  # so that every part leaves a trace
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def clips(batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (batch, LENGTH, 3, 64, 64), generator=generator)
    first = torch.zeros(batch, LENGTH, dtype=torch.bool)
    first[:, 0] = True
    return {"pixels": pixels.to(torch.uint8), "is_first": first}


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2])
def test_weights_sum_to_one_over_all_tokens_though_training_masks(frames: int) -> None:
    made = shaken_decoder(frames, mask_in_eval=True)
    features, context = torch.randn(2, 3, 12), drawn(2, frames)
    state = torch.get_rng_state()
    found = made.attention(features, context)
    assert torch.equal(state, torch.get_rng_state())
    assert {name: x.shape for name, x in found.items()} == {
        "scale_8": (6, 64, 64 * frames),
        "scale_16": (6, 256, 256 * frames),
    }
    for weights in found.values():
        assert (weights > 0).all()
        assert_allclose(weights.sum(-1), 1.0, atol=1e-5)


@torch.no_grad()
def test_weights_are_those_of_decoding_and_equal_numpy() -> None:
    made = shaken_decoder()
    features, context = torch.randn(2, 2, 12), drawn(2)
    inputs: list[Tensor] = []
    for each in made.attentions:
        each.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    made(features, context)
    found = made.attention(features, context)
    for name, each, x in zip(SCALES, made.attentions, inputs, strict=True):
        assert isinstance(each, CrossAttention)
        weights = (each.in_weight, each.in_bias, each.out.weight, each.out.bias)
        arrays = tuple(f64(w.detach()) for w in weights)
        for n in (0, 3):
            query = ref.rows_of(x[n]) + f64(each.query_position.detach())
            tokens = ref.rows_of(context[name][n // 2, 0]) + f64(each.context_position.detach())
            _, expected = ref.attention(query, tokens, arrays, each.heads)
            assert_allclose(found[name][n], expected, atol=1e-6)


def test_a_decoder_without_attention_says_so() -> None:
    made = ConcatContextDecoder(FEATURES, PIXELS, contexts(), depth=2)
    with pytest.raises(NotImplementedError, match="ConcatContextDecoder does not attend"):
        made.attention(torch.randn(1, 1, 12), drawn(1))


def test_heat_maps_average_the_patch_over_the_last_observed_frame() -> None:
    made, batch = agent(), clips()
    maps = attend(made, batch, OBSERVED, (0, 8), 3)
    assert maps.scale == "scale_16"
    assert maps.patch == (slice(7, 10), slice(0, 2))  # cut off at the left border
    assert maps.weights.shape == (2, LENGTH, 1, 16, 16)
    assert_allclose(maps.weights.sum((2, 3, 4)), 1.0, atol=1e-5)
    assert_allclose(maps.context[:, 0] * 255, batch["pixels"][:, OBSERVED - 1], atol=1e-3)
    single = [attend(made, batch, OBSERVED, (x, y), 1).weights for x in (0, 1) for y in (7, 8, 9)]
    assert_allclose(maps.weights, torch.stack(single).mean(0), atol=1e-6)
    with pytest.raises(CannotAnalyse, match="outside"):
        attend(made, batch, OBSERVED, (16, 0), 3)


def test_the_overlay_is_hottest_where_the_weight_is() -> None:
    weights = np.zeros((16, 16), np.float32)
    weights[2, 5] = 1.0
    shown = overlay(np.full((64, 64, 3), 100, np.uint8), weights)
    assert (shown[8:12, 20:24] == (193, 58, 40)).all()
    shown[8:12, 20:24] = 50
    assert (shown == 50).all()


def test_composing_reads_the_context_of_b_and_nothing_else_of_it() -> None:
    made, a, b = agent(), clips(seed=1), clips(seed=2)
    before = compose(made, a, b, OBSERVED)
    pixels = b["pixels"].clone()
    pixels[:, [0, 1, 3, 4]] = 0
    other = compose(made, a, {**b, "pixels": pixels}, OBSERVED)
    assert torch.equal(before.composed, other.composed)
    pixels = b["pixels"].clone()
    pixels[:, OBSERVED - 1] = 0
    changed = compose(made, a, {**b, "pixels": pixels}, OBSERVED).composed
    assert not torch.equal(before.composed, changed)
    model = made.world_model
    with torch.no_grad():
        states = model.dynamics.observe(
            model.embed(a), None, a["is_first"], deterministic=True
        ).states
        expected = model.decode(states, model.context(b, OBSERVED))["pixels"].mode
    assert torch.equal(before.composed, expected + 0.5)
    assert_allclose(before.a * 255, a["pixels"], atol=1e-3)


def test_a_prediction_knows_the_observed_frames_only() -> None:
    made, batch = agent(), clips()
    torch.manual_seed(1)
    found = open_loop(made, batch, OBSERVED)
    errors = error_per_frame(found)
    assert len(errors) == LENGTH
    assert_allclose(np.mean(errors[OBSERVED:]), found.errors()["open_loop_mse"], rtol=1e-5)
    batch["pixels"][:, OBSERVED:] = 0
    torch.manual_seed(1)
    assert torch.equal(found.model, open_loop(made, batch, OBSERVED).model)
    with pytest.raises(CannotAnalyse, match="nothing is predicted"):
        open_loop(made, batch, LENGTH)


def test_latents_are_averaged_over_time() -> None:
    made, batch = agent(), clips()
    found = time_mean(made, batch, "intrinsic")
    model = made.world_model
    with torch.no_grad():
        seen = model.dynamics.observe(
            model.embed(batch), None, batch["is_first"], deterministic=True
        )
    features = model.dynamics.features(seen.states, "policy")
    assert isinstance(features, Tensor)
    assert found.shape == (2, 24)
    assert_allclose(found, features.mean(1), atol=1e-6)
