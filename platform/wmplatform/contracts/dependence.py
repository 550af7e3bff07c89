"""What depends on what: rows on other rows, outputs on steps and on pieces of the input."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from wmplatform.contracts.laws import fail
from wmplatform.contracts.probes import (
    contrary,
    leaves,
    require_nowhere,
    variants,
    where_apart,
    where_changed,
)
from wmplatform.types import TensorTree, tree_map

__all__ = [
    "StepTrial",
    "repeat_rows",
    "require_rows_alone",
    "require_rows_apart",
    "require_seen",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def repeat_rows(tree: TensorTree, times: int) -> TensorTree:
    """Copies of all rows after each other, `[times * B, ...]`."""
    return tree_map(lambda x: x.repeat(times, *[1] * (x.dim() - 1)), tree)


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
