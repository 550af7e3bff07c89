"""The laws of `Explorer`, runnable."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts import reference
from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    check_action,
    check_array,
    draw,
    draw_actions,
    draw_features,
    equal,
    leaves,
    no_draws,
    require_unchanged,
    seeded,
    set_row,
    snapshot,
)
from wmplatform.contracts.skipped import require_no_trace
from wmplatform.distributions import OneHot, TruncatedNormal
from wmplatform.interfaces.explorer import Explorer, Intrinsic
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
    Distribution,
    Features,
    FeatureSpec,
    Mode,
    tree_map,
)

__all__ = [
    "check_explorer",
    "law_1_actions_are_valid",
    "law_2_eval_is_quiet",
    "law_3_equal_clocks_agree",
    "law_4_bonus_belongs_to_its_record",
    "law_4_intrinsic_moves_no_gradient",
    "law_5_state_is_in_buffers",
    "law_6_skipped_updates_leave_no_trace",
    "law_7_rows_do_not_mix",
    "law_7_rows_explore_alike_and_apart",
]

CLOCKS = (0, 1, 10_000, 1_000_000)
"""Agent steps."""
ROWS = 16
TRIES = 64
"""Draws from which the rows' distributions are compared."""

Views = Mapping[str, FeatureSpec]
MakeExplorer = Callable[[ActionSpec, Views], Explorer]


def check_explorer(
    make: MakeExplorer,
    action: ActionSpec,
    views: Views,
    *,
    seed: int = 0,
    collect: bool = False,
) -> Report:
    """Run every law of `Explorer`.

    Args:
        make: builds the explorer for these specs.
        action: what an action is.
        views: specs of the dynamics' views by name.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("Explorer", collect=collect)
    explorer = make(action, views).eval()
    for clock in CLOCKS:
        report.run(law_1_actions_are_valid, explorer, action, agent_steps=clock, seed=seed)
        report.run(law_2_eval_is_quiet, explorer, action, agent_steps=clock, seed=seed)
        report.run(law_3_equal_clocks_agree, explorer, action, agent_steps=clock, seed=seed)
    report.run(law_4_intrinsic_moves_no_gradient, explorer, views, seed=seed)
    report.run(law_5_state_is_in_buffers, make, action, views, seed=seed)
    report.run(law_6_skipped_updates_leave_no_trace, make, action, views, seed=seed)
    for row, t in ((0, 1), (1, 3)):
        report.run(law_4_bonus_belongs_to_its_record, explorer, views, row=row, t=t, seed=seed)
    for clock in (CLOCKS[0], CLOCKS[-1]):
        report.run(law_7_rows_do_not_mix, explorer, action, 3, agent_steps=clock, seed=seed)
        report.run(
            law_7_rows_explore_alike_and_apart, explorer, action, agent_steps=clock, seed=seed
        )
    return report


@law("Explorer", 1)
def law_1_actions_are_valid(
    explorer: Explorer, action: ActionSpec, *, agent_steps: int, seed: int
) -> None:
    """Warm-up and both modes give float32 actions within [-1, 1], or one-hot ones."""
    with seeded(seed):
        check_action(explorer.warmup(ROWS), action, (ROWS,), "warm-up actions")
    modes: tuple[Mode, ...] = ("train", "eval")
    for mode in modes:
        actions = _act(explorer, some_policy(action, seed), mode, agent_steps, seed)
        check_action(actions, action, (ROWS,), f"{mode} actions at agent step {agent_steps}")


@law("Explorer", 2)
def law_2_eval_is_quiet(
    explorer: Explorer, action: ActionSpec, *, agent_steps: int, seed: int
) -> None:
    """In eval mode `act` draws nothing and returns the mode of the policy."""
    policy = some_policy(action, seed)
    with torch.no_grad(), no_draws("act in eval mode"):
        actions = explorer.act(policy, "eval", agent_steps)
    require(equal(actions, policy.mode), "act in eval mode is not the mode of the policy")


@law("Explorer", 3)
def law_3_equal_clocks_agree(
    explorer: Explorer, action: ActionSpec, *, agent_steps: int, seed: int
) -> None:
    """Equal clocks and random states give equal actions, whatever was asked in between.

    Nor does it matter that agents act with their modules in eval mode.
    """
    policy = some_policy(action, seed)
    first = _act(explorer, policy, "train", agent_steps, seed)
    _act(explorer, policy, "train", agent_steps + 777, seed + 1)
    second = _act(explorer, policy, "train", agent_steps, seed)
    require(equal(first, second), f"two calls at agent step {agent_steps} differ")
    training = explorer.training
    other = _act(explorer.train(not training), policy, "train", agent_steps, seed)
    explorer.train(training)
    require(
        equal(first, other),
        "it explores in another way while its module is in train mode, in which it never acts; "
        "go by the argument `mode`",
    )
    with seeded(seed):
        warm = explorer.warmup(ROWS)
    with seeded(seed):
        require(equal(warm, explorer.warmup(ROWS)), "two warm-up actions differ")


@law("Explorer", 4)
def law_4_intrinsic_moves_no_gradient(explorer: Explorer, views: Views, *, seed: int) -> None:
    """The bonus is fp32 `[B, T']`, detached, and leaves parameters and features alone."""
    features = _features(explorer, views, seed)
    features = tree_map(lambda x: x.requires_grad_(), features)
    kept = snapshot(features)
    parameters = snapshot(dict(explorer.named_parameters()))
    with seeded(seed):
        bonus = explorer.intrinsic(features)
    if bonus is None:
        require(explorer.view is None, "it reads a view but gives no intrinsic reward")
        skip("no intrinsic reward")
    require(explorer.view is not None, "it gives an intrinsic reward but declares no view")
    values = bonus.values
    require(values.dim() == 2 and values.shape[1] <= 5, f"the bonus is {tuple(values.shape)}")
    check_array("the bonus", values, ArraySpec(()), (2, values.shape[1]))
    require(not values.requires_grad, "the bonus is not detached")
    require(equal(kept, features), "the features were changed in place")
    moved = not equal(parameters, snapshot(dict(explorer.named_parameters())))
    require(not moved, "a parameter of the explorer moved")
    for name, value in bonus.metrics.items():
        require(value.dim() == 0 and not value.requires_grad, f"metric {name} is not detached")


@law("Explorer", 5)
def law_5_state_is_in_buffers(
    make: MakeExplorer, action: ActionSpec, views: Views, *, seed: int
) -> None:
    """A fresh explorer that loads the state goes on exactly as the old one."""
    with seeded(seed):
        used, fresh = make(action, views), make(action, views)
    policy = some_policy(action, seed)
    for i in range(3):
        _act(used, policy, "train", 10 * i, seed + i)
        _bonus(used, views, seed + i)
    fresh.load_state_dict(used.state_dict())
    pair = [_bonus(explorer, views, seed + 9) for explorer in (used, fresh)]
    require(
        equal(*(bonus and bonus.values for bonus in pair)),
        "after loading its state, an explorer gives another intrinsic reward: "
        "something that changes is not a buffer",
    )
    a, b = (_act(explorer, policy, "train", 50, seed + 9) for explorer in (used, fresh))
    require(
        equal(a, b),
        "after loading its state, an explorer acts differently: something that changes is not a "
        "buffer",
    )


@law("Explorer", 6)
def law_6_skipped_updates_leave_no_trace(
    make: MakeExplorer, action: ActionSpec, views: Views, *, seed: int
) -> None:
    """Updates of a world model on batches that hold NaN are as if they had not been."""

    def build() -> Agent:
        with seeded(seed):
            return reference.make_explorers_agent(make, action, views)

    if (made := build()).explorer is None or made.explorer.view is None:
        skip("no intrinsic reward, so updates do not reach it")
    require_no_trace(build, reference.draw_records, seed=seed)


@law("Explorer", 4)
def law_4_bonus_belongs_to_its_record(
    explorer: Explorer, views: Views, *, row: int, t: int, seed: int
) -> None:
    """Where the features of one record move far, no bonus moves much more than its own."""
    features = _features(explorer, views, seed)
    moved = tree_map(torch.clone, features)
    for part in leaves(moved):
        part[row, t] += 10.0
    found = [_bonus(copy.deepcopy(explorer), views, seed, x) for x in (features, moved)]
    before, after = (each.values if each else None for each in found)
    if before is None or after is None:
        skip("no intrinsic reward")
    if t >= before.shape[1]:
        skip(f"there is no bonus for record {t}")
    change = (after - before).abs()
    b, i = divmod(int(change.argmax()), change.shape[1])
    require(
        bool(change[row, t] > 0.5 * change.max()),
        f"the features of record {t} of row {row} move the bonus of record {i} of row {b} most",
    )
    others = change[torch.arange(len(change)) != row]
    require(bool(others.max() < change[row, t]), "all rows get the bonus of one")


@law("Explorer", 7)
def law_7_rows_do_not_mix(
    explorer: Explorer, action: ActionSpec, row: int, *, agent_steps: int, seed: int
) -> None:
    """Another policy in one row changes no action of the others."""
    pair = [_parameters(action, seed + each) for each in range(2)]
    policies = [_policy(action, x) for x in (pair[0], set_row(pair[0], pair[1], row))]
    before, after = (_act(explorer, policy, "train", agent_steps, seed) for policy in policies)
    others = [n for n in range(ROWS) if n != row]
    require_unchanged(
        before[others], after[others], f"the policy of row {row} changes the actions of other rows"
    )


@law("Explorer", 7)
def law_7_rows_explore_alike_and_apart(
    explorer: Explorer, action: ActionSpec, *, agent_steps: int, seed: int
) -> None:
    """Equal policies explore equally far in every row, and no two rows by the same draws."""
    policy = _policy(action, _parameters(action, seed)[2:3].expand(ROWS, -1))
    acted = [_act(explorer, policy, "train", agent_steps, seed + n) for n in range(TRIES)]
    warm = []
    for n in range(TRIES):
        with seeded(seed + n):
            warm.append(explorer.warmup(ROWS))
    for actions, middle, what in (
        (torch.stack(acted), policy.mode, "actions"),
        (torch.stack(warm), torch.stack(warm).mean((0, 1)), "warm-up actions"),
    ):
        away = (actions - middle).abs().sum(-1)  # [TRIES, ROWS]
        spread = (away.mean(0) - away.mean()) / (away.std() / TRIES**0.5 + 1e-6)
        worst = int(spread.abs().argmax())
        require(
            float(spread[worst].abs()) < 6.0,
            f"with equal policies, the {what} of row {worst} vary by {away.mean(0)[worst]:.3g}, "
            f"those of all rows by {away.mean():.3g}",
        )
        # Two rows that are rarely away from the middle may agree by accident.
        often = (actions != actions[:1]).any(-1).sum(0) >= 8
        same = (actions[:, :, None] == actions[:, None]).all(-1).all(0)  # [ROWS, ROWS]
        same &= often & ~torch.eye(ROWS, dtype=torch.bool)
        require(
            not bool(same.any()), f"the {what} of rows {same.nonzero()[:1].tolist()} never differ"
        )


def some_policy(action: ActionSpec, seed: int) -> Distribution:
    """A policy over `ROWS` states, with modes close to the bounds among them."""
    return _policy(action, _parameters(action, seed))


def _parameters(action: ActionSpec, seed: int) -> Tensor:
    """Logits or locations `[ROWS, A]`."""
    if action.kind == "discrete":
        return draw(ArraySpec((action.size,)), (ROWS,), seed)
    loc = draw_actions(action, (ROWS,), seed)
    loc[0], loc[1] = 1.0, -1.0
    return loc


def _policy(action: ActionSpec, parameters: Tensor) -> Distribution:
    if action.kind == "discrete":
        return OneHot(parameters)
    return TruncatedNormal(parameters, torch.full_like(parameters, 0.5))


@torch.no_grad()
def _act(
    explorer: Explorer, policy: Distribution, mode: Mode, agent_steps: int, seed: int
) -> Tensor:
    with seeded(seed):
        return explorer.act(policy, mode, agent_steps)


def _features(explorer: Explorer, views: Views, seed: int) -> Features:
    view = explorer.view or "policy"
    require(view in views, f"it reads the view {view!r}, which the dynamics does not have")
    return draw_features(views[view], (2, 5), seed)


def _bonus(
    explorer: Explorer, views: Views, seed: int, features: Features | None = None
) -> Intrinsic | None:
    features = _features(explorer, views, seed) if features is None else features
    with seeded(seed), torch.no_grad():
        return explorer.intrinsic(features)
