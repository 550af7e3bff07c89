"""What a learner asks replay for: small values that a gin file can hold."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from tensordict import TensorDict

from wmplatform.interfaces.request import Request
from wmplatform.replay.buffer import Replay

__all__ = ["Segments", "Transitions"]


@dataclass(frozen=True, kw_only=True)
class Segments(Request):
    """Batches of consecutive records, `[batch, length]`; who reads them remembers frames."""

    batch: Annotated[int, Ge(1)] = 50
    """Segments."""
    length: Annotated[int, Ge(1)] = 50
    """Records of each."""
    mark_start: bool = True
    """Set `is_first` at the start of each segment, so that a model ignores the action that led
    there. Otherwise only episodes have it, and a model in its initial state takes that action, as
    in Iso-Dream's code."""

    @property
    def records(self) -> int:
        """Records that an episode must have."""
        return self.length

    def sample(self, replay: Replay) -> TensorDict:
        """Draw a batch; see `Replay.segments`."""
        return replay.segments(self.batch, self.length, mark_start=self.mark_start)


@dataclass(frozen=True, kw_only=True)
class Transitions(Request):
    """Batches of n-step transitions, `[batch]`, for agents without a memory."""

    batch: Annotated[int, Ge(1)] = 256
    """Transitions of an update."""
    n: Annotated[int, Ge(1)] = 3
    """Steps of reward before the bootstrap."""
    gamma: Annotated[float, Gt(0), Le(1)] = 0.99
    """Discount of one agent step."""
    stack: Annotated[int, Ge(1)] = 1
    """Frames of an observation, oldest first."""
    short_ends: bool = True
    """Start in the last n - 1 steps of an episode too, with the steps that remain: otherwise what
    comes right before a failure is never learned from. DrQ-v2's code does not."""
    by_length: bool = True
    """Draw every start equally often. DrQ-v2's code draws every episode equally often, so that
    short ones count for more."""

    @property
    def records(self) -> int:
        """Records that an episode must have."""
        return 2 if self.short_ends else self.n + 1

    def sample(self, replay: Replay) -> TensorDict:
        """Draw a batch; see `Replay.transitions`."""
        return replay.transitions(
            self.batch,
            self.n,
            self.gamma,
            self.stack,
            short_ends=self.short_ends,
            by_length=self.by_length,
        )
