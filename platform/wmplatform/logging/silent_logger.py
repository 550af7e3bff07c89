"""A logger that writes nothing, for the processes of a run that do not lead."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wmplatform.logging.progress import Progress
from wmplatform.logging.run_logger import RunLogger

__all__ = ["SilentLogger"]


class SilentLogger(RunLogger):
    """Takes what a `RunLogger` takes and opens no file."""

    def __init__(
        self,
        folder: Path,
        *,
        axis: str = "env_frames",
        progress: Progress | None = None,
        tensorboard: bool = False,
    ) -> None:
        del tensorboard
        self.folder, self.axis, self.progress = folder, axis, progress

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Forget the scalars."""

    def flush(
        self, counters: Mapping[str, int], extra: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Write nothing."""
        return {}

    def scalars(self, counters: Mapping[str, int], values: Mapping[str, float]) -> None:
        """Write nothing."""

    def image(self, name: str, counters: Mapping[str, int], image: NDArray[np.uint8]) -> Path:
        """Write nothing; names the file that the first process writes."""
        return self._target("pictures", name, counters, ".png")

    def video(
        self, name: str, counters: Mapping[str, int], frames: NDArray[np.uint8], fps: int
    ) -> Path:
        """Write nothing; names the file that the first process writes."""
        return self._target("videos", name, counters, ".mp4")

    def state_dict(self) -> dict[str, Any]:
        """Nothing: only the first process' logger is saved."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing over."""

    def start_over(self) -> None:
        """Forget nothing."""

    def close(self) -> None:
        """Close the progress."""
        if self.progress is not None:
            self.progress.close()
