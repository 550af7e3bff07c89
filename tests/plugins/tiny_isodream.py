"""An Iso-Dream of a few thousand parameters, for locomotion or for driving."""

from functools import partial
from typing import Any

import torch
from tensordict import TensorDict

from wmplatform.agent import Agent
from wmplatform.contracts.reference import draw_records
from wmplatform.interfaces import ActionSpec, ArraySpec, EnvSpec, Explorer
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam
from wmplatform.world_model import WorldModel
from wmplugins.dreamer.explorers import Sampling
from wmplugins.dreamer.heads import RewardMLP
from wmplugins.isodream.behavior import IsolatedActorCritic
from wmplugins.isodream.decoders import MaskDecoder
from wmplugins.isodream.dynamics import IsolatedDynamics
from wmplugins.isodream.encoders import BackgroundContext, BranchEncoder
from wmplugins.isodream.heads import InverseDynamics

SPEC = EnvSpec({"pixels": ArraySpec((3, 64, 64), "uint8")}, ActionSpec(2), time_limit=20)
EMBEDS = {"ctrl": ArraySpec((6,)), "free": ArraySpec((5,))}
LATENT = {"stoch": 3, "deter": 5, "hidden": 4}
DRIVING: dict[str, Any] = {"free_posterior": True, "window": 3}


def dynamics(**settings: Any) -> IsolatedDynamics:
    """A dynamics alone; with `driving=True` in that variant."""
    torch.manual_seed(0)
    variant = DRIVING if settings.pop("driving", False) else {}
    return IsolatedDynamics(EMBEDS, ActionSpec(2), **(LATENT | variant | settings))


def isodream_agent(
    spec: EnvSpec = SPEC,
    *,
    driving: bool = False,
    latent: dict[str, Any] | None = None,
    behavior: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    explorer: type[Explorer] = Sampling,
) -> Agent:
    """Build the agent; the arguments override settings and parts."""
    torch.manual_seed(0)
    small = {"layers": 1, "units": 8}
    parts: dict[str, Any] = {
        "encoder": partial(BranchEncoder, depth=2),
        "context_encoder": partial(BackgroundContext, depth=2, frames=3),
        "dynamics": partial(
            IsolatedDynamics, **(LATENT | (DRIVING if driving else {}) | (latent or {}))
        ),
        "decoder": partial(MaskDecoder, depth=2),
        "heads": {
            "reward": partial(RewardMLP, init="torch", **small),
            "inverse": partial(InverseDynamics, **small),
        },
        "reads": {"reward": "joint"} if driving else {},
    }
    sizes = {"horizon": 5, "actor_layers": 1, "critic_layers": 1, "units": 8}
    return Agent(
        spec,
        world_model=partial(WorldModel, **(parts | (model or {}))),
        behavior=partial(IsolatedActorCritic, **(sizes | (behavior or {}))),
        explorer=explorer,
    )


def isodream_learner(agent: Agent, **settings: Any) -> Learner:
    """Three optimisers; the critic's trains the attention as well."""
    groups = {
        "model": ("world_model",),
        "actor": ("behavior.actor",),
        "critic": ("behavior.critic", "behavior.attention"),
    }
    optimizers = {name: partial(Adam, lr=1e-3, weight_decay=0.0) for name in groups}
    return Learner(agent, groups=groups, optimizers=optimizers, **settings)


def records(seed: int = 0, *, length: int = 6) -> TensorDict:
    """Segments within one episode each."""
    batch = draw_records(SPEC, seed, length=length)
    batch["is_first"][:, 1:] = False
    return batch
