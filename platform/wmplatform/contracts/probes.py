"""Random inputs, perturbations and comparisons that the laws share.

Every draw comes from a generator of its own, so that probing leaves the global random state to
the component under test.
"""

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from wmplatform.contracts.laws import fail, require
from wmplatform.types import ActionSpec, ArraySpec, Features, FeatureSpec, TensorTree, tree_map

__all__ = [
    "StepTrial",
    "actions_like",
    "any_changed",
    "check_action",
    "check_outputs",
    "close",
    "contrary",
    "draw",
    "draw_actions",
    "draw_features",
    "draw_specs",
    "draws",
    "dtype_of",
    "equal",
    "fill_floats",
    "finite",
    "generator",
    "in_mode",
    "leaves",
    "no_device_wait",
    "no_draws",
    "noiseless_steps",
    "repeat_rows",
    "require_gradients",
    "require_nowhere",
    "require_rows_alone",
    "require_rows_apart",
    "require_seen",
    "require_some_gradient",
    "require_unchanged",
    "seeded",
    "set_row",
    "shake",
    "snapshot",
    "variants",
    "where_apart",
    "where_changed",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def generator(seed: int) -> torch.Generator:
    """A generator of its own, on the CPU."""
    return torch.Generator().manual_seed(seed)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run with this torch seed and give the former random state of the CPU back; None: as it is."""
    if seed is None:
        yield
        return
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a traceback a device
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def dtype_of(spec: ArraySpec) -> torch.dtype:
    """The torch dtype that a spec names."""
    return torch.from_numpy(np.empty(0, dtype=spec.dtype)).dtype


def draw(spec: ArraySpec, lead: Sequence[int], seed: int) -> Tensor:
    """Draw a random array of this spec, `[*lead, *shape]`: uint8 0..255, bool, or normal floats."""
    shape, dtype, g = (*lead, *spec.shape), dtype_of(spec), generator(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=g).to(dtype)
    high = {torch.bool: 2, torch.uint8: 256}.get(dtype, 8)
    return torch.randint(high, shape, generator=g).to(dtype)


def draw_specs(specs: Mapping[str, ArraySpec], lead: Sequence[int], seed: int) -> dict[str, Tensor]:
    """Draw one array for each name."""
    return {name: draw(spec, lead, seed + 101 * i) for i, (name, spec) in enumerate(specs.items())}


def draw_features(spec: FeatureSpec, lead: Sequence[int], seed: int) -> Features:
    """Draw features: a tensor, or several by name, nested like their spec."""
    if isinstance(spec, ArraySpec):
        return draw(spec, lead, seed)
    parts = enumerate(spec.items())
    return {name: draw_features(part, lead, seed + 101 * i) for i, (name, part) in parts}


def draw_actions(action: ActionSpec, lead: Sequence[int], seed: int) -> Tensor:
    """Draw valid actions, float32 `[*lead, A]`."""
    g = generator(seed)
    if action.kind == "discrete":
        index = torch.randint(action.size, tuple(lead), generator=g)
        return nn.functional.one_hot(index, action.size).float()
    return torch.rand(*lead, action.size, generator=g) * 2 - 1


def actions_like(actions: Tensor, action: ActionSpec) -> Tensor:
    """Valid actions that differ from the given ones in every entry of the lead dims."""
    if action.kind == "discrete" and action.size > 1:
        return actions.roll(1, -1)
    return torch.where(actions > 0, actions - 0.8, actions + 0.8)


def leaves(tree: TensorTree) -> list[Tensor]:
    """All tensors of a tree."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def snapshot(tree: TensorTree) -> TensorTree:
    """Copy every tensor."""
    return tree_map(lambda x: x.detach().clone(), tree)


def finite(tree: TensorTree) -> bool:
    """Whether every number is finite."""
    return all(bool(torch.isfinite(leaf).all()) for leaf in leaves(tree))


def equal(a: TensorTree, b: TensorTree) -> bool:
    """Equality without tolerance; NaN equals NaN."""
    return _compare(a, b, lambda x, y: not bool(_differ(x, y).any()))


def close(a: TensorTree, b: TensorTree) -> bool:
    """Equality but for rounding, which differs with the shapes of a batch; NaN equals nothing."""
    return _compare(a, b, lambda x, y: not bool(_apart(x, y).any()))


def where_apart(a: TensorTree, b: TensorTree, dims: int) -> Tensor:
    """Where trees differ by more than rounding, over the first `dims` dims of every tensor."""
    return _where(_apart, a, b, dims)


def where_changed(a: TensorTree, b: TensorTree, dims: int) -> Tensor:
    """Where trees differ at all, over the first `dims` dims; equally shaped runs round alike."""
    return _where(_differ, a, b, dims)


def any_changed(a: TensorTree, b: TensorTree) -> bool:
    """Whether at least one number differs at all; equally shaped runs round alike."""
    return not equal(a, b)


def fill_floats(tree: TensorTree, value: float) -> TensorTree:
    """A tree of the same shape with `value` in every float tensor; others are kept."""
    return tree_map(lambda x: torch.full_like(x, value) if x.is_floating_point() else x, tree)


def contrary(tree: TensorTree, by: float = 1.0) -> TensorTree:
    """Values that differ from the given ones in every entry, floats by so much."""

    def turn(x: Tensor) -> Tensor:
        if x.dtype == torch.bool:
            return ~x
        if x.is_floating_point():
            return torch.where(x > 0, x - by, x + by)
        return 255 - x if x.dtype == torch.uint8 else x ^ 1

    return tree_map(turn, tree)


def repeat_rows(tree: TensorTree, times: int) -> TensorTree:
    """Copies of all rows after each other, `[times * B, ...]`."""
    return tree_map(lambda x: x.repeat(times, *[1] * (x.dim() - 1)), tree)


def set_row(tree: TensorTree, other: TensorTree, row: int) -> TensorTree:
    """Take row `row` from `other` and all others from `tree`."""

    def place(x: Tensor, y: Tensor) -> Tensor:
        out = x.clone()
        out[row] = y[row]
        return out

    return tree_map(place, tree, other)


def shake(module: ModuleT, seed: int, scale: float = 0.02) -> ModuleT:
    """Add noise to every trainable parameter, so that none of them hides behind a zero start."""
    g = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=g)
                parameter.add_(noise.to(parameter), alpha=scale)
    return module


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put a module into train or eval mode and back."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)


def variants(module: ModuleT, count: int = 6) -> Iterator[ModuleT]:
    """The module, then copies with other parameters: a tiny net may be dead by bad luck."""
    yield module
    for seed in range(1, count):
        yield shake(copy.deepcopy(module), seed, scale=0.2)


def require_unchanged(before: TensorTree, after: TensorTree, what: str) -> None:
    """Break the law unless the numbers agree but for rounding."""
    if not close(before, after):
        fail(f"{what} (largest difference {_largest_difference(before, after):.3g})")


def require_nowhere(where: Tensor, what: Callable[..., str]) -> None:
    """Break the law at the first entry of `where`; `what` makes the message of its indices."""
    if bool(where.any()):
        fail(what(*where.nonzero()[0].tolist()))


def require_rows_alone(
    run: Callable[[TensorTree], TensorTree], inputs: TensorTree, what: str
) -> None:
    """Break the law if a row's output depends on other rows, on its place or on their number.

    Args:
        run: maps inputs to outputs, every tensor `[B, ...]`; draws no random numbers.
        inputs: of B rows; some of them are run without the others and in another order.
        what: names the outputs.
    """
    every = torch.arange(leaves(inputs)[0].shape[0])
    whole = run(inputs)
    for rows in (every[-1:], every[::2].flip(0), every[1::2].flip(0)):
        if len(rows):
            taken, expected = (tree_map(lambda x, r=rows: x[r], tree) for tree in (inputs, whole))
            require_nowhere(
                where_apart(expected, run(taken), 1),
                lambda i, rows=rows: (
                    f"the {what} of row {rows[i]} are others in a batch of rows {rows.tolist()} "
                    f"than among all {len(every)}"
                ),
            )


def require_rows_apart(
    run: Callable[[TensorTree], TensorTree], inputs: TensorTree, others: TensorTree, what: str
) -> None:
    """Break the law if a row's output depends on other rows.

    Rows are exchanged by halves, until every row has stayed while every other one has changed.

    Args:
        run: maps inputs to outputs, every tensor `[B, ...]`; equal inputs give equal outputs.
        inputs: of B rows.
        others: what rows are exchanged for.
        what: names the outputs.
    """
    row, before = torch.arange(leaves(inputs)[0].shape[0]), run(inputs)
    for bit in range((len(row) - 1).bit_length()):
        for changed in ((row >> bit) % 2 == 0, (row >> bit) % 2 == 1):
            mixed = tree_map(lambda x, y, m=changed: _where_lead(m, y, x), inputs, others)
            require_nowhere(
                where_apart(before, run(mixed), 1) & ~changed,
                lambda i, changed=changed: (
                    f"the {what} of row {i} change with the inputs of the rows "
                    f"{row[changed].tolist()}"
                ),
            )


def _where_lead(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Select by a mask of the leading dims."""
    return torch.where(mask.reshape(*mask.shape, *[1] * (yes.dim() - mask.dim())), yes, no)


class StepTrial(Generic[ModuleT]):
    """Runs of a module in which one step after another is exchanged.

    Every tensor of the inputs is `[B, T, ...]`. There are K copies of all rows; copy k has step
    `steps[k]` of the other inputs. Outputs are `[K * B, K, ...]`: output k belongs to that step.

    Args:
        run: maps the module and inputs to outputs.
        module: tried with other parameters too, where a tiny net may be dead by bad luck.
        inputs: of every step.
        others: what steps are exchanged for; others for other parameters, in turn.
        steps: their numbers, in order.
        onwards: copy k has all steps from `steps[k]` on exchanged.
    """

    def __init__(
        self,
        run: Callable[[ModuleT, Any], TensorTree],
        module: ModuleT,
        inputs: TensorTree,
        others: Sequence[TensorTree],
        steps: Sequence[int],
        *,
        onwards: bool = False,
    ) -> None:
        rows, length = leaves(inputs)[0].shape[:2]
        self.count = len(steps)
        number, exchanged = torch.arange(length), torch.tensor(steps).repeat_interleave(rows)
        at = number >= exchanged[:, None] if onwards else number == exchanged[:, None]
        same = repeat_rows(inputs, self.count)
        mixed = [
            tree_map(lambda x, y: _where_lead(at, y, x), same, repeat_rows(other, self.count))
            for other in others
        ]
        trials = zip(variants(module), itertools.cycle(mixed), strict=False)
        self._runs = ((run(each, same), run(each, inputs)) for each, inputs in trials)
        self.before, self.after = next(self._runs)
        self._seen = [(self.before, self.after)]

    @property
    def earlier(self) -> Tensor:
        """Whether output j comes before step k, bool `[K, 1, K]`."""
        return torch.ones(self.count, self.count).tril(-1).bool().unsqueeze(1)

    def split(self, where: Tensor) -> Tensor:
        """`[K * B, K]` as `[K, B, K]`."""
        return where.unflatten(0, (self.count, -1))

    def unmoved(
        self, among: Tensor, pick: Callable[[TensorTree], TensorTree] = lambda outputs: outputs
    ) -> Tensor:
        """Which `[K, B]` of those outputs stay as they are, whatever the parameters.

        Args:
            among: bool `[K, B]`: output k of row b when step k is exchanged.
            pick: takes the part of the outputs that should have changed.
        """
        still = among.clone()
        for before, after in self._each():
            if not bool(still.any()):
                break
            changed = self.split(where_changed(pick(before), pick(after), 2))
            still &= ~changed.diagonal(dim1=0, dim2=2).T
        return still

    def _each(self) -> Iterator[tuple[TensorTree, TensorTree]]:
        """All runs, each made once."""
        yield from self._seen
        for pair in self._runs:
            self._seen.append(pair)
            yield pair


def require_seen(
    module: ModuleT,
    run: Callable[[ModuleT, Tensor], TensorTree],
    arrays: Tensor,
    what: str,
) -> None:
    """Break the law unless the output depends on every piece of an array.

    Args:
        module: tried with other parameters too, where a tiny net may be dead by bad luck.
        run: maps the module and P copies of the arrays `[P, T, *shape]` to outputs `[P, ...]`.
        arrays: `[T, *shape]`; a piece is changed in all T at once. Pieces of an image are its
            channels and an 8 x 8 grid of cells; of anything else up to 64 slices of its entries.
        what: names the array.
    """
    names, masks = _pieces(arrays.shape[1:])
    same = arrays.expand(len(names), *arrays.shape)
    unseen = torch.ones(len(names), dtype=torch.bool)
    for each, by in zip(variants(module), itertools.cycle((1.0, 10.0)), strict=False):
        changed = torch.where(masks.unsqueeze(1), contrary(same, by), same)
        unseen &= ~where_changed(run(each, same.clone()), run(each, changed), 1)
        if not bool(unseen.any()):
            return
    missed = [name for name, gone in zip(names, unseen.tolist(), strict=True) if gone]
    fail(f"nothing depends on {', '.join(missed[:3])} of {what}")


def _pieces(shape: Sequence[int]) -> tuple[list[str], Tensor]:
    """Names and masks `[P, *shape]` of pieces that cover an array."""
    if len(shape) == 3:
        channels, height, width = shape
        names = [f"channel {c}" for c in range(channels)]
        masks = [torch.arange(channels)[:, None, None] == c for c in range(channels)]
        for top, bottom in _slices(height, 8):
            for left, right in _slices(width, 8):
                names.append(f"rows {top}..{bottom - 1}, columns {left}..{right - 1}")
                down, across = torch.arange(height)[:, None], torch.arange(width)
                masks.append((down >= top) & (down < bottom) & (across >= left) & (across < right))
        return names, torch.stack([mask.expand(*shape) for mask in masks])
    size = math.prod(shape)
    slices, entry = _slices(size, 64), torch.arange(size)
    names = [f"entries {start}..{stop - 1}" for start, stop in slices]
    flat = torch.stack([(entry >= start) & (entry < stop) for start, stop in slices])
    return names, flat.reshape(-1, *shape)


def _slices(size: int, count: int) -> list[tuple[int, int]]:
    """Bounds of up to `count` slices of nearly equal size."""
    bounds = [i * size // min(count, size) for i in range(min(count, size) + 1)]
    return list(itertools.pairwise(bounds))


def require_gradients(loss: Tensor, module: nn.Module, what: str) -> None:
    """Break the law unless every trainable parameter gets a finite gradient from `loss`."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not named:
        return
    require(loss.requires_grad, f"{what} do not depend on any trainable parameter")
    grads = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    found: dict[str, Tensor | None] = dict(zip(named, grads, strict=True))
    unreached = [name for name, grad in found.items() if grad is None]
    require(not unreached, f"no gradient of {what} reaches {', '.join(unreached)}")
    broken = [name for name, grad in found.items() if not finite(grad)]
    require(not broken, f"the gradient of {what} is not finite at {', '.join(broken)}")


def require_some_gradient(losses: Iterable[Tensor], inputs: Sequence[Tensor], where: str) -> None:
    """Break the law unless a finite gradient, not zero, of one of the losses reaches the inputs."""
    for loss in losses:
        if not loss.requires_grad:
            continue
        found: list[Tensor | None] = list(
            torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        )
        grads = [g for g in found if g is not None]
        require(finite(grads), f"the gradient that reaches {where} is not finite")
        if any(bool((g != 0).any()) for g in grads):
            return
    fail(f"no gradient reaches {where}")


def check_outputs(
    outputs: Mapping[str, Tensor], specs: Mapping[str, ArraySpec], lead: Sequence[int]
) -> None:
    """Break the law unless names, shapes and dtypes are as declared and all numbers finite."""
    require(
        set(outputs) == set(specs),
        f"outputs are {sorted(outputs)}, declared are {sorted(specs)}",
    )
    for name, spec in specs.items():
        check_array(name, outputs[name], spec, lead)


def check_array(name: str, value: Tensor, spec: ArraySpec, lead: Sequence[int]) -> None:
    """Break the law unless one array is as declared and finite."""
    shape = (*lead, *spec.shape)
    require(
        tuple(value.shape) == shape, f"{name} has shape {tuple(value.shape)} instead of {shape}"
    )
    require(value.dtype == dtype_of(spec), f"{name} is {value.dtype} instead of {spec.dtype}")
    require(finite(value), f"{name} holds a number that is not finite")


def check_action(actions: Tensor, action: ActionSpec, lead: Sequence[int], what: str) -> None:
    """Break the law unless these are valid float32 actions `[*lead, A]`."""
    check_array(what, actions, ArraySpec((action.size,)), lead)
    if action.kind == "discrete":
        one_hot = ((actions == 0) | (actions == 1)).all() and (actions.sum(-1) == 1).all()
        require(bool(one_hot), f"{what} are not one-hot: {actions.flatten()[:8].tolist()}")
    else:
        top = float(actions.detach().abs().max())
        require(top <= 1, f"{what} leave [-1, 1]: the largest magnitude is {top:.4g}")


@contextmanager
def draws() -> Iterator[list[str]]:
    """Gives a list that afterwards names the generators that drew inside: torch, numpy, random."""
    before, drawn = _random_state(), list[str]()
    yield drawn
    now = _random_state()
    drawn += [name for name, state in before.items() if state != now[name]]


@contextmanager
def no_draws(what: str) -> Iterator[None]:
    """Break the law if a random number of torch, numpy or Python is drawn inside."""
    with draws() as drawn:
        yield
    require(not drawn, f"{what} draws random numbers from {', '.join(drawn)}")


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


def noiseless_steps(run: Callable[[], TensorTree], steps: int, seed: int) -> set[int]:
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


class _WaitSpy(TorchDispatchMode):
    """Notes operators whose result the host has to wait for."""

    WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith(self.WAITS):
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_device_wait(what: str) -> Iterator[None]:
    """Break the law if something inside reads a tensor's value on the host."""
    with _WaitSpy() as spy:
        yield
    require(
        not spy.seen,
        f"{what} waits for the device ({', '.join(sorted(spy.seen))}: `.item()`, "
        "`float(tensor)`, `if tensor:` or a mask used as an index)",
    )


def _random_state() -> dict[str, bytes]:
    states = {"torch": torch.get_rng_state().numpy().tobytes()}
    for i in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        states[f"torch (cuda:{i})"] = torch.cuda.get_rng_state(i).numpy().tobytes()
    states["numpy"] = repr(np.random.get_state()).encode()  # noqa: NPY002 - watched, not used
    states["random"] = repr(random.getstate()).encode()
    return states


def _differ(x: Tensor, y: Tensor) -> Tensor:
    """Where entries differ; NaN equals NaN."""
    return (x != y) & ((x == x) | (y == y))


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """Where entries differ by more than rounding at the tensors' scale."""
    if not x.dtype.is_floating_point or not x.numel():
        return x != y
    rtol, share = (1e-4, 2e-5) if x.dtype in (torch.float32, torch.float64) else (2e-2, 2e-2)
    top = torch.stack([each.nan_to_num(0.0, 0.0, 0.0).abs().max() for each in (x, y)]).max()
    near = (x - y).abs() <= 1e-9 + share * top + rtol * y.abs()
    return (x != y) & ~near


@torch.no_grad()
def _where(
    differ: Callable[[Tensor, Tensor], Tensor], a: TensorTree, b: TensorTree, dims: int
) -> Tensor:
    found = [
        differ(x, y).reshape(*x.shape[:dims], -1).any(-1)
        for x, y in zip(leaves(a), leaves(b), strict=True)
    ]
    return torch.stack(found).any(0)


@torch.no_grad()
def _compare(a: TensorTree, b: TensorTree, agree: Callable[[Tensor, Tensor], bool]) -> bool:
    xs, ys = leaves(a), leaves(b)
    same_shapes = [x.shape for x in xs] == [y.shape for y in ys]
    return same_shapes and all(agree(x, y) for x, y in zip(xs, ys, strict=True))


def _largest_difference(a: TensorTree, b: TensorTree) -> float:
    pairs = zip(leaves(a), leaves(b), strict=True)
    gaps = [(x.double() - y.double()).abs().max() for x, y in pairs if x.numel()]
    return float(torch.stack(gaps).max()) if gaps else 0.0
