"""Compositional decoding: the motion of one clip in the surroundings of another.

Shape letters: B pairs of clips, T time, C H W image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.analysis.results import CannotAnalyse, Results
from wmplatform.pictures import film, film_strip
from wmplatform.types import Batch

__all__ = ["Composed", "compose"]


@dataclass(frozen=True)
class Composed:
    """Images float `[B, T, C, H, W]` in 0..1, on the CPU."""

    a: Tensor
    """Clips whose states are decoded."""
    b: Tensor
    """Clips that give the context."""
    composed: Tensor
    """May stick out of 0..1."""


@torch.no_grad()
def compose(agent: Agent, a: Batch, b: Batch, observed: int) -> Composed:
    """Decode the states of clips A with the context of clips B.

    Args:
        agent: in eval mode.
        a: records `[B, T, ...]`; the most likely states given all of them are decoded.
        b: as many; the context is the last of their first `observed` frames, and nothing else
            of them is read.
        observed: at least 1.

    Raises:
        CannotAnalyse: the model has no context, or no decoder.
    """
    model = agent.world_model
    if model.context_encoder is None or model.decoder is None:
        raise CannotAnalyse(
            "composing takes a model with a context encoder and a decoder",
            hint="analyse a run that binds WorldModel.context_encoder",
        )
    actions = a.get("action")
    own = model.context(a, observed) if model.dynamics.capabilities.needs_context else None
    seen = model.dynamics.observe(
        model.embed(a), actions, a["is_first"], context=own, deterministic=True
    )
    key, *_ = model.decoder.keys
    image = model.decode(seen.states, model.context(b, observed))[key].mode
    shown_a, shown_b = ((each[key][:, seen.records].float() / 255).cpu() for each in (a, b))
    return Composed(shown_a, shown_b, image.float().cpu() + 0.5)


def write(results: Results, found: Composed, fps: int) -> dict[str, float]:
    """Write rows A, B and composed as picture and video."""
    rows = [found.a, found.b, found.composed]
    pairs, length = found.a.shape[:2]
    results.picture(film_strip(rows, length, clips=min(pairs, 3)))
    results.video(film(rows, length, clips=pairs), fps)
    return {"pairs": float(pairs)}
