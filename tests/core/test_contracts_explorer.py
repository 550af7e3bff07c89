"""The laws of Explorer on every registered explorer, and the checker on broken ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmplatform.contracts import check
from wmplatform.contracts import explorer as laws
from wmplatform.interfaces import Explorer
from wmplatform.types import ActionSpec

from .mutants.explorers import MUTANTS
from .reference_components import BonusExplorer
from .subjects import Subject, holds, subjects

every_explorer = subjects("explorers", BonusExplorer)
actions = st.builds(ActionSpec, st.integers(1, 6), st.sampled_from(["continuous", "discrete"]))


@every_explorer
@given(action=actions, agent_steps=st.integers(0, 10**7), seed=st.integers(0, 2**16))
def test_laws_hold(subject: Subject, action: ActionSpec, agent_steps: int, seed: int) -> None:
    views = subject.wiring["views"]
    try:
        explorer = subject.make(action, views)
    except ValueError:
        return
    holds(laws.law_1_actions_are_valid, explorer, action, agent_steps=agent_steps, seed=seed)
    holds(laws.law_2_eval_is_quiet, explorer, action, agent_steps=agent_steps, seed=seed)
    holds(laws.law_3_equal_clocks_agree, explorer, action, agent_steps=agent_steps, seed=seed)
    holds(laws.law_4_intrinsic_moves_no_gradient, explorer, views, seed=seed)
    holds(laws.law_4_bonus_belongs_to_its_record, explorer, views, row=seed % 2, t=2, seed=seed)
    holds(laws.law_5_state_is_in_buffers, subject.make, action, views, seed=seed)
    row = seed % laws.ROWS
    holds(laws.law_7_rows_do_not_mix, explorer, action, row, agent_steps=agent_steps, seed=seed)


@every_explorer
@settings(max_examples=3)
@given(action=actions, seed=st.integers(0, 2**16))
def test_rows_explore_alike(subject: Subject, action: ActionSpec, seed: int) -> None:
    try:
        explorer = subject.make(action, subject.wiring["views"])
    except ValueError:
        return
    holds(laws.law_7_rows_explore_alike_and_apart, explorer, action, agent_steps=0, seed=seed)


@every_explorer
@settings(max_examples=2)
@given(action=actions, seed=st.integers(0, 2**16))
def test_skipped_updates_leave_no_trace(subject: Subject, action: ActionSpec, seed: int) -> None:
    views = subject.wiring["views"]
    try:
        subject.make(action, views)
    except ValueError:
        return
    holds(laws.law_6_skipped_updates_leave_no_trace, subject.make, action, views, seed=seed)


@every_explorer
def test_checker_passes(subject: Subject) -> None:
    assert check("explorers", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[Explorer]) -> None:
    report = check("explorers", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report
