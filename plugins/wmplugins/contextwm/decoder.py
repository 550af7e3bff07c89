"""Decoders that read the context: multi-scale cross-attention, and its concatenation ablation.

ContextWM section 4.2, equations 4 and 5. Shape letters: B segments, T time, N = B * T frames,
C channels, S = H * W positions of a scale, L = K * S context tokens, M kept tokens, h
heads.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn
from torch.nn import functional as F

from wmplatform.distributions import UnitNormal
from wmplatform.types import ArraySpec, Context, Distribution, Features, FeatureSpec
from wmplugins.blocks import Norm, ResidualBlock, as_vector
from wmplugins.dreamer.decoders import ResNetDecoder

__all__ = ["ConcatContextDecoder", "ContextDecoder", "CrossAttention"]

SCALES = ("scale_8", "scale_16")
"""Context of the first two decoder stages."""


class CrossAttention(nn.Module):
    """Attention from a frame's positions to the context's (ContextWM eq. 4).

    Queries are the rows of X plus a learned position, keys and values the rows of Z plus another.
    Both embeddings start at zero. Keys and values are projected once for each segment, not for
    each frame; frame by frame a random share of the tokens is kept.

    Parameters with 192 channels at 8x8: 173,184; with 96 at 16x16: 86,592.
    """

    def __init__(self, channels: int, positions: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} attention heads")
        self.heads, self.dropout = heads, dropout
        self.query_position = nn.Parameter(torch.zeros(positions, channels))
        self.context_position = nn.Parameter(torch.zeros(positions, channels))
        # One matrix for queries, keys and values, initialised as a whole.
        self.in_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_bias = nn.Parameter(torch.zeros(3 * channels))
        nn.init.xavier_uniform_(self.in_weight)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.bias)
        self.norm = nn.BatchNorm2d(channels)

    def keys_values(self, context_BKCHW: Tensor) -> Tensor:
        """Project the context's tokens, `[B, L, 2C]`, keys first."""
        tokens = context_BKCHW.flatten(3).transpose(2, 3) + self.context_position
        channels = tokens.shape[-1]
        return F.linear(tokens.flatten(1, 2), self.in_weight[channels:], self.in_bias[channels:])

    def forward(self, x_NCHW: Tensor, context_BKCHW: Tensor, keep: float) -> Tensor:
        """Augment features with the context: ReLU(X + R), `[N, C, H, W]`.

        Args:
            x_NCHW: N is a multiple of B; frames of a segment are adjacent.
            context_BKCHW: of the B segments.
            keep: share of the tokens that each frame may look at; 1 keeps all and draws nothing.
        """
        read, _ = self.attend(x_NCHW, context_BKCHW, keep, weights=False)
        return F.relu(x_NCHW + self.norm(read))

    def attend(
        self, x_NCHW: Tensor, context_BKCHW: Tensor, keep: float, *, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Read the context: R before its normalisation `[N, C, H, W]`.

        Returns:
            R, and with `weights` the attention averaged over heads `[N, S, M]`.
        """
        count, channels = x_NCHW.shape[:2]
        query = x_NCHW.flatten(2).transpose(1, 2) + self.query_position
        query = F.linear(query, self.in_weight[:channels], self.in_bias[:channels])
        pairs = self._kept(self.keys_values(context_BKCHW), count, keep)
        q, k, v = (self._split(part) for part in (query, *pairs.chunk(2, -1)))
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        read = F.dropout(self.out(read.transpose(1, 2).flatten(2)), self.dropout, self.training)
        seen = None
        if weights:
            seen = ((q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
        return read.transpose(1, 2).reshape(x_NCHW.shape), seen

    def _split(self, tokens: Tensor) -> Tensor:
        """Part channels into heads: `[N, M, C]` to `[N, h, M, C / h]`."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _kept(self, pairs_BLD: Tensor, count: int, keep: float) -> Tensor:
        """Keys and values of each frame, `[N, M, 2C]`: a share without replacement, or all."""
        segments, tokens, width = pairs_BLD.shape
        frames = count // segments
        if keep >= 1.0:
            return pairs_BLD.repeat_interleave(frames, 0)
        kept = int(keep * tokens)
        chosen = torch.rand(segments, frames * tokens, device=pairs_BLD.device)
        index = chosen.view(segments, frames, tokens).topk(kept, -1).indices.flatten(1)
        taken = pairs_BLD.gather(1, index.unsqueeze(-1).expand(-1, -1, width))
        return taken.view(count, kept, width)


class _ContextResNetDecoder(ResNetDecoder):
    """The ResNet decoder with a context in the first block of its first two stages."""

    context = "required"

    @classmethod
    def contract_wiring(cls) -> dict[str, object]:
        """Specs for the contract checks: a context of depth 2."""
        return {
            "context": {
                "scale_8": ArraySpec((1, 8, 8, 8)),
                "scale_16": ArraySpec((1, 4, 16, 16)),
            }
        }

    def _scales(
        self, context: Mapping[str, ArraySpec] | None, depth: int, height: int
    ) -> list[tuple[int, int, int]]:
        """Frames, channels and side of the context at each scale, checked.

        Raises:
            ValueError: the context encoder does not give what this decoder reads.
        """
        expected = [(4 * depth, height // 8), (2 * depth, height // 4)]
        found = []
        for name, (channels, side) in zip(SCALES, expected, strict=True):
            shape = context[name].shape if context and name in context else ()
            if len(shape) != 4 or shape[1:3] != (channels, side):
                raise ValueError(
                    f"context {name!r} has shape {shape}, this decoder reads "
                    f"(frames, {channels}, {side}, {side}); use context_encoders.resnet"
                )
            found.append((shape[0], channels, side))
        return found

    def forward(
        self, features: Features, context: Context | None = None
    ) -> dict[str, Distribution]:
        """Decode `[B, T, F]` with the context of each segment."""
        if context is None:
            raise ValueError(f"{type(self).__name__} needs a context")
        f_BTF = as_vector(features)
        x_NCHW = self.image_with(f_BTF.flatten(0, -2), context)
        images = x_NCHW.reshape(*f_BTF.shape[:-1], *x_NCHW.shape[1:])
        return {self.keys[0]: UnitNormal(images, event_dims=3)}

    def image_with(self, f_NF: Tensor, context: Context) -> Tensor:
        """Decode `[N, F]` to `[N, C, H, W]`."""
        x = self.inputs(f_NF).reshape(-1, *self._start)
        for i, stage in enumerate(self.stages):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            assert isinstance(stage, nn.Sequential)
            first = self.first_block(i, x, context) if i < len(SCALES) else stage[0](x)
            x = stage[1](first)
        y: Tensor = self.output(x)
        return y

    def first_block(self, i: int, x_NCHW: Tensor, context: Context) -> Tensor:
        """Run the first residual block of stage i on features and context."""
        raise NotImplementedError

    def _first(self, i: int) -> ResidualBlock:
        stage = self.stages[i]
        assert isinstance(stage, nn.Sequential)
        block = stage[0]
        assert isinstance(block, ResidualBlock)
        return block


class ContextDecoder(_ContextResNetDecoder):
    """ResNet decoder with cross-attention to the context at 8x8 and 16x16 (ContextWM eq. 4, 5).

    Block output: ReLU(skip(X) + h(X~)) with X~ = ReLU(X + R). The skip path takes X as it is;
    eq. 5 reads as if X~ replaced it, which `augmented_skip` does. Each frame sees a random quarter
    of the context's tokens in training, and all of them in evaluation unless `mask_in_eval`.

    Parameters at depth 48, F = 2048, 3 channels, 64x64: 7,779,003.
    """

    calls: Tensor

    def __init__(
        self,
        features: FeatureSpec,
        observations: Mapping[str, ArraySpec],
        context: Mapping[str, ArraySpec] | None = None,
        *,
        depth: Annotated[int, Ge(2)] = 48,
        norm: Norm = "batch",
        key: str = "pixels",
        heads: Annotated[int, Ge(1)] = 4,
        dropout: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.1,
        keep: Annotated[float, Interval(gt=0.0, le=1.0)] = 0.25,
        mask_in_eval: bool = False,
        mask_warmup: Annotated[int, Ge(0)] = 0,
        augmented_skip: bool = False,
    ) -> None:
        """Build the network.

        Args:
            features: spec of the view `decode`.
            observations: specs of the observation keys.
            context: specs of the context.
            depth: channels of the last stage's input.
            norm: of the residual blocks.
            key: the image that is made.
            heads: of the attention.
            dropout: of attention weights and of the attention's output.
            keep: share of the context's tokens that each frame may look at in training.
            mask_in_eval: also in evaluation mode; decoding is then random there.
            mask_warmup: training calls over which the share grows from 0 to `keep`; 0 for none.
                While it is too small for a token, the context is not read.
            augmented_skip: the skip path takes X~ as well.
        """
        super().__init__(features, observations, context, depth=depth, norm=norm, key=key)
        self.keep, self.mask_in_eval = keep, mask_in_eval
        self.mask_warmup, self.augmented_skip = mask_warmup, augmented_skip
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        scales = self._scales(context, depth, observations[key].shape[1])
        self.attentions = nn.ModuleList(
            CrossAttention(channels, side * side, heads=heads, dropout=dropout)
            for _, channels, side in scales
        )

    def share_kept(self) -> float:
        """Share of the tokens that a frame may look at now.

        With a warm-up this reads the call counter, and so waits for the device: such a decoder is
        not `capturable`.
        """
        if not self.training and not self.mask_in_eval:
            return 1.0
        if self.mask_warmup:
            return self.keep * min(1.0, int(self.calls) / self.mask_warmup)
        return self.keep

    @property
    def capturable(self) -> bool:
        """Not with a warm-up, whose call counter decides on the host how many tokens are kept."""
        return self.mask_warmup == 0

    def image_with(self, f_NF: Tensor, context: Context) -> Tensor:
        """Decode `[N, F]` to `[N, C, H, W]`."""
        image = super().image_with(f_NF, context)
        if self.training and self.mask_warmup:
            self.calls.add_(1)
        return image

    def first_block(self, i: int, x_NCHW: Tensor, context: Context) -> Tensor:
        """Attend to the context, then run the block with the plain features on its skip path."""
        block = self._first(i)
        keep, tokens = self.share_kept(), context[SCALES[i]]
        if int(keep * tokens.shape[1] * tokens.shape[3] * tokens.shape[4]) == 0:
            return block.body(x_NCHW, x_NCHW)
        augmented = self.attentions[i](x_NCHW, tokens, keep)
        return block.body(augmented, augmented if self.augmented_skip else x_NCHW)

    def attention(self, features: Features, context: Context) -> dict[str, Tensor]:
        """Weights at `scale_8` and `scale_16`, all tokens kept, whatever `mask_in_eval` says."""
        found = {}
        x = self.inputs(as_vector(features).flatten(0, -2)).reshape(-1, *self._start)
        for i, (name, attends) in enumerate(zip(SCALES, self.attentions, strict=True)):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            assert isinstance(attends, CrossAttention)
            read, weights = attends.attend(x, context[name], 1.0, weights=True)
            assert weights is not None
            found[name] = weights
            augmented = F.relu(x + attends.norm(read))
            first = self._first(i).body(augmented, augmented if self.augmented_skip else x)
            stage = self.stages[i]
            assert isinstance(stage, nn.Sequential)
            x = stage[1](first)
        return found

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"depth": 2, "heads": 2}


class ConcatContextDecoder(_ContextResNetDecoder):
    """The concatenation ablation (ContextWM section 5.4): context channels beside the features.

    The first convolution of the block reads both, the skip path X alone; there is no attention.
    Parameters at depth 48, F = 2048, 3 channels, 64x64: 7,933,947.
    """

    def __init__(
        self,
        features: FeatureSpec,
        observations: Mapping[str, ArraySpec],
        context: Mapping[str, ArraySpec] | None = None,
        *,
        depth: Annotated[int, Ge(2)] = 48,
        norm: Norm = "batch",
        key: str = "pixels",
    ) -> None:
        """Build the network.

        Args:
            features: spec of the view `decode`.
            observations: specs of the observation keys.
            context: specs of the context, of one frame.
            depth: channels of the last stage's input.
            norm: of the residual blocks.
            key: the image that is made.
        """
        super().__init__(features, observations, context, depth=depth, norm=norm, key=key)
        for i, (frames, channels, _) in enumerate(
            self._scales(context, depth, observations[key].shape[1])
        ):
            if frames != 1:
                raise ValueError(f"decoders.concat takes one context frame, not {frames}")
            block = self._first(i)
            block.conv1 = nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False)

    def first_block(self, i: int, x_NCHW: Tensor, context: Context) -> Tensor:
        """Run the block on features and context side by side."""
        block = self._first(i)
        beside = context[SCALES[i]][:, 0]
        frames = len(x_NCHW) // len(beside)
        joined = torch.cat([x_NCHW, beside.repeat_interleave(frames, 0)], 1)
        return block.body(joined, x_NCHW)

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"depth": 2}
