"""Video sources that each break one law."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from wmplatform.interfaces import Video

from ..reference_components import SyntheticVideos


class RotatesItsOrder(SyntheticVideos):
    calls = 0

    def videos(self) -> list[Video]:
        self.calls += 1
        videos = super().videos()
        return videos[self.calls % 3 :] + videos[: self.calls % 3]


class OrderDependsOnTheCopy(SyntheticVideos):
    made = 0

    def __init__(self, *, count: int = 3, length: int = 4) -> None:
        super().__init__(count=count, length=length)
        type(self).made += 1
        self.number = self.made

    def videos(self) -> list[Video]:
        return super().videos()[:: -1 if self.number % 2 else 1]


class RepeatsKeys(SyntheticVideos):
    def videos(self) -> list[Video]:
        return [*super().videos(), Video("clip-0", label="again")]


class HasNoVideos(SyntheticVideos):
    def videos(self) -> list[Video]:
        return []


class ChannelsLast(SyntheticVideos):
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        yield from (np.moveaxis(frame, 0, -1) for frame in super().frames(video))


class GivesFloats(SyntheticVideos):
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        yield from (frame / np.float32(255) for frame in super().frames(video))


class ReusesItsBuffer(SyntheticVideos):
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        buffer = np.zeros(self.frame_shape, np.uint8)
        for frame in super().frames(video):
            buffer[:] = frame
            yield buffer


class HasNoFrames(SyntheticVideos):
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        yield from list(super().frames(video))[:0]


class DecodesAtRandom(SyntheticVideos):
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        for frame in super().frames(video):
            yield frame ^ np.uint8(np.random.default_rng().integers(1, 256))


class DecodesLessEachTime(SyntheticVideos):
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        yield from super().frames(video)
        self.length = max(1, self.length - 1)


class YieldsGarbage(SyntheticVideos):
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        known = video.key in [each.key for each in self.videos()]
        yield from super().frames(video if known else Video("clip-0"))


class RaisesWithoutTheKey(SyntheticVideos):
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        try:
            yield from super().frames(video)
        except ValueError as error:
            raise ValueError("cannot decode") from error


class RaisesSomethingElse(SyntheticVideos):
    def frames(self, video: Video) -> Iterator[np.ndarray]:
        keys = {each.key: each for each in self.videos()}
        yield from super().frames(keys[video.key])


class ForgetsItsSettings(SyntheticVideos):
    def settings(self) -> dict[str, Any]:
        return {"made": id(self)}


class SettingsAreNotJson(SyntheticVideos):
    def settings(self) -> dict[str, Any]:
        return super().settings() | {"source": self}


class CountsOneMore(SyntheticVideos):
    def frame_count(self, video: Video) -> int:
        return self.length + 1


class ReadsFromTheStart(SyntheticVideos):
    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        return super().read(video, 0, count)


class CannotBePickled(SyntheticVideos):
    def __init__(self, *, count: int = 3, length: int = 4) -> None:
        super().__init__(count=count, length=length)
        self._lock = threading.Lock()


class DecodesAnotherWayWhenPickled(SyntheticVideos):
    copied = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"copied": True}

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        yield from (frame ^ np.uint8(self.copied) for frame in super().frames(video))


class HasAGroupWithoutWeight(SyntheticVideos):
    def videos(self) -> list[Video]:
        return [replace(video, group="other") for video in super().videos()]


class WeighsNothing(SyntheticVideos):
    def group_weights(self) -> Mapping[str, float]:
        return {"": 0.0}


class SharesOneDecoder(SyntheticVideos):
    """A second video that is opened moves the first one on."""

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        self._playing = list(super().frames(video))
        while self._playing:
            yield self._playing.pop(0)


class KeepsOneBufferForAll(SyntheticVideos):
    """The frames of a video lie side by side, and those of the next one in their place."""

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        if not hasattr(self, "_buffer"):
            self._buffer = np.zeros((64, *self.frame_shape), np.uint8)
        for i, frame in enumerate(super().frames(video)):
            self._buffer[i] = frame
            yield self._buffer[i]


class LendsItsCache(SyntheticVideos):
    """Whoever writes into a frame changes it for all who come after."""

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        cache = self.__dict__.setdefault("_cache", {})
        if video.key not in cache:
            cache[video.key] = list(super().frames(video))
        yield from cache[video.key]


class LendsWhatItRead(SyntheticVideos):
    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        cache = self.__dict__.setdefault("_cache", {})
        if video.key not in cache:
            cache[video.key] = np.stack(list(self.frames(video)))
        if len(cache[video.key]) < start + count:
            raise ValueError(f"{video.key}: too short")
        part: np.ndarray = cache[video.key][start : start + count]
        return part


class ReadsToTheEnd(SyntheticVideos):
    """Where the part ends does not matter to it."""

    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        return np.stack(list(self.frames(video))[start:])


class ReadsFromTheEnd(SyntheticVideos):
    """Takes the last frames, whatever start is."""

    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        return np.stack(list(self.frames(video))[-count:])


class ReadsPastTheEnd(SyntheticVideos):
    """Gives fewer frames than were asked for, and says nothing."""

    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        return np.stack(list(self.frames(video))[start : start + count])


class RepeatsTheLastFrame(SyntheticVideos):
    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        frames = list(self.frames(video))
        return np.stack([frames[min(i, len(frames) - 1)] for i in range(start, start + count)])


class ReadsAnythingFromAnyKey(SyntheticVideos):
    """A video that is not there is read as another one."""

    def read(self, video: Video, start: int, count: int) -> np.ndarray:
        return super().read(Video("clip-0"), start, count)

    def frame_count(self, video: Video) -> int:
        return self.length


class ListsAnotherOrderWhenPickled(SyntheticVideos):
    copied = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"copied": True}

    def videos(self) -> list[Video]:
        return super().videos()[:: -1 if self.copied else 1]

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        settings.pop("copied", None)
        return settings


class ForgetsItsSettingsWhenPickled(SyntheticVideos):
    copied = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"copied": True}


class LosesTheVideosData(SyntheticVideos):
    """Another listing has other labels."""

    calls = 0

    def videos(self) -> list[Video]:
        type(self).calls += 1
        return [replace(video, label=str(self.calls)) for video in super().videos()]


class WeighsAGroupThatIsNotThere(SyntheticVideos):
    def group_weights(self) -> Mapping[str, float]:
        return {"": 1.0, "other": 1.0}


MUTANTS = {
    RotatesItsOrder: "law_1_keys_are_stable_and_unique",
    OrderDependsOnTheCopy: "law_1_keys_are_stable_and_unique",
    RepeatsKeys: "law_1_keys_are_stable_and_unique",
    HasNoVideos: "law_1_keys_are_stable_and_unique",
    ChannelsLast: "law_2_frames_are_as_declared",
    GivesFloats: "law_2_frames_are_as_declared",
    ReusesItsBuffer: "law_2_frames_are_as_declared",
    HasNoFrames: "law_2_frames_are_as_declared",
    DecodesAtRandom: "law_2_frames_are_the_same_every_time",
    DecodesLessEachTime: "law_2_frames_are_the_same_every_time",
    YieldsGarbage: "law_3_undecodable_raises_with_its_key",
    RaisesWithoutTheKey: "law_3_undecodable_raises_with_its_key",
    RaisesSomethingElse: "law_3_undecodable_raises_with_its_key",
    ForgetsItsSettings: "law_4_settings_are_json_and_stable",
    SettingsAreNotJson: "law_4_settings_are_json_and_stable",
    CountsOneMore: "law_5_lengths_and_parts_agree",
    ReadsFromTheStart: "law_5_lengths_and_parts_agree",
    CannotBePickled: "law_6_a_pickled_copy_decodes_the_same",
    DecodesAnotherWayWhenPickled: "law_6_a_pickled_copy_decodes_the_same",
    HasAGroupWithoutWeight: "law_7_groups_are_weighted",
    WeighsNothing: "law_7_groups_are_weighted",
    SharesOneDecoder: "law_2_videos_do_not_disturb_each_other",
    KeepsOneBufferForAll: "law_2_videos_do_not_disturb_each_other",
    LendsItsCache: "law_2_frames_are_the_same_every_time",
    LendsWhatItRead: "law_5_lengths_and_parts_agree",
    ReadsToTheEnd: "law_5_lengths_and_parts_agree",
    ReadsFromTheEnd: "law_5_lengths_and_parts_agree",
    ReadsPastTheEnd: "law_5_lengths_and_parts_agree",
    RepeatsTheLastFrame: "law_5_lengths_and_parts_agree",
    ReadsAnythingFromAnyKey: "law_3_undecodable_raises_with_its_key",
    ListsAnotherOrderWhenPickled: "law_6_a_pickled_copy_decodes_the_same",
    ForgetsItsSettingsWhenPickled: "law_6_a_pickled_copy_decodes_the_same",
    LosesTheVideosData: "law_1_keys_are_stable_and_unique",
    WeighsAGroupThatIsNotThere: "law_7_groups_are_weighted",
}
