"""An APV and a ContextWM of a few thousand parameters."""

from functools import partial
from typing import Any

from wmplatform.agent import Agent
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam
from wmplatform.types import EnvSpec
from wmplatform.world_model import WorldModel
from wmplugins.apv.dynamics import StackedRSSM
from wmplugins.apv.explorers import VideoBonus
from wmplugins.contextwm.context import ResNetContext
from wmplugins.contextwm.decoder import ContextDecoder
from wmplugins.dreamer.balancers import FixedScales
from wmplugins.dreamer.behavior import ImaginationActorCritic
from wmplugins.dreamer.encoders import ResNetEncoder
from wmplugins.dreamer.heads import RewardMLP

from ..core.tiny_dreamer import MLP, SPEC

LATENT = {"deter": 8, "hidden": 8, "groups": 4, "classes": 4, "pad_action": 5}
BONUS = {"queue": 64, "projection": 8, "neighbours": 3, "window": 3}
PREFIXES = {
    "pretrained": (
        "world_model.encoder",
        "world_model.context_encoder",
        "world_model.dynamics.action_free",
    ),
    "model": ("world_model",),
    "actor": ("behavior.actor",),
    "critic": ("behavior.critic",),
}


def contextwm_agent(
    spec: EnvSpec = SPEC,
    *,
    model: dict[str, Any] | None = None,
    bonus: dict[str, Any] | None = None,
    latent: dict[str, Any] | None = None,
) -> Agent:
    """Build the agent; the arguments override parts of the model and settings."""
    heads = {
        "reward": partial(RewardMLP, **MLP),
        "aux_reward": partial(RewardMLP, intrinsic=False, **MLP),
    }
    parts: dict[str, Any] = {
        "encoder": partial(ResNetEncoder, depth=2),
        "context_encoder": partial(ResNetContext, depth=2),
        "dynamics": partial(StackedRSSM, **(LATENT | (latent or {}))),
        "decoder": partial(ContextDecoder, depth=2, heads=2),
        "heads": heads,
        "balancer": partial(FixedScales, scales={"af_kl": 0.0}),
    }
    return Agent(
        spec,
        world_model=partial(WorldModel, **(parts | (model or {}))),
        behavior=partial(ImaginationActorCritic, horizon=3, **MLP),
        explorer=partial(VideoBonus, **(BONUS | (bonus or {}))),
    )


def contextwm_learner(agent: Agent, pretrained: dict[str, Any] | None = None) -> Learner:
    """Two optimisers for the model, as fine-tuning has them."""
    optimizers = {name: partial(Adam, lr=3e-4) for name in PREFIXES}
    optimizers["pretrained"] = partial(Adam, **({"lr": 3e-4} | (pretrained or {})))
    return Learner(agent, groups=PREFIXES, optimizers=optimizers)
