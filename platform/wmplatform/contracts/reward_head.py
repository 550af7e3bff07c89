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
    require_gradients,
    require_some_gradient,
    require_unchanged,
    seeded,
    shake,
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
    # These train the head, so they take fresh ones.
    report.run(law_2_loss_is_minimal_at_the_target, make, features, seed=seed)
    report.run(law_4_learns_the_counter, make, features, length=6, seed=seed)
    return report


@law("Head", 1)
def law_1_scalars_for_any_leading_dims(
    head: Head, features: FeatureSpec, *, lead: Sequence[int], seed: int
) -> None:
    """The mean is fp32 `[*lead]`, finite, and the same for folded and for single features.

    Where the target is a vector, so is the mean.
    """
    f = draw_features(features, lead, seed)
    mean = _mean(head, f)
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
    """The loss is finite fp32 `[*lead]`, and record by record."""
    batch = records(2, 3, seed)
    target = head.target(batch)
    values = target.values
    lead = tuple(values.shape[:2])
    f = draw_features(features, lead, seed)
    with torch.no_grad():
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
    """Value t of the target comes from record t, and from no other."""
    batch = records(2, length, seed)
    target = head.target(batch)
    kept = list(range(length))[target.records]
    check_array("the target", target.values, ArraySpec(target.values.shape[2:]), (2, len(kept)))
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
    mean = _fit(head, states, values, updates=600)
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
    """The loss trains every parameter, and reaches the features where it is declared to."""
    values = head.target(records(2, 3, seed)).values
    f = tree_map(lambda x: x.requires_grad_(), draw_features(features, values.shape[:2], seed))
    require_gradients(head.loss(f, values).sum(), head, "the loss")
    if not head.sends_gradient:
        skip("sends_gradient is False: the world model cuts the gradient")
    each = (module.loss(f, values).sum() for module in variants(head))
    require_some_gradient(each, leaves(f), "the features though sends_gradient is True")


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


def _fit(head: Head, features: Features, values: Tensor, updates: int = 400) -> Tensor:
    """Train on these pairs alone and return what the head then predicts."""
    parameters = [p for p in head.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    head.train()
    with seeded(0):
        for i in range(updates):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - i / updates)
            optimizer.zero_grad()
            torch.autograd.backward(head.loss(features, values).mean())
            optimizer.step()
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
