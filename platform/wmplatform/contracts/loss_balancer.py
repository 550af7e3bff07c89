"""The laws of `LossBalancer`, runnable."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    check_array,
    close,
    equal,
    finite,
    generator,
    no_device_wait,
    seeded,
    snapshot,
)
from wmplatform.interfaces.loss_balancer import LossBalancer
from wmplatform.types import ArraySpec

__all__ = [
    "check_loss_balancer",
    "law_1_unneeded_losses_take_no_part",
    "law_2_total_grows_with_each_loss",
    "law_2_total_is_a_finite_scalar",
    "law_3_gradient_is_that_of_the_total",
    "law_4_losses_go_by_name",
    "law_5_state_is_checkpointed",
]

NAMES = ("image", "kl", "reward", "continue")


def check_loss_balancer(
    make: Callable[[Sequence[str]], LossBalancer],
    names: Sequence[str] = NAMES,
    *,
    seed: int = 0,
    collect: bool = False,
) -> Report:
    """Run every law of `LossBalancer`.

    Args:
        make: builds the balancer for these losses.
        names: of the losses.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("LossBalancer", collect=collect)
    balancer = make(names)
    for value in (torch.nan, torch.inf, 100.0):
        report.run(law_1_unneeded_losses_take_no_part, balancer, value=value, seed=seed)
    for scale in (0.01, 1.0, 1000.0):
        report.run(law_2_total_is_a_finite_scalar, balancer, scale=scale, seed=seed)
        report.run(law_2_total_grows_with_each_loss, balancer, scale=scale, seed=seed)
        report.run(law_3_gradient_is_that_of_the_total, balancer, scale=scale, seed=seed)
    report.run(law_4_losses_go_by_name, balancer, seed=seed)
    report.run(law_5_state_is_checkpointed, make, names, seed=seed)
    return report


@law("LossBalancer", 1)
def law_1_unneeded_losses_take_no_part(balancer: LossBalancer, *, value: float, seed: int) -> None:
    """Total and gradients do not see the value of a loss that is not needed."""
    unneeded = [name for name in balancer.names if not balancer.needed(name)]
    if not unneeded:
        skip("every loss is needed")
    losses = _losses(balancer.names, 1.0, seed)
    before, before_grads = _total(balancer, losses)
    for name in unneeded:
        after, grads = _total(balancer, {**losses, name: torch.tensor(value)})
        require(close(before, after), f"{name} = {value} is not needed but changes the total")
        own = grads.pop(name)
        require(own is None or bool(own == 0), f"{name} is not needed but gets a gradient of {own}")
        rest = {n: g for n, g in before_grads.items() if n != name and g is not None}
        kept = {n: g for n, g in grads.items() if g is not None}
        require(close(rest, kept), f"{name} = {value} is not needed but changes gradients")


@law("LossBalancer", 2)
def law_2_total_is_a_finite_scalar(balancer: LossBalancer, *, scale: float, seed: int) -> None:
    """Finite losses give a finite scalar with finite gradients, and detached scalar metrics.

    Nothing of it waits for the device.
    """
    losses = _losses(balancer.names, scale, seed)
    total, grads = _total(balancer, losses)
    check_array("the total", total, ArraySpec(()), ())
    require(
        finite([g for g in grads.values() if g is not None]),
        "a gradient of the total is not finite",
    )
    with no_device_wait("weighing the losses"):
        _, metrics = balancer({n: x.requires_grad_() for n, x in losses.items()})
    for name, value in metrics.items():
        require(value.dim() == 0 and not value.requires_grad, f"metric {name} is not detached")


@law("LossBalancer", 2)
def law_2_total_grows_with_each_loss(balancer: LossBalancer, *, scale: float, seed: int) -> None:
    """A larger needed loss gives a larger total, and its gradient is positive."""
    losses = _losses(balancer.names, scale, seed)
    before, grads = _total(balancer, losses)
    for name in filter(balancer.needed, balancer.names):
        after, _ = _total(balancer, {**losses, name: losses[name] * 2 + scale})
        require(bool(after > before), f"the total does not grow with {name}")
        own = grads[name]
        require(own is not None and bool(own > 0), f"the gradient at {name} is {own}")


@law("LossBalancer", 3)
def law_3_gradient_is_that_of_the_total(balancer: LossBalancer, *, scale: float, seed: int) -> None:
    """The derivative at each loss is the total's, or that of it with its weights held fixed."""
    losses = _losses(balancer.names, scale, seed)
    needed = [name for name in balancer.names if balancer.needed(name)]

    def rest(losses: Mapping[str, Tensor]) -> Tensor:
        """What of the total is not its gradient times the losses: with fixed weights a constant."""
        total, grads = _total(balancer, losses)
        return total - torch.stack([_at(grads[name]) * losses[name] for name in needed]).sum()

    total, grads = _total(balancer, losses)
    others = [_losses(balancer.names, scale, seed + each) for each in (1, 2)]
    fixed = all(bool((rest(x) - rest(losses)).abs() < 1e-3 * total.abs()) for x in others)
    for name in needed:
        step = 0.05 * losses[name]
        ends = [_total(balancer, {**losses, name: losses[name] + s})[0] for s in (step, -step)]
        slope = (ends[0] - ends[1]) / (2 * step)
        require(
            fixed or bool((slope - _at(grads[name])).abs() < 0.02 * slope.abs()),
            f"the gradient at {name} is {_at(grads[name]):.4g}, but the total changes by "
            f"{slope:.4g} of what it does",
        )


@law("LossBalancer", 4)
def law_4_losses_go_by_name(balancer: LossBalancer, *, seed: int) -> None:
    """Their order in the mapping does not matter, and the mapping stays as it was."""
    losses = _losses(balancer.names, 1.0, seed)
    turned = dict(reversed(losses.items()))
    require(
        close(_total(balancer, losses), _total(balancer, turned)),
        "losses in another order give another total, or other gradients",
    )
    given = {name: x.clone() for name, x in losses.items()}
    copy.deepcopy(balancer)(given)
    require(
        list(given) == list(losses) and equal(given, losses),
        "it changes the losses that it is given",
    )


@law("LossBalancer", 5)
def law_5_state_is_checkpointed(
    make: Callable[[Sequence[str]], LossBalancer], names: Sequence[str], *, seed: int
) -> None:
    """A fresh balancer that loads the state of a used one goes on as that does."""
    with seeded(seed):
        used, fresh = make(names), make(names)
    for each in range(3):
        used(_losses(names, 1.0, seed + each))
    fresh.load_state_dict(snapshot(used.state_dict()))
    totals = []
    for balancer in (used, fresh):
        with seeded(seed):
            totals.append([balancer(_losses(names, 1.0, seed + n))[0].detach() for n in (3, 4)])
    require(
        equal(*totals),
        "after loading its state, a balancer gives another total: something that changes is "
        "neither a buffer nor a parameter",
    )


def _at(grad: Tensor | None) -> Tensor:
    return torch.zeros(()) if grad is None else grad


def _losses(names: Sequence[str], scale: float, seed: int) -> dict[str, Tensor]:
    values = torch.rand(len(names), generator=generator(seed)) * scale + 0.1 * scale
    return dict(zip(names, values.unbind(), strict=True))


def _total(
    balancer: LossBalancer, losses: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The total and its gradient at each loss and each parameter; the balancer stays as it is."""
    leaf = {name: x.detach().clone().requires_grad_() for name, x in losses.items()}
    balancer = copy.deepcopy(balancer)
    with seeded(0):
        total, _ = balancer(dict(leaf))
    inputs = {**leaf, **{n: p for n, p in balancer.named_parameters() if p.requires_grad}}
    grads = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
    found = dict(zip(inputs, grads, strict=True))
    return total.detach(), {name: found[name] for name in sorted(found)}
