"""The world model's losses, their pairing with records, and what they train."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor, nn

from wmplatform.distributions import UnitNormal
from wmplatform.interfaces import Explorer, Intrinsic, RewardHead, Update
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec, Target
from wmplatform.world_model import IncompatibleParts, WorldModel
from wmplugins.dreamer.balancers import FixedScales
from wmplugins.dreamer.decoders import CNNDecoder, ResNetDecoder
from wmplugins.dreamer.encoders import CNNEncoder, ResNetEncoder
from wmplugins.dreamer.heads import DiscountMLP, RewardMLP
from wmplugins.dreamer.rssm import RSSM

from ..plugins import dreamer_reference as ref
from .tiny_dreamer import MLP, SPEC, model_parts, segments


def model(**parts: object) -> WorldModel:
    return WorldModel(SPEC, **(model_parts() | parts))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_names_of_losses() -> None:
    assert model().loss_names == ("image", "kl", "reward")


def test_losses_are_means_over_records() -> None:
    built, batch = model(), segments()
    found = built.losses(batch)
    states = found.observed.states
    image = built.decode(states)["pixels"].mean.detach()
    truth = batch["pixels"].float() / 255 - 0.5
    half = 0.5 * ((ref.f64(image) - ref.f64(truth)) ** 2).sum((2, 3, 4)).mean()
    assert_allclose(found.losses["image"].detach(), half, rtol=1e-5)
    reward = built.predict("reward", states).mean.detach()
    half = 0.5 * ((ref.f64(reward) - ref.f64(batch["reward"])) ** 2).mean()
    assert_allclose(found.losses["reward"].detach(), half, rtol=1e-5)
    post, prior = (found.observed.aux[name].detach() for name in ("post", "prior"))
    assert_allclose(found.losses["kl"].detach(), ref.kl(post, prior).mean(), rtol=1e-5)


class Clock(RewardHead):
    """Predicts a recorded feature, so that its loss shows the pairing of states and rewards."""

    def __init__(self, features: ArraySpec, *, timing: str = "arrival") -> None:
        super().__init__()
        self.timing = timing

    def forward(self, features: Tensor) -> UnitNormal:
        return UnitNormal(features[..., 0], event_dims=0)

    def target(self, batch: "dict[str, Tensor]") -> Target:
        return Target(batch["reward"])


class Count(RSSM):
    """State of record t is t; everything else comes from the real one."""

    def features(self, state: "dict[str, Tensor]", view: str) -> Tensor:
        features = super().features(state, view)
        index = torch.arange(features.shape[1], dtype=torch.float32)
        return torch.cat([index.expand(features.shape[:2])[..., None], features[..., 1:]], -1)


@pytest.mark.parametrize(("timing", "shift"), [("arrival", 0.0), ("departure", 1.0)])
def test_a_counting_reward_pairs_with_the_state_that_the_head_names(
    timing: str, shift: float
) -> None:
    tiny = partial(Count, deter=8, hidden=8, groups=4, classes=4)
    built = model(dynamics=tiny, heads={"reward": partial(Clock, timing=timing)})
    batch = segments()
    batch["reward"] = torch.arange(5.0).expand(3, 5) - shift
    assert built.losses(batch).losses["reward"].item() == 0.0
    batch["reward"] = torch.arange(5.0).expand(3, 5) - shift + 1
    assert built.losses(batch).losses["reward"].item() == 0.5


def test_departure_heads_skip_the_first_records_of_episodes() -> None:
    tiny = partial(Count, deter=8, hidden=8, groups=4, classes=4)
    built = model(dynamics=tiny, heads={"reward": partial(Clock, timing="departure")})
    batch = segments()
    batch["reward"] = torch.arange(5.0).repeat(3, 1) - 1
    batch["is_first"][1, 3] = True
    batch["reward"][1, 3] = 1000.0
    assert built.losses(batch).losses["reward"].item() == 0.0


def test_a_loss_of_scale_zero_may_be_infinite() -> None:
    class Broken(RewardMLP):
        def loss(self, features: Tensor, target: Tensor) -> Tensor:
            return super().loss(features, target) * math.inf

    heads = {"reward": partial(RewardMLP, **MLP), "broken": partial(Broken, **MLP)}
    built = model(heads=heads, balancer=partial(FixedScales, scales={"broken": 0.0}))
    found = built.losses(segments())
    total, _ = built.balancer(found.losses)
    total.backward()
    assert torch.isfinite(total)
    assert not torch.isfinite(found.losses["broken"])
    assert not found.losses["broken"].requires_grad
    for name, p in built.named_parameters():
        assert p.grad is None if "broken" in name else torch.isfinite(p.grad).all()


def test_every_parameter_is_trained() -> None:
    built = model()
    total, _ = built.balancer(built.losses(segments()).losses)
    total.backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in built.parameters())


@pytest.mark.parametrize("part", ["decoder", "reward"])
def test_a_head_that_sends_no_gradient_does_not_shape_the_latent(part: str) -> None:
    class Quiet(CNNDecoder):
        sends_gradient = part != "decoder"

    head = partial(RewardMLP, sends_gradient=part != "reward", **MLP)
    built = model(decoder=partial(Quiet, depth=2), heads={"reward": head})
    name = "image" if part == "decoder" else "reward"
    built.losses(segments()).losses[name].backward()
    upstream = [*built.encoder.parameters(), *built.dynamics.parameters()]
    assert all(p.grad is None for p in upstream)


class Bonus(Explorer):
    """Adds one to the rewards of the first two records."""

    view = "intrinsic"

    def intrinsic(self, features: Tensor) -> Intrinsic:
        assert not features.requires_grad
        return Intrinsic(torch.ones(features.shape[0], 2), {"bonus": torch.tensor(1.0)})


def test_intrinsic_rewards_shorten_the_reward_target() -> None:
    built, batch = model(), segments()
    found = built.losses(batch, Bonus(SPEC.action))
    reward = built.predict("reward", found.observed.states).mean.detach()[:, :2]
    target = batch["reward"][:, :2] + 1
    expected = 0.5 * ((ref.f64(reward) - ref.f64(target)) ** 2).mean()
    assert_allclose(found.losses["reward"].detach(), expected, rtol=1e-5)
    assert found.metrics["bonus"] == 1


def test_train_mode_only_inside_the_loss() -> None:
    parts = {"encoder": partial(ResNetEncoder, depth=2), "decoder": partial(ResNetDecoder, depth=2)}
    built = model(**parts)
    seen: list[bool] = []
    built.encoder.register_forward_hook(lambda m, _i, _o: seen.append(m.training))
    assert not built.training
    built.embed(segments())
    update = Update(segments())
    objectives = built.phase().compute(update)
    assert seen == [False, True]
    assert not built.training
    assert [o.trains for o in objectives] == [("world_model",)]
    assert "observed" in update.memory
    assert all(not m.requires_grad for m in update.metrics.values())


def test_running_statistics_are_used_outside_the_loss() -> None:
    built = model(encoder=partial(ResNetEncoder, depth=2))
    before = {k: v.clone() for k, v in built.named_buffers()}
    one = built.embed(segments())["embed"]
    assert all(torch.equal(v, before[k]) for k, v in built.named_buffers())
    assert_allclose(built.embed(segments()[:1])["embed"].detach(), one[:1].detach(), atol=1e-6)
    built.phase().compute(Update(segments()))
    assert any(not torch.equal(v, before[k]) for k, v in built.named_buffers())


@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(1, 6))
def test_losses_are_finite_scalars_for_any_batch(seed: int, batch: int, length: int) -> None:
    found = model().losses(segments(seed, batch=batch, length=length))
    for loss in found.losses.values():
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)


def test_extreme_rewards_and_images_stay_finite() -> None:
    built, batch = model(), segments()
    batch["reward"] *= 1e6
    batch["pixels"][0] = 0
    batch["pixels"][1] = 255
    total, _ = built.balancer(built.losses(batch).losses)
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in built.parameters())


def test_an_unknown_view_is_explained() -> None:
    with pytest.raises(IncompatibleParts, match="no view 'imagination'"):
        model().view_spec("imagination")


def test_an_encoder_of_another_size_is_explained() -> None:
    small = EnvSpec({"pixels": ArraySpec((3, 16, 16), "uint8")}, ActionSpec(2))
    with pytest.raises(IncompatibleParts, match="encoder"):
        WorldModel(small, **model_parts())


# Published sizes


def published(action: int, channels: int, encoder: type, decoder: type, size: int) -> WorldModel:
    spec = EnvSpec({"pixels": ArraySpec((channels, 64, 64), "uint8")}, ActionSpec(action))
    heads = {"reward": RewardMLP}
    if channels == 1:
        heads["continue"] = DiscountMLP
    with torch.device("meta"):
        return WorldModel(
            spec,
            encoder=encoder,
            dynamics=partial(RSSM, deter=size, hidden=size),
            decoder=decoder,
            heads=heads,
            balancer=FixedScales,
        )


@pytest.mark.parametrize(
    ("action", "channels", "encoder", "decoder", "size", "expected"),
    [
        (4, 3, CNNEncoder, CNNDecoder, 1024, 27_130_420),
        (4, 3, ResNetEncoder, ResNetDecoder, 1024, 25_081_036),
        (6, 3, CNNEncoder, CNNDecoder, 1024, 27_132_468),
        (6, 3, CNNEncoder, CNNDecoder, 200, 13_656_772),
        (18, 1, CNNEncoder, CNNDecoder, 600, 19_975_379),
    ],
    ids=["metaworld", "metaworld-resnet", "remastered", "dmc-vision", "atari"],
)
def test_published_counts_of_the_world_model(
    action: int, channels: int, encoder: type, decoder: type, size: int, expected: int
) -> None:
    assert count(published(action, channels, encoder, decoder, size)) == expected
