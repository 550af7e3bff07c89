"""The laws of LatentDynamics on every registered dynamics, and the checker on broken ones."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.contracts import check, imagination, resets
from wmplatform.contracts import latent_dynamics as laws
from wmplatform.contracts.probes import shake
from wmplatform.contracts.segments import DynamicsCase
from wmplatform.interfaces import LatentDynamics
from wmplatform.stateless import Stateless
from wmplatform.types import ActionSpec, ArraySpec

from .mutants.dynamics import MUTANTS, CannotTakeOneHot
from .reference_dynamics import BranchedDynamics, RecurrentDynamics, WindowDynamics
from .subjects import Subject, holds, subjects

every_dynamics = subjects(
    "dynamics", Stateless, RecurrentDynamics, BranchedDynamics, WindowDynamics
)

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


@every_dynamics
@given(case=cases(), data=st.data())
def test_actions_steps_and_time(subject: Subject, case: DynamicsCase, data: st.DataObject) -> None:
    dynamics, case = build(subject, case)
    t = data.draw(st.integers(1, case.length - 1), label="record")
    holds(laws.law_1_action_leads_into_its_record, dynamics, case, t)
    holds(laws.law_1_action_ignored_at_first, dynamics, case)
    holds(laws.law_1_actions_may_be_missing, dynamics, case)
    holds(laws.law_2_observe_equals_steps, dynamics, case)
    holds(laws.law_2_observe_goes_on_from_its_carry, dynamics, case, t)
    holds(laws.law_6_causal, dynamics, case, t)
    holds(laws.law_6_depends_on_embedding, dynamics, case, t)
    holds(laws.law_9_deterministic_draws_nothing, dynamics, case)


@every_dynamics
@given(case=cases(), data=st.data())
def test_resets_and_rows(subject: Subject, case: DynamicsCase, data: st.DataObject) -> None:
    dynamics, case = build(subject, case)
    row = data.draw(st.integers(0, case.batch - 1), label="row")
    cut = data.draw(st.integers(1, case.length - 1), label="cut")
    holds(resets.law_3_reset_cuts_history, dynamics, case, row, cut)
    holds(resets.law_3_reset_is_for_its_row_only, dynamics, case, row, cut)
    holds(resets.law_3_carry_is_cut, dynamics, case)
    holds(laws.law_5_rows_do_not_mix, dynamics, case, row)
    holds(laws.law_5_select_takes_rows, dynamics, case)


@every_dynamics
@given(case=cases(), data=st.data())
def test_views_and_imagination(subject: Subject, case: DynamicsCase, data: st.DataObject) -> None:
    dynamics, case = build(subject, case)
    row = data.draw(st.integers(0, case.batch - 1), label="row")
    holds(laws.law_7_features_as_declared, dynamics, case)
    holds(laws.law_8_losses_are_scalars, dynamics, case)
    holds(laws.law_8_gradients_reach_parameters, dynamics, case)
    holds(imagination.law_4_starts_are_the_observed_states, dynamics, case)
    holds(imagination.law_4_first_output_is_one_step_on, dynamics, case)
    holds(imagination.law_4_policy_reads_each_state, dynamics, case)
    holds(imagination.law_4_imagination_sees_no_observation, dynamics, case)
    holds(imagination.law_5_imagined_rows_do_not_mix, dynamics, case, row)
    holds(imagination.law_8_actions_get_gradients, dynamics, case)
    holds(imagination.law_9_deterministic_imagination_draws_nothing, dynamics, case)


@every_dynamics
def test_checker_passes(subject: Subject) -> None:
    assert check("dynamics", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[LatentDynamics]) -> None:
    report = check("dynamics", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report


def test_a_kind_of_action_may_be_refused() -> None:
    assert check("dynamics", CannotTakeOneHot).ok


def test_capabilities_skip_laws() -> None:
    skipped = {f.name for f in check("dynamics", WindowDynamics).findings if f.outcome == "skipped"}
    assert "law_3_reset_cuts_history" in skipped
    assert "law_3_carry_is_cut" not in skipped
