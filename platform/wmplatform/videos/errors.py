"""What can go wrong with videos, said to the person who can mend it. Imports no torch."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from wmplatform.errors import ExitCode, PlatformError

__all__ = [
    "BadSource",
    "ClipsMismatch",
    "FolderBusy",
    "NoClips",
    "OtherVideos",
    "PrepareFailed",
    "TooManyBad",
    "UnreadableShards",
    "UnreadableVideo",
]


class BadSource(PlatformError):
    """A video source is set up wrongly: a folder or a list is missing, a class is unknown."""

    exit_code = ExitCode.BAD_INPUT


class UnreadableVideo(PlatformError, ValueError):
    """One video cannot be decoded; where many are prepared, it is quarantined.

    Args:
        key: of the video.
        reason: as the end of a sentence.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(f"{key}: {reason}")

    def __reduce__(self) -> tuple[type["UnreadableVideo"], tuple[str, str]]:
        return type(self), (self.key, self.reason)


class UnreadableShards(PlatformError):
    """A folder holds no prepared videos, or damaged ones.

    Args:
        path: the folder or the file.
        reason: what is wrong with it, as the end of a sentence.
    """

    exit_code = ExitCode.BAD_RUN

    def __init__(self, path: Path, reason: str, hint: str = "") -> None:
        self.path, self.reason = path, reason
        default = "delete the folder and prepare the videos again: wmplatform prepare"
        super().__init__(f"prepared videos: {reason}", where=str(path), hint=hint or default)


class OtherVideos(PlatformError):
    """A folder holds videos prepared from another source or with other settings."""

    exit_code = ExitCode.BAD_RUN

    def __init__(self, path: Path, differences: Iterable[str]) -> None:
        self.path, self.differences = path, list(differences)
        super().__init__(
            "this folder was begun with other videos or settings",
            where=[str(path), *self.differences],
            hint="choose another folder (--out), or delete this one",
        )


class FolderBusy(PlatformError):
    """Another process prepares videos in the folder."""

    exit_code = ExitCode.BAD_RUN

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            "another process prepares videos here",
            where=str(path),
            hint="wait for it, or choose another folder",
        )


class TooManyBad(PlatformError):
    """More videos cannot be decoded than the limit allows.

    Attributes:
        bad: reasons by key.
        total: videos of the source.
    """

    def __init__(self, bad: Mapping[str, str], total: int, limit: float, folder: Path) -> None:
        self.bad, self.total, self.limit = dict(bad), total, limit
        counts = Counter(self.bad.values()).most_common(5)
        super().__init__(
            f"{len(self.bad)} of {total} videos cannot be used, more than the limit of {limit:.1%}",
            where=[str(folder), *(f"{count} x {reason}" for reason, count in counts)],
            hint="mend the source, or raise Prepare.max_bad_share and start the same command "
            "again:\nwhat was decoded is kept",
        )


class PrepareFailed(PlatformError):
    """A worker met an error that concerns more than one video.

    Args:
        what: its message, `where` and `hint` likewise.
        exit_code: of the error.
    """

    def __init__(self, what: str, where: list[str], hint: str, exit_code: int) -> None:
        self.exit_code = ExitCode(exit_code)
        super().__init__(what, where=where, hint=hint)


class NoClips(PlatformError):
    """No video is long enough for a clip.

    Args:
        place: the data, in words.
        need: frames that a video must have.
        videos: how many were looked at.
        longest: frames of the longest.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, place: str, need: int, videos: int, longest: int) -> None:
        self.place, self.need, self.videos, self.longest = place, need, videos, longest
        super().__init__(
            f"none of the {videos} videos has the {need} frames of a clip: "
            f"the longest has {longest}",
            where=place,
            hint="set Clips.length, Clips.stride or Clips.min_frames lower, or look at the "
            "data's labels and share held out",
        )


class ClipsMismatch(PlatformError):
    """A saved position in a stream of clips belongs to other data or other settings."""

    exit_code = ExitCode.BAD_RUN

    def __init__(self, differences: Iterable[str]) -> None:
        self.differences = list(differences)
        super().__init__(
            "the saved position belongs to another stream of clips",
            where=self.differences,
            hint="resume with the data and settings of the run, or start a new run",
        )
