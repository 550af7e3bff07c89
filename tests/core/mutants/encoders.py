"""Encoders that each break one law."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wmplatform.types import ArraySpec

from ..reference_components import LinearEncoder

Frames = Mapping[str, Tensor]
Embeds = dict[str, Tensor]


class MixesRows(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        embed = super().forward(observations)["embed"]
        lead = tuple(range(embed.dim() - 1))
        return {"embed": embed - embed.mean(lead, keepdim=True) if lead else embed}


class MixesTime(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        embed = super().forward(observations)["embed"]
        return {"embed": embed.cumsum(-2) if embed.dim() > 2 else embed}


class BatchNormAlwaysInTrainMode(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        embed = super().forward(observations)["embed"]
        flat = embed.reshape(-1, self.width)
        if len(flat) > 1:
            flat = nn.functional.batch_norm(flat, None, None, training=True)
        return {"embed": flat.reshape(embed.shape)}


class RemembersTheLastFrame(LinearEncoder):
    last: Tensor | float = 0.0

    def forward(self, observations: Frames) -> Embeds:
        embed = super().forward(observations)["embed"]
        out, self.last = embed + self.last, embed.detach().mean()
        return {"embed": out}


class IgnoresTheFrame(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        return {"embed": super().forward(observations)["embed"] * 0 + self.linear.bias}


class NeedsABatchDim(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        pixels = observations[self.key]
        return super().forward({self.key: pixels.reshape(len(pixels), -1, *pixels.shape[-3:])})


class NeverScalesUint8(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        return super().forward({self.key: observations[self.key].float()})


class ScalesTwice(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        pixels = observations[self.key].float() / 255 - 0.5
        return super().forward({self.key: pixels})


class DeclaresAnotherWidth(LinearEncoder):
    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        return {"embed": ArraySpec((self.width + 1,))}


class DeclaresAnotherName(LinearEncoder):
    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        return {"feature": ArraySpec((self.width,))}


class GivesDoubles(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        return {"embed": super().forward(observations)["embed"].double()}


class GivesNaN(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        embed = super().forward(observations)["embed"]
        return {"embed": torch.log(embed)}


class WritesIntoItsInput(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        observations[self.key].clamp_(max=200)
        return super().forward(observations)


class RefusesForeignKeys(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        if set(observations) != {self.key}:
            raise KeyError("only pixels, please")
        return super().forward(observations)


class HasAnUnusedLayer(LinearEncoder):
    def __init__(self, observations: Mapping[str, ArraySpec], **settings: Any) -> None:
        super().__init__(observations, **settings)
        self.unused = nn.Linear(2, 2)


class CutsTheGradient(LinearEncoder):
    def forward(self, observations: Frames) -> Embeds:
        return {"embed": super().forward(observations)["embed"].detach()}


MUTANTS = {
    MixesRows: "law_1_frames_do_not_mix",
    MixesTime: "law_1_frames_do_not_mix",
    BatchNormAlwaysInTrainMode: "law_1_frames_do_not_mix",
    RemembersTheLastFrame: "law_1_no_state",
    IgnoresTheFrame: "law_1_frames_do_not_mix",
    NeedsABatchDim: "law_2_leading_dims_are_free",
    NeverScalesUint8: "law_3_uint8_equals_centred_float",
    ScalesTwice: "law_3_uint8_equals_centred_float",
    DeclaresAnotherWidth: "law_4_outputs_as_declared",
    DeclaresAnotherName: "law_4_outputs_as_declared",
    GivesDoubles: "law_4_outputs_as_declared",
    GivesNaN: "law_4_outputs_as_declared",
    WritesIntoItsInput: "law_4_outputs_as_declared",
    RefusesForeignKeys: "law_4_outputs_as_declared",
    HasAnUnusedLayer: "law_5_gradients_reach_parameters",
    CutsTheGradient: "law_5_gradients_reach_parameters",
}
