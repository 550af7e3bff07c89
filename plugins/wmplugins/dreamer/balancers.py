"""Fixed loss weights."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from wmplatform.interfaces import LossBalancer
from wmplatform.types import Metrics

__all__ = ["FixedScales"]


class FixedScales(LossBalancer):
    """Multiply each loss by a constant, 1 unless given; a constant of 0 leaves the loss out."""

    def __init__(self, names: Sequence[str], *, scales: Mapping[str, float] | None = None) -> None:
        """Keep the constants.

        Args:
            names: of all losses.
            scales: by name of the loss.

        Raises:
            ValueError: a scale names no loss, or is negative.
        """
        super().__init__(names)
        scales = dict(scales or {})
        unknown = sorted(set(scales) - set(self.names))
        if unknown or any(value < 0 for value in scales.values()):
            raise ValueError(f"scales {scales}: must be >= 0, for losses among {self.names}")
        self.scales = {name: float(scales.get(name, 1.0)) for name in self.names}

    def needed(self, name: str) -> bool:
        """Whether the constant is not zero."""
        return self.scales[name] != 0.0

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        """Sum the scaled losses that are needed."""
        used = [self.scales[name] * value for name, value in losses.items() if self.needed(name)]
        total = used[0]
        for term in used[1:]:
            total = total + term
        return total, {}
