"""Decoders that each break one law."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wmplatform.distributions import UnitNormal
from wmplatform.types import ArraySpec, Context, Distribution, Features

from ..reference_components import ContextDecoder, OptionalContextDecoder, PlainDecoder

Images = dict[str, Distribution]


class IgnoresTheContext(ContextDecoder):
    def background(self, context: Context) -> Tensor:
        return 0 * super().background(context)


class UsesTheNextRowsContext(ContextDecoder):
    def background(self, context: Context) -> Tensor:
        return super().background(context).roll(1, 0)


class AveragesContexts(ContextDecoder):
    def background(self, context: Context) -> Tensor:
        x = super().background(context)
        return x + x.mean(0, keepdim=True)


class UsesTheFirstRowsContext(ContextDecoder):
    def background(self, context: Context) -> Tensor:
        x = super().background(context)
        return x[:1].expand_as(x)


class AcceptsARefusedContext(PlainDecoder):
    def forward(self, features: Features, context: Context | None = None) -> Images:
        return super().forward(features)


class MakesUpAMissingContext(ContextDecoder):
    def forward(self, features: Features, context: Context | None = None) -> Images:
        assert isinstance(features, Tensor)
        width = self.static.in_features
        context = {"static": torch.zeros(len(features), width)} if context is None else context
        return super().forward(features, context)


class NeedsAnOptionalContext(OptionalContextDecoder):
    def forward(self, features: Features, context: Context | None = None) -> Images:
        if context is None:
            raise ValueError("optional, but missing")
        return super().forward(features, context)


class MixesFrames(PlainDecoder):
    def image(self, features: Features) -> Tensor:
        x = super().image(features)
        return x + x.mean(1, keepdim=True) if x.dim() > 4 else x


class MixesRows(PlainDecoder):
    def image(self, features: Features) -> Tensor:
        x = super().image(features)
        return x - x.mean(0, keepdim=True) if x.dim() > 3 else x


class IgnoresTheFeatures(PlainDecoder):
    def image(self, features: Features) -> Tensor:
        return 0 * super().image(features)


class DropsOutInEval(PlainDecoder):
    def image(self, features: Features) -> Tensor:
        return nn.functional.dropout(super().image(features), 0.5, training=True)


class DrawsInEval(PlainDecoder):
    def image(self, features: Features) -> Tensor:
        torch.rand(1)
        return super().image(features)


class ChannelsLast(PlainDecoder):
    def image(self, features: Features) -> Tensor:
        return super().image(features).movedim(-3, -1)


class NamesAnotherKey(PlainDecoder):
    keys = ("image",)


class DistributionOfPixels(PlainDecoder):
    """The likelihood is one number a pixel instead of one an image."""

    def forward(self, features: Features, context: Context | None = None) -> Images:
        super().forward(features, context)
        return {"pixels": UnitNormal(self.image(features), event_dims=0)}


class _OffCentre(UnitNormal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value + 0.5)


class ExpectsImagesFromZeroToOne(PlainDecoder):
    def forward(self, features: Features, context: Context | None = None) -> Images:
        super().forward(features, context)
        return {"pixels": _OffCentre(self.image(features), event_dims=3)}


class CutsTheFeatures(PlainDecoder):
    def image(self, features: Features) -> Tensor:
        assert isinstance(features, Tensor)
        return super().image(features.detach())


class HasAnUnusedLayer(PlainDecoder):
    def __init__(
        self, features: Any, observations: Mapping[str, ArraySpec], context: Any = None
    ) -> None:
        super().__init__(features, observations, context)
        self.unused = nn.Linear(2, 2)


MUTANTS = {
    IgnoresTheContext: "law_3_rows_use_their_own_context",
    UsesTheNextRowsContext: "law_3_rows_use_their_own_context",
    AveragesContexts: "law_3_rows_use_their_own_context",
    UsesTheFirstRowsContext: "law_3_rows_use_their_own_context",
    AcceptsARefusedContext: "law_2_context_as_declared",
    MakesUpAMissingContext: "law_2_context_as_declared",
    NeedsAnOptionalContext: "law_2_context_as_declared",
    MixesFrames: "law_3_frames_do_not_mix",
    MixesRows: "law_3_frames_do_not_mix",
    IgnoresTheFeatures: "law_3_frames_do_not_mix",
    DropsOutInEval: "law_5_eval_is_deterministic",
    DrawsInEval: "law_5_eval_is_deterministic",
    ChannelsLast: "law_1_images_as_declared",
    NamesAnotherKey: "law_1_images_as_declared",
    DistributionOfPixels: "law_1_images_as_declared",
    ExpectsImagesFromZeroToOne: "law_1_likelihood_is_highest_at_the_mode",
    CutsTheFeatures: "law_4_gradients_reach_features_and_parameters",
    HasAnUnusedLayer: "law_4_gradients_reach_features_and_parameters",
}
