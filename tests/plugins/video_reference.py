"""APV's and ContextWM's formulas in float64 NumPy, written as plain loops and without torch.

They share no code with the implementation. Sources: APV (Seo et al. 2022) section 4.2, ContextWM
(Wu et al. 2023) section 4.2, and the code of the latter's authors.
"""

import numpy as np
import numpy.typing as npt

from .dreamer_reference import Array, f64


class Bonus:
    """The video-based bonus: a queue as a list, newest batch first, and distances one by one."""

    def __init__(
        self,
        projection: npt.ArrayLike,
        *,
        queue: int,
        neighbours: int,
        window: int,
        count_self: bool = True,
    ) -> None:
        self.projection, self.size = f64(projection), queue
        self.neighbours, self.window, self.count_self = neighbours, window, count_self
        self.queue: list[Array] = []
        self.magnitude = 1.0

    def clips(self, features: npt.ArrayLike) -> Array:
        """Projected means of consecutive records, `[B * (T - window + 1), P]`."""
        x = f64(features)
        starts = range(x.shape[1] - self.window + 1)
        means = [[row[t : t + self.window].mean(0) for t in starts] for row in x]
        return np.array(means).reshape(-1, x.shape[-1]) @ self.projection

    def raw(self, clips: Array) -> Array:
        """Mean distance to the nearest clips of the queue, the new ones among them."""
        self.queue = [*clips, *self.queue][: self.size]
        found = []
        for clip in clips:
            distances = sorted(float(np.sqrt(((clip - other) ** 2).sum())) for other in self.queue)
            nearest = (
                distances[: self.neighbours]
                if self.count_self
                else distances[1:][: self.neighbours]
            )
            found.append(sum(nearest) / len(nearest))
        return np.array(found)

    def normalised(self, raw: Array) -> Array:
        """Divided by the running mean of the magnitude, which moves first."""
        self.magnitude = 0.99 * self.magnitude + 0.01 * float(np.abs(raw).mean())
        return raw / (self.magnitude + 1e-8)

    def __call__(self, features: npt.ArrayLike) -> Array:
        """Bonus of the first T - window + 1 records, `[B, T - window + 1]`."""
        return self.normalised(self.raw(self.clips(features))).reshape(len(f64(features)), -1)


def softmax(x: Array) -> Array:
    """Probabilities over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(
    query: npt.ArrayLike,
    tokens: npt.ArrayLike,
    weights: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike],
    heads: int,
) -> tuple[Array, Array]:
    """Multi-head attention of one frame: `[S, C]` to `[M, C]`, keys and values from the same rows.

    Args:
        query: positions of the frame.
        tokens: of the context.
        weights: joint in-projection `[3C, C]` and its bias, out-projection `[C, C]` and its bias.
        heads: number of heads.

    Returns:
        What is read, `[S, C]`, and the weights averaged over heads, `[S, M]`.
    """
    w_in, b_in, w_out, b_out = (f64(w) for w in weights)
    x, z = f64(query), f64(tokens)
    channels = x.shape[1]
    q, k, v = (
        rows @ w_in[i * channels : (i + 1) * channels].T + b_in[i * channels : (i + 1) * channels]
        for i, rows in enumerate((x, z, z))
    )
    width = channels // heads
    read, seen = np.zeros_like(q), np.zeros((len(x), len(z)))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        p = softmax(q[:, part] @ k[:, part].T / np.sqrt(width))
        read[:, part] = p @ v[:, part]
        seen += p / heads
    return read @ w_out.T + b_out, seen


def rows_of(image: npt.ArrayLike) -> Array:
    """Positions of `[C, H, W]` in the order h * W + w, `[H * W, C]`."""
    x = f64(image)
    return np.array([x[:, h, w] for h in range(x.shape[1]) for w in range(x.shape[2])])


def image_of(rows: Array, height: int) -> Array:
    """Inverse of `rows_of`."""
    return rows.T.reshape(rows.shape[1], height, -1)


def batch_norm(x: Array, mean: npt.ArrayLike, var: npt.ArrayLike, eps: float = 1e-5) -> Array:
    """Normalise `[C, H, W]` with running statistics, without gain and bias."""
    centred = x - f64(mean)[:, None, None]
    return centred / np.sqrt(f64(var)[:, None, None] + eps)


def rectangle(erased: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of the erased part of `[H, W]`; None where nothing is.

    Raises:
        AssertionError: it is no rectangle.
    """
    rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
    if not len(rows):
        return None
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    assert erased.sum() == height * width
    return int(rows[0]), int(columns[0]), height, width
