"""Collection: environments, acting and records.

Names are imported when first used, so that environment workers do not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmplatform.collect.acting import ActingPolicy, Actor
    from wmplatform.collect.collection import BadCollection, Collected, Collection, EpisodeLost
    from wmplatform.collect.episodes import EpisodeStats, EpisodeTally
    from wmplatform.collect.faults import (
        CollectionStopped,
        CollectorLost,
        EnvFault,
        FaultBudget,
        FaultBudgetSpent,
        FaultReport,
    )
    from wmplatform.collect.isolated import IsolatedAdapter, IsolatedEnv, Isolation
    from wmplatform.collect.stream_env import StreamEnv, episode_seed
    from wmplatform.collect.torch_envs import FaultTolerance, OneStream, VectorStreams

__all__ = [
    "ActingPolicy",
    "Actor",
    "BadCollection",
    "Collected",
    "Collection",
    "CollectionStopped",
    "CollectorLost",
    "EnvFault",
    "EpisodeLost",
    "EpisodeStats",
    "EpisodeTally",
    "FaultBudget",
    "FaultBudgetSpent",
    "FaultReport",
    "FaultTolerance",
    "IsolatedAdapter",
    "IsolatedEnv",
    "Isolation",
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
    "CollectionStopped": "faults",
    "CollectorLost": "faults",
    "EnvFault": "faults",
    "EpisodeLost": "collection",
    "EpisodeStats": "episodes",
    "EpisodeTally": "episodes",
    "FaultBudget": "faults",
    "FaultBudgetSpent": "faults",
    "FaultReport": "faults",
    "FaultTolerance": "torch_envs",
    "IsolatedAdapter": "isolated",
    "IsolatedEnv": "isolated",
    "Isolation": "isolated",
    "OneStream": "torch_envs",
    "StreamEnv": "stream_env",
    "VectorStreams": "torch_envs",
    "episode_seed": "stream_env",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
