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

    Laws:

    1. A draw follows replay's own generator: equal replays give equal batches, and
       no record changes.
    2. Where replay holds an episode of `records` records, `sample` succeeds.
    3. Images are uint8, `stack` frames of them on the channel axis.
    """

    @property
    @abstractmethod
    def records(self) -> int:
        """Records that an episode must have."""

    @property
    def stack(self) -> int:
        """Frames of an observation, oldest first; has to be the agent's `frame_stack`."""
        return 1

    @abstractmethod
    def sample(self, replay: "Replay") -> "TensorDict":
        """Draw a batch, on the device of replay."""
