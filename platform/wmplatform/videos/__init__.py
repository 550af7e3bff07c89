"""Videos to pre-train on: decoded once into shards, and drawn from there as clips.

Names are imported when first used, so that the workers that decode import no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmplatform.videos.clips import Clips
    from wmplatform.videos.errors import (
        BadSource,
        ClipsMismatch,
        NoClips,
        OtherVideos,
        TooManyBad,
        UnreadableShards,
    )
    from wmplatform.videos.prepare import Prepare
    from wmplatform.videos.shards import Shards

_HOME = {
    "BadSource": "errors",
    "Clips": "clips",
    "ClipsMismatch": "errors",
    "NoClips": "errors",
    "OtherVideos": "errors",
    "Prepare": "prepare",
    "Shards": "shards",
    "TooManyBad": "errors",
    "UnreadableShards": "errors",
}

__all__ = [
    "BadSource",
    "Clips",
    "ClipsMismatch",
    "NoClips",
    "OtherVideos",
    "Prepare",
    "Shards",
    "TooManyBad",
    "UnreadableShards",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
