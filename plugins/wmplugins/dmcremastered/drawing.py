"""Pictures drawn by chance: landscapes for the sky, materials for the floor.

Noise is made from its spectrum, which is periodic: floors are tiled and landscapes go round the
sky without seams. Shape letters: S side of a square picture, K colours.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Picture", "draw_floor", "draw_sky"]

Picture = NDArray[np.uint8]
Field = NDArray[np.float32]
Random = np.random.Generator


def draw_sky(random: Random, size: int) -> Picture:
    """Draw clouds before a gradient, and one to three ridges below them; uint8 `[S, S, 3]`."""
    zenith, horizon, cloud = _colours(random, 3)
    down_S1 = np.linspace(0.0, 1.0, size, dtype=np.float32)[:, None, None]
    clear_S13 = zenith + (horizon - zenith) * down_S1
    cover_SS = np.clip(3 * (_noise(random, size, slope=1.6) - random.uniform(0.3, 0.6)), 0, 1)
    sky_SS3 = (clear_S13 + (cloud - clear_S13) * cover_SS[:, :, None]).astype(np.uint8)
    ground_SS = _index(_noise(random, size, slope=random.uniform(0.8, 1.6)))
    row_S1 = np.arange(size, dtype=np.float32)[:, None]
    for height in np.sort(random.uniform(0.35, 0.85, random.integers(1, 4))):
        crest_S = (height + random.uniform(0.02, 0.2) * _skyline(random, size)) * size
        ground_SS = np.roll(ground_SS, size // 3, axis=1)  # another part of it
        below_SS1 = (row_S1 >= crest_S)[:, :, None]
        np.copyto(sky_SS3, _shades(random).take(ground_SS, axis=0), where=below_SS1)
    return sky_SS3


def draw_floor(random: Random, size: int) -> Picture:
    """Draw grain, clouded stone, bricks or slabs, or pebbles; uint8 `[S, S, 3]`."""
    material = _MATERIALS[random.integers(len(_MATERIALS))]
    field_SS = material(random, size)
    return _shades(random).take(_index(field_SS), axis=0)


def _grain(random: Random, size: int) -> Field:
    """Sand, grass, concrete: fine noise."""
    return _noise(random, size, slope=random.uniform(0.2, 0.9))


def _stone(random: Random, size: int) -> Field:
    """Coarse noise, with veins at times."""
    field_SS = _noise(random, size, slope=random.uniform(1.2, 2.0))
    return np.abs(2 * field_SS - 1) if random.random() < 0.5 else field_SS


def _bricks(random: Random, size: int) -> Field:
    """Rows of bricks or slabs, each of a shade of its own."""
    rows = int(random.choice((2, 4, 6, 8)))  # even, so that shifted rows alternate over the edge
    columns = int(random.integers(1, 5))
    line_S = np.arange(size, dtype=np.float32) / size
    y_S1 = line_S[:, None] * rows
    x_SS = line_S * columns + random.choice((0.0, 0.5)) * (y_S1.astype(np.int32) % 2)
    shades = random.uniform(0.25, 0.9, (rows, columns)).astype(np.float32)
    field_SS = shades[y_S1.astype(np.int32), x_SS.astype(np.int32) % columns]
    field_SS = field_SS + 0.35 * (_noise(random, size, slope=0.8) - 0.5)
    to_edge_SS = np.minimum(y_S1 % 1 / rows, x_SS % 1 / columns)
    joint_SS = to_edge_SS < random.uniform(0.03, 0.1) / min(rows, columns)
    return np.where(joint_SS, np.float32(random.uniform(0.0, 0.3)), field_SS)


def _pebbles(random: Random, size: int) -> Field:
    """Cells around scattered points, dark where they meet."""
    count = int(random.integers(4, 9))
    points = random.random((3, count, count), dtype=np.float32)  # down, right, shade
    y_S1 = np.arange(size, dtype=np.float32)[:, None] * np.float32(count / size)
    x_1S = y_S1.T
    own_SS = np.zeros((size, size), np.float32)
    nearest_SS, second_SS = np.full((2, size, size), np.inf, np.float32)
    for down in (-1, 0, 1):  # one point in each cell of a grid: the nearest is in one beside it
        for right in (-1, 0, 1):
            row_S1, column_1S = y_S1.astype(np.int32) + down, x_1S.astype(np.int32) + right
            cells = points.take(row_S1[:, 0] % count, 1).take(column_1S[0] % count, 2)
            away_y, away_x = cells[0] + (row_S1 - y_S1), cells[1] + (column_1S - x_1S)
            away_SS = away_y * away_y + away_x * away_x
            np.copyto(own_SS, cells[2], where=away_SS < nearest_SS)
            second_SS = np.minimum(second_SS, np.maximum(nearest_SS, away_SS))
            nearest_SS = np.minimum(nearest_SS, away_SS)
    inside_SS = np.clip((np.sqrt(second_SS) - np.sqrt(nearest_SS)) * random.uniform(2, 6), 0, 1)
    rough_SS = 0.2 * (_noise(random, size, slope=0.8) - 0.5)
    return np.asarray((0.3 + 0.7 * own_SS) * inside_SS + rough_SS, np.float32)


_MATERIALS = (_grain, _stone, _bricks, _pebbles)


def _noise(random: Random, size: int, *, slope: float) -> Field:
    """Periodic noise of amplitude frequency^-slope; float32 `[S, S]`, mean 1/2, most in 0..1."""
    rows = np.fft.fftfreq(size, 1 / size).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(size, 1 / size).astype(np.float32)
    squared = rows * rows + columns * columns
    squared[0, 0] = np.inf  # no constant part
    real, imaginary = random.standard_normal((2, *squared.shape), dtype=np.float32)
    waves = (real + 1j * imaginary) * squared ** np.float32(-slope / 2)
    field_SS = np.fft.irfft2(waves, (size, size))
    return np.asarray(0.5 + field_SS * (0.25 / field_SS.std()), np.float32)


def _skyline(random: Random, size: int) -> Field:
    """Periodic line; float32 `[S]`, mean 0, most in -1..1."""
    frequency = np.fft.rfftfreq(size, 1 / size)
    frequency[0] = np.inf
    real, imaginary = random.standard_normal((2, *frequency.shape))
    waves = (real + 1j * imaginary) * frequency ** -random.uniform(1.0, 2.0)
    line_S = np.fft.irfft(waves, size)
    return np.asarray(line_S / (3 * line_S.std()), np.float32)


def _colours(random: Random, count: int) -> Field:
    """Colours of one random saturation; float32 `[K, 3]` in 0..255."""
    colours_K3 = random.uniform(0, 255, (count, 3))
    grey_K1 = colours_K3.mean(1, keepdims=True)
    return np.asarray(grey_K1 + random.uniform(0.2, 1.0) * (colours_K3 - grey_K1), np.float32)


def _shades(random: Random) -> Picture:
    """256 shades from a dark colour over a random one to a light one; uint8 `[256, 3]`."""
    (middle,) = _colours(random, 1)
    spread_3 = random.uniform(25, 110) * random.uniform(0.6, 1.0, 3)
    anchors_33 = middle + spread_3 * np.array([[-1.0], [0.0], [1.0]])
    anchors_33 = np.clip(anchors_33 + random.normal(0, 15, (3, 3)), 0, 255)
    steps = np.linspace(0, 2, 256)
    shades = [np.interp(steps, (0, 1, 2), anchors_33[:, channel]) for channel in range(3)]
    return np.stack(shades, axis=1).astype(np.uint8)


def _index(field: Field) -> NDArray[np.uint8]:
    """Shade of each value of a field in 0..1."""
    return np.clip(field * 255, 0, 255).astype(np.uint8)
