"""Small healthy components of every interface; the mutants are these with one thing broken.

Dynamics have a file of their own, `reference_dynamics`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from wmplatform.contracts.reference import (
    LinearContinueHead,
    LinearEncoder,
    LinearRewardHead,
)
from wmplatform.distributions import UnitNormal
from wmplatform.images import to_centred
from wmplatform.interfaces import (
    Augmentation,
    ContextEncoder,
    Decoder,
    Explorer,
    Head,
    Intrinsic,
    LossBalancer,
    RewardHead,
    Video,
    VideoSource,
)
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
    Batch,
    Context,
    Distribution,
    Features,
    FeatureSpec,
    Metrics,
    Mode,
    Target,
)

__all__ = [
    "BonusExplorer",
    "ContextDecoder",
    "InverseHead",
    "LearnedBalancer",
    "LinearContinueHead",
    "LinearEncoder",
    "LinearRewardHead",
    "OptionalContextDecoder",
    "PlainDecoder",
    "RandomFrame",
    "Shift",
    "SyntheticVideos",
    "TransitionHead",
    "WeighedBalancer",
]


class PlainDecoder(Decoder):
    """One linear layer from features to the image."""

    def __init__(
        self,
        features: FeatureSpec,
        observations: Mapping[str, ArraySpec],
        context: Mapping[str, ArraySpec] | None = None,
    ) -> None:
        super().__init__()
        assert isinstance(features, ArraySpec)
        self.shape = observations["pixels"].shape
        self.linear = nn.Linear(features.shape[0], int(np.prod(self.shape)))

    def forward(
        self, features: Features, context: Context | None = None
    ) -> dict[str, Distribution]:
        if context is not None:
            raise ValueError("no context, please")
        return {"pixels": UnitNormal(self.image(features), event_dims=3)}

    def image(self, features: Features) -> Tensor:
        x: Tensor = self.linear(features)
        return x.unflatten(-1, self.shape)


class ContextDecoder(PlainDecoder):
    """Adds a projection of the segment's context to every frame of its row."""

    context: Literal["refused", "optional", "required"] = "required"

    def __init__(
        self,
        features: FeatureSpec,
        observations: Mapping[str, ArraySpec],
        context: Mapping[str, ArraySpec] | None = None,
    ) -> None:
        super().__init__(features, observations)
        assert context is not None
        self.static = nn.Linear(context["static"].shape[0], int(np.prod(self.shape)))

    def forward(
        self, features: Features, context: Context | None = None
    ) -> dict[str, Distribution]:
        if context is None:
            raise ValueError("the context is missing")
        return {"pixels": UnitNormal(self.image(features) + self.background(context), 3)}

    def background(self, context: Context) -> Tensor:
        x: Tensor = self.static(context["static"])
        return x.unflatten(-1, self.shape).unsqueeze(1)

    @classmethod
    def contract_wiring(cls) -> dict[str, Any]:
        return {"context": {"static": ArraySpec((5,))}}


class OptionalContextDecoder(ContextDecoder):
    """Works without a context too."""

    context = "optional"

    def forward(
        self, features: Features, context: Context | None = None
    ) -> dict[str, Distribution]:
        if context is None:
            return {"pixels": UnitNormal(self.image(features), 3)}
        return super().forward(features, context)


class InverseHead(Head):
    """The embeddings before and after predict the action between them: a vector."""

    view: str = "embeds"
    timing = "transition"

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__()
        assert isinstance(features, Mapping)
        width, action = self.part(features["before"]).shape[0], features["action"]
        assert isinstance(action, ArraySpec)
        self.linear = nn.Linear(2 * width, action.shape[0])

    def forward(self, features: Features) -> Distribution:
        return UnitNormal(self.change(features), event_dims=1)

    def change(self, features: Any) -> Tensor:
        pair = [self.part(features[when]) for when in ("before", "after")]
        x: Tensor = self.linear(torch.cat(pair, -1))
        return x

    def part(self, features: Any) -> Any:
        return features["embed"]

    def target(self, batch: Batch) -> Target:
        return Target(batch["action"])


class TransitionHead(RewardHead):
    """States before and after and the action between them predict the reward of the arrival."""

    timing = "transition"

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__()
        width = sum(part.shape[0] for part in features.values())  # type: ignore[union-attr]
        self.linear = nn.Linear(width, 1)

    def forward(self, features: Features) -> Distribution:
        assert isinstance(features, dict)
        read = torch.cat([features["before"], features["action"], features["after"]], -1)  # type: ignore[list-item]
        return UnitNormal(self.linear(read).squeeze(-1), event_dims=0)

    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"].float())


class RandomFrame(ContextEncoder):
    """One random frame a segment, encoded by a linear layer."""

    def __init__(
        self, observations: Mapping[str, ArraySpec], *, width: Annotated[int, Ge(1)] = 5
    ) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(int(np.prod(observations["pixels"].shape)), width)

    @property
    def context_specs(self) -> Mapping[str, ArraySpec]:
        return {"static": ArraySpec((self.width,))}

    @torch.no_grad()
    def select(self, pixels: Tensor, observed: int | None = None) -> Tensor:
        rows = torch.arange(pixels.shape[0])
        index = torch.randint(observed or pixels.shape[1], (len(rows),))
        return to_centred(pixels[rows, index]).unsqueeze(1)

    def forward(self, frames: Tensor) -> Context:
        return {"static": torch.tanh(self.linear(frames.mean(1).flatten(1)))}


class BonusExplorer(Explorer):
    """Decaying action noise, and a bonus for features far from their running mean."""

    view = "policy"

    def __init__(self, action: ActionSpec, views: Mapping[str, FeatureSpec]) -> None:
        super().__init__(action)
        spec = views["policy"]
        assert isinstance(spec, ArraySpec)
        self.register_buffer("center", torch.zeros(spec.shape))
        self.center: Tensor

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        if mode == "eval" or self.action.kind == "discrete":
            return super().act(policy, mode, agent_steps)
        noise = torch.randn_like(policy.mean) / (1 + agent_steps)
        return (policy.sample() + noise).clamp(-1, 1)

    def intrinsic(self, features: Features) -> Intrinsic | None:
        assert isinstance(features, Tensor)
        x = features.detach()
        bonus = (x - self.center).norm(dim=-1)
        self.center.lerp_(x.mean((0, 1)), 0.1)
        return Intrinsic(bonus[:, :-1], {"bonus": bonus.mean()})


class WeighedBalancer(LossBalancer):
    """Weights by name; those of weight 0 are left out."""

    def __init__(self, names: Sequence[str], *, off: tuple[str, ...] = ("kl",)) -> None:
        super().__init__(names)
        self.off = off

    def needed(self, name: str) -> bool:
        return name not in self.off

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        total = torch.stack([x for name, x in losses.items() if self.needed(name)]).sum()
        return total, {"total": total.detach()}


class LearnedBalancer(WeighedBalancer):
    """A learned scale for each loss: L / s + log(1 + s)."""

    def __init__(self, names: Sequence[str], *, off: tuple[str, ...] = ("kl",)) -> None:
        super().__init__(names, off=off)
        self.log_scales = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        scales = dict(zip(self.names, self.log_scales.exp(), strict=True))
        used = {name: x for name, x in losses.items() if self.needed(name)}
        terms = [x / scales[name] + torch.log1p(scales[name]) for name, x in used.items()]
        return torch.stack(terms).sum(), {f"scale_{n}": scales[n].detach() for n in used}


class Shift(Augmentation):
    """Roll each image by its own offset of up to `pad` pixels."""

    def __init__(self, *, pad: Annotated[int, Ge(1)] = 2) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, images: Tensor) -> Tensor:
        width = images.shape[-1]
        offset = torch.randint(-self.pad, self.pad + 1, (len(images), 1))
        index = (torch.arange(width) + offset) % width
        return images.gather(-1, index[:, None, None, :].expand_as(images))


class SyntheticVideos(VideoSource):
    """Noise, but the same noise each time."""

    def __init__(self, *, count: Annotated[int, Ge(1)] = 3, length: int = 4) -> None:
        self.count, self.length = count, length

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return (3, 8, 8)

    def videos(self) -> list[Video]:
        return [Video(f"clip-{i}") for i in range(self.count)]

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        keys = [each.key for each in self.videos()]
        if video.key not in keys:
            raise ValueError(f"cannot decode {video.key!r}")
        rng = np.random.default_rng(keys.index(video.key))
        for _ in range(self.length):
            yield rng.integers(256, size=self.frame_shape, dtype=np.uint8)
