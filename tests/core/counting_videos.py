"""A source whose frames say which video they are of and when: what was mixed up shows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wmplatform.interfaces import Video, VideoSource


class CountingVideos(VideoSource):
    """Video v has `lengths[v]` frames; frame t is `[v, t % 256, t // 256]` in its three channels.

    Args:
        lengths: frames of each video.
        bad: reason by number for videos that break down after one frame.
        labels: of each video.
        groups: of each video.
        weights: of groups.
    """

    frame_shape = (3, 2, 4)

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        bad: Mapping[int, str] | None = None,
        labels: Sequence[str] = (),
        groups: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.lengths = [int(length) for length in lengths]
        self._bad, self._weights = dict(bad or {}), dict(weights or {"": 1.0})
        self._labels, self._groups = list(labels), list(groups)
        self.decoded: list[str] = []
        """Keys of the videos that were decoded, in order."""

    def settings(self) -> dict[str, object]:
        return {"class": "CountingVideos", "lengths": self.lengths}

    def videos(self) -> list[Video]:
        found = [Video(f"v{number:03d}") for number in range(len(self.lengths))]
        if self._labels:
            found = [replace(v, label=x) for v, x in zip(found, self._labels, strict=True)]
        if self._groups:
            found = [replace(v, group=x) for v, x in zip(found, self._groups, strict=True)]
        return found

    def group_weights(self) -> Mapping[str, float]:
        return self._weights

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        self.decoded.append(video.key)
        number = int(video.key[1:])
        for time in range(self.lengths[number]):
            if time == 1 and number in self._bad:
                raise ValueError(f"{video.key}: {self._bad[number]}")
            yield self.frame(number, time)

    def frame(self, number: int, time: int) -> NDArray[np.uint8]:
        numbers = np.array([number, time % 256, time // 256], np.uint8)
        return np.broadcast_to(numbers[:, None, None], self.frame_shape).copy()

    def whole(self, number: int) -> NDArray[np.uint8]:
        """All frames of a video."""
        return np.stack([self.frame(number, time) for time in range(self.lengths[number])])


def read_back(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tell from `[..., 3, 2, 4]` which videos the frames are of, and their numbers in these."""
    assert (pixels == pixels[..., :1, :1]).all()
    numbers = pixels[..., 0, 0].astype(np.int64)
    return numbers[..., 0], numbers[..., 1] + 256 * numbers[..., 2]
