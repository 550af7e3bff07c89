"""What can be spawned: a few vehicles, a camera and a collision sensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BOOL, INT, FLOAT, STRING, COLOUR = 1, 2, 3, 4, 5
"""Kinds of attributes, as the protocol numbers them."""

_PAINTS = ["180,20,20", "20,60,160", "230,230,230", "30,30,30"]
CAR_TAG = 14


@dataclass(frozen=True, slots=True)
class Body:
    """Half the size of a vehicle in metres, and its weight."""

    half_length_m: float
    half_width_m: float
    half_height_m: float
    mass_kg: float
    wheels: int = 4


BODIES = {
    "vehicle.audi.a2": Body(1.85, 0.89, 0.77, 1200.0),
    "vehicle.lincoln.mkz_2020": Body(2.45, 0.92, 0.74, 1700.0),
    "vehicle.tesla.model3": Body(2.40, 1.08, 0.74, 1850.0),
    "vehicle.toyota.prius": Body(2.26, 1.00, 0.76, 1400.0),
    "vehicle.yamaha.yzf": Body(1.10, 0.43, 0.75, 300.0, wheels=2),
}


def _attribute(
    name: str, kind: int, value: str, recommended: list[str] | None = None, *, fixed: bool = False
) -> list[Any]:
    return [name, kind, value, recommended or [], not fixed, False]


def _vehicle(body: Body) -> list[list[Any]]:
    return [
        _attribute("number_of_wheels", INT, str(body.wheels), fixed=True),
        _attribute("generation", INT, "2", fixed=True),
        _attribute("base_type", STRING, "car" if body.wheels == 4 else "motorcycle", fixed=True),
        _attribute("special_type", STRING, "", fixed=True),
        _attribute("has_lights", BOOL, "true", fixed=True),
        _attribute("sticky_control", BOOL, "true"),
        _attribute("role_name", STRING, "autopilot", ["autopilot", "scenario", "ego_vehicle"]),
        _attribute("color", COLOUR, _PAINTS[0], _PAINTS),
    ]


_CAMERA = [
    _attribute("image_size_x", INT, "800"),
    _attribute("image_size_y", INT, "600"),
    _attribute("fov", FLOAT, "90.0"),
    _attribute("sensor_tick", FLOAT, "0.0"),
    _attribute("enable_postprocess_effects", BOOL, "true"),
    _attribute("gamma", FLOAT, "2.2"),
    _attribute("motion_blur_intensity", FLOAT, "0.45"),
    _attribute("exposure_mode", STRING, "histogram", ["histogram", "manual"]),
    _attribute("role_name", STRING, "front"),
]


def definitions() -> list[list[Any]]:
    """The library, as `get_actor_definitions` returns it: number, id, tags, attributes."""
    kinds = {name: _vehicle(body) for name, body in BODIES.items()}
    kinds["sensor.camera.rgb"] = _CAMERA
    kinds["sensor.other.collision"] = [_attribute("role_name", STRING, "default")]
    return [
        [number, name, name.replace(".", ","), attributes]
        for number, (name, attributes) in enumerate(kinds.items(), start=1)
    ]


def described(type_id: str) -> list[Any]:
    """A description with every attribute as it is by default, for actors nobody asked for."""
    return [0, type_id, []]
