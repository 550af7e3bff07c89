"""Means of metrics over many updates, summed up where the metrics are.

Nothing here waits for the device until `take`, which waits once for all metrics together.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wmplatform.forms import TEXT, Array, Many, Whole

__all__ = ["RunningMeans"]


class RunningMeans:
    """Sums of scalars by name.

    Metrics that are always given together are stacked and cost two small kernels an update. Sums
    are fp64, so that a mean over a long run does not depend on its length.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        """`[number of names]` fp64, by the names that were given together."""
        self._counts: dict[tuple[str, ...], int] = {}

    @torch.no_grad()
    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one value of each metric: scalars of any dtype, all on one device."""
        if not metrics:
            return
        names = tuple(metrics)
        values = [value.detach().reshape(()) for value in metrics.values()]
        stacked = torch.stack(values).to(torch.float64)
        if names in self._sums:
            self._sums[names] = self._sums[names].to(stacked.device) + stacked
        else:
            self._sums[names] = stacked
        self._counts[names] = self._counts.get(names, 0) + 1

    def take(self) -> dict[str, float]:
        """Return the mean of each metric since the last call and start anew; waits once."""
        if not self._sums:
            return {}
        names = [name for group in self._sums for name in group]
        device = next(iter(self._sums.values())).device
        flat = torch.cat([each.to(device) for each in self._sums.values()]).tolist()
        counts = [self._counts[group] for group in self._sums for _ in group]
        totals: dict[str, tuple[float, int]] = {}
        for name, value, count in zip(names, flat, counts, strict=True):
            total, number = totals.get(name, (0.0, 0))
            totals[name] = total + value, number + count
        self._sums.clear()
        self._counts.clear()
        return {name: total / number for name, (total, number) in totals.items()}

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the sums so far, for a checkpoint."""
        return [
            {"names": list(names), "sum": total, "count": self._counts[names]}
            for names, total in self._sums.items()
        ]

    @staticmethod
    def state_form() -> Any:
        """Of which form `load_state_dict` takes a state."""
        total = Array("float64", (None,))
        return Many({"names": Many(TEXT), "sum": total, "count": Whole(least=1)})

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Go on from the sums of a checkpoint.

        Raises:
            ValueError: names and sums are not as many.
        """
        if any(len(group["names"]) != len(group["sum"]) for group in state):
            raise ValueError("there are as many names of metrics as sums")
        self._sums = {tuple(group["names"]): group["sum"] for group in state}
        self._counts = {tuple(group["names"]): group["count"] for group in state}
