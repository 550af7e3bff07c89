"""Pieces that plug-ins are built from: layers, cells, policies, returns, divergences.

Not components: nothing here has an entry point. Whoever writes a plug-in imports them from this
package; it knows only the core, and no plug-in.
"""

from wmplugins.blocks.divergences import Gaussian, balanced_kl, categorical_kl, kl_metrics
from wmplugins.blocks.layers import (
    MLP,
    Act,
    Init,
    Norm,
    ResidualBlock,
    dense,
    flatten_lead,
    glorot_,
    image_norm,
    in_fp32,
    linear,
    orthogonal_,
)
from wmplugins.blocks.policies import Actor, NoisyMean
from wmplugins.blocks.recurrent import GRUCell, Reset, RSSMCell, RSSMScan, RSSMState
from wmplugins.blocks.returns import discount_weights, lambda_return
from wmplugins.blocks.slow import follow, frozen
from wmplugins.blocks.specs import as_vector, embed_size, flat_size
from wmplugins.blocks.unrolled import Unrolled, lowered

__all__ = [
    "MLP",
    "Act",
    "Actor",
    "GRUCell",
    "Gaussian",
    "Init",
    "NoisyMean",
    "Norm",
    "RSSMCell",
    "RSSMScan",
    "RSSMState",
    "Reset",
    "ResidualBlock",
    "Unrolled",
    "as_vector",
    "balanced_kl",
    "categorical_kl",
    "dense",
    "discount_weights",
    "embed_size",
    "flat_size",
    "flatten_lead",
    "follow",
    "frozen",
    "glorot_",
    "image_norm",
    "in_fp32",
    "kl_metrics",
    "lambda_return",
    "linear",
    "lowered",
    "orthogonal_",
]
