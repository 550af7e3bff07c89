"""The law of `Behavior` on train and eval mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tensordict import TensorDict
from torch import nn

from wmplatform.agent import Agent
from wmplatform.contracts.laws import law, require
from wmplatform.contracts.probes import seeded
from wmplatform.contracts.reference import names_below
from wmplatform.interfaces.behavior import Update
from wmplatform.types import EnvSpec

__all__ = ["law_7_what_is_only_read_is_in_eval_mode"]

DrawBatch = Callable[[EnvSpec, int], TensorDict]


@law("Behavior", 7)
def law_7_what_is_only_read_is_in_eval_mode(
    agent: Agent, draw_batch: DrawBatch, *, seed: int
) -> None:
    """Outside of the model's own loss, a phase runs in train mode what it trains and no more.

    Nothing where it imagines, and after the update everything is in eval mode.
    """
    update, names = Update(draw_batch(agent.spec, seed)), [n for n, _ in agent.named_parameters()]
    for phase in agent.plan():
        with _train_mode(agent) as ran, seeded(seed):
            objectives = phase.compute(update)
        trained = names_below(names, [p for o in objectives for p in o.trains])
        for part in sorted(ran - {"imagine"}):
            require(
                "imagine" not in ran and bool(trained & names_below(names, [part])),
                f"phase {phase.name} reads {part}, which is in train mode",
            )
        if phase.after:
            phase.after(update)
    loud = [name for name, module in agent.named_modules() if module.training]
    require(not loud, f"after an update {', '.join(loud[:3])} is in train mode")


@contextmanager
def _train_mode(agent: Agent) -> Iterator[set[str]]:
    """Note parts of the model that run in train mode, its own losses apart.

    Yields:
        Names of parts, such as `world_model.heads.reward`, and `imagine` if there is a rollout.
    """
    model, ran, learning = agent.world_model, set[str](), list[bool]()
    imagine, losses = model.dynamics.imagine, model.losses

    def note(part: str, module: nn.Module, inputs: object = None) -> None:
        del inputs
        if module.training and not learning:
            ran.add(f"world_model.{part}")

    def imagined(*args: Any, **kwargs: Any) -> Any:
        ran.add("imagine")
        note("dynamics", model.dynamics)
        return imagine(*args, **kwargs)

    def learned(*args: Any, **kwargs: Any) -> Any:
        learning.append(True)
        found = losses(*args, **kwargs)
        learning.clear()
        return found

    parts = ((_part(name), module) for name, module in model.named_modules() if name)
    hooks = [
        module.register_forward_pre_hook(partial(note, part))
        for part, module in parts
        if part != "balancer"  # it weighs the model's own losses
    ]
    model.dynamics.imagine, model.losses = imagined, learned  # type: ignore[method-assign]
    try:
        yield ran
    finally:
        del model.dynamics.imagine, model.losses
        for hook in hooks:
            hook.remove()


def _part(name: str) -> str:
    """The part that a module belongs to: `heads.reward` of `heads.reward.linear`."""
    names = name.split(".")
    return ".".join(names[: 2 if names[0] == "heads" else 1])
