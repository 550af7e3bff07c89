"""Divergences of latent distributions, with KL balancing and free nats.

Shape letters: B batch, T time, G groups of K classes, S entries of a normal.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from wmplatform.types import Metrics

__all__ = ["Gaussian", "balanced_kl", "categorical_kl", "kl_metrics"]


class _Detachable(Protocol):
    def detach(self) -> Self: ...


_Parameters = TypeVar("_Parameters", bound=_Detachable)


def categorical_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) summed over the groups, `[..., G, K]` to `[...]`.

    In log-softmax arithmetic, so a probability of q that underflows does not give infinity.
    """
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))


class Gaussian(NamedTuple):
    """A diagonal normal, fp32 `[*lead, S]` each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, raw: Tensor, min_std: float) -> "Gaussian":
        """Read `[*lead, 2S]`: means, then raw scales; the scale lies in min_std..min_std + 2."""
        mean, scale = raw.float().chunk(2, -1)
        return cls(mean, 2.0 * torch.sigmoid(scale / 2.0) + min_std)

    def sample(self, noise: Tensor) -> Tensor:
        """Move standard normal noise to this normal."""
        return torch.addcmul(self.mean, self.std, noise)

    def detach(self) -> "Gaussian":
        """Cut the gradient."""
        return Gaussian(self.mean.detach(), self.std.detach())

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self || other), summed over S, `[*lead]`."""
        ratio = (self.std / other.std).square()
        shift = ((self.mean - other.mean) / other.std).square()
        return 0.5 * (ratio + shift - 1.0 - ratio.log()).sum(-1)


def balanced_kl(
    post: _Parameters,
    prior: _Parameters,
    balance: float,
    free_nats: float,
    kl: Callable[[_Parameters, _Parameters], Tensor],
) -> tuple[Tensor, Tensor]:
    """KL loss with balancing (DreamerV2 algorithm 2) and free nats on the batch mean.

    `balance` is the share that trains the prior: the mean over all records is clipped at
    `free_nats` first, so below it the gradient is exactly zero.

    Args:
        post: the posterior's parameters: logits fp32 `[B, T, G, K]`, or a `Gaussian` `[B, T, S]`.
        prior: the prior's.
        balance: weight of the divergence that trains the prior.
        free_nats: nats below which the mean is not pushed.
        kl: gives KL(p || q) of each record: `categorical_kl`, or `Gaussian.kl`.

    Returns:
        The loss, a scalar, and the plain KL of each record `[B, T]`, detached.
    """
    to_post = kl(post, prior.detach())
    to_prior = kl(post.detach(), prior)
    loss = (1 - balance) * to_post.mean().clamp_min(free_nats)
    loss = loss + balance * to_prior.mean().clamp_min(free_nats)
    return loss, to_post.detach()


def kl_metrics(kl: Tensor, post: Tensor, prior: Tensor, prefix: str = "") -> Metrics:
    """Mean KL and the entropies of both distributions, for the log."""
    return {
        f"{prefix}model_kl": kl.mean(),
        f"{prefix}post_entropy": _entropy(post.detach()).mean(),
        f"{prefix}prior_entropy": _entropy(prior.detach()).mean(),
    }


def _entropy(logits: Tensor) -> Tensor:
    """Entropy summed over the groups, `[..., G, K]` to `[...]`."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum((-2, -1))
