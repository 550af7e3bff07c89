"""Learner: one batch through an agent's plan.

Nothing in `update` waits for the device: metrics stay there until somebody reads them, and
whether an update is skipped is decided by a tensor.

From the first phase on whose gradients are not finite, an update is skipped. The groups of these
phases stay as they are, bit for bit, and what else the update has changed comes back: buffers of
the agent and the behavior's slow copies, hooks included. Phases before were whole steps of their
own and stay stepped. Clocks go on: a skipped update counts for schedules and hooks.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.factory import Factory
from wmplatform.forms import Array, Whole
from wmplatform.interfaces.behavior import Objective, Phase, Update
from wmplatform.interfaces.optimizer import Optimizer, in_layout_of
from wmplatform.interfaces.request import Request
from wmplatform.replay import Segments
from wmplatform.training.capture import Capturable, CapturedPlan
from wmplatform.training.processes import GradientExchange
from wmplatform.training.snapshot import Snapshot
from wmplatform.types import Batch, Metrics
from wmplatform.world_model import IncompatibleParts

__all__ = ["BadGroups", "Learner"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class BadGroups(PlatformError):
    """The optimiser groups do not fit the agent's parameters or the plan's objectives."""

    exit_code = ExitCode.BAD_INPUT


class Learner:
    """Trains an agent: runs its plan, differentiates each objective, steps its groups."""

    def __init__(
        self,
        agent: Agent,
        exchange: GradientExchange | None = None,
        *,
        groups: Mapping[str, tuple[str, ...]],
        optimizers: Mapping[str, Factory[Optimizer]],
        data: Factory[Request] = Segments,
        frozen: tuple[str, ...] = (),
        precision: Precision = "auto",
        loss_scale: Annotated[float, Ge(1.0)] = 65536.0,
        max_bad_updates: Annotated[int, Ge(1)] = 20,
        compile_parts: tuple[str, ...] = (),
        capture: bool = False,
    ) -> None:
        """Match parameters with optimisers.

        Args:
            agent: to train, already on its device.
            exchange: averages gradients over processes that train the agent together.
            groups: prefixes of parameter names by group, e.g. `{"model": ("world_model",)}`.
            optimizers: an optimiser for each group.
            data: what one update needs from replay.
            frozen: prefixes of parameter names that no group trains; batch normalisation there
                stays in eval mode.
            precision: of convolutions and matrix products (autocast); heads, logits, KL, sampling,
                returns and all parameters stay fp32. `auto` is bf16 on an accelerator and fp32 on
                a CPU.
            loss_scale: first loss scale of fp16; grows and backs off by itself.
            max_bad_updates: so many updates in a row that are not finite end the run.
            compile_parts: names of submodules to compile, e.g. `("world_model.encoder",)`.
            capture: run updates from CUDA graphs; on other devices they stay eager.

        Raises:
            BadGroups: a trainable parameter is in no group or in two, or `capture` is asked for and
                a part cannot be captured.
            IncompatibleParts: batches stack another number of frames than the agent.
        """
        if precision == "auto":
            precision = "fp32" if agent.device.type == "cpu" else "bf16"
        self.agent, self.precision, self._exchange = agent, precision, exchange
        self.data = data()
        if self.data.stack != agent.frame_stack:
            raise IncompatibleParts(
                f"{type(self.data).__name__} give {self.data.stack} frames an observation, but the "
                f"agent's frame_stack is {agent.frame_stack}",
                hint="set Agent.frame_stack and Transitions.stack to the same number",
            )
        self.max_bad_updates = max_bad_updates
        _freeze(agent, frozen)
        self._names = _assign(agent, groups)
        if set(optimizers) != set(groups):
            raise BadGroups(
                f"groups {sorted(groups)} and optimizers {sorted(optimizers)} differ",
                hint="give Learner.groups and Learner.optimizers the same names",
            )
        parameters = dict(agent.named_parameters())
        self.optimizers = {
            group: optimizers[group]([parameters[name] for name in names])
            for group, names in self._names.items()
        }
        self.plan: Sequence[Phase] = agent.plan()
        self.updates = 0
        device = agent.device
        self.skip = torch.zeros((), device=device)
        """1 from the first phase of an update on whose gradients are not finite, else 0."""
        self.bad_updates = torch.zeros((), device=device)
        """Updates skipped so far because a gradient was not finite."""
        self.bad_streak = torch.zeros((), device=device)
        """The same, in a row, up to now."""
        self._scale = torch.full((), loss_scale if precision == "fp16" else 1.0, device=device)
        self._good = torch.zeros((), device=device)
        self._snapshot = Snapshot(agent)
        self._captured: CapturedPlan | None = None
        if capture:
            self._refuse_what_a_graph_freezes()
            if device.type == "cuda":
                self._captured = CapturedPlan(self.plan, self._run, device)
        for path in compile_parts:
            agent.get_submodule(path).compile(dynamic=False)

    def _refuse_what_a_graph_freezes(self) -> None:
        """Check that updates could run from CUDA graphs, on any device.

        Raises:
            BadGroups: a part counts on the host, which a graph would freeze, or other processes
                take part.
        """
        if self._exchange:
            raise BadGroups(
                "updates of several processes cannot run from CUDA graphs",
                hint="set Learner.capture = False",
            )
        for name, part in self.agent.named_modules():
            if isinstance(part, Capturable) and not part.capturable:
                raise BadGroups(
                    f"{type(part).__name__} has a schedule, which a CUDA graph would freeze",
                    where=f"{name}, with Learner.capture = True",
                    hint="set Learner.capture = False, or make the schedule a constant",
                )

    def update(self, batch: Batch, agent_steps: int = 0) -> Metrics:
        """Run the plan once.

        Args:
            batch: from `data`, on the agent's device.
            agent_steps: the clock of schedules.

        Returns:
            Scalars on the device.
        """
        for optimizer in self.optimizers.values():
            optimizer.set_rate(self.updates)
        self.skip.zero_()
        self._snapshot.take()
        metrics = self._run_plan(batch, agent_steps)
        self._snapshot.restore(self.skip > 0)
        self.bad_updates = self.bad_updates + self.skip
        self.bad_streak = (self.bad_streak + 1) * self.skip
        if self.precision == "fp16":
            self._adapt_scale(self.skip)
        self.updates += 1
        metrics["skipped_updates"] = self.bad_updates
        return metrics

    def _run_plan(self, batch: Batch, agent_steps: int) -> Metrics:
        if self._captured:
            return self._captured(batch, self.updates, agent_steps)
        update = Update(batch, updates=self.updates, agent_steps=agent_steps)
        for phase in self.plan:
            self._run(phase, update)
            if phase.after:
                phase.after(update)
        return update.metrics

    def _run(self, phase: Phase, update: Update) -> None:
        """Run one phase; sets `skip` if a gradient is not finite, and steps unless it is set."""
        with self._autocast():
            objectives = phase.compute(update)
        if not objectives:  # a phase that is not due this time
            return
        grads = self._gradients(objectives)
        self._snapshot.settle()
        if self._exchange:
            for each in grads.values():
                self._exchange.average(each)
        norms = {group: self.optimizers[group].clip(g) for group, g in grads.items()}
        finite = torch.stack(list(norms.values())).isfinite().all()
        self.skip.masked_fill_(~finite, 1.0)  # in place: captured graphs read it where it is
        for group, group_grads in grads.items():
            self.optimizers[group].step(group_grads, self.skip)
            update.metrics[f"{group}_grad_norm"] = norms[group]
        for objective in objectives:
            update.metrics[f"{objective.name}_loss"] = objective.loss.detach()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        # The cache of cast weights must not outlive a captured graph's memory.
        cache = None if self._captured is None else False
        return torch.autocast(self._scale.device.type, dtype=dtype, cache_enabled=cache)

    def _gradients(self, objectives: Sequence[Objective]) -> dict[str, list[Tensor]]:
        """Gradients of each group under `trains`, summed over objectives; nothing else moves.

        Differentiating with respect to these parameters alone computes no weight gradient of a
        module that a loss merely flows through.
        """
        found: dict[str, list[Tensor]] = {}
        for objective in objectives:
            groups = self._groups_under(objective)
            parameters = [p for group in groups for p in self.optimizers[group].parameters]
            loss = objective.loss * self._scale if self.precision == "fp16" else objective.loss
            grads = list(
                torch.autograd.grad(
                    loss,
                    parameters,
                    retain_graph=objective is not objectives[-1],  # they may share a forward pass
                    materialize_grads=True,
                    allow_unused=True,
                )
            )
            grads = in_layout_of(grads, parameters)
            if self.precision == "fp16":
                torch._foreach_mul_(grads, 1.0 / self._scale)
            for group in groups:
                count = len(self.optimizers[group].parameters)
                mine, grads = grads[:count], grads[count:]
                if group in found:
                    torch._foreach_add_(found[group], mine)
                else:
                    found[group] = mine
        return found

    def _groups_under(self, objective: Objective) -> list[str]:
        """Groups that an objective trains.

        Raises:
            BadGroups: a group lies partly inside, or there is none.
        """
        groups = []
        for group, names in self._names.items():
            inside = [name for name in names if _below(name, objective.trains)]
            if inside and len(inside) < len(names):
                raise BadGroups(
                    f"objective {objective.name!r} trains {objective.trains}, but group {group!r} "
                    f"holds other parameters too, e.g. {next(n for n in names if n not in inside)}",
                    hint="split the group in Learner.groups",
                )
            groups += [group] if inside else []
        if not groups:
            raise BadGroups(f"objective {objective.name!r} trains nothing: {objective.trains}")
        return groups

    def _adapt_scale(self, bad: Tensor) -> None:
        """Halve the loss scale after a bad update, double it after 2000 good ones.

        In place: a captured graph reads the scale where it was.
        """
        self._good.add_(1).mul_(1 - bad)
        grow = (self._good >= 2000).float()
        self._scale.mul_((1 - 0.5 * bad) * (1 + grow))
        self._good.mul_(1 - grow)

    def state_dict(self) -> dict[str, Any]:
        """Optimisers and counters; the agent's weights are saved by themselves."""
        return {
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "guard": {
                "bad_updates": self.bad_updates,
                "bad_streak": self.bad_streak,
                "scale": self._scale.clone(),
                "good": self._good.clone(),
            },
            "updates": self.updates,
        }

    def state_form(self) -> Any:
        """Of which form `load_state_dict` takes a state."""
        optimizers = {name: each.state_form() for name, each in self.optimizers.items()}
        guard = dict.fromkeys(("bad_updates", "bad_streak", "scale", "good"), Array("float32", ()))
        return {"optimizers": optimizers, "guard": guard, "updates": Whole()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: an optimizer's state belongs to other parameters.
        """
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        guard = {k: v.to(self._scale.device) for k, v in state["guard"].items()}
        self.bad_updates, self.bad_streak = guard["bad_updates"], guard["bad_streak"]
        self._scale.copy_(guard["scale"])
        self._good.copy_(guard["good"])
        self.updates = state["updates"]

    def group_sizes(self) -> dict[str, int]:
        """Number of trainable parameters of each group."""
        return {
            name: sum(p.numel() for p in optimizer.parameters)
            for name, optimizer in self.optimizers.items()
        }


def _below(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def _freeze(agent: nn.Module, frozen: Sequence[str]) -> None:
    """Let nothing below these prefixes learn: parameters, or statistics of batch normalisation.

    Raises:
        BadGroups: a prefix names nothing.
    """
    for prefix in frozen:
        found = [p for name, p in agent.named_parameters() if _below(name, (prefix,))]
        if not found:
            raise BadGroups(
                f"Learner.frozen names {prefix!r}, below which there is no parameter",
                hint="name a module such as 'world_model.encoder'",
            )
        for parameter in found:
            parameter.requires_grad_(False)
    for name, module in agent.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and _below(name, frozen):
            module.register_forward_pre_hook(_rest)


def _rest(module: nn.Module, inputs: object) -> None:
    """Keep a module in eval mode."""
    del inputs
    module.eval()


def _assign(agent: nn.Module, groups: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Names of the trainable parameters of each group; the longest prefix wins.

    Raises:
        BadGroups: a parameter belongs to no group, or a group is empty.
    """
    found: dict[str, list[str]] = {group: [] for group in groups}
    for name, parameter in agent.named_parameters():
        if not parameter.requires_grad:
            continue
        matches = [
            (len(prefix), group)
            for group, prefixes in groups.items()
            for prefix in prefixes
            if _below(name, (prefix,))
        ]
        if not matches:
            raise BadGroups(
                f"parameter {name!r} belongs to no optimiser group",
                hint=f"add a prefix of it to Learner.groups (groups: {', '.join(groups)})",
            )
        found[max(matches)[1]].append(name)
    empty = [group for group, names in found.items() if not names]
    if empty:
        raise BadGroups(
            f"optimiser groups without a parameter: {', '.join(empty)}",
            hint="remove them from Learner.groups, or mend their prefixes",
        )
    return found
