"""Where an analysis writes, and what it may say is missing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import replace_file, to_json
from wmplatform.pictures import Picture, write_png, write_video

__all__ = ["CannotAnalyse", "MissingPackage", "Results"]


class CannotAnalyse(PlatformError):
    """The model, the videos and the analysis do not go together."""

    exit_code = ExitCode.BAD_INPUT


class MissingPackage(PlatformError):
    """An analysis needs a package that is not installed."""

    exit_code = ExitCode.ENVIRONMENT


@dataclass
class Results:
    """Files of one analysis: `<folder>/<stem>.png`, `.mp4` and `.json`.

    Args:
        folder: made if missing.
        stem: of the files' names.
    """

    folder: Path
    stem: str
    written: dict[str, str] = field(default_factory=dict)
    """Paths by kind: `picture`, `video`, `numbers`."""

    def target(self, suffix: str) -> Path:
        """Name a file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{self.stem}{suffix}"

    def picture(self, picture: Picture) -> None:
        """Write a PNG."""
        self.written["picture"] = str(write_png(self.target(".png"), picture))

    def video(self, frames: Picture, fps: int) -> None:
        """Write an MP4, or a GIF where PyAV is not installed."""
        self.written["video"] = str(write_video(self.target(".mp4"), frames, fps))

    def numbers(self, values: dict[str, Any]) -> None:
        """Write JSON."""
        target = self.target(".json")
        replace_file(target, to_json(values))
        self.written["numbers"] = str(target)
