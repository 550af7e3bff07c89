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


MUTANTS = {
    MixesNeighbours: "law_2_rows_do_not_mix",
    ShiftsAllAlike: "law_2_frames_are_drawn_independently",
    BrightensOutOfRange: "law_1_keeps_shape_dtype_and_range",
    AlwaysCentres: "law_1_keeps_shape_dtype_and_range",
    Crops: "law_1_keeps_shape_dtype_and_range",
    WritesIntoItsInput: "law_1_keeps_shape_dtype_and_range",
    DrawsFromNumPy: "law_3_equal_random_states_agree",
}
