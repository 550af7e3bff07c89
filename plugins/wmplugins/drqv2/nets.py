"""Actor and twin critic.

Shape letters: F features, f of the trunk, A action.
"""

import torch
from torch import Tensor, nn

from wmplugins.blocks import orthogonal_

__all__ = ["Actor", "TwinCritic"]


def _trunk(inputs: int, features: int) -> nn.Sequential:
    """Narrow the encoder's output, which holds most of the parameters."""
    return nn.Sequential(
        orthogonal_(nn.Linear(inputs, features)), nn.LayerNorm(features, eps=1e-5), nn.Tanh()
    )


def _mlp(inputs: int, units: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        orthogonal_(nn.Linear(inputs, units)),
        nn.ReLU(),
        orthogonal_(nn.Linear(units, units)),
        nn.ReLU(),
        orthogonal_(nn.Linear(units, outputs)),
    )


class Actor(nn.Module):
    """Mean action within [-1, 1]. 3,066,074 parameters for F = 39,200, f = 50 and A = 4."""

    def __init__(self, inputs: int, actions: int, *, features: int, units: int) -> None:
        super().__init__()
        self.trunk = _trunk(inputs, features)
        self.policy = _mlp(features, units, actions)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*lead, F]` to `[*lead, A]`."""
        mean: Tensor = self.policy(self.trunk(x)).tanh()
        return mean


class TwinCritic(nn.Module):
    """Two values of a state and an action. 4,174,040 parameters for F = 39,200, f = 50, A = 4."""

    def __init__(self, inputs: int, actions: int, *, features: int, units: int) -> None:
        super().__init__()
        self.trunk = _trunk(inputs, features)
        self.heads = nn.ModuleList(_mlp(features + actions, units, 1) for _ in range(2))

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """Map `[*lead, F]` and `[*lead, A]` to `[2, *lead]`."""
        h = torch.cat([self.trunk(x), action], -1)
        return torch.stack([head(h).squeeze(-1) for head in self.heads])
