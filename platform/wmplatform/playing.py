"""Acting on plain arrays, in front of environments that no collector plays.

Shape letters: N environments, A action.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wmplatform.agent import ActMemory, Agent
from wmplatform.interfaces.env_adapter import ActionSpec
from wmplatform.types import Mode

__all__ = ["Player", "env_action"]


class Player:
    """An agent and what it remembers of the episodes that it is in.

    Args:
        agent: is not changed.
        agent_steps: the explorer's clock, which stands still.
    """

    def __init__(self, agent: Agent, agent_steps: int) -> None:
        self.agent, self.agent_steps = agent, agent_steps
        self._memory: ActMemory | None = None

    @property
    def rows(self) -> int | None:
        """N of the last call; None before the first one."""
        return None if self._memory is None else len(self._memory["action"])

    def act(
        self, observations: Mapping[str, NDArray[Any]], is_first: NDArray[np.bool_], mode: Mode
    ) -> NDArray[np.float32]:
        """Choose actions float32 `[N, A]`.

        Args:
            observations: as the agent's spec declares them, `[N, ...]` each.
            is_first: `[N]`; what is remembered of those rows is forgotten. All are first where N
                is another one than in the last call.
            mode: `eval` takes the policy's mode, `train` explores.
        """
        device = self.agent.device
        memory = self._memory if self.rows == len(is_first) else None
        action, self._memory = self.agent.act(
            {key: torch.as_tensor(value).to(device) for key, value in observations.items()},
            torch.as_tensor(is_first).to(device),
            memory,
            mode=mode,
            agent_steps=self.agent_steps,
        )
        return action.float().cpu().numpy()


def env_action(action: NDArray[np.float32], spec: ActionSpec) -> Any:
    """Turn actions float32 `[A]` or `[N, A]` into what environments take.

    Returns:
        The action itself; where actions are discrete the index, an int or int64 `[N]`.
    """
    if spec.kind == "continuous":
        return action
    index = action.argmax(-1)
    return int(index) if action.ndim == 1 else index
