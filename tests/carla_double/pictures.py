"""A plain picture of what a camera of the double sees: sky, grass, road, lines, cars as boxes.

Colours are red, green, blue from 0 to 1 here. What the weather does: the sun's height sets
brightness and warmth, clouds grey the sky, wetness darkens the road and lets it mirror the sky,
rain sprinkles light dots, fog hides what is far. A picture depends on the state only, not on time.

Shape letters: H W image, N pixels that see the ground.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from . import roads
from .wire import Pose
from .world import Actor, World

Array = NDArray[np.float64]

CLOUDINESS, PRECIPITATION, ALTITUDE, FOG_DENSITY, WETNESS = 0, 1, 5, 6, 9
"""Places of the weather's values in the protocol's list."""

GRASS, ASPHALT, SHOULDER, LINE = (
    np.array(colour) for colour in ((0.25, 0.42, 0.18), (0.33,) * 3, (0.42,) * 3, (0.92,) * 3)
)
NOON_SKY, DUSK_SKY, CLOUDS = (
    np.array(colour) for colour in ((0.45, 0.65, 0.95), (0.95, 0.6, 0.35), (0.7, 0.7, 0.72))
)
LINE_M, DASH_M, GAP_M = 0.15, 4.0, 8.0
FAR_M, NEAR_M = 250.0, 0.5
RAIN_DOTS = 0.06
"""Part of the pixels that full rain brightens."""


def draw(world: World, camera: Actor, width: int, height: int, fov_deg: float) -> NDArray[np.uint8]:
    """The picture, as the protocol carries it.

    Returns:
        uint8 [height, width, 4] in the order blue, green, red, alpha.
    """
    pose = world.place(camera)
    weather = [max(0.0, value) if i != ALTITUDE else value for i, value in enumerate(world.weather)]
    sky = _sky(weather)
    rays_HWX = _rays(width, height, fov_deg) @ _axes(pose)
    picture_HWC = np.broadcast_to(sky, rays_HWX.shape).copy()
    _paint_ground(picture_HWC, rays_HWX, pose, weather, sky)
    cars = [car for car in world.vehicles() if car.number != camera.parent]
    cars.sort(key=lambda car: -math.dist(car.pose.location, pose.location))
    for car in cars:
        _paint_car(picture_HWC, car, pose, fov_deg)
    picture_HWC *= _daylight(weather)
    _paint_rain(picture_HWC, weather[PRECIPITATION], pose)
    bgra_HWC = np.full((height, width, 4), 255, np.uint8)
    bgra_HWC[..., :3] = np.clip(picture_HWC[..., ::-1] * 255 + 0.5, 0, 255)
    return bgra_HWC


def _sky(weather: list[float]) -> Array:
    dusk = min(1.0, max(0.0, 1 - weather[ALTITUDE] / 30))
    clear = dusk * DUSK_SKY + (1 - dusk) * NOON_SKY
    cover = min(1.0, weather[CLOUDINESS] / 100)
    return cover * CLOUDS + (1 - cover) * clear


def _daylight(weather: list[float]) -> float:
    high = min(1.0, max(0.0, (weather[ALTITUDE] + 10) / 50))
    return (0.3 + 0.7 * high) * (1 - 0.3 * min(1.0, weather[CLOUDINESS] / 100))


@functools.lru_cache(maxsize=8)
def _rays(width: int, height: int, fov_deg: float) -> Array:
    """Direction of every pixel, one metre ahead: forward, right, up [H, W, 3]."""
    focal = _focal(width, fov_deg)
    right_W = (np.arange(width) + 0.5 - width / 2) / focal
    up_H = -(np.arange(height) + 0.5 - height / 2) / focal
    ahead = np.ones((height, width))
    return np.stack([ahead, ahead * right_W, ahead * up_H[:, None]], axis=-1)


def _focal(width: int, fov_deg: float) -> float:
    return width / (2 * math.tan(math.radians(fov_deg) / 2))


def _axes(pose: Pose) -> Array:
    """Forward, right and up of a pose as rows; roll is left out."""
    pitch, yaw = math.radians(pose.rotation[0]), math.radians(pose.rotation[1])
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array(
        [
            [c * math.cos(pitch), s * math.cos(pitch), math.sin(pitch)],
            [-s, c, 0.0],
            [-c * math.sin(pitch), -s * math.sin(pitch), math.cos(pitch)],
        ]
    )


def _paint_ground(
    picture_HWC: Array, rays_HWX: Array, pose: Pose, weather: list[float], sky: Array
) -> None:
    down_HW = -rays_HWX[..., 2] * FAR_M > pose.location[2]
    rays_NX = rays_HWX[down_HW]
    depth_N = pose.location[2] / -rays_NX[:, 2]
    x_N, y_N = (pose.location[i] + depth_N * rays_NX[:, i] for i in (0, 1))
    along_N, across_N = roads.along_and_across(x_N, y_N)
    lane_N = across_N / roads.LANE_WIDTH_M
    on_road_N = (lane_N > 0) & (lane_N < roads.LANES)
    paved_N = np.abs(lane_N - roads.LANES / 2) < (
        roads.LANES / 2 + roads.SHOULDER_WIDTH_M / roads.LANE_WIDTH_M
    )
    nearest_N = np.clip(np.round(lane_N), 0, roads.LANES)
    width_N = np.maximum(LINE_M, depth_N / 200)
    solid_N = (nearest_N == 0) | (nearest_N == roads.LANES)
    drawn_N = solid_N | (along_N % (DASH_M + GAP_M) < DASH_M)
    line_N = drawn_N & (np.abs(lane_N - nearest_N) * roads.LANE_WIDTH_M < width_N)

    colour_NC = np.where(paved_N[:, None], SHOULDER, GRASS)
    colour_NC = np.where(on_road_N[:, None], ASPHALT, colour_NC)
    wet = min(1.0, weather[WETNESS] / 100)
    wet_NC = colour_NC * (1 - 0.4 * wet) + 0.2 * wet * sky
    colour_NC = np.where(paved_N[:, None], wet_NC, colour_NC)
    colour_NC = np.where(line_N[:, None], LINE, colour_NC)
    hidden_N = 1 - np.exp(-depth_N / FAR_M * (1 + weather[FOG_DENSITY] / 5))
    picture_HWC[down_HW] = colour_NC + hidden_N[:, None] * (sky - colour_NC)


def _paint_car(picture_HWC: Array, car: Actor, pose: Pose, fov_deg: float) -> None:
    """The rectangle around the projected box, dark at the top third for the windows."""
    height, width, _ = picture_HWC.shape
    tall = 2 * car.extent[2]
    base = car.pose.location[2]
    points = np.array([[x, y, base + z] for x, y in car.corners() for z in (0.0, tall)])
    seen_PX = (points - pose.location) @ _axes(pose).T
    if seen_PX[:, 0].min() < NEAR_M or seen_PX[:, 0].max() > FAR_M:
        return
    focal = _focal(width, fov_deg)
    columns_P = seen_PX[:, 1] / seen_PX[:, 0] * focal + width / 2
    rows_P = -seen_PX[:, 2] / seen_PX[:, 0] * focal + height / 2
    left, right = (int(np.clip(np.round(f(columns_P)), 0, width)) for f in (np.min, np.max))
    top, bottom = (int(np.clip(np.round(f(rows_P)), 0, height)) for f in (np.min, np.max))
    red, green, blue = car.attribute("color", "180,20,20").split(",")
    picture_HWC[top:bottom, left:right] = np.array([red, green, blue], float) / 255
    picture_HWC[top : top + (bottom - top) // 3, left:right] *= 0.3


def _paint_rain(picture_HWC: Array, precipitation: float, pose: Pose) -> None:
    if precipitation > 0:
        millimetres = [int(abs(part) * 1000) for part in pose.location]
        falls_HW = np.random.default_rng(millimetres).random(picture_HWC.shape[:2])
        picture_HWC[falls_HW < RAIN_DOTS * precipitation / 100] += 0.25
