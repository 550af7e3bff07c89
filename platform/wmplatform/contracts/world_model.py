"""What an assembled world model owes its parts, runnable.

Laws of `WorldModel`:

1. The loss of a head pairs the state of record t with the scalar of record t where its timing is
   `arrival`, and with that of record t + 1 where it is `departure`; never across an episode's end.
2. `losses` gives exactly the losses of `loss_names`, each a finite scalar.
3. A loss reaches the latent iff its head or decoder `sends_gradient`.
4. Rows do not mix: the records of one row do not change the states of another.
5. Acting never calls the context encoder (law 3 of `ContextEncoder`).
"""

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    check_array,
    draw_specs,
    equal,
    leaves,
    require_unchanged,
    seeded,
    set_row,
)
from wmplatform.contracts.reference import draw_records
from wmplatform.interfaces.reward_head import Head
from wmplatform.types import ArraySpec, tree_map
from wmplatform.world_model import WorldModel

__all__ = [
    "check_world_model",
    "law_1_pairs_state_and_scalar",
    "law_2_losses_as_named",
    "law_3_gradients_reach_the_latent_as_declared",
    "law_4_rows_do_not_mix",
    "law_5_acting_needs_no_context",
]


def check_world_model(
    world_model: WorldModel, *, length: int = 5, seed: int = 0, collect: bool = False
) -> Report:
    """Run the laws 1 to 4 on an assembled world model.

    Args:
        world_model: any assembly.
        length: records of the random segments.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("WorldModel", collect=collect)
    batch = draw_records(world_model.spec, seed, length=length)
    for name in world_model.heads:
        for row in (0, 1):
            for t in range(length):
                report.run(law_1_pairs_state_and_scalar, world_model, batch, name, row=row, t=t)
    report.run(law_2_losses_as_named, world_model, batch)
    report.run(law_3_gradients_reach_the_latent_as_declared, world_model, batch)
    report.run(law_4_rows_do_not_mix, world_model, batch, row=1, seed=seed)
    return report


@law("WorldModel", 1)
def law_1_pairs_state_and_scalar(
    world_model: WorldModel, batch: TensorDict, name: str, *, row: int, t: int
) -> None:
    """Changing the scalars of record t moves the loss at one state: the one that `timing` names.

    The derivative of the loss at state i depends on the scalar that is paired with state i and on
    no other, so it shows the pairing without a look inside.
    """
    head = world_model.head(name)
    if not head.sends_gradient:
        skip(f"head {name} sends no gradient")
    kept, before = _gradients(world_model, batch, name)
    _, after = _gradients(world_model, _with_scalars(batch, row, t), name)
    moved = {
        (b, kept[i])
        for x, y in zip(before, after, strict=True)
        for b, i in (x != y).flatten(2).any(-1).nonzero().tolist()
    }
    expected = _paired(head, batch, kept, row, t)
    require(
        moved == expected,
        f"the {name} of record {t} of row {row} is paired with the states {sorted(moved)} instead "
        f"of {sorted(expected)} (row, record); timing is {head.timing}",
    )


@law("WorldModel", 2)
def law_2_losses_as_named(world_model: WorldModel, batch: TensorDict) -> None:
    """Losses have the declared names and are finite scalars; metrics are detached scalars."""
    with seeded(0):
        found = world_model.losses(batch)
    require(
        sorted(found.losses) == sorted(world_model.loss_names),
        f"losses are {sorted(found.losses)}, loss_names are {sorted(world_model.loss_names)}",
    )
    for name, value in found.losses.items():
        check_array(f"loss {name}", value, ArraySpec(()), ())
    for name, value in found.metrics.items():
        require(value.dim() == 0 and not value.requires_grad, f"metric {name} is not detached")


@law("WorldModel", 3)
def law_3_gradients_reach_the_latent_as_declared(
    world_model: WorldModel, batch: TensorDict
) -> None:
    """The loss of a part that does not `sends_gradient` has no derivative at the states."""
    for name in world_model.heads:
        sends = world_model.head(name).sends_gradient
        reached = any(bool((x != 0).any()) for x in _gradients(world_model, batch, name)[1])
        require(
            reached == sends,
            f"sends_gradient of head {name} is {sends}, but its loss "
            f"{'reaches' if reached else 'does not reach'} the latent",
        )


@law("WorldModel", 4)
def law_4_rows_do_not_mix(
    world_model: WorldModel, batch: TensorDict, *, row: int, seed: int
) -> None:
    """In eval mode, other observations in one row leave the states of the others."""
    other = draw_specs(world_model.spec.observations, batch.batch_size, seed + 1)
    changed = batch.clone()
    for key, value in other.items():
        changed[key] = set_row(batch[key], value, row)
    others = [b for b in range(batch.batch_size[0]) if b != row]
    states = []
    for each in (batch, changed):
        with seeded(0), torch.no_grad():
            states.append(world_model.losses(each).observed.states)
    a, b = (tree_map(lambda x: x[others], s) for s in states)
    require_unchanged(a, b, f"observations of row {row} change the states of other rows")


@law("WorldModel", 5)
def law_5_acting_needs_no_context(agent: Agent, *, seed: int) -> None:
    """Acting for several steps calls neither `select` nor `forward` of the context encoder."""
    context_encoder = agent.world_model.context_encoder
    if context_encoder is None:
        skip("no context encoder")
    before = {name: p.detach().clone() for name, p in context_encoder.named_parameters()}
    actions = _play(agent, seed)
    try:
        with torch.no_grad():
            for parameter in context_encoder.parameters():
                parameter.fill_(torch.nan)
        require(
            equal(actions, _play(agent, seed)), "what the agent does depends on the context encoder"
        )
    finally:
        context_encoder.load_state_dict(before, strict=False)


def _gradients(
    world_model: WorldModel, batch: TensorDict, name: str
) -> tuple[list[int], list[Tensor]]:
    """Records that remain, and the derivative of one loss at their states."""
    with seeded(0):
        found = world_model.losses(batch)
    states = [x for x in leaves(found.observed.states) if x.requires_grad]
    kept = list(range(batch.batch_size[1]))[found.observed.records]
    loss = found.losses[name]
    if not loss.requires_grad or not states:
        return kept, [torch.zeros_like(x) for x in states]
    grads = torch.autograd.grad(loss, states, allow_unused=True, materialize_grads=True)
    return kept, list(grads)


def _with_scalars(batch: TensorDict, row: int, t: int) -> TensorDict:
    """Other scalars in one record, far from those before."""
    changed = batch.clone()
    changed["reward"][row, t] = -3.0 * batch["reward"][row, t].sign() - 2.0
    changed["is_terminal"][row, t] = ~batch["is_terminal"][row, t]
    return changed


def _paired(
    head: Head, batch: TensorDict, kept: Sequence[int], row: int, t: int
) -> set[tuple[int, int]]:
    """`(row, record)` of the state that the scalar of record t belongs to, if there is one."""
    if t not in list(kept)[head.target(batch[:, kept[0] : kept[-1] + 1]).records]:
        return set()
    if head.timing == "arrival":
        return {(row, t)}
    if t == kept[0] or bool(batch["is_first"][row, t]):
        return set()
    return {(row, t - 1)} if head.timing == "departure" else {(row, t - 1), (row, t)}


def _play(agent: Agent, seed: int) -> Tensor:
    """Act three times for two environments, in eval mode."""
    actions, memory = [], None
    for i in range(3):
        seen = draw_specs(agent.spec.observations, (2,), seed + i)
        is_first = torch.full((2,), i == 0)
        with seeded(seed + i):
            action, memory = agent.act(seen, is_first, memory, mode="eval", agent_steps=i)
        actions.append(action)
    return torch.stack(actions)
