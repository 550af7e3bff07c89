"""What an assembled world model owes its parts, runnable.

Laws of `WorldModel`:

1. The loss of a head pairs the state of record t with the scalar of record t where its timing is
   `arrival`, and with that of record t + 1 where it is `departure`; never across an episode's end.
   A transition is two states and the action between them. The loss of an image pairs the state of
   record t with the image of record t.
2. `losses` gives exactly the losses of `loss_names`, each a scalar, finite if it is needed.
3. A loss reaches the latent iff its head or decoder `sends_gradient`.
4. Rows do not mix: the records of one row do not change the states of another.
5. Acting never calls the context encoder (law 3 of `ContextEncoder`).
6. No head reads what its answer has changed: an action that it predicts, by a state after it.
7. The model is in train mode in the loss of its phase, and in eval mode when that is over.
8. Where a carry is given and no episode starts, states go on from it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    actions_like,
    any_changed,
    check_array,
    draw_specs,
    equal,
    leaves,
    require_unchanged,
    seeded,
    set_row,
)
from wmplatform.contracts.reference import draw_records
from wmplatform.interfaces.behavior import Update
from wmplatform.interfaces.latent_dynamics import Observed
from wmplatform.interfaces.reward_head import Head
from wmplatform.types import ArraySpec, Carry, TensorTree, tree_map
from wmplatform.world_model import WorldModel

__all__ = [
    "check_world_model",
    "law_1_pairs_action_and_states",
    "law_1_pairs_state_and_image",
    "law_1_pairs_state_and_scalar",
    "law_2_losses_as_named",
    "law_3_gradients_reach_the_latent_as_declared",
    "law_4_rows_do_not_mix",
    "law_5_acting_needs_no_context",
    "law_6_no_head_reads_its_answer",
    "law_7_train_mode_in_its_loss_alone",
    "law_8_goes_on_from_a_carry",
]


def check_world_model(
    world_model: WorldModel, *, length: int = 5, seed: int = 0, collect: bool = False
) -> Report:
    """Run the laws but 5 on an assembled world model.

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
        report.run(law_1_pairs_action_and_states, world_model, batch, name)
        report.run(law_6_no_head_reads_its_answer, world_model, batch, name, row=0)
    for key in world_model.decoder.keys if world_model.decoder else ():
        for t in range(length):
            report.run(law_1_pairs_state_and_image, world_model, batch, key, row=1, t=t)
    report.run(law_2_losses_as_named, world_model, batch)
    report.run(law_3_gradients_reach_the_latent_as_declared, world_model, batch)
    report.run(law_4_rows_do_not_mix, world_model, batch, row=1, seed=seed)
    report.run(law_7_train_mode_in_its_loss_alone, world_model, batch)
    report.run(law_8_goes_on_from_a_carry, world_model, batch)
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
    changed = _with_scalars(batch, row, t)
    if equal(head.target(batch).values, head.target(changed).values):
        skip(f"head {name} predicts something else")
    kept, before = _gradients(world_model, batch, name)
    _, after = _gradients(world_model, changed, name)
    moved = _moved(kept, before, after)
    expected = _paired(head, batch, kept, row, t)
    # Of a transition's two states a head may need one alone.
    require(
        moved == expected or (head.timing == "transition" and set() < moved < expected),
        f"the {name} of record {t} of row {row} is paired with the states {sorted(moved)} instead "
        f"of {sorted(expected)} (row, record); timing is {head.timing}",
    )


@law("WorldModel", 1)
def law_1_pairs_action_and_states(world_model: WorldModel, batch: TensorDict, name: str) -> None:
    """A head of transitions reads the action that led from the one state to the other."""
    head = world_model.head(name)
    if head.timing != "transition":
        skip(f"head {name} reads no transitions")
    kept, features = _read(world_model, batch, name)
    require(
        equal(features["action"], batch["action"][:, kept[1:]]),
        f"head {name} reads other actions than those that led into the records {kept[1:]}",
    )


@law("WorldModel", 1)
def law_1_pairs_state_and_image(
    world_model: WorldModel, batch: TensorDict, key: str, *, row: int, t: int
) -> None:
    """Another image in record t, which no encoder sees, moves the loss at the state of t alone."""
    decoder = world_model.decoder
    assert decoder is not None
    if not decoder.sends_gradient:
        skip("the decoder sends no gradient")
    name = "image" if len(decoder.keys) == 1 else f"image_{key}"
    changed = batch.clone()
    changed[key][row, t] = 255 - batch[key][row, t]
    with _blind(world_model, batch):
        kept, before = _gradients(world_model, batch, name)
        _, after = _gradients(world_model, changed, name)
    moved, expected = _moved(kept, before, after), {(row, t)} if t in kept else set()
    require(
        moved == expected,
        f"the {key} of record {t} of row {row} is compared with what is decoded from the states "
        f"{sorted(moved)} instead of {sorted(expected)} (row, record)",
    )


@law("WorldModel", 2)
def law_2_losses_as_named(world_model: WorldModel, batch: TensorDict) -> None:
    """Losses have the declared names and are scalars, finite where needed; so are metrics."""
    with seeded(0):
        found = world_model.losses(batch)
    require(
        sorted(found.losses) == sorted(world_model.loss_names),
        f"losses are {sorted(found.losses)}, loss_names are {sorted(world_model.loss_names)}",
    )
    for name, value in found.losses.items():
        if world_model.balancer.needed(name):
            check_array(f"loss {name}", value, ArraySpec(()), ())
        require(value.dim() == 0, f"loss {name} has shape {tuple(value.shape)}")
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
    states = [_observed(world_model, each).states for each in (batch, changed)]
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


@law("WorldModel", 6)
def law_6_no_head_reads_its_answer(
    world_model: WorldModel, batch: TensorDict, name: str, *, row: int
) -> None:
    """Where a head predicts actions, another action changes nothing of what it is read from."""
    head = world_model.head(name)
    for t in range(1, batch.batch_size[1]):
        changed = batch.clone()
        changed["action"][row, t] = actions_like(batch["action"][row, t], world_model.spec.action)
        if equal(head.target(batch).values, head.target(changed).values):
            skip(f"head {name} does not predict actions")
        (kept, before), (_, after) = (_read(world_model, x, name) for x in (batch, changed))
        if t not in kept[1:]:
            continue
        at = kept.index(t) - (head.timing != "arrival")
        if head.timing == "transition":
            before, after = ({k: x[k] for k in ("before", "after")} for x in (before, after))
        seen, other = (tree_map(lambda x, at=at: x[row, at], f) for f in (before, after))
        require_unchanged(
            seen, other, f"head {name} predicts the action of record {t} from what it has changed"
        )


@law("WorldModel", 7)
def law_7_train_mode_in_its_loss_alone(world_model: WorldModel, batch: TensorDict) -> None:
    """The phase computes its losses in train mode, and leaves every part in eval mode."""
    modes: list[bool] = []
    hook = world_model.encoder.register_forward_pre_hook(lambda m, _: modes.append(m.training))
    with seeded(0):
        world_model.eval().phase().compute(Update(batch))
    hook.remove()
    loud = [name or "the model" for name, each in world_model.named_modules() if each.training]
    world_model.eval()
    require(all(modes), "its losses are computed in eval mode")
    require(not loud, f"after its phase {', '.join(loud[:3])} stays in train mode")


@law("WorldModel", 8)
def law_8_goes_on_from_a_carry(world_model: WorldModel, batch: TensorDict) -> None:
    """The carry of a segment before gives other states, where no episode begins."""
    carries = [None, _observed(world_model, batch).carry]
    if not leaves(carries):
        skip("there is nothing to carry")
    going_on = batch.clone()
    going_on["is_first"][:, 0] = False
    states = [_observed(world_model, going_on, carry).states for carry in carries]
    require(any_changed(*states), "the carry that is given changes no state")


@torch.no_grad()
def _observed(world_model: WorldModel, batch: TensorDict, carry: Carry | None = None) -> Observed:
    with seeded(0):
        return world_model.losses(batch, carry=carry).observed


def _moved(
    kept: Sequence[int], before: Sequence[Tensor], after: Sequence[Tensor]
) -> set[tuple[int, int]]:
    """`(row, record)` of the states at which derivatives differ."""
    return {
        (b, kept[i])
        for x, y in zip(before, after, strict=True)
        for b, i in (x != y).flatten(2).any(-1).nonzero().tolist()
    }


def _read(world_model: WorldModel, batch: TensorDict, name: str) -> tuple[list[int], Any]:
    """Which records the targets of a head are of, and what it reads to predict them."""
    head, seen = world_model.head(name), []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with seeded(0), torch.no_grad():
        found = world_model.losses(batch)
    hook.remove()
    if not seen:
        skip(f"head {name} does not predict in its loss")
    every = slice(None) if head.view == "embeds" else found.observed.records
    records = list(range(batch.batch_size[1]))[every]
    target = head.target({key: batch[key][:, every] for key in batch.keys()})  # noqa: SIM118
    return records[target.records], seen[0]


@contextmanager
def _replaced(*methods: tuple[nn.Module, str, Callable[..., Any]]) -> Iterator[None]:
    """Let modules do something else for a while."""
    before = [vars(module).get(name) for module, name, _ in methods]
    for module, name, function in methods:
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name, _), own in zip(methods, before, strict=True):
            delattr(module, name)
            if own:  # replaced already, by whom this lies within
                setattr(module, name, own)


@contextmanager
def _blind(world_model: WorldModel, batch: TensorDict) -> Iterator[None]:
    """Let the encoders answer as for this batch, whatever they are shown."""
    with seeded(0), torch.no_grad():
        embeds, context = world_model.embed(batch), world_model.context(batch)
    with _replaced(
        (world_model.encoder, "forward", lambda _: embeds),
        (world_model, "context", lambda _: context),
    ):
        yield


def _gradients(
    world_model: WorldModel, batch: TensorDict, name: str
) -> tuple[list[int], list[Tensor]]:
    """Records that remain, and the derivative of one loss at their states.

    At the embeddings of all records, where a head reads those. States and embeddings are cut off
    from what they were computed from, so that nothing comes to a state by way of a later one.
    """
    encode, observe, embeds = world_model.encoder.forward, world_model.dynamics.observe, {}

    def encoded(observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        embeds.update(_leaf(encode(observations)))
        return embeds

    def observed(*args: Any, **kwargs: Any) -> Observed:
        found = observe(*args, **kwargs)
        return replace(found, states=_leaf(found.states))

    dynamics = world_model.dynamics
    with (
        _replaced((world_model.encoder, "forward", encoded), (dynamics, "observe", observed)),
        seeded(0),
    ):
        found = world_model.losses(batch)
    kept = list(range(batch.batch_size[1]))
    if name in world_model.heads and world_model.head(name).view == "embeds":
        read = leaves(embeds)
    else:
        read, kept = leaves(found.observed.states), kept[found.observed.records]
    states, loss = [x for x in read if x.requires_grad], found.losses[name]
    if not loss.requires_grad:
        return kept, [torch.zeros_like(x) for x in states]
    grads = torch.autograd.grad(loss, states, allow_unused=True, materialize_grads=True)
    return kept, list(grads)


def _leaf(tree: TensorTree) -> TensorTree:
    return tree_map(lambda x: x.detach().requires_grad_(x.is_floating_point()), tree)


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
