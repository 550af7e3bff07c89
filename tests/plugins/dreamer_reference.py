"""DreamerV2's formulas in float64 NumPy, written as plain loops and without torch.

They share no code with the implementation, so that a mistake has to be made twice to go unseen.
Sources: DreamerV2 (Hafner et al. 2021), its TensorFlow code, and the PyTorch code of ContextWM.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Array = npt.NDArray[np.float64]


def f64(values: npt.ArrayLike) -> Array:
    """Make a float64 array of anything array-like."""
    return np.asarray(values, dtype=np.float64)


def log_softmax(logits: npt.ArrayLike) -> Array:
    """Log-probabilities over the last axis."""
    x = f64(logits)
    return x - special.logsumexp(x, axis=-1, keepdims=True)


def kl_groups(post: npt.ArrayLike, prior: npt.ArrayLike) -> Array:
    """KL(Cat(post) || Cat(prior)) of each group, from logits `[*lead, groups, classes]`."""
    q, p = log_softmax(post), log_softmax(prior)
    return np.sum(np.exp(q) * (q - p), axis=-1)


def kl(post: npt.ArrayLike, prior: npt.ArrayLike) -> Array:
    """KL summed over groups, `[*lead]`."""
    return kl_groups(post, prior).sum(-1)


def kl_grad_post(post: npt.ArrayLike, prior: npt.ArrayLike) -> Array:
    """Gradient of KL(post || prior) in the post logits: q * (log q/p - KL), of each group."""
    q, p = log_softmax(post), log_softmax(prior)
    return np.exp(q) * (q - p - kl_groups(post, prior)[..., None])


def kl_grad_prior(post: npt.ArrayLike, prior: npt.ArrayLike) -> Array:
    """Gradient of KL(post || prior) in the prior logits: p - q."""
    return np.exp(log_softmax(prior)) - np.exp(log_softmax(post))


def entropy(logits: npt.ArrayLike) -> Array:
    """Entropy of each categorical."""
    q = log_softmax(logits)
    return -np.sum(np.exp(q) * q, axis=-1)


def sigmoid(x: npt.ArrayLike) -> Array:
    """Logistic function."""
    return special.expit(f64(x))


def elu(x: npt.ArrayLike) -> Array:
    """ELU with alpha 1."""
    y = f64(x)
    return np.where(y > 0, y, np.expm1(np.minimum(y, 0)))


def layer_norm(x: npt.ArrayLike, gain: npt.ArrayLike, bias: npt.ArrayLike, eps: float) -> Array:
    """Normalise the last axis with the biased variance."""
    y = f64(x)
    centred = y - y.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * f64(gain) + f64(bias)


def gru(
    x: npt.ArrayLike,
    h: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike,
    gain: npt.ArrayLike,
    shift: npt.ArrayLike,
    eps: float = 1e-3,
) -> Array:
    """One step of DreamerV2's GRU: one norm over all parts (reset, candidate, update)."""
    both = np.concatenate([f64(x), f64(h)], -1)
    parts = layer_norm(both @ f64(weight).T + f64(bias), gain, shift, eps)
    reset, candidate, update = np.split(parts, 3, -1)
    update = sigmoid(update - 1)
    return update * np.tanh(sigmoid(reset) * candidate) + (1 - update) * f64(h)


def lambda_return(
    reward: npt.ArrayLike, value: npt.ArrayLike, discount: npt.ArrayLike, lam: float
) -> Array:
    """Targets of states 0..H-1; the last value only bootstraps. Time is the first axis."""
    r, v, d = f64(reward), f64(value), f64(discount)
    last, out = v[-1], []
    for t in reversed(range(len(v) - 1)):
        last = r[t] + d[t] * ((1 - lam) * v[t + 1] + lam * last)
        out.append(last)
    return np.stack(out[::-1])


def weights(discount: npt.ArrayLike) -> Array:
    """Weight of state i: the product of the discounts before it, 1 for the start."""
    d = f64(discount)
    return np.cumprod(np.concatenate([np.ones_like(d[:1]), d[:-1]]), 0)


def actor_loss(
    target: npt.ArrayLike, weight: npt.ArrayLike, entropies: npt.ArrayLike, eta: float
) -> float:
    """Dynamics back-propagation: objective i is the target of state i + 1, time first."""
    objective = f64(target)[1:] + eta * f64(entropies)[: len(f64(target)) - 1]
    return float(-(f64(weight)[: len(objective)] * objective).mean())


def reinforce_loss(
    target: npt.ArrayLike,
    baseline: npt.ArrayLike,
    log_prob: npt.ArrayLike,
    weight: npt.ArrayLike,
    entropies: npt.ArrayLike,
    eta: float,
) -> float:
    """Score-function objective; `log_prob[i]` belongs to the action that left state i."""
    n = len(f64(target)) - 1
    objective = f64(log_prob)[:n] * (f64(target)[1:] - f64(baseline)[:n])
    objective = objective + eta * f64(entropies)[:n]
    return float(-(f64(weight)[:n] * objective).mean())


def critic_loss(online: npt.ArrayLike, target: npt.ArrayLike, weight: npt.ArrayLike) -> float:
    """Weighted half squared error over the states that have a target."""
    t = f64(target)
    return float((f64(weight)[: len(t)] * 0.5 * (f64(online)[: len(t)] - t) ** 2).mean())


def truncnorm(loc: npt.ArrayLike, scale: npt.ArrayLike) -> "stats.rv_frozen":
    """The normal of `loc` and `scale` cut to [-1, 1], from SciPy."""
    mean, std = f64(loc), f64(scale)
    return stats.truncnorm((-1 - mean) / std, (1 - mean) / std, loc=mean, scale=std)


def actor_scale(raw: npt.ArrayLike, init_std: float = 0.0, min_std: float = 0.1) -> Array:
    """DreamerV2's `sigmoid2`: 2 sigmoid((raw + init) / 2) + min."""
    return 2 * sigmoid((f64(raw) + init_std) / 2) + min_std


@dataclass
class Adam:
    """One weight vector under Adam, in one of the three weight-decay forms."""

    w: Array
    form: str
    lr: float = 3e-4
    eps: float = 1e-5
    decay: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        self.m = np.zeros_like(self.w)
        self.v = np.zeros_like(self.w)
        self.count = 0

    def step(self, g: Array) -> None:
        """Apply one gradient."""
        b1, b2 = self.betas
        self.count += 1
        if self.form == "l2":
            g = g + self.decay * self.w
        elif self.form == "decoupled":
            self.w = self.w * (1 - self.decay)
        elif self.form == "adamw":
            self.w = self.w * (1 - self.lr * self.decay)
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        c1, c2 = 1 - b1**self.count, 1 - b2**self.count
        if self.form == "decoupled":  # TensorFlow: the epsilon is not bias-corrected
            self.w = self.w - self.lr * np.sqrt(c2) / c1 * self.m / (np.sqrt(self.v) + self.eps)
        else:
            self.w = self.w - self.lr * (self.m / c1) / (np.sqrt(self.v / c2) + self.eps)


def clip(gradients: list[Array], norm: float) -> list[Array]:
    """Scale gradients so that their joint norm is at most `norm`."""
    total = np.sqrt(sum(float((g**2).sum()) for g in gradients))
    return [g * min(1.0, norm / total) for g in gradients]


def conv_out(size: int, kernel: int, stride: int, pad: int = 0) -> int:
    """Edge length after a convolution."""
    return (size + 2 * pad - kernel) // stride + 1


def deconv_out(size: int, kernel: int, stride: int, pad: int = 0, extra: int = 0) -> int:
    """Edge length after a transposed convolution."""
    return (size - 1) * stride - 2 * pad + kernel + extra


def dense(n_in: int, n_out: int) -> int:
    """Parameters of a linear layer with bias."""
    return n_in * n_out + n_out


def conv(n_in: int, n_out: int, kernel: int, bias: bool = True) -> int:
    """Parameters of a (transposed) convolution."""
    return n_in * n_out * kernel**2 + n_out * bias


def mlp(n_in: int, n_out: int, layers: int = 4, units: int = 400) -> int:
    """Parameters of a multi-layer perceptron with an output layer."""
    return dense(n_in, units) + (layers - 1) * dense(units, units) + dense(units, n_out)


def block(n_in: int, n_out: int) -> int:
    """Parameters of a residual block: two 3x3 convolutions, a 1x1 skip where channels change."""
    body = conv(n_in, n_out, 3, bias=False) + conv(n_out, n_out, 3, bias=False) + 4 * n_out
    return body + (conv(n_in, n_out, 1, bias=False) + 2 * n_out if n_in != n_out else 0)


def rssm(
    embed: int, action: int, deter: int, hidden: int, stoch: int = 32, classes: int = 32
) -> int:
    """Parameters of the discrete recurrent state-space model."""
    flat = stoch * classes
    cell = dense(hidden + deter, 3 * deter) + 2 * 3 * deter
    prior = dense(deter, hidden) + dense(hidden, flat)
    posterior = dense(deter + embed, hidden) + dense(hidden, flat)
    return dense(flat + action, hidden) + cell + prior + posterior


def cnn_encoder(channels: int = 3, depth: int = 48) -> int:
    """Parameters of the plain encoder."""
    widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
    return sum(conv(a, b, 4) for a, b in pairwise(widths))


def cnn_decoder(features: int, channels: int = 3, depth: int = 48) -> int:
    """Parameters of the plain decoder."""
    widths = [32 * depth, 4 * depth, 2 * depth, depth, channels]
    kernels = [5, 5, 6, 6]
    pairs = zip(widths, widths[1:], kernels, strict=False)
    return dense(features, 32 * depth) + sum(conv(a, b, k) for a, b, k in pairs)


def resnet_encoder(channels: int = 3, depth: int = 48) -> int:
    """Parameters of the 13-layer residual encoder."""
    stem = conv(channels, depth, 3)
    return stem + sum(
        block(a, b) + block(b, b)
        for a, b in [(depth, depth), (depth, 2 * depth), (2 * depth, 4 * depth)]
    )


def resnet_decoder(features: int, channels: int = 3, depth: int = 48) -> int:
    """Parameters of the 13-layer residual decoder; channels change in a stage's second block."""
    widths = [4 * depth, 2 * depth, depth, depth // 2]
    stages = sum(block(a, a) + block(a, b) for a, b in pairwise(widths))
    return dense(features, 64 * depth) + stages + conv(widths[-1], channels, 3)
