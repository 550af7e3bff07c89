"""The simulator of `envs.two_movers`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wmplatform.envs import Frame, Simulator

__all__ = ["Movers"]

SQUARE, DISC = (235, 120, 30), (40, 210, 220)
"""Colours of what is controlled and of what is not."""
PERSISTENCE = 0.7
"""Share of the disc's velocity that stays from one frame to the next."""


class Movers(Simulator):
    """A square, a disc, and a smooth background of few dark colours.

    Args:
        size: side of the picture in pixels.
        speed: pixels a frame at the largest action, in each direction.
        backgrounds: how many there are.
        objects: also show the objects' true masks.
    """

    def __init__(self, size: int, speed: float, *, backgrounds: int, objects: bool) -> None:
        self.size, self.speed, self.objects = size, speed, objects
        self.half = size * 0.14
        """Half the square's side and the disc's radius, in pixels."""
        self._random = np.random.default_rng()
        self._row, self._column = np.mgrid[:size, :size] + 0.5
        self._backgrounds = [_background(size, number) for number in range(backgrounds)]
        self._background = self._backgrounds[0]
        self._square = self._disc = self._velocity = np.zeros(2)

    def reset(self, seed: int | None) -> Mapping[str, float]:
        """Choose a background and places for both."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._background = self._backgrounds[self._random.integers(len(self._backgrounds))]
        low, high = self.half, self.size - self.half
        self._square, self._disc = self._random.uniform(low, high, size=(2, 2))
        self._velocity = self._random.uniform(-1, 1, size=2)
        return {}

    def advance(self, action: Any) -> Frame:
        """Move both; the disc bounces off the border, the square stops there."""
        low, high = self.half, self.size - self.half
        moved = self._square + self.speed * np.asarray(action, np.float64)
        self._square = np.clip(moved, low, high)
        kick = self._random.normal(size=2) * np.sqrt(1 - PERSISTENCE**2)
        self._velocity = np.clip(PERSISTENCE * self._velocity + kick, -1, 1)
        moved = self._disc + self.speed * self._velocity
        self._velocity = np.where((moved < low) | (moved > high), -self._velocity, self._velocity)
        self._disc = np.clip(moved, low, high)
        gap = float(np.linalg.norm(self._square - self._disc))
        return Frame(reward=1.0 - gap / self.size)

    def observe(self) -> Mapping[str, NDArray[Any]]:
        """Draw the disc, and the square over it."""
        square, disc = self._masks()
        picture = self._background.copy()
        picture[disc] = DISC
        picture[square] = SQUARE
        seen = {"pixels": picture.transpose(2, 0, 1)}
        if self.objects:
            seen["objects"] = np.stack([square, disc & ~square]).astype(np.uint8)
        return seen

    def _masks(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Pixels whose centre each one covers."""
        (y, x), (v, u) = self._square, self._disc
        square = np.maximum(abs(self._row - y), abs(self._column - x)) <= self.half
        disc = np.hypot(self._row - v, self._column - u) <= self.half
        return square, disc


def _background(size: int, number: int) -> NDArray[np.uint8]:
    """A smooth picture `[size, size, 3]` of dark colours; the same for a number, always."""
    colours = np.random.default_rng(number).integers(20, 110, size=(4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC))
