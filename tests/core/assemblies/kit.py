"""What the assemblies share: a small environment, records, a learner, what an update moved."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.contracts.reference import draw_records
from wmplatform.images import to_centred
from wmplatform.interfaces import ActionSpec, ArraySpec, Encoder, EnvSpec, Explorer
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam
from wmplatform.types import FeatureSpec, Mode

SPEC = EnvSpec({"pixels": ArraySpec((3, 8, 8), "uint8")}, ActionSpec(2), time_limit=20)


class Flat(Encoder):
    """One layer over the flattened image."""

    def __init__(self, observations: Mapping[str, ArraySpec], *, width: int = 8) -> None:
        super().__init__()
        self.width = width
        size = torch.Size(observations["pixels"].shape).numel()
        self.linear = nn.Linear(size, width)

    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        return {"embed": ArraySpec((self.width,))}

    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"embed": self.linear(to_centred(observations["pixels"]).flatten(-3)).tanh()}


class Plain(Explorer):
    """Samples the policy."""

    def __init__(self, action: ActionSpec, views: Mapping[str, FeatureSpec]) -> None:
        super().__init__(action)


def learner(agent: Agent, groups: Mapping[str, tuple[str, ...]], **settings: Any) -> Learner:
    """A learner with one Adam for each group; a group's own settings go by its name."""
    own = {name: settings.pop(name, {}) for name in groups}
    adam = {name: partial(Adam, **({"weight_decay": 0.0} | own[name])) for name in groups}
    return Learner(agent, groups=groups, optimizers=adam, **settings)


def snapshot(agent: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers."""
    return {name: value.detach().clone() for name, value in agent.state_dict().items()}


def moved(agent: nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    """Names of parameters and buffers that differ, bit for bit."""
    return {k for k, v in agent.state_dict().items() if not torch.equal(v, before[k])}


def trainable(agent: nn.Module) -> set[str]:
    """Names of what may learn."""
    return {name for name, p in agent.named_parameters() if p.requires_grad}


def below(names: set[str], *prefixes: str) -> set[str]:
    """Those that begin so."""
    return {name for name in names if name.startswith(prefixes)}


def records(seed: int = 0, *, length: int = 7) -> TensorDict:
    """A segment; row 1 starts an episode at record 2."""
    return draw_records(SPEC, seed, length=length)


def play(agent: Agent, steps: int = 4, rows: int = 3, mode: Mode = "train") -> Tensor:
    """Act for some steps and check that the actions are valid."""
    memory, actions = None, []
    for t in range(steps):
        seen = {"pixels": records(t)["pixels"][:rows, 0]}
        first = torch.full((rows,), t == 0)
        first[1] |= t == 2
        action, memory = agent.act(seen, first, memory, mode=mode, agent_steps=t)
        actions.append(action)
    played = torch.stack(actions, 1)
    assert played.shape == (rows, steps, agent.spec.action.size)
    assert torch.isfinite(played).all()
    assert (played.abs() <= 1).all()
    return played


def imagines(agent: Agent) -> None:
    """Open-loop prediction gives images of the records that remain."""
    batch = records()
    found = agent.open_loop(batch, 3)
    assert found["model"].shape == found["truth"].shape
    assert torch.isfinite(found["model"]).all()
