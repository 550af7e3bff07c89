"""Several sources as one."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from wmplatform.factory import Factory
from wmplatform.interfaces.video_source import Video, VideoSource
from wmplatform.sums import plain_sum
from wmplatform.videos.errors import BadSource, UnreadableVideo

__all__ = ["Mixture"]


class Mixture(VideoSource):
    """Videos of several sources; clips come from each as often as its weight says.

    A clip's source is drawn first, then a video in it, however many videos each has. ContextWM's
    assembled dataset has Something-Something-v2, Human3.6M and YouTube Driving, a third each.

    Sources that are prepared on their own can be mixed later too: `Clips.data` takes several
    folders, and `Clips.weights` their weights.

    Args:
        sources: by name, which begins the key of each video.
        weights: relative to each other, by name; equal unless given.

    Raises:
        BadSource: frames differ in shape, or weights do not fit the sources.
    """

    def __init__(
        self,
        *,
        sources: dict[str, Factory[VideoSource]],
        weights: dict[str, float] | None = None,
    ) -> None:
        weights = dict.fromkeys(sources, 1.0) if weights is None else weights
        if not sources or weights.keys() != sources.keys():
            raise BadSource(
                f"weights are given for {sorted(weights)}, sources are {sorted(sources)}",
                hint="give each source a weight: weights = {'a': 1.0, 'b': 2.0}",
            )
        self.weights = weights
        self._sources: dict[str, VideoSource] = {name: make() for name, make in sources.items()}
        shapes = {name: source.frame_shape for name, source in self._sources.items()}
        if len(set(shapes.values())) > 1:
            raise BadSource(f"the sources' frames differ in shape: {shapes}", hint="set one 'size'")

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """As all of the sources have it."""
        return next(iter(self._sources.values())).frame_shape

    def videos(self) -> list[Video]:
        """List the videos, source after source."""
        return [
            Video(f"{name}/{video.key}", video.label, video.meta, _joined(name, video.group))
            for name, source in self._sources.items()
            for video in source.videos()
        ]

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        """Decode as the video's source does.

        Raises:
            UnreadableVideo: it cannot.
        """
        source, inner = self._inner(video)
        try:
            yield from source.frames(inner)
        except ValueError as error:
            raise _renamed(error, video, inner) from error

    def frame_count(self, video: Video) -> int | None:
        """Count frames as the video's source does."""
        source, inner = self._inner(video)
        return source.frame_count(inner)

    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        """Read as the video's source does.

        Raises:
            UnreadableVideo: it cannot.
        """
        source, inner = self._inner(video)
        try:
            return source.read(inner, start, count)
        except ValueError as error:
            raise _renamed(error, video, inner) from error

    def group_weights(self) -> Mapping[str, float]:
        """Give each source's weight; a mixture in a mixture divides its own."""
        found = {}
        for name, source in self._sources.items():
            inner = source.group_weights()
            for group, weight in inner.items():
                share = weight / plain_sum(inner.values())
                found[_joined(name, group)] = self.weights[name] * share
        return found

    def settings(self) -> dict[str, Any]:
        """Add the sources' settings."""
        inner = {name: source.settings() for name, source in self._sources.items()}
        return super().settings() | {"sources": inner}

    def _inner(self, video: Video) -> tuple[VideoSource, Video]:
        name, _, key = video.key.partition("/")
        if name not in self._sources:
            raise UnreadableVideo(video.key, "there is no such video")
        group = video.group.removeprefix(name).removeprefix("/")
        return self._sources[name], Video(key, video.label, video.meta, group)

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Mix two tiny datasets, made in temporary folders."""
        from functools import partial

        from wmplugins.videos.rlbench import NpzEpisodes
        from wmplugins.videos.samples import sample_episodes, sample_youtube
        from wmplugins.videos.youtube_driving import YouTubeDriving

        return {
            "sources": {
                "demos": partial(NpzEpisodes, root=sample_episodes(), size=16),
                "driving": partial(YouTubeDriving, root=sample_youtube(), size=16, skip=3),
            },
            "weights": {"demos": 1.0, "driving": 2.0},
        }


def _joined(name: str, group: str) -> str:
    return f"{name}/{group}" if group else name


def _renamed(error: ValueError, video: Video, inner: Video) -> UnreadableVideo:
    """Give an error with the video's key in the mixture."""
    if isinstance(error, UnreadableVideo):
        return UnreadableVideo(video.key, error.reason)
    return UnreadableVideo(video.key, str(error).replace(f"{inner.key}: ", ""))
