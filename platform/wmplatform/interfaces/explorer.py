"""Explorer: how an agent acts before and beyond its policy."""

from abc import ABC
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wmplatform.types import ActionSpec, Distribution, Features, Metrics, Mode

__all__ = ["Explorer", "Intrinsic"]


@dataclass(frozen=True)
class Intrinsic:
    """An intrinsic reward for the first T' records of each segment."""

    values: Tensor
    """fp32 `[B, T']`, T' <= T, detached; added to the reward of records 0..T'-1."""
    metrics: Metrics


class Explorer(nn.Module, ABC):
    """Warm-up policy, action perturbation and intrinsic reward.

    A subclass is built with `(action, views, *, its own settings)`: the action's spec and the
    specs of the dynamics' views by name.

    Laws:

    1. `warmup` and `act` give valid actions: float32 `[N, A]` within [-1, 1], or one-hot.
    2. `act` in eval mode draws no random number and returns the distribution's mode.
    3. Clocks are agent steps; equal clocks and random states give equal actions, in whatever mode
       the module is.
    4. `intrinsic` moves no gradient, has at most T records, and changes nothing but the
       explorer's own buffers. The bonus of record t is that of the features of record t.
    5. Everything that changes over time is a buffer, so that it is checkpointed.
    6. An update that is skipped for NaN in its batch leaves no trace: the learner puts the buffers
       back, so `intrinsic` need not guard them, and their shapes stay.
    7. Rows do not mix, and they are alike: equal policies explore equally far in every row, but no
       two rows by the same draws. This is so for `warmup` too.

    Whether it explores at all, and enough, no law can say: no noise may be right, and so may noise
    that never ends.
    """

    view: str | None = None
    """The view that `intrinsic` reads; None where there is no intrinsic reward."""

    def __init__(self, action: ActionSpec) -> None:
        super().__init__()
        self.action = action

    def warmup(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """Act before the first update, `[batch, A]`: uniform unless overridden."""
        if self.action.kind == "discrete":
            index = torch.randint(self.action.size, (batch,), device=device)
            return nn.functional.one_hot(index, self.action.size).float()
        return torch.rand(batch, self.action.size, device=device) * 2 - 1

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        """Choose actions `[N, A]` from the policy's distribution."""
        del agent_steps
        return policy.mode if mode == "eval" else policy.sample()

    def intrinsic(self, features: Features) -> Intrinsic | None:
        """Reward novelty: `[B, T, F]` to an `Intrinsic`, once per world-model loss."""
        del features
        return None
