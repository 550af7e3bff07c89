"""The laws of Behavior on every registered behavior, and the checker on broken ones."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wmplatform.agent import Agent
from wmplatform.contracts import behavior as laws
from wmplatform.contracts import check, reference
from wmplatform.contracts.probes import seeded, shake, snapshot
from wmplatform.interfaces import Behavior
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam
from wmplatform.types import ActionSpec

from .mutants.behaviors import MUTANTS
from .reference_behaviors import ActorCritic, TargetCritic, UntilTheEnd
from .subjects import Subject, holds, subjects

every_behavior = subjects("behaviors", ActorCritic, UntilTheEnd, TargetCritic)
actions = st.builds(ActionSpec, st.integers(2, 4), st.sampled_from(["continuous", "discrete"]))


def build(subject: Subject, action: ActionSpec, seed: int) -> Agent:
    memory = subject.wiring["data"] != "transitions"
    with seeded(seed):
        return shake(reference.make_agent(subject.make, action, memory=memory), seed)


@every_behavior
@settings(max_examples=5)
@given(
    action=actions,
    batch=st.integers(2, 4),
    length=st.integers(3, 6),
    column=st.sampled_from(["reward", "action", "discount"]),
    seed=st.integers(0, 2**16),
)
def test_laws_hold(
    subject: Subject,
    action: ActionSpec,
    batch: int,
    length: int,
    column: str,
    seed: int,
) -> None:
    make = partial(build, subject, action, seed)
    try:
        agent = make()
    except ValueError:
        return
    draw = partial(reference.draw_records, batch=batch, length=length)
    if subject.wiring["data"] == "transitions":
        draw = partial(reference.draw_transitions, batch=batch)
    holds(laws.law_1_policy_gives_valid_actions, agent, lead=(batch, length), seed=seed)
    holds(laws.law_1_policy_folds_leading_dims, agent, seed=seed)
    holds(laws.law_1_policy_rows_do_not_mix, agent, row=seed % 6, seed=seed)
    holds(laws.law_2_objectives_are_well_formed, make(), draw, seed=seed)
    holds(laws.law_2_only_the_named_parameters_move, make(), draw, seed=seed)
    holds(laws.law_3_plan_is_deterministic, make, draw, seed=seed)
    holds(laws.law_3_plan_never_waits, make(), draw, seed=seed)
    holds(laws.law_4_state_is_checkpointed, make, draw, seed=seed)
    row = seed % batch
    holds(laws.law_5_transitions_end_where_discount_is_zero, agent, draw, row=row, seed=seed)
    holds(laws.law_5_imagination_ends_where_the_head_says, agent, draw, seed=seed)
    holds(laws.law_6_rows_of_transitions_belong_together, agent, draw, row=row, seed=seed)
    holds(laws.law_7_what_is_only_read_is_in_eval_mode, agent, draw, seed=seed)
    spoilt = [(column,)]
    holds(laws.law_8_skipped_updates_leave_no_trace, make, draw, spoilt=spoilt, seed=seed)


@every_behavior
def test_checker_passes(subject: Subject) -> None:
    assert check("behaviors", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[Behavior]) -> None:
    report = check("behaviors", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report


def test_learner_moves_only_the_named_parameters() -> None:
    """The learner keeps what law 2 promises: the plan's first phase trains no actor or critic."""
    agent = reference.make_agent(ActorCritic, ActionSpec(2))
    groups = {
        "model": ("world_model",),
        "actor": ("behavior.actor",),
        "critic": ("behavior.critic",),
    }
    learner = Learner(agent, groups=groups, optimizers=dict.fromkeys(groups, Adam))
    before = snapshot(dict(agent.named_parameters()))
    learner.plan = learner.plan[:1]
    learner.update(reference.draw_records(agent.spec, 0))
    moved = {n for n, p in agent.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert moved <= {name for name in before if name.startswith("world_model.")}
