"""DrQ-v2 by known numbers: shift, noise, targets, order of the update.

Expected values are computed by hand or with NumPy, or are those of the authors' released code.
"""

from functools import partial
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from torch.nn import functional as F

from wmplatform.agent import Agent
from wmplatform.contracts.reference import draw_transitions
from wmplatform.distributions import UnitNormal
from wmplatform.interfaces import Update
from wmplatform.replay import Transitions
from wmplatform.schedules import Schedule
from wmplatform.training.learner import Learner
from wmplatform.training.optim import Adam
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec
from wmplatform.world_model import WorldModel
from wmplugins.blocks import NoisyMean
from wmplugins.drqv2.augmentations import Shift, shifted
from wmplugins.drqv2.behavior import DrQActorCritic
from wmplugins.drqv2.encoders import DrQEncoder
from wmplugins.drqv2.noise import ScheduledNoise

SPEC = EnvSpec({"pixels": ArraySpec((3, 20, 20), "uint8")}, ActionSpec(2), time_limit=20)
STACKED = EnvSpec({"pixels": ArraySpec((9, 20, 20), "uint8")}, ActionSpec(2), time_limit=20)
GROUPS = {
    "encoder": ("world_model.encoder",),
    "critic": ("behavior.critic",),
    "actor": ("behavior.actor",),
}


def build(**behavior: Any) -> Agent:
    torch.manual_seed(0)
    settings = {"features": 5, "units": 16, "augmentation": partial(Shift, pad=2), **behavior}
    return Agent(
        SPEC,
        world_model=partial(WorldModel, encoder=partial(DrQEncoder, width=4)),
        behavior=partial(DrQActorCritic, **settings),
        explorer=ScheduledNoise,
        frame_stack=3,
    )


def learner_of(agent: Agent, **rates: float) -> Learner:
    adam = {
        name: partial(Adam, lr=rates.get(name, 1e-3), eps=1e-8, clip_norm=0.0, weight_decay=0.0)
        for name in GROUPS
    }
    return Learner(agent, groups=GROUPS, optimizers=adam, data=partial(Transitions, stack=3))


# The random shift


WINDOWS = {  # (left, top) in an image 0..15 of 4 x 4 with a border of 2
    (2, 2): [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]],
    (0, 0): [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [4, 4, 4, 5]],
    (4, 4): [[10, 11, 11, 11], [14, 15, 15, 15], [14, 15, 15, 15], [14, 15, 15, 15]],
    (4, 0): [[2, 3, 3, 3], [2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]],
    (1, 3): [[4, 4, 5, 6], [8, 8, 9, 10], [12, 12, 13, 14], [12, 12, 13, 14]],
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_windows_of_a_padded_image(dtype: torch.dtype) -> None:
    image = torch.arange(16, dtype=dtype).reshape(1, 1, 4, 4)
    left, top = torch.tensor(list(WINDOWS)).T
    out = shifted(image.expand(len(WINDOWS), 1, 4, 4), top, left, 2)
    assert out.dtype == dtype
    assert out[:, 0].tolist() == list(WINDOWS.values())


def bilinear(images: Tensor, top: Tensor, left: Tensor, pad: int) -> Tensor:
    """The same window by sampling a grid, as the authors do it."""
    size = images.shape[-1]
    wide = size + 2 * pad
    edge = 1.0 / wide
    line = torch.linspace(-1.0 + edge, 1.0 - edge, wide)[:size]
    base = torch.stack([line.expand(size, size), line[:, None].expand(size, size)], -1)
    moves = torch.stack([left, top], -1).float()[:, None, None] * (2.0 / wide)
    padded = F.pad(images, (pad,) * 4, mode="replicate")
    return F.grid_sample(padded, base + moves, padding_mode="zeros", align_corners=False)


@pytest.mark.parametrize("size", [64, 84])
def test_a_gather_equals_bilinear_sampling_up_to_rounding(size: int) -> None:
    images = torch.randint(256, (6, 9, size, size)).float()
    top, left = torch.randint(9, (2, 6))
    difference = shifted(images, top, left, 4) - bilinear(images, top, left, 4)
    assert difference.abs().max() < 0.01  # grey levels of 255


def test_shifts_are_uniform_and_move_all_channels_alike() -> None:
    line = torch.arange(20.0)
    image = torch.stack([line.expand(20, 20), line[:, None].expand(20, 20)]).repeat(1, 1, 1)
    torch.manual_seed(0)
    out = Shift(pad=2)(image.expand(4000, 2, 20, 20))
    left, top = out[:, 0, 10, 10] - 8, out[:, 1, 10, 10] - 8
    found = torch.bincount((5 * top + left).long(), minlength=25)
    assert len(found) == 25
    assert (found / 4000 - 1 / 25).abs().max() < 5 * (1 / 25 / 4000) ** 0.5


# Noise


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("linear(1, 0.1, 100000)", {0: 1.0, 1000: 0.991, 25_000: 0.775, 50_000: 0.55}),
        ("linear(1, 0.1, 100000)", {100_000: 0.1, 10**7: 0.1}),
        ("linear(1, 0.1, 500000)", {125_000: 0.775}),
        ("linear(1.0, 0.5, 100, 0.1, 200)", {200: 0.3}),
    ],
)
def test_the_schedule_of_the_noise(text: str, values: dict[int, float]) -> None:
    for agent_steps, expected in values.items():
        assert Schedule(text)(agent_steps) == pytest.approx(expected)


def test_exploration_follows_the_clock_and_rests_in_evaluation() -> None:
    explorer = ScheduledNoise(ActionSpec(2), {}, std="linear(0.5, 0.1, 1000)")
    policy = UnitNormal(torch.full((20_000, 2), 0.05), event_dims=1)
    for agent_steps, std in ((0, 0.5), (500, 0.3), (5000, 0.1)):
        torch.manual_seed(0)
        noise = torch.randn(20_000, 2) * std
        torch.manual_seed(0)
        action = explorer.act(policy, "train", agent_steps)
        assert_allclose(action, (0.05 + noise).clamp(-1 + 1e-6, 1 - 1e-6), atol=1e-6)
    assert torch.equal(explorer.act(policy, "eval", 0), policy.mode)


# Losses


def test_target_and_critic_loss_by_hand() -> None:
    behavior = build().behavior
    assert isinstance(behavior, DrQActorCritic)
    slow, reward, discount = (torch.tensor(x) for x in ([[2.0], [1.5]], [1.5], [0.970299]))
    target = behavior.target(reward, discount, slow)
    assert target.item() == pytest.approx(2.9554485)
    loss = behavior.critic_loss(torch.tensor([[2.0], [3.0]]), target)
    assert loss.item() == pytest.approx(0.91486667)
    two = behavior.critic_loss(torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([1.0, 1.0]))
    assert two.item() == pytest.approx((0 + 1) / 2 + (1 + 16) / 2)
    assert behavior.actor_loss(torch.tensor([[1.0, 2.0], [0.0, 5.0]])).item() == -1.0


def test_the_slow_critic_moves_by_a_hundredth() -> None:
    agent = build()
    behavior = agent.behavior
    for slow, online in zip(
        behavior.slow_critic.parameters(), behavior.critic.parameters(), strict=True
    ):
        assert torch.equal(slow, online)  # a copy at the start
        assert not slow.requires_grad
        slow.data.zero_()
        online.data.fill_(1.0)
    after = agent.plan()[-1].after
    assert after is not None
    after(Update({}))
    for slow in behavior.slow_critic.parameters():
        assert_allclose(slow, torch.full_like(slow, 0.01))


def batch_of(seed: int = 0) -> Any:
    return draw_transitions(STACKED, seed)


def test_the_actor_sees_features_of_before_and_the_critic_of_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The actor's loss is -min Q_new(z_old, a); features that are encoded anew give another one."""
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, 0.1))
    agent, batch = build(augmentation=None), batch_of()
    trainer, update = learner_of(agent, encoder=0.05, critic=0.05), Update(batch)
    behavior, model = agent.behavior, agent.world_model
    critic, actor = trainer.plan

    def value(features: Tensor) -> float:
        action = NoisyMean(behavior.actor(features), 1.0).sample(0.3)
        return -behavior.critic(features, action).amin(0).mean().item()

    old = model.embed(batch)["embed"].detach()
    before = value(old)
    trainer._run(critic, update)
    assert trainer.skip == 0
    expected, reencoded = value(old), value(model.embed(batch)["embed"])
    trainer._run(actor, update)
    loss = update.metrics["actor_loss"].item()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert abs(loss - reencoded) > 1e-3
    assert abs(loss - before) > 1e-3


def test_targets_come_from_the_online_encoder_and_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, 0.1))
    agent, batch = build(augmentation=None), batch_of()
    behavior, model = agent.behavior, agent.world_model
    with torch.no_grad():
        for parameter in behavior.slow_critic.parameters():
            parameter.add_(0.1)
        following = model.embed(batch["next"])["embed"]
        action = behavior.actor(following) + 0.1  # noise 0.1 of std 1, below the clip
        slow = behavior.slow_critic(following, action.clamp(-1, 1)).amin(0)
        target = batch["reward"] + batch["discount"] * slow
        values = behavior.critic(model.embed(batch)["embed"], batch["action"])
        expected = sum((q - target).square().mean() for q in values)
    (objective,) = agent.plan()[0].compute(Update(batch))
    assert objective.loss.item() == pytest.approx(float(expected), rel=1e-5)
    assert objective.trains == ("world_model.encoder", "behavior.critic")


def test_both_observations_are_shifted_by_themselves() -> None:
    agent = build()
    seen: list[Tensor] = []
    agent.world_model.encoder.register_forward_pre_hook(lambda _, a: seen.append(a[0]["pixels"]))
    batch = batch_of()
    batch["next", "pixels"] = batch["pixels"].clone()
    agent.plan()[0].compute(Update(batch))
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_the_critic_trains_the_encoder_and_the_actor_does_not() -> None:
    agent = build()
    trainer, update = learner_of(agent), Update(batch_of())
    for phase, moving in zip(
        trainer.plan, (("world_model.encoder", "behavior.critic"), ("behavior.actor",)), strict=True
    ):
        before = {k: v.clone() for k, v in agent.state_dict().items()}
        trainer._run(phase, update)
        moved = {k for k, v in agent.state_dict().items() if not torch.equal(v, before[k])}
        assert moved == {k for k in before if k.startswith(moving)}


def test_noise_is_limited_in_learning_and_free_in_acting() -> None:
    behavior, features = build(std=0.5).behavior, torch.zeros(500, 36)
    mean = behavior.policy(features).mode
    largest = (behavior._act(features, Update({})) - mean).abs().max().item()
    assert largest == pytest.approx(0.3, abs=1e-5)
    explorer = ScheduledNoise(ActionSpec(2), {}, std=0.5)
    acted = explorer.act(behavior.policy(features), "train", 0)
    assert (acted - mean).abs().max() > 0.6


def test_learning_noise_has_the_scale_of_the_agents_clock() -> None:
    agent = build(std="linear(1.0, 0.0, 100)", clip=10.0)
    features = torch.zeros(2000, agent.world_model.view_spec("policy").shape[0])
    actions = agent.behavior._act(features, Update({}, agent_steps=90))
    assert actions.std().item() == pytest.approx(0.1, rel=0.1)
    assert not agent.behavior.capturable
    assert build(std=0.2).behavior.capturable
