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
]

Maker = Callable[[Sequence[Tensor]], Optimizer]

_SHAPES = ((3, 4), (4,), ())


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


def _parameters(seed: int) -> list[nn.Parameter]:
    source = generator(seed)
    return [nn.Parameter(torch.randn(shape, generator=source)) for shape in _SHAPES]


def _grads(seed: int) -> list[Tensor]:
    source = generator(seed + 1)
    return [torch.randn(shape, generator=source) for shape in _SHAPES]


def _go(optimizer: Optimizer, grads: list[Tensor], updates: int) -> None:
    grads = [g.clone() for g in grads]
    optimizer.set_rate(updates)
    optimizer.clip(grads)
    optimizer.step(grads, torch.zeros(()))


def _distance(optimizer: Optimizer) -> float:
    return plain_sum(float((p.detach() - 3.0).square().sum()) for p in optimizer.parameters)


def _require_equal(one: Optimizer, other: Optimizer, what: str) -> None:
    for a, b in zip(one.parameters, other.parameters, strict=True):
        require(torch.equal(a, b), what)
