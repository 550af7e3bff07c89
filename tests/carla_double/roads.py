"""The double's own highway, written as OpenDRIVE, and the same geometry for its pictures.

A closed track of two straights and two half circles with four driving lanes one way and a shoulder
on either side. It is cut into roads numbered like the highway of the published driving task, so
that the task runs here unchanged: 45, 103, 46, 659, 47, 558, 48, and then 22, which leaves the
task's route and leads back to 45. As in that map, 659 and 558 are drawn against the traffic, so
their lanes have positive numbers.

OpenDRIVE is right-handed (y to the left of x); the simulator's world has y negated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANES = 4
LANE_WIDTH_M = 3.5
SHOULDER_WIDTH_M = 2.0
STRAIGHT_M, RADIUS_M = 500.0, 100.0
LAP_M = 2 * STRAIGHT_M + 2 * math.pi * RADIUS_M

_LENGTHS_M = {45: 600.0, 103: 50.0, 46: 176.0, 659: 58.0, 47: 117.0, 558: 34.0, 48: 81.0}
_AGAINST = (659, 558)

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Piece:
    """A line or an arc of the reference line, at its start `s` metres along the track."""

    s: float
    length: float
    x: float
    y: float
    heading: float
    curvature: float

    def at(self, ds: float) -> tuple[float, float, float]:
        """x, y and heading `ds` metres into the piece."""
        turned = self.heading + ds * self.curvature
        if self.curvature == 0:
            return (
                self.x + ds * math.cos(self.heading),
                self.y + ds * math.sin(self.heading),
                turned,
            )
        r = 1 / self.curvature
        return (
            self.x + r * (math.sin(turned) - math.sin(self.heading)),
            self.y - r * (math.cos(turned) - math.cos(self.heading)),
            turned,
        )

    def cut(self, start: float, end: float) -> Piece:
        """The part between two places along the track."""
        return Piece(start, end - start, *self.at(start - self.s), self.curvature)

    def reversed(self) -> Piece:
        """The same curve run through from its end."""
        x, y, heading = self.at(self.length)
        return Piece(self.s, self.length, x, y, heading + math.pi, -self.curvature)


def _track() -> list[Piece]:
    """The lap: right along the x axis, half a circle to the left, back, half a circle."""
    arc_m = math.pi * RADIUS_M
    pieces: list[Piece] = []
    s, x, y, heading = 0.0, 0.0, 0.0, 0.0
    for length, curvature in ((STRAIGHT_M, 0.0), (arc_m, 1 / RADIUS_M)) * 2:
        pieces.append(Piece(s, length, x, y, heading, curvature))
        x, y, heading = pieces[-1].at(length)
        s += length
    return pieces


TRACK = _track()


@dataclass(frozen=True, slots=True)
class Road:
    """One numbered part of the track."""

    number: int
    start: float
    end: float

    @property
    def against(self) -> bool:
        """Drawn against the traffic."""
        return self.number in _AGAINST

    @property
    def pieces(self) -> list[Piece]:
        """Its reference line, in the direction in which it is drawn."""
        parts = [
            piece.cut(max(self.start, piece.s), min(self.end, piece.s + piece.length))
            for piece in TRACK
            if piece.s < self.end - 1e-9 and piece.s + piece.length > self.start + 1e-9
        ]
        return [piece.reversed() for piece in reversed(parts)] if self.against else parts


def roads() -> list[Road]:
    """All roads of the lap, in the order in which traffic meets them."""
    ends = list(itertools.accumulate(_LENGTHS_M.values()))
    starts = [0.0, *ends]
    named = [Road(*row) for row in zip(_LENGTHS_M, starts, ends, strict=False)]
    return [*named, Road(22, ends[-1], LAP_M)]


def highway() -> str:
    """OpenDRIVE text of the closed highway."""
    ring = roads()
    joined = zip(ring, [ring[-1], *ring[:-1]], [*ring[1:], ring[0]], strict=True)
    return _document(_road(road, before, after) for road, before, after in joined)


def dead_end() -> str:
    """OpenDRIVE text of the first road alone: after its end there is nothing."""
    return _document([_road(roads()[0], None, None)])


def _document(parts: Iterable[str]) -> str:
    return (
        '<?xml version="1.0" standalone="yes"?>\n<OpenDRIVE>\n'
        '<header revMajor="1" revMinor="4" name="highway" version="1" '
        'north="0" south="0" east="0" west="0">\n'
        "<geoReference><![CDATA[+proj=tmerc +lat_0=0 +lon_0=0]]></geoReference></header>\n"
        + "\n".join(parts)
        + "\n</OpenDRIVE>\n"
    )


def _road(road: Road, before: Road | None, after: Road | None) -> str:
    """One road; `before` and `after` in the direction of the traffic."""
    first, last = (after, before) if road.against else (before, after)
    ends = _link("predecessor", first, road, entering=not road.against)
    ends += _link("successor", last, road, entering=road.against)
    offset, lines = 0.0, []
    for piece in road.pieces:
        shape = f'<arc curvature="{piece.curvature!r}"/>' if piece.curvature else "<line/>"
        lines.append(
            f'<geometry s="{offset!r}" x="{piece.x!r}" y="{piece.y!r}" hdg="{piece.heading!r}" '
            f'length="{piece.length!r}">{shape}</geometry>'
        )
        offset += piece.length
    return (
        f'<road name="highway {road.number}" length="{offset!r}" id="{road.number}" '
        f'junction="-1"><link>{ends}</link>'
        '<type s="0" type="motorway"><speed max="90" unit="km/h"/></type>'
        f"<planView>{''.join(lines)}</planView>"
        '<elevationProfile><elevation s="0" a="0" b="0" c="0" d="0"/></elevationProfile>'
        f'<lanes><laneSection s="0">{_lanes(road, first, last)}</laneSection></lanes></road>'
    )


def _link(kind: str, other: Road | None, road: Road, *, entering: bool) -> str:
    """How the road joins its neighbour; traffic comes in there when `entering`."""
    if other is None:
        return ""
    contact = "end" if entering != other.against else "start"
    return f'<{kind} elementType="road" elementId="{other.number}" contactPoint="{contact}"/>'


def _lanes(road: Road, first: Road | None, last: Road | None) -> str:
    """The cross-section: a shoulder left of the reference line, four lanes and one to its right.

    For a road drawn against the traffic the sides are swapped, so the picture on the ground is the
    same; lane 0 has no width.
    """
    sign = 1 if road.against else -1
    driving = [(sign * n, "driving", LANE_WIDTH_M) for n in range(1, LANES + 1)]
    right = [*driving, (sign * (LANES + 1), "shoulder", SHOULDER_WIDTH_M)]
    left = [(-sign, "shoulder", SHOULDER_WIDTH_M)]
    sides = (right, left) if road.against else (left, right)
    texts = [
        "".join(_lane(*lane, road, first, last) for lane in sorted(lanes, reverse=True))
        for lanes in sides
    ]
    return (
        f'<left>{texts[0]}</left><center><lane id="0" type="none" level="false"/></center>'
        f"<right>{texts[1]}</right>"
    )


def _lane(
    number: int, kind: str, width: float, road: Road, first: Road | None, last: Road | None
) -> str:
    links = ""
    for name, other in (("predecessor", first), ("successor", last)):
        if other is not None:
            links += f'<{name} id="{-number if other.against != road.against else number}"/>'
    return (
        f'<lane id="{number}" type="{kind}" level="false"><link>{links}</link>'
        f'<width sOffset="0" a="{width!r}" b="0" c="0" d="0"/>'
        '<roadMark sOffset="0" type="broken" weight="standard" color="standard" width="0.15" '
        'laneChange="both"/></lane>'
    )


def lane_pose(s: float, lane: int) -> tuple[float, float, float]:
    """x, y and yaw of a lane's centre in the simulator's world, `s` metres along the track.

    Lanes count from 1 at the reference line to `LANES` at the right.
    """
    s %= LAP_M
    piece = next(p for p in reversed(TRACK) if p.s <= s)
    x, y, heading = piece.at(s - piece.s)
    offset = (lane - 0.5) * LANE_WIDTH_M
    x, y = x + offset * math.sin(heading), y - offset * math.cos(heading)
    return x, -y, -math.degrees(heading)


def along_and_across(x_N: Array, y_N: Array) -> tuple[Array, Array]:
    """Places in the simulator's world, seen from the track.

    Returns metres along it, and metres to the right of the reference line.
    """
    y_N = -y_N
    circle_N = np.where(x_N > STRAIGHT_M, STRAIGHT_M, 0.0)
    angle_N = np.arctan2(y_N - RADIUS_M, x_N - circle_N)
    on_right_N, on_left_N = x_N > STRAIGHT_M, x_N < 0
    radial_N = np.hypot(x_N - circle_N, y_N - RADIUS_M) - RADIUS_M
    across_N = np.where(y_N < RADIUS_M, -y_N, y_N - 2 * RADIUS_M)
    along_N = np.where(y_N < RADIUS_M, x_N, TRACK[2].s + STRAIGHT_M - x_N)
    along_N = np.where(on_right_N, TRACK[1].s + (angle_N + np.pi / 2) * RADIUS_M, along_N)
    swept_N = np.where(angle_N > 0, angle_N, angle_N + 2 * np.pi) - np.pi / 2
    along_N = np.where(on_left_N, TRACK[3].s + swept_N * RADIUS_M, along_N)
    return along_N, np.where(on_right_N | on_left_N, radial_N, across_N)
