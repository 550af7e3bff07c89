"""Random inputs, perturbations and comparisons that the laws share.

Every draw comes from a generator of its own, so that probing leaves the global random state to
the component under test.
"""

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from wmplatform.contracts.laws import fail, require
from wmplatform.types import ActionSpec, ArraySpec, Features, FeatureSpec, TensorTree, tree_map

__all__ = [
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
    "require_gradients",
    "require_nowhere",
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
