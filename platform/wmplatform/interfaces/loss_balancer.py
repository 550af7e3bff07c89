"""LossBalancer: named losses to one scalar."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from wmplatform.types import Metrics

__all__ = ["LossBalancer"]


class LossBalancer(nn.Module, ABC):
    """Weighs the world model's losses.

    A subclass is built with `(names, *, its own settings)`, the names of all losses. Parameters it
    owns are trained by the optimiser group that `Learner.groups` gives them.

    Laws:

    1. A loss that is not `needed` takes no part: whatever its value, NaN included, total and
       gradients are as if it did not exist.
    2. The total is a finite scalar for finite losses, and grows with each needed loss; nothing
       waits for the device.
    3. The gradient at each loss is that of the total, where weights that follow the losses may be
       held fixed.
    4. Losses go by name: their order does not matter, and the mapping stays as it is.
    5. Everything that changes over time is a buffer or a parameter, so that it is checkpointed.

    Whether a weight is the right one no law can see.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    @abstractmethod
    def needed(self, name: str) -> bool:
        """Whether the loss takes part in training. Others are computed for the log only."""

    @abstractmethod
    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        """Combine the scalar losses that are needed into one."""
