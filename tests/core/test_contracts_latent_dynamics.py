"""The laws of LatentDynamics on every registered dynamics, and the checker on broken ones."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmplatform.contracts import check, imagination, reach, resets, sampling
from wmplatform.contracts import latent_dynamics as laws
from wmplatform.contracts.probes import in_mode, shake
from wmplatform.contracts.segments import DynamicsCase
from wmplatform.interfaces import LatentDynamics
from wmplatform.stateless import Stateless
from wmplatform.types import ActionSpec, ArraySpec

from .mutants import dynamics as plain
from .mutants import subtle_dynamics as subtle
from .mutants import subtle_imagination as imagined
from .mutants.dynamics import CannotTakeOneHot
from .reference_dynamics import (
    BranchedDynamics,
    ClockedDynamics,
    ContextualDynamics,
    RecurrentDynamics,
    WindowDynamics,
)
from .subjects import Subject, holds, only_law, subjects

every_dynamics = subjects(
    "dynamics",
    Stateless,
    RecurrentDynamics,
    BranchedDynamics,
    WindowDynamics,
    ContextualDynamics,
    ClockedDynamics,
)
MUTANTS = plain.MUTANTS | subtle.MUTANTS | imagined.MUTANTS

kinds = st.sampled_from(["continuous", "discrete"])
actions = st.builds(ActionSpec, st.integers(2, 5), kinds)


@st.composite
def cases(draw: st.DrawFn) -> DynamicsCase:
    """Sizes, actions and episode starts; the embeddings are the subject's own."""
    batch, length = draw(st.integers(2, 4)), draw(st.integers(4, 8))
    starts = st.tuples(st.integers(0, batch - 1), st.integers(0, length - 1))
    return DynamicsCase(
        embeds={},
        action=draw(actions),
        batch=batch,
        length=length,
        resets=draw(st.frozensets(starts, max_size=5)),
        seed=draw(st.integers(0, 2**16)),
    )


def build(subject: Subject, case: DynamicsCase) -> tuple[LatentDynamics, DynamicsCase]:
    """The dynamics and the case with its embeddings and what it declares."""
    wiring = subject.wiring
    embeds: dict[str, ArraySpec] = wiring["embeds"]
    try:
        dynamics = subject.make(embeds, case.action)
    except ValueError:
        case = replace(case, action=ActionSpec(case.action.size))
        dynamics = subject.make(embeds, case.action)
    can = dynamics.capabilities
    case = replace(
        case, embeds=embeds, context=wiring["context"], length=case.length + can.warmup_frames
    )
    if not can.resets_mid_sequence:
        case = replace(case, resets=frozenset())
    return shake(dynamics, case.seed).eval(), case


fewer = settings(max_examples=max(1, settings.default.max_examples // 4))
"""Each example tries all rows and records."""


@every_dynamics
@fewer
@given(case=cases(), training=st.booleans(), data=st.data())
def test_actions_steps_and_time(
    subject: Subject, case: DynamicsCase, training: bool, data: st.DataObject
) -> None:
    dynamics, case = build(subject, case)
    cut = data.draw(st.integers(2, case.length - 2), label="cut")
    with in_mode(dynamics, training):
        holds(reach.law_1_action_leads_into_its_record, dynamics, case)
        holds(laws.law_1_action_ignored_at_first, dynamics, case)
        holds(reach.law_6_causal, dynamics, case)
        holds(reach.law_6_depends_on_embedding, dynamics, case)
    holds(laws.law_1_actions_may_be_missing, dynamics, case)
    holds(laws.law_2_observe_equals_steps, dynamics, case)
    holds(laws.law_2_observe_goes_on_from_its_carry, dynamics, case, cut)
    holds(reach.law_6_depends_on_all_of_an_embedding, dynamics, case)
    holds(reach.law_6_depends_on_its_context, dynamics, case)
    holds(laws.law_9_deterministic_draws_nothing, dynamics, case)


@every_dynamics
@fewer
@given(case=cases(), training=st.booleans())
def test_resets_and_rows(subject: Subject, case: DynamicsCase, training: bool) -> None:
    dynamics, case = build(subject, case)
    with in_mode(dynamics, training):
        holds(resets.law_3_reset_cuts_history, dynamics, case)
        holds(resets.law_3_reset_is_for_its_row_only, dynamics, case)
        holds(resets.law_3_carry_is_cut, dynamics, case)
        holds(laws.law_5_rows_do_not_mix, dynamics, case)
    holds(laws.law_5_select_takes_rows, dynamics, case)
    holds(laws.law_10_inputs_are_kept, dynamics, case)


@every_dynamics
@fewer
@given(case=cases(), method=st.sampled_from(["observe", "observe_step", "imagine"]))
def test_views_imagination_and_samples(
    subject: Subject, case: DynamicsCase, method: sampling.Sampler
) -> None:
    dynamics, case = build(subject, case)
    holds(reach.law_6_views_hear_actions_as_declared, dynamics, case)
    holds(laws.law_7_features_as_declared, dynamics, case)
    holds(laws.law_8_losses_are_scalars, dynamics, case)
    holds(laws.law_8_gradients_reach_parameters, dynamics, case)
    holds(laws.law_8_detach_cuts_the_carry, dynamics, case)
    holds(imagination.law_4_starts_are_the_observed_states, dynamics, case)
    holds(imagination.law_4_starts_where_acting_stands, dynamics, case)
    holds(imagination.law_4_first_output_is_one_step_on, dynamics, case)
    holds(imagination.law_4_goes_on_from_its_carry, dynamics, case)
    holds(imagination.law_4_policy_reads_each_state, dynamics, case)
    holds(imagination.law_4_imagination_sees_no_observation, dynamics, case)
    holds(imagination.law_5_imagined_rows_do_not_mix, dynamics, case)
    holds(imagination.law_6_imagined_views_hear_actions_as_declared, dynamics, case)
    holds(imagination.law_7_imagined_features_as_declared, dynamics, case)
    holds(imagination.law_8_actions_get_gradients, dynamics, case)
    holds(imagination.law_9_deterministic_imagination_draws_nothing, dynamics, case)
    holds(sampling.law_9_samples_as_declared, dynamics, case, method)
    holds(sampling.law_9_steps_have_their_own_noise, dynamics, case, method)


@every_dynamics
def test_checker_passes(subject: Subject) -> None:
    assert check("dynamics", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[LatentDynamics]) -> None:
    with only_law(MUTANTS[mutant]):
        report = check("dynamics", mutant, collect=True)
    assert report.violations


def test_a_kind_of_action_may_be_refused() -> None:
    assert check("dynamics", CannotTakeOneHot).ok


def test_capabilities_skip_laws() -> None:
    skipped = {f.name for f in check("dynamics", WindowDynamics).findings if f.outcome == "skipped"}
    assert "law_3_reset_cuts_history" in skipped
    assert "law_3_carry_is_cut" not in skipped
