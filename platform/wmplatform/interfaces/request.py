"""Request: what one update needs from replay."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensordict import TensorDict

    from wmplatform.replay import Replay

__all__ = ["Request"]


class Request(ABC):
    """Draws the batch of one update from replay.

    A subclass is built with `(*, its own settings)`. The learner passes a batch on to the plan as
    it is, so a request and a behavior agree on its keys: segments `[B, T]` of records, transitions
    `[B]`, both in one, or states that replay kept.

    A part of a batch that has `is_first` is segments, and one that has `discount` is transitions;
    both show their observations. What other keys mean only plan and request know: no law sees it.

    Laws:

    1. A draw follows replay's own generator: equal replays give equal batches, and
       no record changes, not by writing into a batch either.
    2. Where replay holds an episode of `records` records, `sample` succeeds.
    3. Images are uint8, `stack` frames of them on the channel axis, oldest first; before an
       episode's start its first frame repeats. Other observations are those of the newest frame.
    4. A segment is one record after the other, with all columns of each record. `is_first` is true
       at index 0 (unless the request `resumes`) and wherever a record does not go on from the
       one before it, and false elsewhere.
    5. A transition leads from record t to record t + k of one episode, with the same k for all but
       where the episode ends before. `action` is the one taken at t, `reward` the sum over i < k of
       gamma^i r_{t+1+i}, `discount` gamma^k, or 0 where t + k is terminal (where it is truncated
       the bootstrap stays), and `next` holds the observations of t + k.
    6. Every record of an episode that is long enough can be drawn, the last one too.
    """

    @property
    @abstractmethod
    def records(self) -> int:
        """Records that an episode must have."""

    @property
    def stack(self) -> int:
        """Frames of an observation, oldest first; has to be the agent's `frame_stack`."""
        return 1

    @property
    def gamma(self) -> float | None:
        """Discount of one agent step in transitions; None where the request gives none."""
        return None

    @property
    def resumes(self) -> bool:
        """Whether segments come with the state of before, so that only true starts are marked."""
        return False

    @abstractmethod
    def sample(self, replay: "Replay") -> "TensorDict":
        """Draw a batch, on the device of replay."""
