"""A recurrent state-space cell in float64 NumPy, with the weights of one of ours."""

import numpy as np
from torch import nn

from wmplugins.blocks import RSSMCell

from . import dreamer_reference as ref


def weights_of(layer: nn.Module) -> tuple[ref.Array, ref.Array]:
    """Weight and bias of the only linear layer in `layer`."""
    (linear,) = (m for m in layer.modules() if isinstance(m, nn.Linear))
    return ref.f64(linear.weight.detach()), ref.f64(linear.bias.detach())


class NumpyRSSM:
    """The same networks, written from the equations, with the likeliest class for a sample."""

    def __init__(self, cell: RSSMCell) -> None:
        self.groups, self.classes = cell.groups, cell.classes
        names = ("img_in", "img_out", "img_dist", "obs_out", "obs_dist")
        self.layers = {name: weights_of(getattr(cell, name)) for name in names}
        norm = cell.gru.norm
        gru = (*weights_of(cell.gru.linear), norm.weight.detach(), norm.bias.detach())
        self.gru = tuple(ref.f64(x) for x in gru)

    def dense(self, name: str, *inputs: ref.Array) -> ref.Array:
        weight, bias = self.layers[name]
        return np.concatenate(inputs, -1) @ weight.T + bias

    def dist(self, hidden: str, out: str, *inputs: ref.Array) -> ref.Array:
        flat = self.dense(out, ref.elu(self.dense(hidden, *inputs)))
        return flat.reshape(*flat.shape[:-1], self.groups, self.classes)

    def advance(self, stoch: ref.Array, deter: ref.Array, action: ref.Array) -> ref.Array:
        return ref.gru(ref.elu(self.dense("img_in", stoch, action)), deter, *self.gru)

    def prior(self, deter: ref.Array) -> ref.Array:
        return self.dist("img_out", "img_dist", deter)

    def posterior(self, deter: ref.Array, embed: ref.Array) -> ref.Array:
        return self.dist("obs_out", "obs_dist", deter, embed)

    def mode(self, logits: ref.Array) -> ref.Array:
        hot = np.eye(self.classes)[logits.argmax(-1)]
        return hot.reshape(*hot.shape[:-2], -1)

    def observe(
        self, embed: ref.Array, action: ref.Array, first: ref.Array
    ) -> dict[str, ref.Array]:
        rows = len(embed)
        stoch = np.zeros((rows, self.groups * self.classes))
        deter = np.zeros((rows, self.gru[0].shape[0] // 3))
        out: dict[str, list[ref.Array]] = {"stoch": [], "deter": [], "post": [], "prior": []}
        for t in range(embed.shape[1]):
            keep = np.where(first[:, t], 0.0, 1.0)[:, None]
            deter = self.advance(stoch * keep, deter * keep, action[:, t] * keep)
            post = self.posterior(deter, embed[:, t])
            stoch = self.mode(post)
            values = (stoch, deter, post, self.prior(deter))
            for name, value in zip(out, values, strict=True):
                out[name].append(value)
        return {name: np.stack(values, 1) for name, values in out.items()}
