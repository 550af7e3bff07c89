"""The laws of `LatentDynamics` about imagined rollouts, runnable."""

from dataclasses import replace

import torch
from torch import Tensor

from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    actions_like,
    any_changed,
    check_action,
    draw_actions,
    equal,
    finite,
    leaves,
    no_draws,
    require_unchanged,
    seeded,
    snapshot,
)
from wmplatform.contracts.segments import DynamicsCase, draw_segment
from wmplatform.interfaces.latent_dynamics import Imagined, LatentDynamics
from wmplatform.types import ActionSpec, Carry, Features, Latent, TensorTree, tree_map

__all__ = [
    "check",
    "law_4_first_output_is_one_step_on",
    "law_4_imagination_sees_no_observation",
    "law_4_policy_reads_each_state",
    "law_4_starts_are_the_observed_states",
    "law_5_imagined_rows_do_not_mix",
    "law_8_actions_get_gradients",
    "law_9_deterministic_imagination_draws_nothing",
]

HORIZON = 3


def check(report: Report, dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Run the laws of this file."""
    report.run(law_4_starts_are_the_observed_states, dynamics, case)
    report.run(law_4_first_output_is_one_step_on, dynamics, case)
    report.run(law_4_policy_reads_each_state, dynamics, case)
    report.run(law_4_imagination_sees_no_observation, dynamics, case)
    report.run(law_5_imagined_rows_do_not_mix, dynamics, case, 1)
    report.run(law_8_actions_get_gradients, dynamics, case)
    report.run(law_9_deterministic_imagination_draws_nothing, dynamics, case)


@law("LatentDynamics", 4)
def law_4_starts_are_the_observed_states(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """`starts` gives detached observed states, and `rows` says which ones, rows first."""
    start = _Start(dynamics, case, grad=True)
    flat = tree_map(lambda x: x.flatten(0, 1)[start.index], start.observed.states)
    for view in sorted(dynamics.views - dynamics.capabilities.observed_only):
        with torch.no_grad():
            a, b = (dynamics.features(s, view) for s in (flat, start.latent))
        require_unchanged(a, b, f"view {view} of the start states differs from that observed")
    attached = any(x.requires_grad for x in leaves(start.latent))
    require(not attached, "start states are not detached")


@law("LatentDynamics", 4)
def law_4_first_output_is_one_step_on(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Action 0 leads into output 0, action 1 into output 1, and output 0 sees no later action."""
    start = _Start(dynamics, case)
    actions = start.actions()
    before = start.imagine(actions)
    steps = actions.shape[1]
    for i in range(steps):
        changed = actions.clone()
        changed[:, i] = actions_like(actions, case.action)[:, i]
        after = start.imagine(changed)
        a, b = _until(before, i), _until(after, i)
        require_unchanged(a, b, f"imagined action {i} changes an earlier output")
        if not start.acts():
            skip("action_free, and no action has any effect")
        require(
            any_changed(_at(before, i), _at(after, i)),
            f"imagined action {i} does not change output {i}: output 0 has to be one step after "
            "the start",
        )


@law("LatentDynamics", 4)
def law_4_policy_reads_each_state(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """The policy is called once a step, first on the start; its actions are those reported."""
    start = _Start(dynamics, case)
    policy = _Recorder(case.action, case.seed)
    imagined = start.imagine(policy)
    steps = start.horizon
    require(len(policy.calls) == steps, f"{len(policy.calls)} policy calls for {steps} steps")
    check_action(imagined.actions, case.action, (start.rows, steps), "imagined actions")
    require_unchanged(
        torch.stack([action for _, action in policy.calls], 1),
        imagined.actions,
        "`actions[:, i]` is not the policy's answer number i",
    )
    seen: list[TensorTree] = [dynamics.features(start.latent, "policy")]
    features = dynamics.features(imagined.states, "policy")
    seen += [tree_map(lambda x, i=i: x[:, i], features) for i in range(steps - 1)]
    for i, (expected, (given, _)) in enumerate(zip(seen, policy.calls, strict=True)):
        require_unchanged(
            expected, given, f"policy call {i} does not read the state before step {i}"
        )
    again = start.imagine(imagined.actions)
    require_unchanged(
        imagined.states, again.states, "replaying the policy's actions gives other states"
    )


@law("LatentDynamics", 4)
def law_4_imagination_sees_no_observation(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """What is observed elsewhere in between changes nothing: there is no hidden state."""
    start = _Start(dynamics, case)
    actions = start.actions()
    before = start.imagine(actions)
    _Start(dynamics, case, seed=case.seed + 23)
    require(equal(before.states, start.imagine(actions).states), "imagination sees an observation")
    require(finite(before.states), "imagined states are not finite")


@law("LatentDynamics", 5)
def law_5_imagined_rows_do_not_mix(dynamics: LatentDynamics, case: DynamicsCase, row: int) -> None:
    """Other actions in one row leave the imagined states of the others."""
    start = _Start(dynamics, case)
    actions = start.actions()
    changed = actions.clone()
    changed[row] = actions_like(actions, case.action)[row]
    others = [n for n in range(start.rows) if n != row]
    a, b = (tree_map(lambda x: x[others], start.imagine(x).states) for x in (actions, changed))
    require_unchanged(a, b, f"actions of row {row} change the imagined states of other rows")


@law("LatentDynamics", 8)
def law_8_actions_get_gradients(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Imagined features have a gradient to every earlier action iff `differentiable_rollout`."""
    start = _Start(dynamics, case)
    actions = start.actions().requires_grad_()
    with seeded(case.seed):
        states = start.imagine(actions, deterministic=False, grad=True).states
    last = tree_map(lambda x: x[:, -1:], states)
    total = torch.stack(feature_sums(dynamics, last, imagined=True)).sum()
    (grad,) = (
        torch.autograd.grad(total, actions, allow_unused=True) if total.requires_grad else (None,)
    )
    reached = grad is not None and bool((grad != 0).any())
    if not dynamics.capabilities.differentiable_rollout:
        require(not reached, "gradients reach the actions though differentiable_rollout is False")
        return
    if not start.acts():
        skip("action_free, and no action has any effect")
    require(reached, "no gradient of imagined features reaches the actions")
    if grad is not None:
        require(bool((grad[:, 0] != 0).any()), "no gradient reaches the first imagined action")
        require(finite(grad), "the gradient at the imagined actions is not finite")


@law("LatentDynamics", 9)
def law_9_deterministic_imagination_draws_nothing(
    dynamics: LatentDynamics, case: DynamicsCase
) -> None:
    """`imagine(deterministic=True)` draws no random number."""
    start = _Start(dynamics, case)
    actions = start.actions()
    with no_draws("imagine(deterministic=True)"):
        start.imagine(actions)


def feature_sums(
    dynamics: LatentDynamics, states: Latent, *, imagined: bool = False
) -> list[Tensor]:
    """One scalar a view, weighted so that no symmetry cancels."""
    sums = []
    views = dynamics.views - dynamics.capabilities.observed_only if imagined else dynamics.views
    for view in sorted(views):
        for part in leaves(dynamics.features(states, view)):
            weights = torch.linspace(0.5, 1.5, part.shape[-1] if part.dim() else 1)
            sums.append((part * weights).mean() + part.square().mean())
    return sums


class _Start:
    """Start states of a random segment, ready to imagine from."""

    def __init__(
        self,
        dynamics: LatentDynamics,
        case: DynamicsCase,
        *,
        seed: int | None = None,
        grad: bool = False,
    ) -> None:
        if not dynamics.capabilities.supports_imagination:
            skip("supports_imagination is False")
        segment = draw_segment(dynamics, case if seed is None else replace(case, seed=seed))
        self.dynamics, self.case = dynamics, case
        with torch.set_grad_enabled(grad):
            self.observed = dynamics.observe(
                segment.embeds,
                segment.actions,
                segment.is_first,
                context=segment.context,
                deterministic=True,
            )
            starts = dynamics.starts(self.observed)
        self.latent, self.carry, self.index = starts.states, starts.carry, starts.rows
        lead = leaves(self.observed.states)[0].shape[:2]
        self.rows = leaves(self.latent)[0].shape[0]
        require(
            self.rows == len(self.index) > 0 and int(self.index.max()) < lead.numel(),
            f"{self.rows} start rows, {len(self.index)} indices, for states {tuple(lead)}",
        )
        self.horizon = min(HORIZON, dynamics.capabilities.max_horizon or HORIZON)
        segments = self.index // lead[1]
        context = segment.context
        self.context = {n: x[segments] for n, x in context.items()} if context else None

    def actions(self) -> Tensor:
        """Random actions `[N, H, A]`."""
        return draw_actions(self.case.action, (self.rows, self.horizon), self.case.seed + 29)

    def acts(self) -> bool:
        """Whether any action has an effect; a video model that declares so may have none."""
        if not self.dynamics.capabilities.action_free:
            return True
        actions = self.actions()
        changed = actions_like(actions, self.case.action)
        return not equal(self.imagine(actions).states, self.imagine(changed).states)

    def imagine(
        self,
        policy: "_Recorder | Tensor",
        *,
        deterministic: bool = True,
        grad: bool = False,
    ) -> Imagined:
        """Roll out on copies of the start, and check the shapes."""
        start: tuple[Latent, Carry] = snapshot((self.latent, self.carry))
        with torch.set_grad_enabled(grad):
            imagined = self.dynamics.imagine(
                *start, policy, self.horizon, context=self.context, deterministic=deterministic
            )
        lead = (self.rows, self.horizon)
        for leaf in leaves(imagined.states):
            shape = tuple(leaf.shape)
            require(shape[:2] == lead, f"imagined states are {shape}, not {lead} + ...")
        return imagined


class _Recorder:
    """A deterministic policy that remembers its calls."""

    def __init__(self, action: ActionSpec, seed: int) -> None:
        self.action, self.seed = action, seed
        self.calls: list[tuple[TensorTree, Tensor]] = []

    def __call__(self, features: Features) -> Tensor:
        """Act by a fixed random projection of the features."""
        flat = torch.cat([x.flatten(1) for x in leaves(features)], -1)
        g = torch.Generator().manual_seed(self.seed)
        raw = flat @ torch.randn(flat.shape[1], self.action.size, generator=g)
        action = raw.tanh()
        if self.action.kind == "discrete":
            action = torch.nn.functional.one_hot(raw.argmax(-1), self.action.size).float()
        self.calls.append((snapshot(features), action.detach().clone()))
        return action


def _until(imagined: Imagined, i: int) -> TensorTree:
    """States of the first i outputs."""
    return tree_map(lambda x: x[:, :i], imagined.states)


def _at(imagined: Imagined, i: int) -> TensorTree:
    """States of output i."""
    return tree_map(lambda x: x[:, i], imagined.states)
