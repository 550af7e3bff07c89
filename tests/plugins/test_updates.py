"""Updates of each family of agents: against plain PyTorch, and on batches that hold NaN."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from tensordict import TensorDict
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts.reference import draw_transitions
from wmplatform.interfaces import Objective, Update
from wmplatform.replay import Segments, Transitions
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam
from wmplugins.dreamer.decoders import ResNetDecoder
from wmplugins.dreamer.encoders import ResNetEncoder

from ..core.tiny_dreamer import segments, tiny_agent
from .test_drqv2_numbers import STACKED
from .test_drqv2_numbers import build as drq_agent
from .tiny_contextwm import contextwm_agent
from .tiny_isodream import isodream_agent, records

RATE, EPS = 1e-2, 1e-5
RESNETS = {"encoder": partial(ResNetEncoder, depth=2), "decoder": partial(ResNetDecoder, depth=2)}
AGENTS: dict[str, tuple[Callable[[], Agent], Callable[[], TensorDict]]] = {
    "drqv2": (drq_agent, partial(draw_transitions, STACKED, 0)),
    "dreamerv2": (tiny_agent, segments),
    "dreamerv2 on ResNets": (partial(tiny_agent, model=RESNETS), segments),
    "contextwm": (contextwm_agent, segments),
    "isodream": (isodream_agent, records),
    "isodream driving": (partial(isodream_agent, driving=True), records),
}


def learner_of(agent: Agent) -> Learner:
    """Adam without its extras; each parameter is a group of its own."""
    names = [name for name, p in agent.named_parameters() if p.requires_grad]
    adam = partial(Adam, lr=RATE, eps=EPS, clip_norm=0.0, weight_decay=0.0)
    data = partial(Transitions, stack=3) if agent.frame_stack > 1 else Segments
    return Learner(
        agent, groups={n: (n,) for n in names}, optimizers=dict.fromkeys(names, adam), data=data
    )


def update(agent: Agent, batch: TensorDict) -> None:
    """The learner's way."""
    assert learner_of(agent).update(batch)["skipped_updates"] == 0


def update_by_hand(agent: Agent, batch: TensorDict) -> None:
    """The plain way: `backward`, then `torch.optim.Adam`."""
    shared = Update(batch)
    for phase in agent.plan():
        objectives = phase.compute(shared)
        grads: dict[str, Tensor] = {}
        for objective in objectives:
            for name, grad in backward(agent, objective).items():
                grads[name] = grads[name] + grad if name in grads else grad
        parameters = dict(agent.named_parameters())
        for name, grad in grads.items():
            parameters[name].grad = grad
        torch.optim.Adam([parameters[name] for name in grads], lr=RATE, eps=EPS).step()
        if phase.after:
            phase.after(shared)


def backward(agent: Agent, objective: Objective) -> dict[str, Tensor]:
    """Gradients of what the objective trains; zeros where it reaches nothing."""
    agent.zero_grad()
    objective.loss.backward(retain_graph=True)
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in agent.named_parameters()
        if p.requires_grad and name.startswith(tuple(f"{each}." for each in objective.trains))
    }


@pytest.mark.parametrize("name", AGENTS)
def test_an_update_is_adam_on_the_gradients_of_backward(name: str) -> None:
    build, draw = AGENTS[name]
    torch.manual_seed(0)
    agent = build()
    twin, before = copy.deepcopy(agent), copy.deepcopy(agent.state_dict())
    runs: list[tuple[Callable[..., Any], Agent]] = [(update, agent), (update_by_hand, twin)]
    for run, each in runs:
        torch.manual_seed(1)
        run(each, draw())
    for key, value in twin.state_dict().items():
        step, expected = (x[key].double() - before[key] for x in (agent.state_dict(), {key: value}))
        assert_allclose(step, expected, rtol=1e-3, atol=1e-3 * RATE, err_msg=key)


def state(agent: Agent) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    named = (*agent.named_parameters(), *agent.named_buffers())
    return {name: x.detach().clone() for name, x in named}


def moved(agent: Agent, before: dict[str, Tensor]) -> set[str]:
    """Names of what differs, bit for bit."""
    return {name for name, x in state(agent).items() if not torch.equal(x, before[name])}


@pytest.mark.parametrize("column", ["reward", "action"])
@pytest.mark.parametrize("name", AGENTS)
def test_an_update_on_nan_changes_nothing(name: str, column: str) -> None:
    build, draw = AGENTS[name]
    torch.manual_seed(0)
    agent = build()
    learner, batch = learner_of(agent), draw()
    learner.update(batch)
    before = state(agent)
    batch[column][0] = torch.nan
    assert learner.update(batch)["skipped_updates"] == 1
    assert moved(agent, before) == set()
    learner.update(draw())
    assert any(key.startswith("behavior.actor") for key in moved(agent, before))
