"""The laws of `Behavior`, runnable; the plan runs inside a small agent of healthy parts."""

from collections.abc import Callable, Mapping, Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts import reference
from wmplatform.contracts.endings import (
    law_5_imagination_ends_where_the_head_says,
    law_5_transitions_end_where_discount_is_zero,
    law_6_rows_of_transitions_belong_together,
)
from wmplatform.contracts.laws import Report, fail, law, require
from wmplatform.contracts.modes import law_7_what_is_only_read_is_in_eval_mode
from wmplatform.contracts.probes import (
    check_action,
    draw_features,
    equal,
    finite,
    leaves,
    no_device_wait,
    no_draws,
    require_unchanged,
    seeded,
    set_row,
    shake,
    snapshot,
)
from wmplatform.contracts.skipped import Columns, require_no_trace
from wmplatform.interfaces.behavior import Behavior, Objective, Phase, Update
from wmplatform.types import ActionSpec, EnvSpec, Features, FeatureSpec, tree_map

__all__ = [
    "check_behavior",
    "law_1_policy_folds_leading_dims",
    "law_1_policy_gives_valid_actions",
    "law_1_policy_rows_do_not_mix",
    "law_2_objectives_are_well_formed",
    "law_2_only_the_named_parameters_move",
    "law_3_plan_is_deterministic",
    "law_3_plan_never_waits",
    "law_4_state_is_checkpointed",
    "law_5_imagination_ends_where_the_head_says",
    "law_5_transitions_end_where_discount_is_zero",
    "law_6_rows_of_transitions_belong_together",
    "law_7_what_is_only_read_is_in_eval_mode",
    "law_8_skipped_updates_leave_no_trace",
]

MakeBehavior = Callable[[Mapping[str, FeatureSpec], ActionSpec], Behavior]
MakeAgent = Callable[[MakeBehavior, ActionSpec], Agent]
DrawBatch = Callable[[EnvSpec, int], TensorDict]
Values = dict[str, Tensor]

ROWS = 6
RATE = 0.01


def check_behavior(
    make: MakeBehavior,
    action: ActionSpec,
    *,
    make_agent: MakeAgent = reference.make_agent,
    draw_batch: DrawBatch = reference.draw_records,
    seed: int = 0,
    collect: bool = False,
) -> Report:
    """Run every law of `Behavior`.

    Args:
        make: builds the behavior for views and action.
        action: what an action is.
        make_agent: builds an agent around it; the default has heads `reward` and `continue`.
        draw_batch: what replay gives it; `reference.draw_transitions` for model-free behaviors.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("Behavior", collect=collect)

    def build() -> Agent:
        with seeded(seed):
            return shake(make_agent(make, action), seed)

    agent = build()
    for lead in ((ROWS,), (2, 3)):
        report.run(law_1_policy_gives_valid_actions, agent, lead=lead, seed=seed)
    report.run(law_1_policy_folds_leading_dims, agent, seed=seed)
    report.run(law_1_policy_rows_do_not_mix, agent, row=1, seed=seed)
    report.run(law_2_objectives_are_well_formed, build(), draw_batch, seed=seed)
    report.run(law_2_only_the_named_parameters_move, build(), draw_batch, seed=seed)
    report.run(law_3_plan_is_deterministic, build, draw_batch, seed=seed)
    report.run(law_3_plan_never_waits, build(), draw_batch, seed=seed)
    report.run(law_4_state_is_checkpointed, build, draw_batch, seed=seed)
    report.run(law_5_transitions_end_where_discount_is_zero, agent, draw_batch, row=1, seed=seed)
    report.run(law_5_imagination_ends_where_the_head_says, agent, draw_batch, seed=seed)
    report.run(law_6_rows_of_transitions_belong_together, agent, draw_batch, row=1, seed=seed)
    report.run(law_7_what_is_only_read_is_in_eval_mode, agent, draw_batch, seed=seed)
    report.run(law_8_skipped_updates_leave_no_trace, build, draw_batch, seed=seed)
    return report


@law("Behavior", 1)
def law_1_policy_gives_valid_actions(agent: Agent, *, lead: Sequence[int], seed: int) -> None:
    """Mode and samples are valid actions with finite log-likelihood; the mode draws nothing."""
    action = agent.spec.action
    with seeded(seed), torch.no_grad():
        with no_draws("the policy's mode"):
            policy = _behavior(agent).policy(_features(agent, lead, seed))
            check_action(policy.mode, action, lead, "the policy's modes")
        for _ in range(4):
            sample = policy.sample()
            check_action(sample, action, lead, "the policy's samples")
            log_prob = policy.log_prob(sample)
            require(log_prob.shape == torch.Size(lead), f"log_prob is {tuple(log_prob.shape)}")
            require(finite(log_prob), "the log-likelihood of a sample is not finite")


@law("Behavior", 1)
def law_1_policy_folds_leading_dims(agent: Agent, *, seed: int) -> None:
    """Folding the leading dims changes nothing."""
    whole = _features(agent, (2, 3), seed)
    folded = tree_map(lambda x: x.flatten(0, 1), whole)
    require_unchanged(
        _mode(agent, whole).flatten(0, 1),
        _mode(agent, folded),
        "folding the leading dims changes the policy",
    )


@law("Behavior", 1)
def law_1_policy_rows_do_not_mix(agent: Agent, *, row: int, seed: int) -> None:
    """Other features in one row leave the policy of the others."""
    features = _features(agent, (ROWS,), seed)
    changed = set_row(features, _features(agent, (ROWS,), seed + 1), row)
    others = [n for n in range(ROWS) if n != row]
    require_unchanged(
        _mode(agent, features)[others],
        _mode(agent, changed)[others],
        f"the features of row {row} change the policy of other rows",
    )


@law("Behavior", 2)
def law_2_objectives_are_well_formed(agent: Agent, draw_batch: DrawBatch, *, seed: int) -> None:
    """Every objective is a finite scalar that reaches a parameter below each name it trains."""

    def look(phase: Phase, objectives: Sequence[Objective]) -> None:
        names = [objective.name for objective in objectives]
        require(len(set(names)) == len(names), f"phase {phase.name}: objectives {names} repeat")
        for objective in objectives:
            _check_objective(agent, objective)

    _update(agent, agent.plan(), draw_batch(agent.spec, seed), seed, look=look)


@law("Behavior", 2)
def law_2_only_the_named_parameters_move(agent: Agent, draw_batch: DrawBatch, *, seed: int) -> None:
    """Two updates leave every trainable parameter outside `trains` as it was, bit for bit.

    What is not trainable may move inside the behavior (targets), and nowhere else.
    """
    state: dict[str, Values] = {}

    def before(phase: Phase) -> None:
        state["before"] = snapshot(dict(agent.named_parameters()))
        del phase

    def look(phase: Phase, objectives: Sequence[Objective]) -> None:
        del objectives
        moved = _moved(state["before"], agent)
        require(not moved, f"phase {phase.name}: computing its losses moves {', '.join(moved)}")

    def after(phase: Phase, objectives: Sequence[Objective]) -> None:
        prefixes = [p for objective in objectives for p in objective.trains]
        named = reference.names_below([n for n, _ in agent.named_parameters()], prefixes)
        free = {
            name
            for name, p in agent.named_parameters()
            if not p.requires_grad and name.startswith("behavior.")
        }
        moved = [n for n in _moved(state["before"], agent) if n not in named | free]
        require(
            not moved, f"phase {phase.name} moves {', '.join(moved)}, which no objective trains"
        )

    plan = agent.plan()
    for updates in range(2):
        batch = draw_batch(agent.spec, seed + updates)
        _update(agent, plan, batch, seed, updates=updates, before=before, look=look, after=after)


@law("Behavior", 3)
def law_3_plan_is_deterministic(
    build: Callable[[], Agent], draw_batch: DrawBatch, *, seed: int
) -> None:
    """Two equal agents make equal updates under equal random states."""
    agents = [(agent, agent.plan()) for agent in (build(), build())]
    spec = agents[0][0].spec
    for updates in range(2):
        batch = draw_batch(spec, seed + updates)
        losses = [_update(*a, batch.clone(), seed + updates, updates=updates) for a in agents]
        require(equal(*losses), f"the losses of update {updates} differ under equal random states")


@law("Behavior", 3)
def law_3_plan_never_waits(agent: Agent, draw_batch: DrawBatch, *, seed: int) -> None:
    """Computing the losses and the hooks after them read no tensor on the host."""
    batch = draw_batch(agent.spec, seed)
    plan = agent.plan()
    update = Update(batch)
    for phase in plan:
        with no_device_wait(f"phase {phase.name}"), seeded(seed):
            phase.compute(update)
            if phase.after:
                phase.after(update)


@law("Behavior", 4)
def law_4_state_is_checkpointed(
    build: Callable[[], Agent], draw_batch: DrawBatch, *, seed: int
) -> None:
    """A fresh agent that loads the state of a used one makes the same next updates."""
    used, fresh = build(), build()
    plans = used.plan(), fresh.plan()
    for updates in range(2):
        batch = draw_batch(used.spec, seed + updates)
        _update(used, plans[0], batch, seed + updates, updates=updates)
    fresh.load_state_dict(used.state_dict())
    for updates in (2, 3):
        batch = draw_batch(used.spec, seed + updates)
        losses = [
            _update(agent, plan, batch.clone(), seed + updates, updates=updates)
            for agent, plan in zip((used, fresh), plans, strict=True)
        ]
        require(
            equal(*losses),
            "an agent that loads a checkpoint goes on with other losses: something that changes "
            "is neither a buffer nor a parameter",
        )


@law("Behavior", 8)
def law_8_skipped_updates_leave_no_trace(
    build: Callable[[], Agent],
    draw_batch: DrawBatch,
    *,
    spoilt: Sequence[Columns] = ((), ("reward",)),
    seed: int,
) -> None:
    """Updates on batches with NaN, in all columns or in these, are as if they had not been."""
    require_no_trace(build, draw_batch, spoilt=spoilt, seed=seed)


def _update(
    agent: Agent,
    plan: Sequence[Phase],
    batch: TensorDict,
    seed: int,
    *,
    updates: int = 0,
    before: Callable[[Phase], None] | None = None,
    look: Callable[[Phase, Sequence[Objective]], None] | None = None,
    after: Callable[[Phase, Sequence[Objective]], None] | None = None,
) -> list[Tensor]:
    """Run the plan once with plain gradient steps; returns the losses."""
    update = Update(batch, updates=updates, agent_steps=100 * updates)
    losses = []
    with seeded(seed):
        for phase in plan:
            if before:
                before(phase)
            objectives = phase.compute(update)
            if look:
                look(phase, objectives)
            _step(agent, objectives)
            losses += [objective.loss.detach() for objective in objectives]
            if phase.after:
                phase.after(update)
            if after:
                after(phase, objectives)
    return losses


def _step(agent: Agent, objectives: Sequence[Objective]) -> None:
    """One plain gradient step; all objectives are differentiated before any parameter moves."""
    steps = []
    for objective in objectives:
        named = _trained(agent, objective)
        grads: tuple[Tensor | None, ...] = torch.autograd.grad(
            objective.loss, list(named.values()), allow_unused=True
        )
        steps += list(zip(named.values(), grads, strict=True))
    with torch.no_grad():
        for parameter, grad in steps:
            if grad is not None:
                parameter.sub_(grad, alpha=RATE)


def _check_objective(agent: Agent, objective: Objective) -> None:
    name, loss = objective.name, objective.loss
    require(loss.dim() == 0 and finite(loss), f"objective {name} is not a finite scalar")
    require(bool(objective.trains), f"objective {name} trains nothing")
    named = _trained(agent, objective)
    grads: tuple[Tensor | None, ...] = torch.autograd.grad(
        loss, list(named.values()), retain_graph=True, allow_unused=True
    )
    reached = {n for n, grad in zip(named, grads, strict=True) if grad is not None}
    for prefix in objective.trains:
        if not reference.names_below(list(reached), [prefix]):
            fail(f"objective {name} says that it trains {prefix!r}, but no gradient gets there")


def _trained(agent: Agent, objective: Objective) -> dict[str, torch.nn.Parameter]:
    every = {name: p for name, p in agent.named_parameters() if p.requires_grad}
    named = reference.names_below(list(every), objective.trains)
    require(bool(named), f"objective {objective.name} trains {objective.trains}: no such parameter")
    return {name: every[name] for name in every if name in named}


def _moved(before: Values, agent: Agent) -> list[str]:
    return [name for name, p in agent.named_parameters() if not equal(before[name], p.detach())]


def _behavior(agent: Agent) -> Behavior:
    assert agent.behavior is not None
    return agent.behavior


def _features(agent: Agent, lead: Sequence[int], seed: int) -> Features:
    return draw_features(agent.world_model.view_spec("policy"), lead, seed)


@torch.no_grad()
def _mode(agent: Agent, features: Features) -> Tensor:
    return leaves(_behavior(agent).policy(features).mode)[0]
