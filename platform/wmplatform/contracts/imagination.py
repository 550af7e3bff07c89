"""The laws of `LatentDynamics` about imagined rollouts, runnable."""

from dataclasses import replace

import torch
from torch import Tensor

from wmplatform.contracts.dependence import (
    StepTrial,
    repeat_rows,
    require_rows_alone,
    require_rows_apart,
)
from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    actions_like,
    check_action,
    contrary,
    draw_actions,
    equal,
    fill_floats,
    finite,
    leaves,
    no_draws,
    require_nowhere,
    require_unchanged,
    seeded,
    snapshot,
    where_apart,
)
from wmplatform.contracts.segments import (
    DynamicsCase,
    draw_segment,
    observe,
    records_of,
    step_through,
)
from wmplatform.contracts.views import (
    check_views,
    feature_sums,
    require_action,
    require_heard,
    views_of,
)
from wmplatform.interfaces.latent_dynamics import Imagined, LatentDynamics
from wmplatform.types import ActionSpec, Carry, Context, Features, Latent, TensorTree, tree_map

__all__ = [
    "Start",
    "check",
    "law_4_first_output_is_one_step_on",
    "law_4_goes_on_from_its_carry",
    "law_4_imagination_sees_no_observation",
    "law_4_policy_reads_each_state",
    "law_4_starts_are_the_observed_states",
    "law_4_starts_where_acting_stands",
    "law_5_imagined_rows_do_not_mix",
    "law_6_imagined_views_hear_actions_as_declared",
    "law_7_imagined_features_as_declared",
    "law_8_actions_get_gradients",
    "law_9_deterministic_imagination_draws_nothing",
]

HORIZON = 5


def check(report: Report, dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Run the laws of this file."""
    report.run(law_4_starts_are_the_observed_states, dynamics, case)
    report.run(law_4_starts_where_acting_stands, dynamics, case)
    report.run(law_4_first_output_is_one_step_on, dynamics, case)
    report.run(law_4_goes_on_from_its_carry, dynamics, case)
    report.run(law_4_policy_reads_each_state, dynamics, case)
    report.run(law_4_imagination_sees_no_observation, dynamics, case)
    report.run(law_5_imagined_rows_do_not_mix, dynamics, case)
    report.run(law_6_imagined_views_hear_actions_as_declared, dynamics, case)
    report.run(law_7_imagined_features_as_declared, dynamics, case)
    report.run(law_8_actions_get_gradients, dynamics, case)
    report.run(law_9_deterministic_imagination_draws_nothing, dynamics, case)


@law("LatentDynamics", 4)
def law_4_starts_are_the_observed_states(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """`starts` gives detached observed states, and `rows` says which ones, rows first."""
    start = Start(dynamics, case, grad=True)
    flat = tree_map(lambda x: x.flatten(0, 1)[start.index], start.observed.states)
    for view in start.views:
        with torch.no_grad():
            a, b = (dynamics.features(s, view) for s in (flat, start.latent))
        require_unchanged(a, b, f"view {view} of the start states differs from that observed")
    attached = any(x.requires_grad for x in leaves((start.latent, start.carry)))
    require(not attached, "start states or carries are not detached")


@law("LatentDynamics", 4)
def law_4_starts_where_acting_stands(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """A rollout from `starts` equals that from the same record's `observe_step`."""
    start = Start(dynamics, case)
    segment = draw_segment(dynamics, case)
    actions = start.actions()
    expected = views_of(dynamics, start.imagine(actions).states, start.views)
    kept = records_of(start.observed, case.length)
    stepped = step_through(dynamics, segment)
    for i, t in enumerate(kept):
        rows = (start.index % len(kept) == i).nonzero().squeeze(1)
        if not len(rows):
            continue
        segments = start.index[rows] // len(kept)
        state, carry = stepped[t]
        imagined = start.imagine(
            actions[rows],
            tree_map(lambda x, s=segments: x[s], state),
            dynamics.select(carry, segments),
            tree_map(lambda x, r=rows: x[r], start.context),
        )
        require_unchanged(
            tree_map(lambda x, r=rows: x[r], expected),
            views_of(dynamics, imagined.states, start.views),
            f"at record {t} a rollout from the starts differs from one that acting goes on with",
        )


@law("LatentDynamics", 4)
def law_4_first_output_is_one_step_on(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Action i leads into output i, in every row, and no output sees a later action."""
    start = Start(dynamics, case)
    require_action(dynamics, case)
    trial = start.exchange_actions()
    require_nowhere(
        trial.split(where_apart(trial.before, trial.after, 2)) & trial.earlier,
        lambda k, n, j: f"imagined action {k} changes output {j} of row {n}",
    )
    require_nowhere(
        trial.unmoved(
            torch.ones(start.horizon, start.rows, dtype=torch.bool),
            lambda states: views_of(dynamics, states, start.views),
        ),
        lambda k, n: (
            f"imagined action {k} does not change output {k} of row {n}: output 0 has to be one "
            "step after the start"
        ),
    )


@law("LatentDynamics", 4)
def law_4_goes_on_from_its_carry(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """A rollout begun where another one ends equals the longer one."""
    start = Start(dynamics, case)
    if start.horizon < 2:
        skip("max_horizon is 1")
    actions = start.actions()
    whole = start.imagine(actions)
    for cut in {1, start.horizon // 2, start.horizon - 1}:
        head = start.imagine(actions[:, :cut])
        last = tree_map(lambda x: x[:, -1], head.states)
        tail = start.imagine(actions[:, cut:], last, head.carry, start.context)
        joined = tree_map(lambda x, y: torch.cat([x, y], 1), head.states, tail.states)
        require_nowhere(
            where_apart(whole.states, joined, 2),
            lambda n, j, cut=cut: (
                f"output {j} of row {n} is another one where the rollout ends after {cut} steps "
                "and goes on from its last state and carry"
            ),
        )


@law("LatentDynamics", 4)
def law_4_policy_reads_each_state(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """The policy is called once a step, first on the start; its actions are those reported."""
    start = Start(dynamics, case)
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
    start = Start(dynamics, case)
    actions = start.actions()
    before = start.imagine(actions)
    observe(dynamics, draw_segment(dynamics, replace(case, seed=case.seed + 23)))
    require(equal(before.states, start.imagine(actions).states), "imagination sees an observation")
    require(finite(before.states), "imagined states are not finite")


@law("LatentDynamics", 5)
def law_5_imagined_rows_do_not_mix(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Imagined states and views of a row see no other row's start, carry, context or actions."""
    start = Start(dynamics, case)
    inputs = (start.actions(), start.latent, start.carry, start.context)
    others = (actions_like(inputs[0], case.action), *contrary(inputs[1:]))

    def run(given: tuple[Tensor, Latent, Carry, Context | None]) -> TensorTree:
        states = start.imagine(*given).states
        return states, views_of(dynamics, states, start.views)

    require_rows_alone(run, inputs, "imagined states and views")
    require_rows_apart(run, inputs, fill_floats(others, torch.nan), "imagined states and views")


@law("LatentDynamics", 6)
def law_6_imagined_views_hear_actions_as_declared(
    dynamics: LatentDynamics, case: DynamicsCase
) -> None:
    """Action i reaches every view of output i, but for `ignores_actions`, which none reaches."""
    if not case.action.size:
        skip("there are no actions")
    start = Start(dynamics, case)
    trial = start.exchange_actions()
    require_heard(dynamics, trial, start.views, start.views, "imagined states")


@law("LatentDynamics", 7)
def law_7_imagined_features_as_declared(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Views of imagined states are as declared too."""
    start = Start(dynamics, case)
    check_views(dynamics, start.imagine(start.actions()).states, start.views)


@law("LatentDynamics", 8)
def law_8_actions_get_gradients(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Imagined features have a gradient to every earlier action iff `differentiable_rollout`."""
    start = Start(dynamics, case)
    actions = start.actions().requires_grad_()
    with seeded(case.seed):
        states = start.imagine(actions, deterministic=False, grad=True).states
    last = tree_map(lambda x: x[:, -1:], states)
    total = torch.stack(feature_sums(dynamics, last, start.views)).sum()
    (grad,) = (
        torch.autograd.grad(total, actions, allow_unused=True) if total.requires_grad else (None,)
    )
    reached = torch.zeros(start.horizon, dtype=torch.bool)
    if grad is not None:
        require(finite(grad), "the gradient at the imagined actions is not finite")
        reached = (grad != 0).flatten(2).any(-1).any(0)
    if not dynamics.capabilities.differentiable_rollout:
        message = "gradients reach the actions though differentiable_rollout is False"
        require(not bool(reached.any()), message)
        return
    require_action(dynamics, case)
    require_nowhere(
        ~reached, lambda i: f"no gradient of the last features reaches imagined action {i}"
    )


@law("LatentDynamics", 9)
def law_9_deterministic_imagination_draws_nothing(
    dynamics: LatentDynamics, case: DynamicsCase
) -> None:
    """`imagine(deterministic=True)` draws no random number."""
    start = Start(dynamics, case)
    actions = start.actions()
    with no_draws("imagine(deterministic=True)"):
        start.imagine(actions)


class Start:
    """Start states of a random segment, ready to imagine from."""

    def __init__(self, dynamics: LatentDynamics, case: DynamicsCase, *, grad: bool = False) -> None:
        if not dynamics.capabilities.supports_imagination:
            skip("supports_imagination is False")
        segment = draw_segment(dynamics, case)
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
        self.views = sorted(dynamics.views - dynamics.capabilities.observed_only)
        segments = self.index // lead[1]
        self.context = tree_map(lambda x: x[segments], segment.context)

    def actions(self) -> Tensor:
        """Random actions `[N, H, A]`."""
        return draw_actions(self.case.action, (self.rows, self.horizon), self.case.seed + 29)

    def exchange_actions(self) -> StepTrial[LatentDynamics]:
        """Imagined states with one action after another exchanged."""
        start = snapshot((self.latent, self.carry, self.context))

        def run(module: LatentDynamics, actions: Tensor) -> Latent:
            return self.imagine(actions, *repeat_rows(start, self.horizon), module=module).states

        actions = self.actions()
        others = [actions_like(actions, self.case.action)]
        return StepTrial(run, self.dynamics, actions, others, range(self.horizon))

    def imagine(
        self,
        policy: "_Recorder | Tensor",
        latent: Latent | None = None,
        carry: Carry = None,
        context: Context | None = None,
        *,
        deterministic: bool = True,
        grad: bool = False,
        module: LatentDynamics | None = None,
    ) -> Imagined:
        """Roll out on copies of the start, or of another one, and check what the states are."""
        if latent is None:
            latent, carry, context = self.latent, self.carry, self.context
        horizon = policy.shape[1] if isinstance(policy, Tensor) else self.horizon
        latent, carry = snapshot((latent, carry))
        with torch.set_grad_enabled(grad):
            imagined = (module or self.dynamics).imagine(
                latent,
                carry,
                policy,
                horizon,
                context=context,
                deterministic=deterministic,
            )
        kinds = [
            tree_map(lambda x, dims=dims: (x.shape[dims:], x.dtype), states)
            for states, dims in ((self.latent, 1), (imagined.states, 2))
        ]
        require(
            kinds[0] == kinds[1],
            f"imagined states have other parts, shapes or dtypes, {kinds[1]}, than those from "
            f"`starts`, {kinds[0]}",
        )
        lead = (leaves(latent)[0].shape[0], horizon)
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
