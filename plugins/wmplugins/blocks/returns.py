"""Returns of imagined rollouts.

Shape letters: N rollouts, K states of each, the start included.
"""

import torch
from torch import Tensor

__all__ = ["discount_weights", "lambda_return"]


def lambda_return(reward: Tensor, value: Tensor, discount: Tensor, lambda_: float) -> Tensor:
    """Lambda returns (DreamerV2 eq. 4), all arguments aligned with the state they belong to.

    `V_i = r_i + d_i * ((1 - lambda) * v_{i+1} + lambda * V_{i+1})`, and the last value is the
    bootstrap only.

    Args:
        reward: `[N, K]`; the last entry is not used.
        value: `[N, K]`.
        discount: `[N, K]`; the last entry is not used.
        lambda_: 0 for one-step returns, 1 for Monte Carlo.

    Returns:
        `[N, K - 1]`.
    """
    steps = value.shape[1] - 1
    inputs = torch.addcmul(reward[:, :-1], discount[:, :-1], value[:, 1:], value=1 - lambda_)
    carry_on = (lambda_ * discount[:, :-1]).unbind(1)
    input_T = inputs.unbind(1)
    last = value[:, -1]
    returns: list[Tensor] = []
    for i in range(steps - 1, -1, -1):
        last = torch.addcmul(input_T[i], carry_on[i], last)
        returns.append(last)
    return torch.stack(returns[::-1], 1)


def discount_weights(discount: Tensor) -> Tensor:
    """Probability of being still alive at each state: 1, d_0, d_0 d_1, ... `[N, K]`, detached."""
    ones = torch.ones_like(discount[:, :1])
    return torch.cat([ones, discount[:, :-1]], 1).cumprod(1).detach()
