"""What pre-training draws from: batches of short pieces of videos. This file imports no torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from wmplatform.forms import ANY
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec

if TYPE_CHECKING:
    from tensordict import TensorDict

__all__ = ["ClipSource", "video_spec"]


class ClipSource(Protocol):
    """Draws clips: an endless stream of batches that its seed decides.

    Made with `(seed, rank, world_size, device, *, its own settings)`. Several processes share one
    stream: their parts, joined in the order of ranks, are the batch of a single process, and the
    state is the same in all of them.
    """

    def sample(self) -> "TensorDict":
        """Draw this process' part of the next batch, `[B, T]`.

        Returns:
            `pixels` uint8 `[B, T, C, H, W]` and `is_first` bool `[B, T]`, true where a clip
            begins. There are no actions.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and JSON values from which `load_state_dict` goes on."""
        ...

    def state_form(self) -> Any:
        """Of which form a state has to be (`wmplatform.forms`), compared before it is read."""
        return ANY

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is none of this source's.
        """
        ...

    def close(self) -> None:
        """Stop workers; a second call does nothing."""
        ...


def video_spec(channels: int, size: int) -> EnvSpec:
    """Describe records of videos: square images, and actions of size 0."""
    return EnvSpec(
        observations={"pixels": ArraySpec((channels, size, size), "uint8")}, action=ActionSpec(0)
    )
