"""Collection: environments, acting and records.

Names are imported when first used, so that environment workers do not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmplatform.collect.acting import ActingPolicy, Actor
    from wmplatform.collect.collection import BadCollection, Collected, Collection, EpisodeLost
    from wmplatform.collect.episodes import EpisodeStats, EpisodeTally
    from wmplatform.collect.stream_env import EnvFault, StreamEnv, episode_seed
    from wmplatform.collect.torch_envs import OneStream, VectorStreams

__all__ = [
    "ActingPolicy",
    "Actor",
    "BadCollection",
    "Collected",
    "Collection",
    "EnvFault",
    "EpisodeLost",
    "EpisodeStats",
    "EpisodeTally",
    "OneStream",
    "StreamEnv",
    "VectorStreams",
    "episode_seed",
]

_HOME = {
    "ActingPolicy": "acting",
    "Actor": "acting",
    "BadCollection": "collection",
    "Collected": "collection",
    "Collection": "collection",
    "EnvFault": "stream_env",
    "EpisodeLost": "collection",
    "EpisodeStats": "episodes",
    "EpisodeTally": "episodes",
    "OneStream": "torch_envs",
    "StreamEnv": "stream_env",
    "VectorStreams": "torch_envs",
    "episode_seed": "stream_env",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
