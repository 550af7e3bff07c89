"""Decoders that read a context, against float64 NumPy, published numbers and sizes."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from wmplatform.training.learner import BadGroups, Learner
from wmplatform.training.optim import Adam
from wmplatform.types import ArraySpec
from wmplugins.contextwm.decoder import SCALES, ConcatContextDecoder, ContextDecoder, CrossAttention
from wmplugins.dreamer.decoders import ResNetDecoder

from . import video_reference as ref
from .dreamer_reference import f64
from .tiny_contextwm import PREFIXES, contextwm_agent

FEATURES = ArraySpec((12,))
PIXELS = {"pixels": ArraySpec((3, 64, 64), "uint8")}
DEPTH = 4


def context_specs(frames: int = 1, depth: int = DEPTH) -> dict[str, ArraySpec]:
    return {
        "scale_8": ArraySpec((frames, 4 * depth, 8, 8)),
        "scale_16": ArraySpec((frames, 2 * depth, 16, 16)),
    }


def draw_context(batch: int = 2, frames: int = 1) -> dict[str, Tensor]:
    return {name: torch.randn(batch, *spec.shape) for name, spec in context_specs(frames).items()}


def decoder(frames: int = 1, **settings: Any) -> ContextDecoder:
    return ContextDecoder(FEATURES, PIXELS, context_specs(frames), depth=DEPTH, **settings)


def image(made: nn.Module, features: Tensor, context: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = made(features, context)["pixels"].mean
    return found


def set_to(layer: nn.Module, **values: Any) -> None:
    """Set parameters of a module."""
    with torch.no_grad():
        for name, value in values.items():
            parameter = layer.get_parameter(name)
            parameter.copy_(torch.as_tensor(value).expand_as(parameter))


def shaken(made: nn.Module) -> nn.Module:
    """Give every parameter and running statistic a value that leaves a trace."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2.0)
    return made


class Operators(TorchDispatchMode):
    """Notes names, arguments and results of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls.append((func.name(), args, found))
        return found

    def named(self, name: str) -> list[tuple[tuple[Any, ...], Any]]:
        return [(args, found) for each, args, found in self.calls if each == name]


# The attention


QUERY = [[1.0, 0.0, -1.0, 0.5], [0.0, 2.0, 1.0, -0.5]]
TOKENS = [[1.0, 1.0, 0.0, 0.0], [0.0, -1.0, 1.0, 0.5], [0.5, 0.5, -0.5, 1.0]]
READ = [
    [0.61546057, 0.39085423, -0.11769494, 0.64214125],
    [0.80308908, 0.76500976, 0.45510750, 0.42060744],
]
SEEN = [[0.36601798, 0.19365345, 0.44032857], [0.47874278, 0.28520415, 0.23605308]]
AUGMENTED = [
    [1.61545750, 0.39085228, 0.0, 1.14213804],
    [0.80308507, 2.76500594, 1.45510522, 0.0],
]


def known_attention() -> tuple[CrossAttention, Tensor, Tensor]:
    """Identity projections; two positions look at three tokens."""
    made = CrossAttention(4, 2, heads=2, dropout=0.0).eval()
    made.context_position = nn.Parameter(torch.zeros(3, 4))
    set_to(made, in_weight=torch.eye(4).repeat(3, 1))
    set_to(made.out, weight=torch.eye(4))
    x = torch.tensor(QUERY).T.reshape(1, 4, 1, 2)
    return made, x, torch.tensor(TOKENS).T.reshape(1, 1, 4, 1, 3)


def test_attention_of_known_tokens() -> None:
    made, x, context = known_attention()
    read, seen = made.attend(x, context, 1.0, weights=True)
    assert seen is not None
    assert_allclose(seen[0].detach(), SEEN, atol=1e-6)
    assert_allclose(read[0, :, 0].T.detach(), READ, atol=1e-6)
    assert_allclose(made(x, context, 1.0)[0, :, 0].T.detach(), AUGMENTED, atol=1e-6)
    eye = np.eye(4)
    numpy = ref.attention(QUERY, TOKENS, (np.tile(eye, (3, 1)), np.zeros(12), eye, np.zeros(4)), 2)
    assert_allclose(numpy[0], READ, atol=1e-8)
    assert_allclose(numpy[1], SEEN, atol=1e-8)


def attention(channels: int = 8, side: int = 4, heads: int = 4, dropout: float = 0.1) -> Any:
    return shaken(CrossAttention(channels, side * side, heads=heads, dropout=dropout))


def numpy_augmented(
    made: CrossAttention, x: Tensor, context: Tensor, index: Tensor | None = None
) -> ref.Array:
    """ReLU(X + R) of each frame, one after the other, in eval mode."""
    weights = (made.in_weight, made.in_bias, made.out.weight, made.out.bias)
    arrays = tuple(f64(w.detach()) for w in weights)
    query_at, context_at = (f64(p.detach()) for p in (made.query_position, made.context_position))
    frames, out = len(x) // len(context), []
    for n, frame in enumerate(x):
        tokens = [ref.rows_of(each) + context_at for each in context[n // frames]]
        rows = np.concatenate(tokens)
        if index is not None:
            rows = rows[index[n].numpy()]
        read, _ = ref.attention(ref.rows_of(frame) + query_at, rows, arrays, made.heads)
        norm = made.norm
        read = ref.batch_norm(ref.image_of(read, x.shape[2]), norm.running_mean, norm.running_var)
        gain, bias = (f64(p.detach())[:, None, None] for p in (norm.weight, norm.bias))
        out.append(np.maximum(f64(frame) + read * gain + bias, 0))
    return np.array(out)


@pytest.mark.parametrize("frames", [1, 3])
def test_attention_against_numpy(frames: int) -> None:
    """Several segments, of several records each, with one or more context frames."""
    made = attention().eval()
    x, context = torch.randn(6, 8, 4, 4), torch.randn(2, frames, 8, 4, 4)
    ours = made(x, context, 1.0).detach()
    assert_allclose(ours, numpy_augmented(made, x, context), atol=1e-5)


def test_masked_attention_against_numpy() -> None:
    """Every frame has a subset of its own, and all heads have the same one."""
    made = attention(dropout=0.0).eval()
    x, context = torch.randn(6, 8, 4, 4), torch.randn(2, 2, 8, 4, 4)
    with Operators() as seen:
        ours = made(x, context, 0.25).detach()
    ((_, (_, index)),) = seen.named("aten::topk")
    expected = numpy_augmented(made, x, context, index.reshape(6, 8))
    assert_allclose(ours, expected, atol=1e-5)


def test_kept_tokens_are_drawn_without_replacement_for_each_frame() -> None:
    made = attention()
    batch, length = 3, 200
    x, context = torch.randn(batch * length, 8, 4, 4), torch.randn(batch, 1, 8, 4, 4)
    with Operators() as seen:
        made(x, context, 0.25)
    ((_, (_, index)),) = seen.named("aten::topk")
    rows = index.reshape(batch * length, 4).sort(-1).values
    assert (rows.diff(dim=-1) > 0).all()
    assert len({tuple(row) for row in rows.tolist()}) > 400  # of 1820 subsets
    counts = rows.flatten().bincount(minlength=16).double()
    assert stats.chisquare(counts).pvalue > 1e-3


def test_keys_and_values_are_projected_once_for_each_segment() -> None:
    """2 segments of 5 records: 2 x 16 rows are multiplied, not 10 x 16."""
    made = attention()
    with Operators() as seen:
        made(torch.randn(10, 8, 4, 4), torch.randn(2, 1, 8, 4, 4), 0.25)
    products = [found for name in ("aten::addmm", "aten::mm") for _, found in seen.named(name)]
    assert [len(x) for x in products if x.shape[-1] == 2 * 8] == [2 * 16]


def test_initial_weights_of_the_attention() -> None:
    """Positions start at zero; the in-projection is drawn as one matrix."""
    made = CrossAttention(192, 64, heads=4, dropout=0.1)
    assert (made.query_position == 0).all()
    assert (made.context_position == 0).all()
    assert (made.in_bias == 0).all()
    assert (made.out.bias == 0).all()
    for weight, bound in ((made.in_weight, (6 / (4 * 192)) ** 0.5), (made.out.weight, 192**-0.5)):
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound * (1 + 1e-6)


def test_dropout_acts_in_training_only() -> None:
    made = attention(dropout=0.5)
    x, context = torch.randn(4, 8, 4, 4), torch.randn(2, 1, 8, 4, 4)
    made.eval()
    assert torch.equal(made(x, context, 1.0), made(x, context, 1.0))
    made.train()
    read = made.attend(x, context, 1.0, weights=False)[0]
    assert 0.3 < float((read == 0).float().mean()) < 0.7


# The decoder


def kept(made: ContextDecoder) -> list[int]:
    """Tokens that a frame sees at each scale that is read, in one decoding."""
    with Operators() as seen:
        image(made, torch.randn(2, 3, 12), draw_context())
    return [args[1] for args, _ in seen.named("aten::topk")]


def test_a_quarter_of_the_tokens_is_kept_in_training() -> None:
    assert kept(decoder().train()) == [16, 64]
    assert kept(decoder(keep=0.5).train()) == [32, 128]


@pytest.mark.parametrize(
    ("calls", "expected"), [(0, []), (250, [4, 16]), (500, [8, 32]), (1000, [16, 64])]
)
def test_the_mask_warms_up(calls: int, expected: list[int]) -> None:
    made = decoder(mask_warmup=1000).train()
    made.calls.fill_(calls)
    assert kept(made) == expected
    assert int(made.calls) == calls + 1
    assert kept(decoder(mask_warmup=1000).eval()) == []  # all tokens, so none is drawn


def capturing_learner(**settings: Any) -> Learner:
    parts = {"decoder": partial(ContextDecoder, depth=2, heads=2, **settings)}
    optimizers = dict.fromkeys(PREFIXES, partial(Adam, lr=1e-3))
    agent = contextwm_agent(model=parts)
    return Learner(agent, groups=PREFIXES, optimizers=optimizers, capture=True)


def test_a_decoder_that_counts_its_calls_is_not_captured() -> None:
    assert capturing_learner()
    with pytest.raises(BadGroups, match="ContextDecoder has a schedule") as refused:
        capturing_learner(mask_warmup=10)
    assert refused.value.where == ["world_model.decoder, with Learner.capture = True"]


def test_without_a_token_the_context_is_not_read() -> None:
    made = decoder(mask_warmup=1000).train()
    features = torch.randn(2, 3, 12)
    a = image(made, features, draw_context())
    made.calls.zero_()
    assert torch.equal(a, image(made, features, draw_context()))
    made.calls.fill_(1000)
    assert not torch.equal(a, image(made, features, draw_context()))


def test_decoding_in_evaluation_draws_nothing() -> None:
    made, features, context = decoder().eval(), torch.randn(2, 3, 12), draw_context()
    state = torch.get_rng_state()
    first = image(made, features, context)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, image(made, features, context))


def test_the_parity_switch_masks_in_evaluation_too() -> None:
    made, features, context = decoder(mask_in_eval=True).eval(), torch.randn(2, 3, 12), None
    shaken(made)
    context = draw_context()
    assert kept(made) == [16, 64]
    assert not torch.equal(image(made, features, context), image(made, features, context))


@pytest.mark.parametrize("augmented_skip", [False, True])
def test_the_skip_path_takes_the_plain_features_unless_told(augmented_skip: bool) -> None:
    made = shaken(decoder(augmented_skip=augmented_skip)).eval()
    assert isinstance(made, ContextDecoder)
    context = draw_context()
    for i, name in enumerate(SCALES):
        shape = context_specs()[name].shape
        x = torch.randn(6, *shape[1:])
        block = made.stages[i][0]  # type: ignore[index]
        with torch.no_grad():
            reads = made.attentions[i](x, context[name], 1.0)
            h = F.relu(block.norm1(block.conv1(reads)))
            h = block.norm2(block.conv2(h))
            expected = F.relu((reads if augmented_skip else x) + h)
            assert torch.equal(made.first_block(i, x, context), expected)
            other = F.relu((x if augmented_skip else reads) + h)
            assert not torch.equal(other, expected)
        assert_allclose(reads, numpy_augmented(made.attentions[i], x, context[name]), atol=1e-5)


def test_each_segment_reads_its_own_context() -> None:
    made = shaken(decoder()).eval()
    features, context = torch.randn(3, 2, 12), draw_context(3)
    before = image(made, features, context)
    context["scale_8"][1] += 1.0
    after = image(made, features, context)
    same = (before == after).flatten(2).all(-1)
    assert same.tolist() == [[True, True], [False, False], [True, True]]


def test_the_largest_stage_and_unnamed_scales_read_no_context() -> None:
    assert SCALES == ("scale_8", "scale_16")
    assert len(decoder().attentions) == 2
    assert len(decoder().stages) == 3


def test_a_context_that_does_not_fit_is_refused() -> None:
    wrong = context_specs(depth=DEPTH + 2)
    with pytest.raises(ValueError, match="this decoder reads"):
        ContextDecoder(FEATURES, PIXELS, wrong, depth=DEPTH)
    with pytest.raises(ValueError, match="use context_encoders"):
        ContextDecoder(FEATURES, PIXELS, None, depth=DEPTH)
    with pytest.raises(ValueError, match="do not divide into 3"):
        decoder(heads=3)
    with pytest.raises(ValueError, match="needs a context"):
        decoder()(torch.zeros(1, 1, 12))


# Concatenation


def concat(frames: int = 1) -> ConcatContextDecoder:
    return ConcatContextDecoder(FEATURES, PIXELS, context_specs(frames), depth=DEPTH)


def test_the_first_convolution_of_the_ablation_reads_both() -> None:
    made = concat()
    shapes = [tuple(stage[0].conv1.weight.shape) for stage in made.stages]  # type: ignore[index]
    assert shapes == [(16, 32, 3, 3), (8, 16, 3, 3), (4, 4, 3, 3)]
    plain = ResNetDecoder(FEATURES, PIXELS, depth=DEPTH)
    mine = {k: v.shape for k, v in made.state_dict().items() if "0.conv1" not in k}
    theirs = {k: v.shape for k, v in plain.state_dict().items() if "0.conv1" not in k}
    assert mine == theirs


def test_the_ablation_puts_features_first_and_skips_them_alone() -> None:
    made = shaken(concat()).eval()
    assert isinstance(made, ConcatContextDecoder)
    context = draw_context()
    x = torch.randn(6, 16, 8, 8)
    block = made.stages[0][0]  # type: ignore[index]
    with torch.no_grad():
        joined = torch.stack(
            [torch.cat([x[n], context["scale_8"][n // 3, 0]]) for n in range(len(x))]
        )
        h = block.norm2(block.conv2(F.relu(block.norm1(block.conv1(joined)))))
        assert_allclose(made.first_block(0, x, context), F.relu(x + h), atol=1e-6)


def test_the_ablation_takes_one_frame() -> None:
    with pytest.raises(ValueError, match="one context frame, not 2"):
        concat(frames=2)


# Published sizes


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_counts() -> None:
    specs = context_specs(depth=48)
    with torch.device("meta"):
        made = ContextDecoder(ArraySpec((2048,)), PIXELS, specs)
        ablation = ConcatContextDecoder(ArraySpec((2048,)), PIXELS, specs)
    assert parameters(made) == 7_779_003
    assert parameters(ablation) == 7_933_947
    assert [parameters(each) for each in made.attentions] == [173_184, 86_592]
    stages = [
        parameters(s) + parameters(a) for s, a in zip(made.stages, made.attentions, strict=False)
    ]
    assert [parameters(made.inputs), *stages] == [6_294_528, 1_105_344, 319_968]
    assert [parameters(made.stages[2]), parameters(made.output)] == [58_512, 651]
    for each, projections, norm, positions in zip(
        made.attentions, (148_224, 37_248), (384, 192), (24_576, 49_152), strict=True
    ):
        assert isinstance(each, CrossAttention)
        mha = each.in_weight.numel() + each.in_bias.numel() + parameters(each.out)
        assert [mha, parameters(each.norm)] == [projections, norm]
        assert each.query_position.numel() + each.context_position.numel() == positions
