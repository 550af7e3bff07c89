"""The contracts: one abstract class a file, each with numbered laws and a public checker.

Names are imported when first used, so that environment workers do not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmplatform.interfaces.augmentation import Augmentation
    from wmplatform.interfaces.behavior import Behavior, Objective, Phase, Update
    from wmplatform.interfaces.context_encoder import ContextEncoder
    from wmplatform.interfaces.decoder import Decoder
    from wmplatform.interfaces.encoder import Encoder
    from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvAdapter, EnvSpec
    from wmplatform.interfaces.explorer import Explorer, Intrinsic
    from wmplatform.interfaces.latent_dynamics import (
        Capabilities,
        Imagined,
        LatentDynamics,
        Observed,
        Starts,
    )
    from wmplatform.interfaces.loss_balancer import LossBalancer
    from wmplatform.interfaces.optimizer import Optimizer
    from wmplatform.interfaces.request import Request
    from wmplatform.interfaces.reward_head import Head, RewardHead
    from wmplatform.interfaces.video_source import Video, VideoSource

_HOME = {
    "ActionSpec": "env_adapter",
    "ArraySpec": "env_adapter",
    "Augmentation": "augmentation",
    "Behavior": "behavior",
    "Capabilities": "latent_dynamics",
    "ContextEncoder": "context_encoder",
    "Decoder": "decoder",
    "Encoder": "encoder",
    "EnvAdapter": "env_adapter",
    "EnvSpec": "env_adapter",
    "Explorer": "explorer",
    "Head": "reward_head",
    "Imagined": "latent_dynamics",
    "Intrinsic": "explorer",
    "LatentDynamics": "latent_dynamics",
    "LossBalancer": "loss_balancer",
    "Objective": "behavior",
    "Observed": "latent_dynamics",
    "Starts": "latent_dynamics",
    "Optimizer": "optimizer",
    "Phase": "behavior",
    "Request": "request",
    "RewardHead": "reward_head",
    "Update": "behavior",
    "Video": "video_source",
    "VideoSource": "video_source",
}

__all__ = [
    "ActionSpec",
    "ArraySpec",
    "Augmentation",
    "Behavior",
    "Capabilities",
    "ContextEncoder",
    "Decoder",
    "Encoder",
    "EnvAdapter",
    "EnvSpec",
    "Explorer",
    "Head",
    "Imagined",
    "Intrinsic",
    "LatentDynamics",
    "LossBalancer",
    "Objective",
    "Observed",
    "Optimizer",
    "Phase",
    "Request",
    "RewardHead",
    "Starts",
    "Update",
    "Video",
    "VideoSource",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
