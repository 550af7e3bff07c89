"""Open-loop prediction: what a world model shows after it has seen the beginning of a segment.

Shape letters: B clips, T time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.logging import RunLogger
from wmplatform.pictures import open_loop_strip, open_loop_video
from wmplatform.types import Batch

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """Images float `[B, T, C, H, W]` in 0..1, on the CPU."""

    truth: Tensor
    model: Tensor
    """Reconstructions of the observed records, then predictions; may stick out of 0..1."""
    observed: int
    """How many of the T records the model saw."""

    def errors(self) -> dict[str, float]:
        """Mean squared errors of a pixel, for observed records and for predicted ones."""
        error = (self.model - self.truth).square()
        return {
            "reconstruction_mse": float(error[:, : self.observed].mean()),
            "open_loop_mse": float(error[:, self.observed :].mean()),
        }

    def show(self, logger: RunLogger, counters: Mapping[str, int], *, clips: int, fps: int) -> None:
        """Log a picture and a video: truth, model and error.

        Raises:
            DiskFull: there is no space.
        """
        strip = open_loop_strip(self.truth, self.model, self.observed)
        logger.image("open-loop", counters, strip)
        video = open_loop_video(self.truth, self.model, self.observed, clips=clips)
        logger.video("open-loop", counters, video, fps)


@torch.no_grad()
def predict(agent: Agent, batch: Batch, observed: int) -> Prediction | None:
    """Predict segments from their first `observed` records.

    Args:
        agent: in eval mode.
        batch: records `[B, T, ...]`, on any device.
        observed: at least 1.

    Returns:
        The prediction; None where the model cannot imagine or decode, or nothing is left to
        predict.
    """
    model, length = agent.world_model, batch["is_first"].shape[1]
    can = model.decoder is not None and model.dynamics.capabilities.supports_imagination
    if not can or length <= observed:
        return None
    records = {key: batch[key].to(agent.device) for key in batch.keys()}  # noqa: SIM118
    found = agent.open_loop(records, observed)
    truth, prediction = found["truth"].cpu(), found["model"].float().cpu()
    # A model that uses records up shows fewer of them, all from the observed part.
    return Prediction(truth, prediction, observed - (length - truth.shape[1]))
