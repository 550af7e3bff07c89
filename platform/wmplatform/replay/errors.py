"""What can go wrong with replay, said to the person who can mend it."""

from pathlib import Path

from wmplatform.errors import ExitCode, PlatformError

__all__ = [
    "BrokenRecords",
    "CapacityTooLarge",
    "CapacityTooSmall",
    "NotEnoughData",
    "ReplayMismatch",
    "UnreadableReplay",
]


class NotEnoughData(PlatformError):
    """No episode is long enough for what was asked.

    Args:
        need: records in one episode that the request needs.
        episodes: episodes that may be sampled, of any length.
        records: records that replay holds.
        longest: records in the longest of these episodes.
        only_finished: running episodes do not count.
    """

    def __init__(
        self, need: int, episodes: int, records: int, longest: int, only_finished: bool
    ) -> None:
        self.need, self.episodes, self.records, self.longest = need, episodes, records, longest
        kind = "finished episodes" if only_finished else "episodes"
        super().__init__(
            f"no episode has the {need} records that are asked for: replay holds {records} records "
            f"in {episodes} {kind}, of which the longest has {longest}",
            hint="collect more before the first update (prefill), or ask for shorter segments",
        )


class CapacityTooLarge(PlatformError):
    """There is no room for the records.

    Args:
        capacity: records asked for.
        needed_bytes: what they take.
        free_bytes: what is free.
        place: where, e.g. `memory`, `disk (/data)` or `cuda:0`.
        fits: records that would fit.
    """

    exit_code = ExitCode.ENVIRONMENT

    def __init__(
        self, capacity: int, needed_bytes: int, free_bytes: int, place: str, fits: int
    ) -> None:
        self.capacity, self.needed_bytes, self.free_bytes = capacity, needed_bytes, free_bytes
        self.place, self.fits = place, fits
        super().__init__(
            f"a replay of {capacity} records needs {needed_bytes / 1e9:.2f} GB of {place}, "
            f"where {free_bytes / 1e9:.2f} GB are free",
            hint=f"set Replay.capacity to {fits} or less, or Replay.storage = 'memmap' to use the "
            "disk instead of memory",
        )


class CapacityTooSmall(PlatformError):
    """A stream's share of the capacity cannot hold one whole episode.

    Args:
        rows: records that each stream may hold.
        episode: records of the longest episode.
        streams: number of streams.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, rows: int, episode: int, streams: int) -> None:
        self.rows, self.episode, self.streams = rows, episode, streams
        super().__init__(
            f"replay has room for {rows} records of each of {streams} streams, but an episode can "
            f"have {episode}, and only whole episodes are sampled",
            hint=f"set Replay.capacity to at least {episode * streams}",
        )


class BrokenRecords(PlatformError):
    """Records that do not fit the layout or continue no episode; nothing was written."""


class ReplayMismatch(PlatformError):
    """A saved replay holds other columns or another number of streams than this one."""

    exit_code = ExitCode.BAD_RUN


class UnreadableReplay(PlatformError):
    """A file of a saved replay is missing or damaged.

    Args:
        path: the file.
        reason: what is wrong with it, as the end of a sentence.
        older: a generation that does without the file; None where none is known.
    """

    exit_code = ExitCode.BAD_RUN

    def __init__(self, path: Path, reason: str, older: int | None = None) -> None:
        self.path, self.reason, self.older = path, reason, older
        hint = "every checkpoint needs it: start again in another folder (--run-dir)"
        if older is not None:
            hint = f"go on from a generation that does without it: --resume-from {older}"
        super().__init__(f"a part of the saved replay {reason}", where=str(path), hint=hint)
