"""TensorBoard's event files, written where they are asked for.

TensorBoard's own writer is a thread: on a full disk it dies with a traceback, and a killed process
leaves half a record. Here a record is in the file, whole, when the call returns, or it is not.
"""

import io
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard import summary

from wmplatform.files import append_whole, explained_writes, open_own

__all__ = ["EventFile"]

_numbers = itertools.count()


class EventFile:
    """One file of events.

    Args:
        folder: made if it is not there.
        purge: TensorBoard hides what earlier files hold from this position on; None hides nothing.

    Raises:
        DiskFull: there is no space.
    """

    def __init__(self, folder: Path, purge: int | None = None) -> None:
        origin = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.path = folder / f"events.out.tfevents.{origin}"
        with explained_writes(self.path, "TensorBoard's events"):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open_own(self.path, os.O_APPEND)
        heads = [Event(file_version="brain.Event:2")]
        if purge is not None:
            heads.append(Event(step=purge, session_log=SessionLog(status=SessionLog.START)))
        try:
            self._append(heads)
        except BaseException:
            self.close()
            self.path.unlink(missing_ok=True)
            raise

    def scalars(self, values: Mapping[str, float], position: int) -> None:
        """Write numbers.

        Args:
            values: by name.
            position: on TensorBoard's x-axis.

        Raises:
            DiskFull: there is no space; none of them is in the file.
        """
        named = [summary.scalar(name, value) for name, value in values.items()]
        self._append([Event(summary=each, step=position) for each in named])

    def image(self, name: str, image: NDArray[np.uint8], position: int) -> None:
        """Write a picture uint8 `[H, W, 3]`.

        Raises:
            DiskFull: there is no space; nothing of it is in the file.
        """
        picture = summary.image(name, image, dataformats="HWC")
        self._append([Event(summary=picture, step=position)])

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, events: list[Any]) -> None:
        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        with explained_writes(self.path, "TensorBoard's events"):
            append_whole(self._file, records.getvalue())
