"""The laws of `LatentDynamics`, runnable; those on resets and imagination lie in their own files.

Everything runs with `deterministic=True` unless a law is about sampling, so that two runs differ
by what was changed and by nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wmplatform.contracts import imagination, resets
from wmplatform.contracts.laws import Report, fail, law, require, skip
from wmplatform.contracts.probes import (
    actions_like,
    any_changed,
    check_array,
    close,
    equal,
    fill_floats,
    finite,
    leaves,
    no_draws,
    require_gradients,
    require_some_gradient,
    require_unchanged,
    seeded,
    set_row,
    shake,
)
from wmplatform.contracts.segments import (
    DynamicsCase,
    Segment,
    draw_segment,
    observe,
    observe_sampled,
    records_of,
    states_at,
    step,
    step_through,
)
from wmplatform.interfaces.latent_dynamics import LatentDynamics
from wmplatform.types import ActionSpec, ArraySpec, Carry, Features, FeatureSpec, tree_map

__all__ = [
    "DynamicsCase",
    "check_latent_dynamics",
    "law_1_action_ignored_at_first",
    "law_1_action_leads_into_its_record",
    "law_1_actions_may_be_missing",
    "law_2_observe_equals_steps",
    "law_2_observe_goes_on_from_its_carry",
    "law_5_rows_do_not_mix",
    "law_5_select_takes_rows",
    "law_6_causal",
    "law_6_depends_on_embedding",
    "law_7_features_as_declared",
    "law_8_gradients_reach_parameters",
    "law_8_losses_are_scalars",
    "law_9_deterministic_draws_nothing",
]

VIEWS = ("policy", "value", "reward", "decode")


def check_latent_dynamics(
    make: Callable[[Mapping[str, ArraySpec], ActionSpec], LatentDynamics],
    embeds: Mapping[str, ArraySpec],
    action: ActionSpec,
    *,
    context: Mapping[str, ArraySpec] | None = None,
    seed: int = 0,
    collect: bool = False,
) -> Report:
    """Run every law of `LatentDynamics` that its capabilities do not rule out.

    Args:
        make: builds the dynamics for these specs.
        embeds: the encoder's output.
        action: what an action is.
        context: what the dynamics gets as context, where it needs one.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("LatentDynamics", collect=collect)
    dynamics = shake(make(embeds, action), seed).eval()
    length = dynamics.capabilities.warmup_frames + 6
    case = DynamicsCase(embeds, action, context, length=length, seed=seed)
    cuts = case
    if dynamics.capabilities.resets_mid_sequence:
        cuts = replace(case, resets=frozenset({(0, length - 3), (2, 1), (2, length - 2)}))
    last, first = length - 2, length - 4
    for t in (first, last):
        report.run(law_1_action_leads_into_its_record, dynamics, case, t)
        report.run(law_6_causal, dynamics, case, t)
        report.run(law_6_depends_on_embedding, dynamics, case, t)
        for row in (0, 2):
            report.run(resets.law_3_reset_cuts_history, dynamics, case, row, t)
            report.run(resets.law_3_reset_is_for_its_row_only, dynamics, case, row, t)
    report.run(law_1_action_ignored_at_first, dynamics, cuts)
    report.run(law_1_actions_may_be_missing, dynamics, cuts)
    for each in (case, cuts):
        report.run(law_2_observe_equals_steps, dynamics, each)
        report.run(law_2_observe_goes_on_from_its_carry, dynamics, each, last)
        report.run(law_5_rows_do_not_mix, dynamics, each, 1)
        report.run(law_9_deterministic_draws_nothing, dynamics, each)
    report.run(resets.law_3_carry_is_cut, dynamics, case)
    report.run(law_5_select_takes_rows, dynamics, case)
    report.run(law_7_features_as_declared, dynamics, cuts)
    imagination.check(report, dynamics, cuts)
    report.run(law_8_losses_are_scalars, dynamics, cuts)
    report.run(law_8_gradients_reach_parameters, dynamics, cuts)
    return report


# ---------------------------------------------------------------- law 1: actions


@law("LatentDynamics", 1)
def law_1_action_leads_into_its_record(
    dynamics: LatentDynamics, case: DynamicsCase, t: int
) -> None:
    """`actions[:, t]` changes the state of record t and leaves that of record t - 1."""
    segment = draw_segment(dynamics, case)
    is_first = segment.is_first.clone()
    is_first[:, t] = False
    segment = replace(segment, is_first=is_first)
    before = observe(dynamics, segment)
    after = observe(dynamics, _other_actions(segment, case.action, t))
    earlier = records_of(before, segment.length)
    require_unchanged(
        *states_at(before, after, segment, [r for r in earlier if r < t]),
        f"the action that led into record {t} changes the state of an earlier record",
    )
    _require_uses_actions(dynamics, segment, case.action)
    require(
        any_changed(*states_at(before, after, segment, [t])),
        f"the action that led into record {t} does not change the state of record {t}; "
        "is it shifted by one?",
    )


@law("LatentDynamics", 1)
def law_1_action_ignored_at_first(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """What stands in `actions` at `is_first` does not matter, even NaN."""
    segment = draw_segment(dynamics, case)
    mask = segment.is_first[..., None]
    for value in (0.7, torch.nan):
        other = replace(segment, actions=segment.actions.masked_fill(mask, value))
        require_unchanged(
            observe(dynamics, segment).states,
            observe(dynamics, other).states,
            f"an action of {value} at a record with is_first changes the states",
        )


@law("LatentDynamics", 1)
def law_1_actions_may_be_missing(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """`observe` takes `actions=None` where `capabilities.action_free` says so."""
    if not dynamics.capabilities.action_free:
        skip("not action_free")
    segment = draw_segment(dynamics, case)
    with torch.no_grad():
        observed = dynamics.observe(
            segment.embeds, None, segment.is_first, context=segment.context, deterministic=True
        )
    require(finite(observed.states), "states without actions are not finite")


# ---------------------------------------------------------------- law 2: one step at a time


@law("LatentDynamics", 2)
def law_2_observe_equals_steps(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """`observe` gives the states of one `observe_step` a record, and an equal carry."""
    segment = draw_segment(dynamics, case)
    whole = observe(dynamics, segment)
    stepped, carry = step_through(dynamics, segment)
    records = records_of(whole, segment.length)
    alike = tree_map(lambda x: x[:, records], stepped)
    require_unchanged(whole.states, alike, "states of observe and of observe_step differ")
    require(_alike(whole.carry, carry), "the carries after observe and after observe_step differ")


@law("LatentDynamics", 2)
def law_2_observe_goes_on_from_its_carry(
    dynamics: LatentDynamics, case: DynamicsCase, cut: int
) -> None:
    """Two halves, the second with the carry of the first, equal the whole segment."""
    segment = draw_segment(dynamics, case)
    whole = observe(dynamics, segment)
    head = observe(dynamics, segment.cut(0, cut))
    tail_segment = segment.cut(cut, segment.length)
    tail = observe(dynamics, tail_segment, head.carry)
    in_whole, in_tail = records_of(whole, segment.length), records_of(tail, segment.length - cut)
    shared = [r for r in in_tail if r + cut in in_whole]
    first, second = [in_whole.index(r + cut) for r in shared], [in_tail.index(r) for r in shared]
    require_unchanged(
        tree_map(lambda x: x[:, first], whole.states),
        tree_map(lambda x: x[:, second], tail.states),
        f"going on at record {cut} from the carry changes the states",
    )


# ---------------------------------------------------------------- laws 5 and 6: rows and time


@law("LatentDynamics", 5)
def law_5_rows_do_not_mix(dynamics: LatentDynamics, case: DynamicsCase, row: int) -> None:
    """Other embeddings, actions, resets and context in one row, and NaN, leave the others alone."""
    segment = draw_segment(dynamics, case)
    other = draw_segment(dynamics, replace(case, seed=case.seed + 11, resets=frozenset()))
    carry = observe(dynamics, other).carry
    before = observe(dynamics, segment, carry)
    others = [b for b in range(segment.batch) if b != row]
    bad = replace(
        other,
        embeds=fill_floats(other.embeds, torch.nan),
        actions=torch.full_like(other.actions, torch.nan),
    )
    for what, source in (("other values", other), ("NaN", bad)):
        after = observe(dynamics, _set_segment_row(segment, source, row), carry)
        require_unchanged(
            tree_map(lambda x: x[others], before.states),
            tree_map(lambda x: x[others], after.states),
            f"{what} in row {row} change the states of other rows",
        )


@law("LatentDynamics", 5)
def law_5_select_takes_rows(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Rows taken from a carry by `select` go on as they would have among the others."""
    segment = draw_segment(dynamics, case)
    carry = observe(dynamics, segment).carry
    rows = torch.tensor([segment.batch - 1, 0])
    segment = replace(segment, is_first=torch.zeros_like(segment.is_first))
    fewer = Segment(
        {name: x[rows] for name, x in segment.embeds.items()},
        segment.actions[rows],
        segment.is_first[rows],
        None if segment.context is None else {n: x[rows] for n, x in segment.context.items()},
    )
    some, _ = step(dynamics, fewer, 0, dynamics.select(carry, rows))
    every, _ = step(dynamics, segment, 0, carry)
    require_unchanged(
        tree_map(lambda x: x[rows], every), some, "rows taken by `select` go on differently"
    )


@law("LatentDynamics", 6)
def law_6_causal(dynamics: LatentDynamics, case: DynamicsCase, t: int) -> None:
    """States of records before t do not see embeddings, actions and resets from t on."""
    segment = draw_segment(dynamics, case)
    future = draw_segment(dynamics, replace(case, seed=case.seed + 13))
    before = observe(dynamics, segment)
    after = observe(dynamics, _splice(dynamics, segment, future, t))
    earlier = [r for r in records_of(before, segment.length) if r < t]
    require_unchanged(
        *states_at(before, after, segment, earlier),
        f"a record from {t} on changes the state of an earlier one",
    )


@law("LatentDynamics", 6)
def law_6_depends_on_embedding(dynamics: LatentDynamics, case: DynamicsCase, t: int) -> None:
    """The state of record t does depend on the embedding of record t."""
    segment = draw_segment(dynamics, case)
    other = draw_segment(dynamics, replace(case, seed=case.seed + 17))
    embeds = {name: x.clone() for name, x in segment.embeds.items()}
    for name, x in embeds.items():
        x[:, t] = other.embeds[name][:, t]
    before, after = observe(dynamics, segment), observe(dynamics, replace(segment, embeds=embeds))
    require(
        any_changed(*states_at(before, after, segment, [t])),
        f"the state of record {t} does not depend on the embedding of record {t}",
    )


# ---------------------------------------------------------------- law 7: views


@law("LatentDynamics", 7)
def law_7_features_as_declared(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Every view has the declared shape, is finite fp32, and treats leading dims alike."""
    missing = [view for view in VIEWS if view not in dynamics.views]
    require(not missing, f"there is no view {', '.join(missing)}")
    segment = draw_segment(dynamics, case)
    observed = observe(dynamics, segment)
    lead = (segment.batch, len(records_of(observed, segment.length)))
    folded = tree_map(lambda x: x.flatten(0, 1), observed.states)
    single = tree_map(lambda x: x[0, 0], observed.states)
    for view in sorted(dynamics.views):
        with torch.no_grad():
            whole, flat, one = (
                dynamics.features(s, view) for s in (observed.states, folded, single)
            )
        _check_features(view, whole, dynamics.feature_spec(view), lead)
        _check_features(view, one, dynamics.feature_spec(view), ())
        require_unchanged(
            tree_map(lambda x: x.flatten(0, 1), whole), flat, f"folding changes the view {view}"
        )
        require_unchanged(
            tree_map(lambda x: x[0, 0], whole), one, f"a single state changes the view {view}"
        )


# ---------------------------------------------------------------- laws 8 and 9


@law("LatentDynamics", 8)
def law_8_losses_are_scalars(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Divergences are those declared, finite fp32 scalars; metrics are detached scalars."""
    observed = observe_sampled(dynamics, draw_segment(dynamics, case))
    losses, metrics = dynamics.losses(observed)
    require(
        sorted(losses) == sorted(dynamics.loss_names),
        f"losses gives {sorted(losses)}, loss_names declares {sorted(dynamics.loss_names)}",
    )
    for name, value in losses.items():
        check_array(f"divergence {name}", value, ArraySpec(()), ())
    for name, value in metrics.items():
        require(value.dim() == 0, f"metric {name} is not a scalar")
        require(not value.requires_grad, f"metric {name} is not detached")


@law("LatentDynamics", 8)
def law_8_gradients_reach_parameters(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Divergences and the observed states' features together train every parameter."""
    segment = draw_segment(dynamics, case)
    embeds = {name: x.clone().requires_grad_() for name, x in segment.embeds.items()}
    observed = observe_sampled(dynamics, replace(segment, embeds=embeds))
    losses, _ = dynamics.losses(observed)
    parts = [*losses.values(), *imagination.feature_sums(dynamics, observed.states)]
    total = torch.stack(parts).sum()
    require_some_gradient([total], list(embeds.values()), "the embeddings")
    require_gradients(total, dynamics, "divergences and features")


@law("LatentDynamics", 9)
def law_9_deterministic_draws_nothing(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """With `deterministic=True` nothing is drawn, and two calls agree bit for bit."""
    segment = draw_segment(dynamics, case)
    with no_draws("observe(deterministic=True)"):
        first = observe(dynamics, segment)
    with no_draws("observe_step(deterministic=True)"):
        step(dynamics, segment, 0, dynamics.initial(segment.batch))
    with seeded(case.seed + 19):
        second = observe(dynamics, segment)
    require(equal(first.states, second.states), "two deterministic calls of observe differ")


# ---------------------------------------------------------------- helpers


def _alike(a: Carry, b: Carry) -> bool:
    """Whether carries agree; opaque ones of different layout are left to the other laws."""
    shapes = [[x.shape for x in leaves(tree)] for tree in (a, b)]
    return shapes[0] != shapes[1] or close(a, b)


def _other_actions(segment: Segment, action: ActionSpec, t: int) -> Segment:
    actions = segment.actions.clone()
    actions[:, t] = actions_like(actions, action)[:, t]
    return replace(segment, actions=actions)


def _require_uses_actions(dynamics: LatentDynamics, segment: Segment, action: ActionSpec) -> None:
    """Leave the law where a model reads no actions by declaration: videos, or no recurrence."""
    if not dynamics.capabilities.supports_imagination:
        skip("no imagination, so actions may be without effect")
    other = replace(segment, actions=actions_like(segment.actions, action))
    before, after = observe(dynamics, segment), observe(dynamics, other)
    if dynamics.capabilities.action_free and equal(before.states, after.states):
        skip("action_free, and no action has any effect")


def _splice(dynamics: LatentDynamics, segment: Segment, future: Segment, t: int) -> Segment:
    """Records before t from `segment`, the others from `future`, with other resets too."""

    def join(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x[:, :t], y[:, t:]], 1)

    is_first = segment.is_first
    if dynamics.capabilities.resets_mid_sequence:
        is_first = join(is_first, ~is_first)
    embeds = {name: join(x, future.embeds[name]) for name, x in segment.embeds.items()}
    return Segment(embeds, join(segment.actions, future.actions), is_first, segment.context)


def _set_segment_row(segment: Segment, other: Segment, row: int) -> Segment:
    pairs = ((segment.actions, other.actions), (segment.is_first, other.is_first))
    actions, is_first = (set_row(a, b, row) for a, b in pairs)
    context = segment.context and set_row(segment.context, other.context, row)
    return Segment(set_row(segment.embeds, other.embeds, row), actions, is_first, context)


def _check_features(view: str, features: Features, spec: FeatureSpec, lead: Sequence[int]) -> None:
    if isinstance(spec, ArraySpec):
        if not isinstance(features, Tensor):
            fail(f"view {view} is no tensor")
        require(features.dtype == torch.float32, f"view {view} is {features.dtype}, not fp32")
        check_array(f"view {view}", features, spec, lead)
        return
    if not isinstance(features, dict) or set(features) != set(spec):
        fail(f"view {view} has not the parts it declares: {', '.join(sorted(spec))}")
    for name, part in features.items():
        _check_features(f"{view}/{name}", part, spec[name], lead)
