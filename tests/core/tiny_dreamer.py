"""A DreamerV2 of a few thousand parameters, and synthetic segments for it."""

from functools import partial
from typing import Any

import torch
from tensordict import TensorDict

from wmplatform.agent import Agent
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec
from wmplatform.world_model import WorldModel
from wmplugins.dreamer.balancers import FixedScales
from wmplugins.dreamer.behavior import ImaginationActorCritic
from wmplugins.dreamer.decoders import CNNDecoder
from wmplugins.dreamer.encoders import CNNEncoder
from wmplugins.dreamer.explorers import Sampling
from wmplugins.dreamer.heads import DiscountMLP, RewardMLP
from wmplugins.dreamer.rssm import RSSM

SPEC = EnvSpec({"pixels": ArraySpec((3, 64, 64), "uint8")}, ActionSpec(2), time_limit=20)
DISCRETE = EnvSpec({"pixels": ArraySpec((3, 64, 64), "uint8")}, ActionSpec(3, "discrete"))
MLP = {"layers": 1, "units": 8}


def model_parts(discount: bool = False, **settings: Any) -> dict[str, Any]:
    """Factories of a tiny world model; `settings` go to the dynamics."""
    sizes = {"deter": 8, "hidden": 8, "groups": 4, "classes": 4} | settings
    heads: dict[str, Any] = {"reward": partial(RewardMLP, **MLP)}
    if discount:
        heads["continue"] = partial(DiscountMLP, **MLP)
    return {
        "encoder": partial(CNNEncoder, depth=2),
        "dynamics": partial(RSSM, **sizes),
        "decoder": partial(CNNDecoder, depth=2),
        "heads": heads,
        "balancer": FixedScales,
    }


def tiny_agent(
    spec: EnvSpec = SPEC,
    *,
    discount: bool = False,
    model: dict[str, Any] | None = None,
    **behavior: Any,
) -> Agent:
    """Build the agent; `model` overrides parts of the world model, the rest goes to behavior."""
    parts = model_parts(discount) | (model or {})
    settings = {"horizon": 4} | MLP | behavior
    return Agent(
        spec,
        world_model=partial(WorldModel, **parts),
        behavior=partial(ImaginationActorCritic, **settings),
        explorer=Sampling,
    )


def segments(seed: int = 0, *, batch: int = 3, length: int = 5, spec: EnvSpec = SPEC) -> TensorDict:
    """Random segments `[B, T]` that start with `is_first`."""
    draw = torch.Generator().manual_seed(seed)
    lead = (batch, length)
    shape = spec.observations["pixels"].shape
    action = torch.rand(*lead, spec.action.size, generator=draw) * 2 - 1
    if spec.action.kind == "discrete":
        action = torch.nn.functional.one_hot(action.argmax(-1), spec.action.size).float()
    first = torch.zeros(lead, dtype=torch.bool)
    first[:, 0] = True
    terminal = torch.zeros(lead, dtype=torch.bool)
    terminal[0, -1] = True
    return TensorDict(
        {
            "pixels": torch.randint(0, 256, (*lead, *shape), generator=draw, dtype=torch.uint8),
            "action": action,
            "reward": torch.randn(lead, generator=draw),
            "is_first": first,
            "is_last": terminal.clone(),
            "is_terminal": terminal,
        },
        batch_size=lead,
    )


def learner_of(
    agent: Agent,
    *,
    precision: str = "fp32",
    compile_parts: tuple[str, ...] = (),
    capture: bool = False,
    frozen: tuple[str, ...] = (),
    **adam: Any,
) -> Learner:
    """DreamerV2's three optimiser groups; `adam` overrides their settings."""
    rates = {"model": 3e-4, "actor": 8e-5, "critic": 8e-5}
    prefixes = {"model": "world_model", "actor": "behavior.actor", "critic": "behavior.critic"}
    return Learner(
        agent,
        groups={name: (prefix,) for name, prefix in prefixes.items()},
        optimizers={name: partial(Adam, **({"lr": lr} | adam)) for name, lr in rates.items()},
        precision=precision,
        compile_parts=compile_parts,
        capture=capture,
        frozen=frozen,
    )
