"""Distributions of heads, decoders and actors.

Light classes without argument validation: `torch.distributions` checks its arguments with a host
synchronisation each time, and these sit in hot loops. All densities are fp32.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["Bernoulli", "OneHot", "TruncatedNormal", "UnitNormal", "race_noise", "sample_one_hot"]

_SQRT_2 = math.sqrt(2.0)
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class _StraightThrough(torch.autograd.Function):
    """One-hot of a class index going forward, softmax of the logits going back."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor) -> Tensor:
        """Return the one-hot vectors `[..., K]` of `index` `[...]`."""
        ctx.save_for_backward(logits)
        return torch.zeros_like(logits).scatter_(-1, index.unsqueeze(-1), 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of softmax(logits) under the upstream gradient."""
        (logits,) = ctx.saved_tensors
        return torch._softmax_backward_data(grads[0], logits.softmax(-1), -1, logits.dtype), None


def race_noise(shape: Sequence[int], like: Tensor) -> Tensor:
    """Noise for `sample_one_hot`: log of exponential variates, fp32, on the device of `like`.

    Drawn for a whole rollout at once, outside of its loop.
    """
    return torch.empty(*shape, device=like.device, dtype=torch.float32).exponential_().log_()


def sample_one_hot(logits: Tensor, noise: Tensor | None = None) -> Tensor:
    """Sample one-hot vectors `[..., K]` with the gradient of the probabilities (straight-through).

    The forward value is exactly one-hot; the gradient is that of `softmax(logits)`
    (DreamerV2 algorithm 1). The sample is an exponential race, argmax of `log p - log e`, which
    needs no host synchronisation and can be captured in a CUDA graph.

    Args:
        logits: fp32 `[..., K]`.
        noise: from `race_noise`, `[..., K]`; drawn here if None. Zeros give the mode.
    """
    noise = race_noise(logits.shape, logits) if noise is None else noise
    index = (logits.detach() - noise).argmax(-1)
    sample: Tensor = _StraightThrough.apply(logits, index)  # type: ignore[no-untyped-call]
    return sample


class UnitNormal:
    """Normal of unit variance without its constant: log-likelihood is -1/2 the squared error.

    Args:
        mean: `[*lead, *event]`; densities are computed in fp32.
        event_dims: number of trailing dims that are summed.
    """

    def __init__(self, mean: Tensor, event_dims: int) -> None:
        self._mean = mean.float()
        self._event = tuple(range(-event_dims, 0))

    @property
    def mean(self) -> Tensor:
        """Expectation `[*lead, *event]`."""
        return self._mean

    mode = mean

    def sample(self) -> Tensor:
        """Draw with pathwise gradient."""
        return self._mean + torch.randn_like(self._mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """-1/2 of the squared error, summed over the event, `[*lead]`."""
        squares = (self._mean - value.float()).square()
        return -0.5 * (squares.sum(self._event) if self._event else squares)

    def entropy(self) -> Tensor:
        """Entropy of a unit normal for each event entry, `[*lead]`."""
        full = torch.full_like(self._mean, 0.5 + _LOG_SQRT_2PI)
        return full.sum(self._event) if self._event else full


class Bernoulli:
    """Scalar Bernoulli from logits `[*lead]`; targets may be soft."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()

    @property
    def mean(self) -> Tensor:
        """Probability of one, `[*lead]`."""
        return self.logits.sigmoid()

    @property
    def mode(self) -> Tensor:
        """The more likely of 0 and 1."""
        return (self.logits > 0).to(self.logits.dtype)

    def sample(self) -> Tensor:
        """Draw 0 or 1 with straight-through gradient."""
        p = self.mean
        hard = (torch.rand_like(p) < p).to(p.dtype)
        return hard + (p - p.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        """Negative cross-entropy against a target in [0, 1], `[*lead]`."""
        return -F.binary_cross_entropy_with_logits(self.logits, value.float(), reduction="none")

    def entropy(self) -> Tensor:
        """Entropy `[*lead]`."""
        return -self.log_prob(self.mean)


class OneHot:
    """Categorical over one-hot vectors, from logits `[*lead, K]`; gradients straight-through."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()

    @property
    def mean(self) -> Tensor:
        """Probabilities `[*lead, K]`."""
        return self.logits.softmax(-1)

    @property
    def mode(self) -> Tensor:
        """One-hot vector of the likeliest class, `[*lead, K]`."""
        index = self.logits.argmax(-1, keepdim=True)
        return torch.zeros_like(self.logits).scatter_(-1, index, 1.0)

    def sample(self) -> Tensor:
        """Draw one-hot vectors `[*lead, K]` with straight-through gradient."""
        return sample_one_hot(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of one-hot `value`, `[*lead]`."""
        return (self.logits.log_softmax(-1) * value.float()).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy `[*lead]`; finite even where a probability underflows."""
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(x / _SQRT_2))


def _normal_pdf(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square() - _LOG_SQRT_2PI)


class _PathwiseNormal(torch.autograd.Function):
    """Inverse CDF of a truncated normal, with its gradient in closed form.

    With F(x) = p held fixed, dx/dloc = 1 - A - B and dx/dscale = z - A a - B b, where z, a, b are
    the sample and the bounds in units of the parent normal, A = (1 - p) phi(a) / phi(z) and
    B = p phi(b) / phi(z). Differentiating the steps one by one takes three times the operators.
    """

    @staticmethod
    def forward(ctx: Any, loc: Tensor, scale: Tensor, p: Tensor, dist: "TruncatedNormal") -> Tensor:
        """Return `dist.icdf(p)`, `dist` having `loc` and `scale`."""
        z = dist.standard_icdf(p)
        ctx.save_for_backward(z, p, dist._low.detach(), dist._high.detach())
        return loc + scale * _SQRT_2 * z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients of location and scale."""
        z, p, low, high = ctx.saved_tensors  # z in units of sqrt(2)
        square = z.square()
        from_low = torch.addcmul(square, low, low, value=-0.5).exp() * (1.0 - p)
        from_high = torch.addcmul(square, high, high, value=-0.5).exp() * p
        by_scale = torch.addcmul(z * _SQRT_2, from_low, low, value=-1.0)
        by_scale = torch.addcmul(by_scale, from_high, high, value=-1.0)
        return grads[0] * (1.0 - (from_low + from_high)), grads[0] * by_scale, None, None


class TruncatedNormal:
    """Normal truncated to [-1, 1], independent over the last dim, which is the event.

    Args:
        loc: `[*lead, A]`, location of the parent normal.
        scale: `[*lead, A]`, its scale.
    """

    _MARGIN = 1e-6
    """Samples stay this far inside the bounds, with straight-through gradient."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc.float(), scale.float()
        self._low = (-1.0 - self.loc) / self.scale
        self._high = (1.0 - self.loc) / self.scale
        self._cdf_low = _normal_cdf(self._low)
        self.mass = (_normal_cdf(self._high) - self._cdf_low).clamp_min(1e-8)
        """Probability of [-1, 1] under the parent normal, `[*lead, A]`."""

    @property
    def mean(self) -> Tensor:
        """Expectation `[*lead, A]`."""
        return (
            self.loc + self.scale * (_normal_pdf(self._low) - _normal_pdf(self._high)) / self.mass
        )

    @property
    def mode(self) -> Tensor:
        """The location, clamped to the bounds, `[*lead, A]`."""
        return self.loc.clamp(-1.0, 1.0)

    def icdf(self, p: Tensor) -> Tensor:
        """Inverse of the distribution function at p in (0, 1), `[*lead, A]`."""
        return self.loc + self.scale * _SQRT_2 * self.standard_icdf(p)

    def standard_icdf(self, p: Tensor) -> Tensor:
        """As `icdf`, as a distance from the location in units of sqrt(2) scales."""
        q = self._cdf_low + p * self.mass
        eps = torch.finfo(q.dtype).eps
        return torch.erfinv((2.0 * q - 1.0).clamp(eps - 1, 1 - eps))

    def sample(self) -> Tensor:
        """Draw by inverse CDF, `[*lead, A]`, pathwise gradient."""
        eps = torch.finfo(self.loc.dtype).eps
        p = torch.rand_like(self.loc).clamp(eps, 1.0 - eps)
        raw: Tensor = _PathwiseNormal.apply(self.loc, self.scale, p, self)  # type: ignore[no-untyped-call]
        limit = 1.0 - self._MARGIN
        return raw + (raw.clamp(-limit, limit) - raw).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density summed over A, `[*lead]`; `value` must lie within [-1, 1]."""
        z = (value.float() - self.loc) / self.scale
        return (-0.5 * z.square() - _LOG_SQRT_2PI - self.scale.log() - self.mass.log()).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy summed over A, `[*lead]`."""
        low, high = self._low, self._high
        edge = (low * _normal_pdf(low) - high * _normal_pdf(high)) / self.mass
        return (_LOG_SQRT_2PI + 0.5 + self.scale.log() + self.mass.log() + 0.5 * edge).sum(-1)
