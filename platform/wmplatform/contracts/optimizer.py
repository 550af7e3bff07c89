"""The laws of `Optimizer`, runnable."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from wmplatform.contracts.laws import Report, law, require
from wmplatform.contracts.probes import close, generator
from wmplatform.interfaces.optimizer import Optimizer
from wmplatform.sums import plain_sum

__all__ = [
    "check_optimizer",
    "law_1_clip_tells_the_norm",
    "law_2_skipped_steps_change_nothing",
    "law_3_restoring_continues",
    "law_4_steps_go_downhill",
    "law_5_only_values_count",
]

Maker = Callable[[Sequence[Tensor]], Optimizer]

Layout = Callable[[Tensor], Tensor]

_SHAPES = ((3, 4), (4,), ())
_IMAGE_SHAPES = ((4, 3, 3, 3), (4, 1, 3, 2), (4, 3, 1, 1))
"""Of convolutions; where a size is 1, several strides mean the same."""


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _transposed(x: Tensor) -> Tensor:
    back = tuple(reversed(range(x.dim())))
    return x.permute(back).contiguous().permute(back)


PARAMETER_LAYOUTS: dict[str, Layout] = {
    "contiguous": Tensor.contiguous,
    "channels last": _channels_last,
    "transposed": _transposed,
}
"""Ways in which the elements of a tensor may lie in memory."""

GRADIENT_LAYOUTS: dict[str, Layout] = PARAMETER_LAYOUTS | {
    "sliced": lambda x: torch.stack([x, -x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand_as(x) if x.dim() else x,
}
"""The same, with gaps, and with elements that share memory (and so their value)."""


def check_optimizer(make: Maker, *, seed: int = 0, collect: bool = False) -> Report:
    """Run every law of `Optimizer`.

    Args:
        make: builds the optimizer for these parameters.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("Optimizer", collect=collect)
    for scale in (1e-3, 1.0, 1e6):
        report.run(law_1_clip_tells_the_norm, make, scale=scale, seed=seed)
    for bad in (torch.nan, torch.inf, 1.0):
        report.run(law_2_skipped_steps_change_nothing, make, bad=bad, seed=seed)
    report.run(law_3_restoring_continues, make, seed=seed)
    report.run(law_4_steps_go_downhill, make, seed=seed)
    for layout in GRADIENT_LAYOUTS:
        for lying in PARAMETER_LAYOUTS:
            report.run(law_5_only_values_count, make, layout=layout, parameters=lying, seed=seed)
    return report


@law("Optimizer", 1)
def law_1_clip_tells_the_norm(make: Maker, *, scale: float, seed: int) -> None:
    """The norm is that before clipping, and clipping only shrinks."""
    optimizer = make(_parameters(seed))
    grads = [g * scale for g in _grads(seed)]
    before = [g.clone() for g in grads]
    norm = optimizer.clip(grads)
    expected = torch.linalg.vector_norm(torch.cat([g.flatten() for g in before]))
    require(norm.dim() == 0, f"clip returns {tuple(norm.shape)} instead of a scalar")
    require(close(norm, expected), f"clip says the norm was {norm}, it was {expected}")
    for old, new in zip(before, grads, strict=True):
        require(bool((new.abs() <= old.abs() * (1 + 1e-5)).all()), "clip makes a gradient larger")


@law("Optimizer", 2)
def law_2_skipped_steps_change_nothing(make: Maker, *, bad: float, seed: int) -> None:
    """A skipped step leaves parameters, state and all later steps as they were, bit for bit."""
    plain, skipping = make(_parameters(seed)), make(_parameters(seed))
    for number in range(3):
        for optimizer in (plain, skipping):
            _go(optimizer, _grads(seed + number), number)
        poison = [torch.full_like(g, bad) for g in _grads(seed)]
        skipping.set_rate(number)
        skipping.step(poison, torch.ones(()))
    _require_equal(plain, skipping, f"a skipped step with gradients of {bad} leaves a trace")


@law("Optimizer", 3)
def law_3_restoring_continues(make: Maker, *, seed: int) -> None:
    """A restored optimizer goes on bit for bit, and refuses what is not its own."""
    first = make(_parameters(seed))
    for number in range(3):
        _go(first, _grads(seed + number), number)
    second = make([nn.Parameter(p.detach().clone()) for p in first.parameters])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number in range(3, 6):
        for optimizer in (first, second):
            _go(optimizer, _grads(seed + number), number)
    _require_equal(first, second, "a restored optimizer takes other steps")
    other = make([nn.Parameter(torch.zeros(2))])
    try:
        other.load_state_dict(first.state_dict())
    except ValueError:
        return
    require(False, "a state of other parameters is accepted")


@law("Optimizer", 4)
def law_4_steps_go_downhill(make: Maker, *, seed: int) -> None:
    """Fifty steps along the gradient of half a squared distance lower it."""
    optimizer = make(_parameters(seed))
    start = _distance(optimizer)
    # Late updates: a schedule may begin with a rate of zero.
    for number in range(10_000, 10_050):
        _go(optimizer, [p.detach() - 3.0 for p in optimizer.parameters], number)
    end = _distance(optimizer)
    require(end < start, f"fifty steps move the loss from {start:.6g} to {end:.6g}")


@law("Optimizer", 5)
def law_5_only_values_count(make: Maker, *, layout: str, parameters: str, seed: int) -> None:
    """Gradients and parameters of equal values give equal norms and steps, however they lie.

    Args:
        make: builds the optimizer for these parameters.
        layout: of the gradients, one of `GRADIENT_LAYOUTS`.
        parameters: their layout, one of `PARAMETER_LAYOUTS`.
        seed: of all random inputs.
    """
    shapes = (*_SHAPES, *_IMAGE_SHAPES)
    plain = make(_parameters(seed, shapes))
    lying = make(
        [nn.Parameter(PARAMETER_LAYOUTS[parameters](p.detach())) for p in plain.parameters]
    )
    what = f"with {layout} gradients for {parameters} parameters"
    for number in range(3):
        grads = [GRADIENT_LAYOUTS[layout](g) for g in _grads(seed + number, shapes)]
        expected = _go(
            plain, [g.clone(memory_format=torch.contiguous_format) for g in grads], number
        )
        norm = _go(lying, grads, number)
        require(close(norm, expected), f"clip says {norm} {what}, and {expected} otherwise")
    for a, b in zip(plain.parameters, lying.parameters, strict=True):
        require(close(a, b), f"a parameter of shape {tuple(a.shape)} takes other steps {what}")


def _parameters(seed: int, shapes: Sequence[tuple[int, ...]] = _SHAPES) -> list[nn.Parameter]:
    source = generator(seed)
    return [nn.Parameter(torch.randn(shape, generator=source)) for shape in shapes]


def _grads(seed: int, shapes: Sequence[tuple[int, ...]] = _SHAPES) -> list[Tensor]:
    source = generator(seed + 1)
    return [torch.randn(shape, generator=source) for shape in shapes]


def _go(optimizer: Optimizer, grads: list[Tensor], updates: int) -> Tensor:
    """One step on gradients that are used up; returns their norm."""
    optimizer.set_rate(updates)
    norm = optimizer.clip(grads)
    optimizer.step(grads, torch.zeros(()))
    return norm


def _distance(optimizer: Optimizer) -> float:
    return plain_sum(float((p.detach() - 3.0).square().sum()) for p in optimizer.parameters)


def _require_equal(one: Optimizer, other: Optimizer, what: str) -> None:
    for a, b in zip(one.parameters, other.parameters, strict=True):
        require(torch.equal(a, b), what)
