"""How well the branches keep apart two objects whose true masks are known.

Shape letters: B segments, T time, L layers (ctrl, free and the background if there is one), O
objects, H W image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.types import Batch
from wmplugins.isodream.decoders import BRANCHES, Layers, MaskDecoder

__all__ = ["Separation", "layers_of", "separation"]


@dataclass(frozen=True)
class Separation:
    """Figures over all records and pixels, float `[2, O]`: rows ctrl and free."""

    iou: Tensor
    """Intersection over union of an object with the pixels where the branch's weight is the
    largest of all layers."""
    coverage: Tensor
    """Mean weight of the branch's mask on the object's pixels."""

    def rows(self) -> dict[str, float]:
        """Figures by name, e.g. `iou/ctrl/0`."""
        return {
            f"{what}/{branch}/{number}": float(values[b, number])
            for what, values in (("iou", self.iou), ("coverage", self.coverage))
            for b, branch in enumerate(BRANCHES)
            for number in range(values.shape[1])
        }


@torch.no_grad()
def layers_of(agent: Agent, batch: Batch) -> tuple[Layers, slice]:
    """Decode the most likely states of segments `[B, T, ...]` into layers.

    Returns:
        The layers, and the records that they belong to.

    Raises:
        ValueError: the agent's decoder makes no masks.
    """
    model = agent.world_model
    if not isinstance(model.decoder, MaskDecoder):
        raise ValueError(f"{type(model.decoder).__name__} makes no masks; use decoders.masks")
    context = model.context(batch)
    observed = model.dynamics.observe(
        model.embed(batch), batch["action"], batch["is_first"], context=context, deterministic=True
    )
    features = model.dynamics.features(observed.states, model.decoder.view)
    return model.decoder.layers(features, context), observed.records


def separation(layers: Layers, objects_BTOHW: Tensor) -> Separation:
    """Compare the masks of branches with those of objects.

    Args:
        layers: of records `[B, T]`.
        objects_BTOHW: true masks of 0 and 1.
    """
    masks = torch.cat([layers.masks[name] for name in BRANCHES], -3)
    truth = objects_BTOHW.float()
    every = masks if layers.background is None else torch.cat([masks, layers.rest], -3)
    winner = every.argmax(-3)
    mine = torch.stack([winner == i for i in range(len(BRANCHES))], -3).float()
    both = torch.einsum("btlhw,btohw->lo", mine, truth)
    areas = truth.sum((0, 1, 3, 4))
    either = mine.sum((0, 1, 3, 4))[:, None] + areas - both
    weight = torch.einsum("btlhw,btohw->lo", masks, truth)
    return Separation(both / either.clamp_min(1.0), weight / areas.clamp_min(1.0))
