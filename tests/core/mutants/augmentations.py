"""Augmentations that each break one law."""

import numpy as np
import torch
from torch import Tensor

from ..reference_components import Shift


class MixesNeighbours(Shift):
    def forward(self, images: Tensor) -> Tensor:
        out = super().forward(images)
        return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, out, out.roll(1, 0))


class ShiftsAllAlike(Shift):
    def forward(self, images: Tensor) -> Tensor:
        return images.roll(int(torch.randint(1, 4, ())), -1)


class BrightensOutOfRange(Shift):
    def forward(self, images: Tensor) -> Tensor:
        out = super().forward(images)
        return out + 0.3 if out.is_floating_point() else out


class AlwaysCentres(Shift):
    def forward(self, images: Tensor) -> Tensor:
        out = super().forward(images)
        return out if out.is_floating_point() else out / 255 - 0.5


class Crops(Shift):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[..., 1:-1, 1:-1]


class WritesIntoItsInput(Shift):
    def forward(self, images: Tensor) -> Tensor:
        images[:, :, :2] = 0
        return super().forward(images)


class DrawsFromNumPy(Shift):
    def forward(self, images: Tensor) -> Tensor:
        flip = torch.from_numpy(np.random.default_rng().random(len(images)) < 0.5)
        return torch.where(flip[:, None, None, None], images.flip(-1), images)


class ShiftsHalvesAlike(Shift):
    """One draw for two images: a batch of pairs that differ in nothing that was drawn."""

    def forward(self, images: Tensor) -> Tensor:
        state = torch.get_rng_state()
        halves = []
        for half in images.split(max(1, (len(images) + 1) // 2)):
            torch.set_rng_state(state)
            halves.append(super().forward(half))
        return torch.cat(halves)


class ShiftsNeighboursAlike(Shift):
    def forward(self, images: Tensor) -> Tensor:
        offset = torch.randint(-2, 3, ((len(images) + 1) // 2,)).repeat_interleave(2)
        index = (torch.arange(images.shape[-1]) + offset[: len(images), None]) % images.shape[-1]
        return images.gather(-1, index[:, None, None, :].expand_as(images))


class DrawsOnce(Shift):
    """What was drawn for the first batch serves for all."""

    offset: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.offset is None:
            self.offset = torch.randint(-2, 3, (1000, 1))
        index = (torch.arange(images.shape[-1]) + self.offset[: len(images)]) % images.shape[-1]
        return images.gather(-1, index[:, None, None, :].expand_as(images))


class ShiftsChannelsApart(Shift):
    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(0, 1).unsqueeze(1)
        return super().forward(flat).view_as(images)


class ShiftsFramesApart(Shift):
    """Every three channels, a frame of a stack, by themselves: the movement in it is gone."""

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] % 3:
            return super().forward(images)
        flat = images.unflatten(1, (-1, 3)).flatten(0, 1)
        return super().forward(flat).view_as(images)


class ShiftsTheNewestFrame(Shift):
    def forward(self, images: Tensor) -> Tensor:
        out = images.clone()
        out[:, -3:] = super().forward(images[:, -3:])
        return out


class OnlyInTrainMode(Shift):
    """Agents are in eval mode: it would never do anything."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if self.training else images


class ErasesInBlackOrGrey(Shift):
    """Zero is black in bytes and mid-grey in centred floats."""

    def forward(self, images: Tensor) -> Tensor:
        out = super().forward(images)
        out[..., :2, :2] = 0
        return out


class ShiftsBytesTheOtherWay(Shift):
    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            return super().forward(images)
        return super().forward(images.flip(-1)).flip(-1)


class BrightensSomeBytes(Shift):
    """Becomes a float where it has something to do."""

    def forward(self, images: Tensor) -> Tensor:
        out = super().forward(images)
        return out * 0.5 if out.dtype == torch.uint8 and bool(torch.rand(()) < 0.5) else out


MUTANTS = {
    MixesNeighbours: "law_2_rows_do_not_mix",
    ShiftsAllAlike: "law_2_frames_are_drawn_independently",
    BrightensOutOfRange: "law_1_keeps_shape_dtype_and_range",
    AlwaysCentres: "law_1_keeps_shape_dtype_and_range",
    Crops: "law_1_keeps_shape_dtype_and_range",
    WritesIntoItsInput: "law_1_keeps_shape_dtype_and_range",
    DrawsFromNumPy: "law_3_equal_random_states_agree",
    ShiftsHalvesAlike: "law_2_frames_are_drawn_independently",
    ShiftsNeighboursAlike: "law_2_frames_are_drawn_independently",
    DrawsOnce: "law_3_equal_random_states_agree",
    ShiftsChannelsApart: "law_4_channels_and_frames_stay_together",
    ShiftsFramesApart: "law_4_channels_and_frames_stay_together",
    ShiftsTheNewestFrame: "law_4_channels_and_frames_stay_together",
    OnlyInTrainMode: "law_5_the_mode_does_not_matter",
    ErasesInBlackOrGrey: "law_6_bytes_and_floats_change_alike",
    ShiftsBytesTheOtherWay: "law_6_bytes_and_floats_change_alike",
    BrightensSomeBytes: "law_1_keeps_shape_dtype_and_range",
}
