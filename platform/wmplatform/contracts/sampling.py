"""The laws of `LatentDynamics` about what is sampled, runnable."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from wmplatform.contracts.imagination import Start
from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    leaves,
    no_draws,
    require_nowhere,
    seeded,
    variants,
    where_changed,
)
from wmplatform.contracts.segments import DynamicsCase, draw_segment, observe, step
from wmplatform.interfaces.latent_dynamics import LatentDynamics
from wmplatform.types import Latent, TensorTree, tree_map

__all__ = ["Sampler", "check", "law_9_samples_as_declared", "law_9_steps_have_their_own_noise"]

Sampler: TypeAlias = Literal["observe", "observe_step", "imagine"]


def check(report: Report, dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Run the laws of this file."""
    methods: tuple[Sampler, ...] = ("observe", "observe_step", "imagine")
    for method in methods:
        report.run(law_9_samples_as_declared, dynamics, case, method)
        report.run(law_9_steps_have_their_own_noise, dynamics, case, method)


@law("LatentDynamics", 9)
def law_9_samples_as_declared(
    dynamics: LatentDynamics, case: DynamicsCase, method: Sampler
) -> None:
    """What samples gives equal rows different states, and the rest draws nothing."""
    if not _declared(dynamics, method):
        run = _sampled(dynamics, case, method, seed=None)
        with no_draws(f"`{method}`, which capabilities.samples does not name,"):
            run(dynamics)
        return
    run = _sampled(dynamics, case, method, seed=case.seed)
    alike = torch.ones(case.batch - 1, dtype=torch.bool)
    for each in variants(dynamics):
        states = run(each)
        first = tree_map(lambda x: x[:1].expand_as(x[1:]), states)
        alike &= ~where_changed(first, tree_map(lambda x: x[1:], states), 1)
        if not bool(alike.any()):
            return
    require_nowhere(
        alike,
        lambda i: (
            f"`{method}` gives rows 0 and {i + 1}, which are equal, equal states: it samples "
            "nothing, or the same for all rows; see capabilities.samples"
        ),
    )


@law("LatentDynamics", 9)
def law_9_steps_have_their_own_noise(
    dynamics: LatentDynamics, case: DynamicsCase, method: Sampler
) -> None:
    """Every step of a segment or a rollout has random numbers that act on no step before it."""
    if not _declared(dynamics, method):
        skip(f"{method} does not sample, by declaration")
    sample = _sampled(dynamics, replace(case, batch=2, resets=frozenset()), method, seed=case.seed)
    run = partial(sample, dynamics)
    steps = leaves(run())[0].shape[1]
    missing = sorted(_noiseless_steps(run, steps, case.seed))
    require(
        not missing,
        f"no random number of `{method}` acts first at steps {missing} of {steps}: is the same "
        "noise used at all steps?",
    )


def _declared(dynamics: LatentDynamics, method: Sampler) -> bool:
    return method.removesuffix("_step") in dynamics.capabilities.samples


def _sampled(
    dynamics: LatentDynamics, case: DynamicsCase, method: Sampler, *, seed: int | None
) -> Callable[[LatentDynamics], Latent]:
    """A function that samples states `[B, T, ...]` of rows that are all equal."""
    if method == "imagine":
        start = Start(dynamics, case)
        rows = torch.zeros(case.batch, dtype=torch.int64)
        actions, latent, context = tree_map(
            lambda x: x[rows], (start.actions()[:, :3], start.latent, start.context)
        )
        carry = dynamics.select(start.carry, rows)

        def imagined(module: LatentDynamics) -> Latent:
            with seeded(seed):
                return start.imagine(
                    actions, latent, carry, context, deterministic=False, module=module
                ).states

        return imagined
    segment = draw_segment(dynamics, case)
    segment = tree_map(lambda x: x[:1].expand_as(x).contiguous(), segment)

    def observed(module: LatentDynamics) -> Latent:
        return observe(module, segment, deterministic=False, seed=seed).states

    def stepped(module: LatentDynamics) -> Latent:
        carry = module.initial(segment.batch)
        state, _ = step(module, segment, 0, carry, deterministic=False, seed=seed)
        one: Latent = tree_map(lambda x: x.unsqueeze(1), state)
        return one

    return observed if method == "observe" else stepped


class _Redraw(TorchDispatchMode):
    """Counts the random numbers that torch draws, and draws those from `start` to `stop` anew."""

    def __init__(self, start: int = 0, stop: int = 0, seed: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.start, self.stop, self.seed, self.count = start, stop, seed, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        before = pytree.tree_map_only(Tensor, torch.clone, args)  # it may be in place
        drawn = func(*args, **(kwargs or {}))
        if isinstance(drawn, Tensor):
            number = torch.arange(self.count, self.count + drawn.numel()).reshape(drawn.shape)
            self.count += drawn.numel()
            with seeded(self.seed + self.count):
                anew = func(*before, **(kwargs or {}))
            chosen = (number >= self.start) & (number < self.stop)
            drawn.copy_(torch.where(chosen, anew, drawn))
        return drawn


def _noiseless_steps(run: Callable[[], TensorTree], steps: int, seed: int) -> set[int]:
    """Numbers of the steps without random numbers of their own, that act on no step before.

    Ever smaller parts of all that is drawn are drawn anew while the rest stays, and the first step
    that changes is noted, until all steps are found or about 200 runs were made.

    Args:
        run: gives outputs `[N, steps, ...]` and draws from torch's generator, seeded alike.
        steps: how many there are.
        seed: of what is drawn anew.
    """
    with _Redraw() as usual:
        before = run()
    seeds = itertools.count(seed, 1000)

    def first_changed(start: int, stop: int) -> int:
        with _Redraw(start, stop, next(seeds)):
            changed = where_changed(before, run(), 2).any(0)
        return int(changed.int().argmax()) if bool(changed.any()) else steps

    missing, parts = set(range(steps)), [(0, usual.count)] * 3
    while parts and missing and next(seeds) < seed + 1000 * 200:
        start, stop = parts.pop()
        first = first_changed(start, stop)
        if first and first in missing:
            # One draw may leave a step as it is, a one-hot sample for one: few numbers, more draws.
            tries = range(1 + min(24, 64 // (stop - start)))
            first = min(first, *(first_changed(start, stop) for _ in tries))
        missing.discard(first)
        # Parts of this part act at this step or later.
        middle = (start + stop) // 2
        if stop - start > 1 and missing and first < max(missing):
            parts += [(start, middle), (middle, stop)]
    return missing
