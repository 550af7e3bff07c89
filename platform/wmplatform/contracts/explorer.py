"""The laws of `Explorer`, runnable."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts import reference
from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    check_action,
    check_array,
    close,
    draw,
    draw_actions,
    draw_features,
    equal,
    no_draws,
    seeded,
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
    "law_4_intrinsic_moves_no_gradient",
    "law_5_state_is_in_buffers",
    "law_6_skipped_updates_leave_no_trace",
]

CLOCKS = (0, 1, 10_000, 1_000_000)
"""Agent steps."""
ROWS = 16

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
    require(close(actions, policy.mode), "act in eval mode is not the mode of the policy")


@law("Explorer", 3)
def law_3_equal_clocks_agree(
    explorer: Explorer, action: ActionSpec, *, agent_steps: int, seed: int
) -> None:
    """Equal clocks and random states give equal actions, whatever was asked in between."""
    policy = some_policy(action, seed)
    first = _act(explorer, policy, "train", agent_steps, seed)
    _act(explorer, policy, "train", agent_steps + 777, seed + 1)
    second = _act(explorer, policy, "train", agent_steps, seed)
    require(equal(first, second), f"two calls at agent step {agent_steps} differ")
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


def some_policy(action: ActionSpec, seed: int) -> Distribution:
    """A policy over `ROWS` states, with modes close to the bounds among them."""
    if action.kind == "discrete":
        return OneHot(draw(ArraySpec((action.size,)), (ROWS,), seed))
    loc = draw_actions(action, (ROWS,), seed)
    loc[0], loc[1] = 1.0, -1.0
    return TruncatedNormal(loc, torch.full_like(loc, 0.5))


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


def _bonus(explorer: Explorer, views: Views, seed: int) -> Intrinsic | None:
    with seeded(seed), torch.no_grad():
        return explorer.intrinsic(_features(explorer, views, seed))
