"""The laws of `Head` and `RewardHead`, runnable."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    any_changed,
    check_array,
    draw_features,
    equal,
    generator,
    leaves,
    no_device_wait,
    no_draws,
    require_gradients,
    require_some_gradient,
    require_unchanged,
    seeded,
    set_row,
    shake,
    snapshot,
    variants,
)
from wmplatform.interfaces.reward_head import Head, RewardHead
from wmplatform.types import ArraySpec, Batch, Features, FeatureSpec, Target, tree_map

__all__ = [
    "check_head",
    "law_1_scalars_for_any_leading_dims",
    "law_2_loss_is_minimal_at_the_target",
    "law_2_loss_is_one_number_a_record",
    "law_3_target_keeps_time",
    "law_3_target_reads_its_row_only",
    "law_4_learns_the_counter",
    "law_5_gradients_reach_features_and_parameters",
    "law_6_does_not_read_its_answer",
    "law_7_rows_do_not_mix_in_training",
    "law_8_the_class_says_what_is_read",
    "law_9_state_is_checkpointed",
]

SCALAR = ArraySpec(())


def check_head(
    make: Callable[[FeatureSpec], Head],
    features: FeatureSpec,
    *,
    seed: int = 0,
    collect: bool = False,
) -> Report:
    """Run every law of `Head`.

    Args:
        make: builds the head for this feature spec.
        features: spec of the view it reads.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("Head", collect=collect)
    head = shake(make(features), seed).eval()
    leads: tuple[tuple[int, ...], ...] = ((), (3,), (2, 3))
    for lead in leads:
        report.run(law_1_scalars_for_any_leading_dims, head, features, lead=lead, seed=seed)
    report.run(law_2_loss_is_one_number_a_record, head, features, seed=seed)
    for t in (0, 2, 4):
        report.run(law_3_target_keeps_time, head, length=5, t=t, seed=seed)
    report.run(law_3_target_reads_its_row_only, head, row=1, seed=seed)
    report.run(law_5_gradients_reach_features_and_parameters, head, features, seed=seed)
    report.run(law_6_does_not_read_its_answer, head, features, seed=seed)
    report.run(law_7_rows_do_not_mix_in_training, head, features, row=1, seed=seed)
    report.run(law_8_the_class_says_what_is_read, head)
    report.run(law_9_state_is_checkpointed, make, features, seed=seed)
    # These train the head, so they take fresh ones.
    report.run(law_2_loss_is_minimal_at_the_target, make, features, seed=seed)
    report.run(law_4_learns_the_counter, make, features, length=6, seed=seed)
    return report


@law("Head", 1)
def law_1_scalars_for_any_leading_dims(
    head: Head, features: FeatureSpec, *, lead: Sequence[int], seed: int
) -> None:
    """The mean is fp32 `[*lead]`, finite, and the same for folded and for single features.

    Where the target is a vector, so is the mean. Nothing is drawn, and the features stay.
    """
    f = draw_features(features, lead, seed)
    kept = snapshot(f)
    with no_draws("predicting in eval mode"):
        mean = _mean(head, f)
    require(equal(kept, f), "the features were changed in place")
    event = head.target(records(1, 2, seed)).values.shape[2:]
    check_array("the mean", mean, ArraySpec(tuple(event)), lead)
    n = torch.Size(lead).numel()
    folded = tree_map(lambda x: x.reshape(n, *x.shape[len(lead) :]), f)
    require_unchanged(
        _mean(head, folded).reshape(mean.shape), mean, "folding the leading dims changes the mean"
    )
    single = torch.stack([_mean(head, tree_map(lambda x, i=i: x[i], folded)) for i in range(n)])
    require_unchanged(single.reshape(mean.shape), mean, "features alone and among others differ")


@law("Head", 2)
def law_2_loss_is_one_number_a_record(head: Head, features: FeatureSpec, *, seed: int) -> None:
    """The loss is finite fp32 `[*lead]`, record by record, and never waits for the device."""
    batch = records(2, 3, seed)
    target = head.target(batch)
    values = target.values
    lead = tuple(values.shape[:2])
    f = draw_features(features, lead, seed)
    with torch.no_grad():
        with no_device_wait("the loss"):
            loss = head.loss(f, values)
        other = values.clone()
        other[0, 0] = values[0, 0] * 0.5 + 0.1
        changed = head.loss(f, other)
    check_array("the loss", loss, SCALAR, lead)
    mask = torch.ones(lead, dtype=torch.bool)
    mask[0, 0] = False
    require_unchanged(
        loss[mask], changed[mask], "the target of one record changes the loss of others"
    )
    require(any_changed(loss[0, 0], changed[0, 0]), "the loss does not depend on the target")


@law("Head", 2)
def law_2_loss_is_minimal_at_the_target(
    make: Callable[[FeatureSpec], Head], features: FeatureSpec, *, seed: int
) -> None:
    """Minimising the loss brings the prediction to the target."""
    with seeded(seed):
        head = make(features)
    values = head.target(records(1, 2, seed)).values[0].detach()
    f = draw_features(features, (len(values),), seed)
    mean = _fit(head, f, values)
    worst = float((mean - values).abs().max())
    require(
        worst < 0.1 + 0.05 * float(values.abs().max()),
        f"at the least loss the head predicts {_listed(mean)} where the target is "
        f"{_listed(values)}",
    )


@law("Head", 3)
def law_3_target_keeps_time(head: Head, *, length: int, t: int, seed: int) -> None:
    """Value t of the target comes from record t, and from no other; a time limit is no end.

    The records stay as they are.
    """
    batch = records(2, length, seed)
    given = snapshot(batch)
    target = head.target(given)
    require(equal(given, batch), "making the target changes the records in place")
    kept = list(range(length))[target.records]
    check_array("the target", target.values, ArraySpec(target.values.shape[2:]), (2, len(kept)))
    limited = head.target({**batch, "is_last": ~batch["is_last"]})
    require(
        equal(target.values, limited.values),
        "the target depends on `is_last`: no state tells where a time limit cuts an episode off; "
        "an end is `is_terminal`",
    )
    changed = head.target(_with_record(batch, t))
    others = [i for i, record in enumerate(kept) if record != t]
    require(
        equal(target.values[:, others], changed.values[:, others]),
        f"record {t} changes the target of another record; is it shifted by one?",
    )
    if t in kept:
        own = kept.index(t)
        require(
            any_changed(target.values[:, own], changed.values[:, own]),
            f"nothing in record {t} changes the target of record {t}",
        )


@law("Head", 3)
def law_3_target_reads_its_row_only(head: Head, *, row: int, seed: int) -> None:
    """The target of a row comes from that row."""
    batch, other = records(3, 4, seed), records(3, 4, seed + 1)
    changed = {key: x.clone() for key, x in batch.items()}
    for key, x in changed.items():
        x[row] = other[key][row]
    others = [b for b in range(3) if b != row]
    before, after = head.target(batch).values, head.target(changed).values
    require(
        equal(before[others], after[others]), f"records of row {row} change the target of others"
    )


@law("Head", 4)
def law_4_learns_the_counter(
    make: Callable[[FeatureSpec], Head], features: FeatureSpec, *, length: int, seed: int
) -> None:
    """Where the reward is the record's index, the state that `timing` names predicts that index.

    The features of record t are a fixed random code of t. The head is trained on the pairs that
    the platform forms; then each code has to give its own target and not a neighbour's.
    """
    with seeded(seed):
        head = make(features)
    batch = counter(length)
    target = head.target(batch)
    codes = draw_features(features, (length,), seed + 3)
    states, values = pair(head, tree_map(lambda x: x[None], codes), target)
    states, values = tree_map(lambda x: x[0], states), values[0].detach()
    offset = 0 if head.timing == "arrival" else 1
    if isinstance(head, RewardHead):
        rises = bool((values.diff() >= 0).all()) and float(values[-1] - values[0]) > 0
        require(rises, f"the reward counts 0, 1, 2, ... but the target is {_listed(values)}")
    mean = _fit(head, states, values)
    gaps = torch.cdist(mean.reshape(len(mean), -1), values.reshape(len(values), -1))
    for i in range(len(values)):
        nearest = int(gaps[i].argmin())
        require(
            bool((values[nearest] - values[i]).abs().max() < 1e-6),
            f"the state that should predict record {i + offset} predicts {_listed(mean[i])}, the "
            f"value of record {nearest + offset} ({_listed(values)})",
        )


@law("Head", 5)
def law_5_gradients_reach_features_and_parameters(
    head: Head, features: FeatureSpec, *, seed: int
) -> None:
    """The loss trains every parameter, and reaches the features where it is declared to.

    Of each array of the features it depends on every entry, or on none.
    """
    values = head.target(records(2, 3, seed)).values
    f = tree_map(lambda x: x.requires_grad_(), draw_features(features, values.shape[:2], seed))
    require_gradients(head.loss(f, values).sum(), head, "the loss")
    blind = [torch.ones(part.shape[2:], dtype=torch.bool) for part in leaves(f)]
    for module in variants(head):
        loss = module.loss(f, values).sum()
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, leaves(f), allow_unused=True, materialize_grads=True)
            blind = [b & (g == 0).flatten(0, 1).all(0) for b, g in zip(blind, grads, strict=True)]
    for part in blind:
        left = part.flatten().nonzero().flatten().tolist()
        require(
            len(left) in (0, part.numel()),
            f"of {part.numel()} features the entries {left} never change the loss",
        )
    if not head.sends_gradient:
        skip("sends_gradient is False: the world model cuts the gradient")
    each = (module.loss(f, values).sum() for module in variants(head))
    require_some_gradient(each, leaves(f), "the features though sends_gradient is True")


@law("Head", 6)
def law_6_does_not_read_its_answer(head: Head, features: FeatureSpec, *, seed: int) -> None:
    """What is predicted depends neither on the target nor on anything that knows it."""
    batch, other = records(2, 4, seed), records(2, 4, seed + 1)
    target = head.target(batch)
    f = draw_features(features, target.values.shape[:2], seed)
    before = _mean(head, f)
    head.target(other)
    require(equal(before, _mean(head, f)), "the prediction depends on the targets made before it")
    acted = head.target({**batch, "action": other["action"]})
    if equal(target.values, acted.values):
        skip("its target is no action")
    if head.timing == "transition":
        assert isinstance(f, dict)
        answered = {**f, "action": tree_map(lambda x: x + 1.0, f["action"])}
        require(equal(before, _mean(head, answered)), "it predicts the action that it reads")
    require(
        head.timing == "departure" or head.view == "embeds",
        f"it predicts the action that led into a state, and reads that state by the view "
        f"{head.view!r}, which knows the action; read `embeds`",
    )


@law("Head", 7)
def law_7_rows_do_not_mix_in_training(
    head: Head, features: FeatureSpec, *, row: int, seed: int
) -> None:
    """In train mode too, other features in one row leave the losses of the others."""
    if head.batch_statistics:
        skip("batch_statistics is True")
    values = head.target(records(4, 3, seed)).values
    f = draw_features(features, values.shape[:2], seed)
    changed = set_row(f, draw_features(features, values.shape[:2], seed + 1), row)
    others = [b for b in range(4) if b != row]
    losses, state = [], snapshot(head.state_dict())
    head.train()
    for each in (f, changed):
        with seeded(seed), torch.no_grad():
            losses.append(head.loss(each, values)[others])
    head.eval().load_state_dict(state)
    before, after = losses
    require_unchanged(
        before,
        after,
        f"in train mode the features of row {row} change the loss of other rows (declare "
        "batch_statistics if that is meant)",
    )


@law("Head", 8)
def law_8_the_class_says_what_is_read(head: Head) -> None:
    """`timing` and `view` are those of the class, by which the platform chooses the features."""
    for name in ("timing", "view"):
        own, declared = getattr(head, name), getattr(type(head), name)
        require(own == declared, f"its {name} is {own!r}, that of its class {declared!r}")


@law("Head", 9)
def law_9_state_is_checkpointed(
    make: Callable[[FeatureSpec], Head], features: FeatureSpec, *, seed: int
) -> None:
    """A fresh head that loads the state of a used one has the same targets and losses."""
    with seeded(seed):
        used, fresh = make(features).train(), make(features).train()
    batch = records(2, 3, seed)
    f = draw_features(features, used.target(batch).values.shape[:2], seed)
    for _ in range(3):
        used.loss(f, used.target(batch).values)
    fresh.load_state_dict(used.state_dict())
    found = []
    for head in (used, fresh):
        values = head.target(batch).values
        with seeded(seed), torch.no_grad():
            found.append((values, head.loss(f, values)))
    require(
        equal(*found),
        "after loading its state, a head has other targets or losses: something that changes is "
        "neither a buffer nor a parameter",
    )


def records(batch: int, length: int, seed: int) -> dict[str, Tensor]:
    """Random records `[B, T]` of everything but observations."""
    g = generator(seed)
    is_first = torch.zeros(batch, length, dtype=torch.bool)
    is_first[:, 0] = True
    is_last = torch.rand(batch, length, generator=g) < 0.3
    return {
        "reward": torch.randn(batch, length, generator=g),
        "intrinsic": torch.rand(batch, length, generator=g),
        "action": torch.rand(batch, length, 3, generator=g) * 2 - 1,
        "success": (torch.rand(batch, length, generator=g) < 0.5).float(),
        "is_first": is_first,
        "is_last": is_last,
        "is_terminal": is_last & (torch.rand(batch, length, generator=g) < 0.5),
    }


def counter(length: int) -> dict[str, Tensor]:
    """One episode `[1, T]` of the counter environment: the reward is the record's index."""
    end = torch.zeros(1, length, dtype=torch.bool)
    end[:, -1] = True
    return {
        "reward": torch.arange(length).float()[None],
        "action": torch.zeros(1, length, 3),
        "success": end.float(),
        "is_first": end.flip(1),
        "is_last": end,
        "is_terminal": end,
    }


def pair(head: Head, features: Features, target: Target) -> tuple[Features, Tensor]:
    """Pair states `[B, T]` with the values they should predict, as the world model does."""
    states: Features = tree_map(lambda x: x[:, target.records], features)
    if head.timing == "arrival":
        return states, target.values
    # What a head of transitions reads is drawn as such: entry t is what led into record t.
    there = slice(1, None) if head.timing == "transition" else slice(-1)
    return tree_map(lambda x: x[:, there], states), target.values[:, 1:]


def _fit(head: Head, features: Features, values: Tensor) -> Tensor:
    """Minimise the loss on these pairs alone, and return what the head then predicts.

    In train mode, unless the head draws there (a line search needs the same loss every time) or has
    statistics over the batch, which are none of so few records.
    """
    optimizer = torch.optim.LBFGS(
        [p for p in head.parameters() if p.requires_grad],
        max_iter=60,
        line_search_fn="strong_wolfe",
    )
    head.train()
    with seeded(0), torch.no_grad():
        state = torch.get_rng_state()
        head.loss(features, values)
        quiet = equal(state, torch.get_rng_state())
    head.train(quiet and not head.batch_statistics)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = head.loss(features, values).mean()
        torch.autograd.backward(found)
        return found

    optimizer.step(loss)
    return _mean(head.eval(), features)


@torch.no_grad()
def _mean(head: Head, features: Features) -> Tensor:
    mean: Tensor = head(features).mean
    return mean


def _with_record(batch: Batch, t: int) -> dict[str, Tensor]:
    """Other values in record t of every row."""
    out = {key: x.clone() for key, x in batch.items()}
    for key, x in out.items():
        x[:, t] = ~x[:, t] if x.dtype == torch.bool else x[:, t] * 0.5 + 0.7
        if key == "success":
            x[:, t] = 1 - batch[key][:, t]
    return out


def _listed(x: Tensor) -> str:
    return "[" + ", ".join(f"{v:.2f}" for v in x.flatten().tolist()) + "]"
