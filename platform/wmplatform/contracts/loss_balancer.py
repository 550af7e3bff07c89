"""The laws of `LossBalancer`, runnable."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import check_array, close, finite, generator
from wmplatform.interfaces.loss_balancer import LossBalancer
from wmplatform.types import ArraySpec

__all__ = [
    "check_loss_balancer",
    "law_1_unneeded_losses_take_no_part",
    "law_2_total_grows_with_each_loss",
    "law_2_total_is_a_finite_scalar",
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
    """Finite losses give a finite scalar with finite gradients, and detached scalar metrics."""
    losses = _losses(balancer.names, scale, seed)
    total, grads = _total(balancer, losses)
    check_array("the total", total, ArraySpec(()), ())
    require(
        finite([g for g in grads.values() if g is not None]),
        "a gradient of the total is not finite",
    )
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


def _losses(names: Sequence[str], scale: float, seed: int) -> dict[str, Tensor]:
    values = torch.rand(len(names), generator=generator(seed)) * scale + 0.1 * scale
    return dict(zip(names, values.unbind(), strict=True))


def _total(
    balancer: LossBalancer, losses: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """The total and its gradient at each loss and each parameter."""
    leaf = {name: x.detach().clone().requires_grad_() for name, x in losses.items()}
    total, _ = balancer(leaf)
    inputs = {**leaf, **{n: p for n, p in balancer.named_parameters() if p.requires_grad}}
    grads = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
    return total.detach(), dict(zip(inputs, grads, strict=True))
