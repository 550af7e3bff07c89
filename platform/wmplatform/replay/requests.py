"""What a learner asks replay for: small values that a gin file can hold."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from tensordict import TensorDict

from wmplatform.replay.buffer import Replay

__all__ = ["Segments", "Transitions"]


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Batches of consecutive records, `[batch, length]`."""

    batch: Annotated[int, Ge(1)] = 50
    """Segments."""
    length: Annotated[int, Ge(1)] = 50
    """Records of each."""

    @property
    def records(self) -> int:
        """Records that an episode must have."""
        return self.length

    def sample(self, replay: Replay) -> TensorDict:
        """Draw a batch; see `Replay.segments`."""
        return replay.segments(self.batch, self.length)


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """Batches of n-step transitions, `[batch]`."""

    batch: Annotated[int, Ge(1)] = 256
    n: Annotated[int, Ge(1)] = 3
    """Steps of reward before the bootstrap."""
    gamma: Annotated[float, Gt(0), Le(1)] = 0.99
    """Discount of one agent step."""
    stack: Annotated[int, Ge(1)] = 1
    """Frames of an observation, oldest first."""

    @property
    def records(self) -> int:
        """Records that an episode must have."""
        return self.n + 1

    def sample(self, replay: Replay) -> TensorDict:
        """Draw a batch; see `Replay.transitions`."""
        return replay.transitions(self.batch, self.n, self.gamma, self.stack)
