"""What an episode may look like: the seven factors and their ranges, as DMC Remastered has them.

Importing this file imports neither dm_control nor MuJoCo.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

__all__ = ["DOMAINS", "FACTORS", "Domain", "Factor", "Look", "draw_look", "stream"]

Factor: TypeAlias = Literal[
    "floor", "background", "body", "target", "reflectance", "camera", "light"
]

FACTORS: tuple[Factor, ...] = get_args(Factor)
"""Names of the factors."""

Vector: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class Range:
    """A box of vectors."""

    low: Vector
    high: Vector

    def draw(self, random: np.random.Generator) -> Vector:
        """Draw a vector, uniformly."""
        return tuple(random.uniform(self.low, self.high).tolist())


@dataclass(frozen=True)
class Domain:
    """Where a domain's camera and light may be."""

    camera: Range
    """Position of camera 0, in metres, as its XML gives it."""
    tilt: Range | None = None
    """Its Euler angles (x, y, z) in degrees; None leaves them alone."""
    light: Range | None = None
    """Position of the light, in metres; None leaves it alone."""
    floor: tuple[float, float] | None = None
    """Half the drawn length and width of the floor, in metres, if not the suite's."""


DOMAINS: Mapping[str, Domain] = {
    "cheetah": Domain(
        camera=Range((-0.25, -3.2, -0.25), (0.25, -2.8, 0.25)),
        light=Range((-2.0, -2.0, 1.0), (2.0, 2.0, 5.0)),
        floor=(100.0, 15.0),  # reaches the background in every view; physics ignores it
    ),
    "hopper": Domain(
        camera=Range((-0.15, -3.0, 0.6), (0.15, -2.6, 1.0)),
        tilt=Range((85.0, -5.0, -5.0), (95.0, 5.0, 5.0)),
    ),
    "walker": Domain(camera=Range((-0.3, -2.05, 0.6), (0.3, -1.95, 0.8))),
}
"""The domains and their ranges."""

_COLOUR = Range((0.0, 0.0, 0.0, 0.75), (1.0, 1.0, 1.0, 1.0))
"""RGBA: slightly transparent at times."""


@dataclass(frozen=True)
class Look:
    """The values of one visual seed, pictures aside."""

    visual_seed: int
    body: Vector
    """RGBA of the robot."""
    effector: Vector
    """RGBA of what it grasps with; part of factor `body`."""
    target: Vector
    """RGBA of targets."""
    reflectance: float
    """Of the floor."""
    ambient: Vector
    """RGB of the light that comes with the camera, and so the next two."""
    diffuse: Vector
    specular: Vector
    light: Vector | None
    """Position of the scene's own light."""
    camera: Vector
    """Position of camera 0."""
    tilt: Vector | None
    """Euler angles of camera 0 in degrees."""


def draw_look(visual_seed: int, domain: Domain) -> Look:
    """Draw the values of a visual seed, always the same.

    Each factor draws from a stream of its own, so that a change to one moves no other.
    """
    body, light = stream(visual_seed, "body"), stream(visual_seed, "light")
    camera = stream(visual_seed, "camera")
    return Look(
        visual_seed,
        body=_COLOUR.draw(body),
        effector=_COLOUR.draw(body),
        target=_COLOUR.draw(stream(visual_seed, "target")),
        reflectance=float(stream(visual_seed, "reflectance").uniform(0.0, 0.5)),
        ambient=_tinted(light, 0.1, 0.8, tint=0.05),
        diffuse=_tinted(light, 0.4, 0.9, tint=0.1),
        specular=_tinted(light, 0.05, 0.3, tint=0.02),
        light=None if domain.light is None else domain.light.draw(light),
        camera=domain.camera.draw(camera),
        tilt=None if domain.tilt is None else domain.tilt.draw(camera),
    )


def stream(visual_seed: int, factor: Factor) -> np.random.Generator:
    """Return the generator of one factor of one visual seed."""
    return np.random.default_rng([visual_seed, zlib.crc32(factor.encode())])


def _tinted(random: np.random.Generator, low: float, high: float, *, tint: float) -> Vector:
    """Draw a brightness, and an RGB within `tint` of it."""
    brightness = random.uniform(low, high)
    return tuple((brightness + random.uniform(-tint, tint, 3)).tolist())
