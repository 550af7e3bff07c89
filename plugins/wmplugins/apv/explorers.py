"""The video-based intrinsic bonus of APV (section 4.2).

Shape letters: B batch, T time, W windows (T - window + 1), F features, P projected, Q queue.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from wmplatform.interfaces import Intrinsic
from wmplatform.types import ActionSpec, ArraySpec, Features, FeatureSpec
from wmplugins.blocks import as_vector, flat_size
from wmplugins.dreamer.explorers import Sampling

__all__ = ["VideoBonus"]


class VideoBonus(Sampling):
    """Novelty of short clips in the space of action-free features.

    Averages features over `window` consecutive records, projects them at random to `projection`
    dims, and rewards the mean distance to the `neighbours` nearest of the last `queue` clips. The
    new clips enter the queue first, so the nearest one is the clip itself at distance 0.

    Reads the view `intrinsic`. The bonus covers the first T - window + 1 records. It is computed
    anew for each batch and never stored. Distances are exact and no temporary of size
    n x queue x projection is made.
    """

    view = "intrinsic"

    random: Tensor
    queue: Tensor
    pushed: Tensor
    magnitude: Tensor

    def __init__(
        self,
        action: ActionSpec,
        views: Mapping[str, FeatureSpec],
        *,
        scale: Annotated[float, Ge(0.0)] = 1.0,
        neighbours: Annotated[int, Ge(1)] = 16,
        window: Annotated[int, Ge(1)] = 5,
        projection: Annotated[int, Ge(1)] = 128,
        queue: Annotated[int, Ge(1)] = 4096,
        momentum: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.99,
        std: Annotated[float, Gt(0.0)] | None = None,
        noise: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.0,
    ) -> None:
        """Draw the projection.

        Args:
            action: the action's spec.
            views: the dynamics' views.
            scale: weight of the bonus, beta; 1 on Meta-World, 0.1 on DMControl and CARLA.
            neighbours: k; counts the clip itself.
            window: consecutive records of a clip.
            projection: dims of the random projection.
            queue: clips that are remembered, first in first out.
            momentum: of the running mean that normalises the bonus.
            std: of the projection's entries; 1 / projection unless given.
            noise: of the policy, see `explorers.sampling`.
        """
        super().__init__(action, views, noise=noise)
        self.scale, self.neighbours, self.window = scale, neighbours, window
        self.momentum = momentum
        width = flat_size(views["intrinsic"])
        spread = 1.0 / projection if std is None else std
        self.register_buffer("random", torch.randn(width, projection) * spread)
        self.register_buffer("queue", torch.zeros(queue, projection))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))
        self.register_buffer("magnitude", torch.ones((), dtype=torch.float64))

    @torch.no_grad()
    def intrinsic(self, features: Features) -> Intrinsic | None:
        """Bonus of `[B, T, F]` for the first T - window + 1 records.

        Raises:
            ValueError: segments are shorter than the window, or hold more clips than the queue.
        """
        with torch.autocast(as_vector(features).device.type, enabled=False):
            clips = self.clips(as_vector(features).float())
            raw = self.distance(clips.flatten(0, 1)).view(clips.shape[:2])
            bonus = self.normalise(raw)
        metrics = {
            "intrinsic_raw": raw.mean(),
            "intrinsic_raw_std": raw.std(),
            "intrinsic": bonus.mean(),
            "intrinsic_std": bonus.std(),
            "intrinsic_magnitude": self.magnitude.float(),
        }
        return Intrinsic(self.scale * bonus, metrics)

    def clips(self, features_BTF: Tensor) -> Tensor:
        """Average windows and project them, `[B, W, P]`; window t covers records t and on."""
        length = features_BTF.shape[1]
        if length < self.window:
            raise ValueError(f"segments of {length} records, but a window takes {self.window}")
        means = features_BTF.unfold(1, self.window, 1).mean(-1)
        return means @ self.random

    def distance(self, clips_NP: Tensor) -> Tensor:
        """Push clips to the front of the queue, then average the k smallest distances, `[N]`.

        The distance of a clip that is not finite is NaN, so that the learner skips the update and
        puts the queue back.
        """
        count, size = len(clips_NP), len(self.queue)
        if count > size:
            raise ValueError(
                f"a batch gives {count} clips, the queue holds {size}; "
                "raise explorers.video_bonus.queue or use smaller batches"
            )
        finite_N = clips_NP.isfinite().all(-1)
        self.queue.copy_(torch.cat([clips_NP, self.queue])[:size])
        self.pushed.add_(count)
        free = torch.arange(size, device=clips_NP.device) >= self.pushed
        distances = torch.cdist(
            clips_NP, self.queue, compute_mode="donot_use_mm_for_euclid_dist"
        ).masked_fill(free, torch.inf)
        nearest = distances.topk(min(self.neighbours, size), largest=False).values
        known = nearest.isfinite()
        mean = nearest.masked_fill(~known, 0.0).sum(-1) / known.sum(-1).clamp_min(1)
        return mean.masked_fill(~finite_N, torch.nan)

    def normalise(self, raw: Tensor) -> Tensor:
        """Divide by the running mean of the magnitude, which is updated first."""
        mean = raw.abs().mean().double()
        self.magnitude.copy_(self.momentum * self.magnitude + (1 - self.momentum) * mean)
        return (raw / (self.magnitude + 1e-8)).float()

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"queue": 256, "projection": 8, "neighbours": 3, "window": 2}

    @classmethod
    def contract_wiring(cls) -> dict[str, object]:
        """Specs for the contract checks."""
        return {"views": {"policy": ArraySpec((12,)), "intrinsic": ArraySpec((12,))}}
