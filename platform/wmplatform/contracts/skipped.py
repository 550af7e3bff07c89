"""Updates on batches that hold NaN, as laws of several interfaces run them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from tensordict import TensorDict
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts.laws import require
from wmplatform.contracts.probes import equal, finite, seeded
from wmplatform.interfaces.behavior import Objective, Phase, Update
from wmplatform.replay import Transitions
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam
from wmplatform.types import EnvSpec

__all__ = ["require_no_trace"]

Columns = Sequence[str]
"""Of a batch, by name; none stands for all that hold floats."""


def require_no_trace(
    build: Callable[[], Agent],
    draw_batch: Callable[[EnvSpec, int], TensorDict],
    *,
    spoilt: Sequence[Columns] = ((), ("reward",)),
    seed: int,
) -> None:
    """Break the law unless skipped updates are as if they had not been, bit for bit.

    Two equal agents learn from the same batches. Before each of these, one of them gets a batch
    whose first row is NaN, while the other one's clock goes on; phases that come before the first
    bad one are whole steps, which both of them make.

    Args:
        build: makes an agent, the same one each time.
        draw_batch: what replay gives it.
        spoilt: the columns that hold NaN, for one batch after another.
        seed: of all random inputs.
    """
    tried, plain = _learner(build()), _learner(build())
    for number, columns in enumerate(spoilt):
        batch = draw_batch(tried.agent.spec, seed + number)
        bad = _with_nan(batch, columns)
        good_phases = _update_noting_phases(tried, bad, seed + number)
        if good_phases == len(tried.plan):
            wild = [name for name, x in _state(tried.agent).items() if not finite(x)]
            require(not wild, f"every gradient is finite, but NaN gets into {', '.join(wild)}")
            _update(plain, bad, seed + number)
        else:
            _update_and_take_back(plain, bad, good_phases, seed + number)
        _require_same(tried, plain, "a skipped update moves")
        for learner in (tried, plain):
            _update(learner, batch, seed + 100 + number)
        _require_same(tried, plain, "after a skipped update, later ones move otherwise:")


def _learner(agent: Agent) -> Learner:
    """A learner of any agent: each parameter is a group of its own."""
    names = [name for name, p in agent.named_parameters() if p.requires_grad]
    return Learner(
        agent,
        groups={name: (name,) for name in names},
        optimizers=dict.fromkeys(names, partial(Adam, lr=1e-3)),
        data=partial(Transitions, stack=agent.frame_stack),
        precision="fp32",
    )


def _with_nan(batch: TensorDict, columns: Columns) -> TensorDict:
    """The batch with NaN in the first row of these columns."""
    bad = batch.clone()
    for key in bad.keys(include_nested=True, leaves_only=True):
        value = bad[key]
        if value.is_floating_point() and (not columns or key in columns):
            value[0] = torch.nan
    return bad


def _update(learner: Learner, batch: TensorDict, seed: int) -> None:
    with seeded(seed):
        learner.update(batch.clone(), agent_steps=100 * learner.updates)


def _update_noting_phases(learner: Learner, batch: TensorDict, seed: int) -> int:
    """Run an update; returns how many phases came before the first bad one."""
    began_well: list[bool] = []

    def noted(phase: Phase) -> Phase:
        def compute(update: Update) -> Sequence[Objective]:
            began_well.append(not bool(learner.skip))
            return phase.compute(update)

        return replace(phase, compute=compute)

    _update_by(learner, [noted(phase) for phase in learner.plan], batch, seed)
    return began_well.count(True) - int(learner.skip)


def _update_and_take_back(learner: Learner, batch: TensorDict, phases: int, seed: int) -> None:
    """Run so many phases of an update, after which buffers come back as if the next one was bad."""

    def stop(update: Update) -> Sequence[Objective]:
        del update
        learner.skip.fill_(1.0)
        return []

    _update_by(learner, [*learner.plan[:phases], Phase("bad", stop)], batch, seed)


def _update_by(learner: Learner, plan: Sequence[Phase], batch: TensorDict, seed: int) -> None:
    """Run one update by another plan."""
    usual, learner.plan = learner.plan, plan
    try:
        _update(learner, batch, seed)
    finally:
        learner.plan = usual


def _state(agent: Agent) -> dict[str, Tensor]:
    """All parameters and buffers, those that checkpoints leave out too."""
    return {name: x.detach() for name, x in (*agent.named_parameters(), *agent.named_buffers())}


def _require_same(one: Learner, other: Learner, what: str) -> None:
    ours, theirs = _state(one.agent), _state(other.agent)
    moved = [name for name in ours if not equal(ours[name], theirs[name])]
    require(
        not moved,
        f"{what} {', '.join(moved)}; what changes over time has to be a buffer or a parameter of "
        "its own, and hooks move no trained parameter",
    )
