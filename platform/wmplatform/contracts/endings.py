"""The laws of `Behavior` on what a target is made of: where it ends, and what belongs together.

A target is never seen itself. What is seen is whether losses change when something changes that
may, or may not, take part in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.contracts.laws import law, require, skip
from wmplatform.contracts.probes import any_changed, close, draw_specs, seeded, snapshot
from wmplatform.distributions import Bernoulli
from wmplatform.interfaces.behavior import Update
from wmplatform.interfaces.latent_dynamics import Imagined
from wmplatform.interfaces.reward_head import Head
from wmplatform.types import Distribution, EnvSpec, Features, TensorTree, tree_map

__all__ = [
    "law_5_imagination_ends_where_the_head_says",
    "law_5_transitions_end_where_discount_is_zero",
    "law_6_rows_of_transitions_belong_together",
]

DrawBatch = Callable[[EnvSpec, int], TensorDict]

ENDED = 2
"""Imagined steps that may count where a head says 0 from the first one on: the one that it ends,
and one more, as where the action of a state weighs as much as it is likely to be reached."""


@law("Behavior", 5)
def law_5_transitions_end_where_discount_is_zero(
    agent: Agent, draw_batch: DrawBatch, *, row: int, seed: int
) -> None:
    """`next` of a row takes no part where `discount` is 0, and as much as it says elsewhere."""
    batch = _transitions(agent, draw_batch, seed)
    ended = _with(batch, row, discount=torch.zeros(()))
    for each, counts in ((ended, False), (batch, True)):
        losses = _losses(agent, each, seed)
        depends = not close(losses, _losses(agent, _with_next(agent, each, row, seed), seed))
        require(
            counts or not depends,
            f"the discount of row {row} is 0, but its `next` changes the losses: the target "
            "bootstraps through a termination",
        )
        if counts and depends:
            less = _losses(agent, _with(each, row, discount=each["discount"][row] / 2), seed)
            require(
                any_changed(losses, less),
                f"`next` of row {row} changes the losses, but the size of its discount does not",
            )


@law("Behavior", 6)
def law_6_rows_of_transitions_belong_together(
    agent: Agent, draw_batch: DrawBatch, *, row: int, seed: int
) -> None:
    """Reward, discount and `next` of a row move the derivative of the losses at its own action."""
    batch = _transitions(agent, draw_batch, seed)
    changes = {
        "reward": _with(batch, row, reward=batch["reward"][row] + 3.0),
        "discount": _with(batch, row, discount=batch["discount"][row] / 2),
        "next": _with_next(agent, batch, row, seed),
    }
    before = _at_actions(agent, batch, seed)
    for key, changed in changes.items():
        apart = (before != _at_actions(agent, changed, seed)).flatten(1).any(1)
        moved = apart.nonzero().flatten().tolist()
        require(
            not moved or row in moved,
            f"the {key} of row {row} counts for the actions of the rows {moved}, not for its own",
        )


@law("Behavior", 5)
def law_5_imagination_ends_where_the_head_says(
    agent: Agent, draw_batch: DrawBatch, *, seed: int
) -> None:
    """Where `continue_head` says 0, no loss depends on what is imagined more than one step later.

    And no other head that tells ends is read.
    """
    behavior, batch = agent.behavior, draw_batch(agent.spec, seed)
    assert behavior is not None
    name = behavior.continue_head
    with _Watch(agent) as seen:
        _losses(agent, batch, seed)
    if not seen.horizon:
        skip("it does not imagine")
    read = {each for each in seen.heads if _tells_ends(agent.world_model.head(each), batch)}
    require(read <= {name}, f"it reads the head {sorted(read)}, but its continue_head is {name!r}")
    if name not in agent.world_model.heads:
        skip("no head ends what is imagined")
    require(name in read, f"its continue_head is {name!r}, but it does not read that")

    def losses(*, going: bool, late: bool) -> TensorTree:
        with _Watch(agent, going=going, late=late):
            return _losses(agent, batch, seed)

    if close(losses(going=True, late=False), losses(going=True, late=True)):
        skip(f"of {seen.horizon} imagined steps nothing after step {ENDED} counts")
    require(
        close(losses(going=False, late=False), losses(going=False, late=True)),
        f"the head {name!r} says 0 from the first imagined step on, but losses change with what is "
        f"imagined after step {ENDED}",
    )


def _transitions(agent: Agent, draw_batch: DrawBatch, seed: int) -> TensorDict:
    batch = draw_batch(agent.spec, seed)
    if "discount" not in batch.keys():  # noqa: SIM118  a TensorDict needs it
        skip("it does not learn from transitions")
    return batch


def _with(batch: TensorDict, row: int, **values: Tensor) -> TensorDict:
    """Other values in one row."""
    changed = batch.clone()
    for key, value in values.items():
        changed[key][row] = value
    return changed


def _with_next(agent: Agent, batch: TensorDict, row: int, seed: int) -> TensorDict:
    """Other observations in `next` of one row."""
    changed = batch.clone()
    for key, value in draw_specs(agent.world_model.spec.observations, (), seed + 31).items():
        changed["next"][key][row] = value
    return changed


@contextmanager
def _computed(agent: Agent, batch: TensorDict, seed: int) -> Iterator[list[Tensor]]:
    """Losses of one update, all with the parameters of before it; the agent stays as it was."""
    state, update = snapshot(agent.state_dict()), Update(batch)
    with seeded(seed):
        yield [o.loss for phase in agent.plan() for o in phase.compute(update)]
    agent.load_state_dict(state)


def _losses(agent: Agent, batch: TensorDict, seed: int) -> TensorTree:
    with _computed(agent, batch, seed) as losses:
        return snapshot(losses)


def _at_actions(agent: Agent, batch: TensorDict, seed: int) -> Tensor:
    """Derivative of all losses at the actions, `[B, A]`."""
    actions = batch["action"].clone().requires_grad_()
    with _computed(agent, batch.clone().set("action", actions), seed) as losses:
        total = torch.stack(losses).sum()
        (grad,) = torch.autograd.grad(total, actions, allow_unused=True)
    if grad is None:
        skip("no loss has a derivative at the actions")
    return grad


def _tells_ends(head: Head, batch: TensorDict) -> bool:
    """Whether a head predicts something of where episodes end."""
    flipped = batch.clone().set("is_terminal", ~batch["is_terminal"])
    return any_changed(head.target(batch).values, head.target(flipped).values)


class _Watch:
    """Watches what a behavior reads of its model, and changes it, while the context lasts.

    Args:
        agent: its model's methods are replaced.
        going: what the behavior's continue head says everywhere; None leaves it.
        late: imagined states after step `ENDED` are others.
    """

    def __init__(self, agent: Agent, *, going: bool | None = None, late: bool = False) -> None:
        assert agent.behavior is not None
        self.model, self.going, self.late = agent.world_model, going, late
        self.continue_head = agent.behavior.continue_head
        self.horizon = 0
        """Longest rollout."""
        self.heads: set[str] = set()
        """Heads that are read outside of the model's own losses."""
        self._learning = False

    def __enter__(self) -> Self:
        model = self.model
        heads = {model.head(name): partial(self._predict, name) for name in model.heads}
        self._replaced: list[tuple[nn.Module, str]] = [
            (model.dynamics, "imagine"),
            (model, "losses"),
            *((head, "forward") for head in heads),
        ]
        replacements: list[Callable[..., Any]] = [self._imagine, self._losses, *heads.values()]
        for (module, name), function in zip(self._replaced, replacements, strict=True):
            setattr(module, name, partial(function, getattr(module, name)))
        return self

    def __exit__(self, *error: object) -> None:
        for module, name in self._replaced:
            delattr(module, name)

    def _imagine(self, imagine: Callable[..., Imagined], *args: Any, **kwargs: Any) -> Imagined:
        found = imagine(*args, **kwargs)
        self.horizon = max(self.horizon, found.actions.shape[1])
        if not self.late:
            return found

        def other(x: Tensor) -> Tensor:
            return torch.cat([x[:, :ENDED], 1 - 2 * x[:, ENDED:]], 1)

        return replace(found, states=tree_map(other, found.states))

    def _losses(self, losses: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._learning = True
        found = losses(*args, **kwargs)
        self._learning = False
        return found

    def _predict(
        self, name: str, forward: Callable[[Features], Distribution], features: Features
    ) -> Distribution:
        found = forward(features)
        if self._learning:
            return found
        self.heads.add(name)
        if self.going is None or name != self.continue_head:
            return found
        return Bernoulli(torch.full_like(found.mean, 200.0 if self.going else -200.0))
