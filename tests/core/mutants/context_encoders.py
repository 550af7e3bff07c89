"""Context encoders that each break one law."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wmplatform.types import ArraySpec, Context

from ..reference_components import RandomFrame


class TakesTheNextRowsFrame(RandomFrame):
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        return super().select(pixels, observed).roll(1, 0)


class TakesUnobservedFrames(RandomFrame):
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        return super().select(pixels)


class TakesNoFrame(RandomFrame):
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        return torch.zeros_like(super().select(pixels, observed))


class KeepsUint8(RandomFrame):
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        return pixels[:, :1]


class KeepsTheGradient(RandomFrame):
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        if pixels.is_floating_point():
            return pixels[:, :1]
        return super().select(pixels, observed)


class Brightens(RandomFrame):
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        return super().select(pixels, observed) + 0.2


class MixesRows(RandomFrame):
    def forward(self, frames: Tensor) -> Context:
        static = super().forward(frames)["static"]
        return {"static": static - static.mean(0, keepdim=True)}


class IgnoresItsFrames(RandomFrame):
    def forward(self, frames: Tensor) -> Context:
        return super().forward(torch.zeros_like(frames))


class DeclaresAnotherWidth(RandomFrame):
    @property
    def context_specs(self) -> Mapping[str, ArraySpec]:
        return {"static": ArraySpec((self.width + 1,))}


class KeepsTheFrameDim(RandomFrame):
    def forward(self, frames: Tensor) -> Context:
        return {"static": super().forward(frames)["static"].unsqueeze(1)}


class HasAnUnusedLayer(RandomFrame):
    def __init__(self, observations: Mapping[str, ArraySpec], *, width: int = 5) -> None:
        super().__init__(observations, width=width)
        self.unused = nn.Linear(2, 2)


MUTANTS = {
    TakesTheNextRowsFrame: "law_1_frames_come_from_their_row",
    TakesUnobservedFrames: "law_1_only_observed_records",
    TakesNoFrame: "law_1_frames_come_from_their_row",
    KeepsUint8: "law_1_frames_are_centred_and_detached",
    KeepsTheGradient: "law_1_frames_are_centred_and_detached",
    Brightens: "law_1_frames_are_centred_and_detached",
    MixesRows: "law_2_rows_do_not_mix",
    IgnoresItsFrames: "law_2_rows_do_not_mix",
    DeclaresAnotherWidth: "law_2_context_as_declared",
    KeepsTheFrameDim: "law_2_context_as_declared",
    HasAnUnusedLayer: "law_4_gradients_reach_parameters",
}
