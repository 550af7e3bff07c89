"""Replay: TensorDict storage of records, sampled as segments or as n-step transitions."""

from wmplatform.replay.buffer import Replay
from wmplatform.replay.chunks import Manifest, prune
from wmplatform.replay.errors import (
    BrokenRecords,
    CapacityTooLarge,
    CapacityTooSmall,
    NotEnoughData,
    ReplayMismatch,
    UnreadableReplay,
)
from wmplatform.replay.prefetch import Prefetcher
from wmplatform.replay.requests import Segments, Transitions

__all__ = [
    "BrokenRecords",
    "CapacityTooLarge",
    "CapacityTooSmall",
    "Manifest",
    "NotEnoughData",
    "Prefetcher",
    "Replay",
    "ReplayMismatch",
    "Segments",
    "Transitions",
    "UnreadableReplay",
    "prune",
]
