"""The laws of `LatentDynamics`, runnable; many lie in files of their own, by subject.

Everything runs with `deterministic=True` unless a law is about sampling, so that two runs differ
by what was changed and by nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from wmplatform.contracts import imagination, reach, resets, sampling
from wmplatform.contracts.dependence import require_rows_alone, require_rows_apart
from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    check_array,
    close,
    contrary,
    draws,
    equal,
    fill_floats,
    finite,
    in_mode,
    leaves,
    no_draws,
    require_gradients,
    require_some_gradient,
    require_unchanged,
    shake,
    snapshot,
)
from wmplatform.contracts.segments import (
    DynamicsCase,
    Segment,
    draw_segment,
    observe,
    observe_sampled,
    records_of,
    step,
    step_through,
)
from wmplatform.contracts.views import (
    check_views,
    feature_sums,
    views_of,
)
from wmplatform.interfaces.latent_dynamics import LatentDynamics
from wmplatform.types import ActionSpec, ArraySpec, Carry, TensorTree, tree_map

__all__ = [
    "DynamicsCase",
    "check_latent_dynamics",
    "law_1_action_ignored_at_first",
    "law_1_actions_may_be_missing",
    "law_2_observe_equals_steps",
    "law_2_observe_goes_on_from_its_carry",
    "law_5_rows_do_not_mix",
    "law_5_select_takes_rows",
    "law_7_features_as_declared",
    "law_8_detach_cuts_the_carry",
    "law_8_gradients_reach_parameters",
    "law_8_losses_are_scalars",
    "law_9_deterministic_draws_nothing",
    "law_10_inputs_are_kept",
]

VIEWS = ("policy", "value", "reward", "decode")
LONG = 20
"""Records of the longest segments."""


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
    can = dynamics.capabilities
    length = can.warmup_frames + 6
    case = DynamicsCase(embeds, action, context, length=length, seed=seed)
    cuts = case
    if can.resets_mid_sequence:
        starts = frozenset({(0, length - 3), (2, 1), (2, length - 2), (3, 2), (3, 3)})
        cuts = replace(case, resets=starts)
    _check_paths(report, dynamics, cuts)
    if not can.batch_statistics and _draws_nothing_in_training(dynamics, cuts):
        with in_mode(dynamics, training=True):
            _check_paths(report, dynamics, cuts)
    report.run(law_1_actions_may_be_missing, dynamics, cuts)
    for each in (case, cuts, replace(cuts, batch=4, length=can.warmup_frames + LONG)):
        report.run(law_2_observe_equals_steps, dynamics, each)
        for cut in (can.warmup_frames + 2, each.length - 2):
            report.run(law_2_observe_goes_on_from_its_carry, dynamics, each, cut)
        report.run(law_9_deterministic_draws_nothing, dynamics, each)
    for training in (False, True):
        with in_mode(dynamics, training):
            report.run(law_5_rows_do_not_mix, dynamics, cuts)
            report.run(law_5_rows_do_not_mix, dynamics, replace(case, batch=9, length=length + 4))
    report.run(law_5_select_takes_rows, dynamics, case)
    report.run(reach.law_6_depends_on_all_of_an_embedding, dynamics, case)
    report.run(reach.law_6_depends_on_its_context, dynamics, case)
    report.run(reach.law_6_views_hear_actions_as_declared, dynamics, cuts)
    report.run(law_7_features_as_declared, dynamics, cuts)
    imagination.check(report, dynamics, cuts)
    report.run(law_8_losses_are_scalars, dynamics, cuts)
    report.run(law_8_gradients_reach_parameters, dynamics, cuts)
    report.run(law_8_detach_cuts_the_carry, dynamics, cuts)
    sampling.check(report, dynamics, replace(case, length=can.warmup_frames + 3))
    report.run(law_10_inputs_are_kept, dynamics, cuts)
    return report


def _check_paths(report: Report, dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Run the laws on what reaches which state."""
    report.run(reach.law_1_action_leads_into_its_record, dynamics, case)
    report.run(law_1_action_ignored_at_first, dynamics, case)
    report.run(resets.law_3_reset_cuts_history, dynamics, case)
    report.run(resets.law_3_reset_is_for_its_row_only, dynamics, case)
    report.run(resets.law_3_carry_is_cut, dynamics, case)
    report.run(reach.law_6_causal, dynamics, case)
    report.run(reach.law_6_depends_on_embedding, dynamics, case)


def _draws_nothing_in_training(dynamics: LatentDynamics, case: DynamicsCase) -> bool:
    """Whether `deterministic=True` draws nothing in train mode either; dropout does."""
    with in_mode(dynamics, training=True), draws() as drawn:
        observe(dynamics, draw_segment(dynamics, case), seed=None)
    return not drawn


# ---------------------------------------------------------------- law 1: actions


@law("LatentDynamics", 1)
def law_1_action_ignored_at_first(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """What stands in `actions` at `is_first` does not matter, even NaN."""
    segment = draw_segment(dynamics, case)
    mask = segment.is_first[..., None]
    for value in (0.7, torch.nan):
        other = segment._replace(actions=segment.actions.masked_fill(mask, value))
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
    stepped = step_through(dynamics, segment)
    states = [stepped[r][0] for r in records_of(whole, segment.length)]
    alike = tree_map(lambda *x: torch.stack(x, 1), *states)
    require_unchanged(whole.states, alike, "states of observe and of observe_step differ")
    require(
        _alike(whole.carry, stepped[-1][1]),
        "the carries after observe and after observe_step differ",
    )


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


# ---------------------------------------------------------------- law 5: rows


@law("LatentDynamics", 5)
def law_5_rows_do_not_mix(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """States and views of a row see no other row: not its records, its context or its carry.

    In train mode rows are exchanged, and not taken out: dropout comes to a row by its place.
    """
    if dynamics.training and dynamics.capabilities.batch_statistics:
        skip("batch_statistics in train mode")
    segment, other, past = (
        draw_segment(dynamics, replace(case, seed=case.seed + i)) for i in (0, 11, 23)
    )
    carry = observe(dynamics, past).carry
    if dynamics.capabilities.resets_mid_sequence:
        other = other._replace(is_first=~segment.is_first)

    def run(given: tuple[Segment, Carry]) -> TensorTree:
        observed = observe(dynamics, *given)
        return observed.states, views_of(dynamics, observed.states)

    what, inputs, others = "states and views", (segment, carry), (other, contrary(carry))
    if dynamics.training:
        require_rows_apart(run, inputs, others, what)
    else:
        require_rows_alone(run, inputs, what)
        require_rows_apart(run, inputs, fill_floats(others, torch.nan), what)


@law("LatentDynamics", 5)
def law_5_select_takes_rows(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Rows taken from a carry by `select`, some more than once, go on as among the others."""
    segment = draw_segment(dynamics, case)
    carry = observe(dynamics, segment).carry
    rows = torch.tensor([segment.batch - 1, *[1] * segment.batch, 0])
    segment = segment._replace(is_first=torch.zeros_like(segment.is_first))
    fewer: Segment = tree_map(lambda x: x[rows], segment)
    some, _ = step(dynamics, fewer, 0, dynamics.select(carry, rows))
    every, _ = step(dynamics, segment, 0, carry)
    require_unchanged(
        tree_map(lambda x: x[rows], every), some, "rows taken by `select` go on differently"
    )


# ---------------------------------------------------------------- law 7: views


@law("LatentDynamics", 7)
def law_7_features_as_declared(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Every view has the declared shape, is finite fp32, and treats leading dims alike."""
    missing = [view for view in VIEWS if view not in dynamics.views]
    require(not missing, f"there is no view {', '.join(missing)}")
    check_views(dynamics, observe(dynamics, draw_segment(dynamics, case)).states, dynamics.views)


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
    observed = observe_sampled(dynamics, segment._replace(embeds=embeds))
    losses, _ = dynamics.losses(observed)
    parts = [*losses.values(), *feature_sums(dynamics, observed.states, dynamics.views)]
    total = torch.stack(parts).sum()
    require_some_gradient([total], list(embeds.values()), "the embeddings")
    require_gradients(total, dynamics, "divergences and features")


@law("LatentDynamics", 8)
def law_8_detach_cuts_the_carry(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """`detach` keeps the numbers of a carry and none of its gradient."""
    segment = draw_segment(dynamics, case)
    embeds = {name: x.clone().requires_grad_() for name, x in segment.embeds.items()}
    carry = observe_sampled(dynamics, segment._replace(embeds=embeds)).carry
    cut = dynamics.detach(carry)
    require(not any(x.requires_grad for x in leaves(cut)), "a detached carry has a gradient")
    require(equal(carry, cut), "`detach` changes the carry's numbers")


@law("LatentDynamics", 9)
def law_9_deterministic_draws_nothing(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """With `deterministic=True` nothing is drawn, and two calls agree bit for bit."""
    segment = draw_segment(dynamics, case)
    with no_draws("observe(deterministic=True)"):
        first = observe(dynamics, segment, seed=None)
    with no_draws("observe_step(deterministic=True)"):
        step(dynamics, segment, 0, dynamics.initial(segment.batch), seed=None)
    second = observe(dynamics, segment, seed=case.seed + 19)
    require(equal(first.states, second.states), "two deterministic calls of observe differ")


@law("LatentDynamics", 10)
def law_10_inputs_are_kept(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Segments, states, carries and policies' actions are as before after every method."""
    segment = draw_segment(dynamics, case)
    carry = observe(dynamics, segment).carry
    given, kept = (segment, carry), snapshot((segment, carry))

    def unchanged(method: str) -> None:
        require(equal(given, kept), f"`{method}` writes into its inputs")

    embeds, actions, is_first, context = segment
    with torch.no_grad():
        observed = dynamics.observe(embeds, actions, is_first, carry, context=context)
        unchanged("observe")
        now = {name: x[:, 0] for name, x in embeds.items()}
        dynamics.observe_step(now, actions[:, 0], is_first[:, 0], carry, context=context)
        unchanged("observe_step")
        dynamics.select(carry, torch.arange(segment.batch).flip(0))
        dynamics.detach(carry)
        unchanged("select or detach")

        states = snapshot(observed.states)
        dynamics.losses(observed)
        for view in dynamics.views:
            dynamics.features(observed.states, view)
        require(equal(states, observed.states), "`losses` or `features` writes into the states")

        if not dynamics.capabilities.supports_imagination:
            return
        start = imagination.Start(dynamics, case)
        begun = (start.latent, start.carry, start.context, start.actions())
        before = snapshot(begun)
        latent, carry, context, actions = begun
        dynamics.imagine(latent, carry, actions, start.horizon, context=context)
        require(equal(begun, before), "`imagine` writes into its inputs")


# ---------------------------------------------------------------- helpers


def _alike(a: Carry, b: Carry) -> bool:
    """Whether carries agree; opaque ones of different layout are left to the other laws."""
    shapes = [[x.shape for x in leaves(tree)] for tree in (a, b)]
    return shapes[0] != shapes[1] or close(a, b)
