"""Iso-Dream's parts: contract laws in both variants, which branch sees what, and what learns."""

from functools import partial
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts import check, check_behavior
from wmplatform.interfaces import ActionSpec, ArraySpec, Update
from wmplatform.types import tree_map
from wmplatform.world_model import IncompatibleParts
from wmplugins.apv.explorers import VideoBonus
from wmplugins.dreamer.encoders import CNNEncoder
from wmplugins.isodream.behavior import IsolatedActorCritic
from wmplugins.isodream.decoders import MaskDecoder
from wmplugins.isodream.dynamics import IsolatedDynamics
from wmplugins.isodream.encoders import BackgroundContext, BranchEncoder

from .tiny_isodream import (
    DRIVING,
    EMBEDS,
    SPEC,
    dynamics,
    isodream_agent,
    isodream_learner,
    records,
)

BOTH = pytest.mark.parametrize("driving", [False, True], ids=["locomotion", "driving"])


def segment(length: int = 6, seed: int = 0) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Embeddings, actions and no episode start, for three rows."""
    g = torch.Generator().manual_seed(seed)
    embeds = {
        name: torch.randn(3, length, *spec.shape, generator=g) for name, spec in EMBEDS.items()
    }
    actions = torch.rand(3, length, 2, generator=g) * 2 - 1
    return embeds, actions, torch.zeros(3, length, dtype=torch.bool)


@torch.no_grad()
def observe(made: IsolatedDynamics, parts: Any, **more: Any) -> Any:
    return made.observe(*parts, deterministic=True, **more)


# The laws, beyond the settings in which every registered component is checked


@pytest.mark.parametrize(
    "settings",
    [
        {"free_records": 3},
        {"window": 2},
        {**DRIVING, "ctrl_records": 2, "free_records": 4},
        {**DRIVING, "window": 1, "ctrl_records": 0},
    ],
)
def test_the_laws_hold_in_both_variants(settings: dict[str, Any]) -> None:
    assert check("dynamics", IsolatedDynamics, **settings).ok


@pytest.mark.parametrize("settings", [{}, {"value_gradient": False, "truncated": False}])
def test_the_laws_of_behaviors_hold_with_a_look_ahead(settings: dict[str, Any]) -> None:
    def make_agent(make: Any, action: ActionSpec) -> Agent:
        agent = isodream_agent(driving=True)
        agent.behavior = make(agent.world_model.view_specs(), action)
        return agent.eval()

    sizes = {**IsolatedActorCritic.contract_settings(), **settings}
    make = partial(IsolatedActorCritic, **sizes)
    assert check_behavior(make, SPEC.action, make_agent=make_agent, draw_batch=draw).ok


def draw(spec: Any, seed: int) -> Any:
    return records(seed)


# Shapes


@BOTH
def test_records_and_views(driving: bool) -> None:
    made = dynamics(driving=driving)
    observed = observe(made, segment(50))
    length = 50 if driving else 49
    assert observed.records == (slice(None) if driving else slice(1, None))
    assert observed.states["ctrl"]["deter"].shape == (3, length, 5)
    shape = {"ctrl": (8,), "future": (3, 8)} if driving else (8,)
    assert tree_map(lambda x: tuple(x.shape[2:]), made.features(observed.states, "policy")) == shape
    assert made.features(observed.states, "joint").shape == (3, length, 16)
    assert made.loss_names == (("kl_ctrl", "kl_free") if driving else ("kl_ctrl",))


@BOTH
def test_a_rollout_has_the_start_and_all_but_the_last_successor(driving: bool) -> None:
    agent = isodream_agent(driving=driving, behavior={"horizon": 15})
    update = updated(agent)
    seen, reward, raws = agent.behavior.rollout(agent, update)
    rows = 3 * (6 if driving else 5)
    ctrl = seen["ctrl"] if driving else seen
    assert ctrl.shape == (rows, 15, 8)
    assert reward.shape == (rows, 15)
    assert len(raws) == 14
    assert agent.behavior.returns(reward, reward).shape == (rows, 14)


def updated(agent: Agent) -> Update:
    """An update after the world model's phase has run."""
    update = Update(records())
    agent.world_model.phase().compute(update)
    return update


# Who sees what


def test_a_following_branch_sees_the_embedding_before_and_only_so_many() -> None:
    """Of the 49 that the authors' scan keeps, 39 are not zero; states after them go on blindly."""
    made, fed = dynamics(parity=True, free_records=40), []
    scan = made.free.scan

    def spy(embed: Tensor, *args: Any, **kwargs: Any) -> Any:
        fed.append(embed)
        return scan(embed, *args, **kwargs)

    made.free.scan = spy  # type: ignore[method-assign]
    observe(made, segment(50))
    (given,) = fed
    assert given.shape[1] == 49
    assert (given != 0).any(-1).all(0).tolist() == [True] * 39 + [False] * 10


def changed_from(parts: Any, branch: str, t: int, settings: dict[str, Any]) -> list[int]:
    """Records whose state of the branch changes with the branch's embedding of record t."""
    embeds, actions, is_first = parts
    other = {**embeds, branch: embeds[branch].clone()}
    other[branch][:, t] += 1.0
    made = dynamics(**settings)
    before = observe(made, parts)
    after = observe(made, (other, actions, is_first))
    moved = (before.states[branch]["deter"] != after.states[branch]["deter"]).any(-1).any(0)
    first = range(is_first.shape[1])[before.records][0]
    return [first + i for i in moved.nonzero().flatten().tolist()]


def test_a_following_branch_predicts_the_record_after() -> None:
    parts = segment(6)
    assert changed_from(parts, "free", 2, {}) == [3, 4, 5]
    assert changed_from(parts, "free", 2, {"free_records": 3}) == [3, 4, 5]
    assert changed_from(parts, "free", 3, {"free_records": 3}) == []
    assert changed_from(parts, "free", 0, {"parity": True}) == [1, 2, 3, 4, 5]
    assert changed_from(parts, "ctrl", 0, {}) == [1, 2, 3, 4, 5]
    assert changed_from(parts, "ctrl", 0, {"parity": True}) == []


def test_what_a_branch_may_see_begins_anew_with_an_episode() -> None:
    embeds, actions, is_first = segment(6)
    is_first[:, 3] = True
    assert changed_from((embeds, actions, is_first), "free", 4, {"free_records": 2}) == [5]
    assert changed_from((embeds, actions, is_first), "free", 2, {"free_records": 2}) == []


@BOTH
def test_actions_enter_the_controllable_branch_only(driving: bool) -> None:
    made, (embeds, actions, is_first) = dynamics(driving=driving), segment()
    observed = [observe(made, (embeds, a, is_first)) for a in (actions, -actions)]
    last = tree_map(lambda x: x[:, -1], observed[0].states)
    imagined = [
        made.imagine(last, None, a, 4, deterministic=True)
        for a in (actions[:, :4], -actions[:, :4])
    ]
    for one, two in (observed, imagined):
        assert torch.equal(made.features(one.states, "free"), made.features(two.states, "free"))
        assert not torch.equal(one.states["ctrl"]["deter"], two.states["ctrl"]["deter"])


def test_the_decoder_reads_the_prior_after_so_many_records() -> None:
    made = dynamics(driving=True, ctrl_records=2, free_records=4)
    observed = observe(made, segment())
    for name, seen in (("ctrl", 2), ("free", 4)):
        post, prior = observed.aux[name]
        shown = observed.states[name]["shown"]
        assert torch.equal(shown[:, :seen], post.mean[:, :seen])
        assert torch.equal(shown[:, seen:], prior.mean[:, seen:])
        assert not torch.equal(post.mean[:, seen:], prior.mean[:, seen:])
        assert torch.equal(observed.states[name]["stoch"], post.mean)


def test_policies_look_at_the_free_states_that_come() -> None:
    made = dynamics(driving=True)
    embeds, actions, is_first = segment()
    states = observe(made, (embeds, actions, is_first)).states
    start = tree_map(lambda x: x[:, -1], states)
    imagined = made.imagine(start, None, actions[:, :5], 5, deterministic=False).states
    free = made.features(imagined, "free")
    ahead = imagined["ahead"]
    assert torch.equal(start["ahead"][:, 0], made.features(start, "free"))
    assert torch.equal(start["ahead"][:, 1:], free[:, :2])
    for i in range(5):
        known = free[:, i : i + 3]
        assert torch.equal(ahead[:, i, : known.shape[1]], known)


def test_the_authors_reward_reads_another_rollout_than_the_policy() -> None:
    made, (embeds, actions, is_first) = dynamics(driving=True, parity=True), segment()
    start = tree_map(lambda x: x[:, -1], observe(made, (embeds, actions, is_first)).states)
    imagined = made.imagine(start, None, actions[:, :5], 5).states
    assert not torch.equal(imagined["ahead"][:, 0, 0], made.features(imagined, "free")[:, 0])


# What learns from what


def gradient(of: Tensor, agent: Agent) -> float:
    """Largest derivative at the actor's parameters."""
    parameters = list(agent.behavior.actor.parameters())
    found = torch.autograd.grad(
        of.square().sum(), parameters, allow_unused=True, materialize_grads=True, retain_graph=True
    )
    return max(g.abs().max().item() for g in found)


@pytest.mark.parametrize(
    ("driving", "value_gradient", "value_moves_the_actor"),
    [(False, True, True), (False, False, True), (True, True, True), (True, False, False)],
)
def test_what_moves_the_actor(
    driving: bool, value_gradient: bool, value_moves_the_actor: bool
) -> None:
    """With a look ahead, the authors' values are constants to the actor; rewards never are."""
    agent = isodream_agent(driving=driving, behavior={"value_gradient": value_gradient})
    seen, reward, _ = agent.behavior.rollout(agent, updated(agent))
    assert gradient(reward, agent) > 0
    value = agent.behavior.slow_value(seen)
    if not value_moves_the_actor:
        assert not value.requires_grad or gradient(value, agent) == 0
    else:
        assert gradient(value, agent) > 0


def test_inverse_dynamics_reaches_the_controllable_stage_and_the_trunk_alone() -> None:
    model = isodream_agent().world_model
    named = dict(model.named_parameters())
    loss = model.losses(records()).losses["inverse"]
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    reached = {
        ".".join(n.split(".")[:3]) for n, g in zip(named, grads, strict=True) if g is not None
    }
    assert {n for n in reached if not n.startswith("heads.inverse")} == {
        "encoder.trunk.0",
        "encoder.trunk.2",
        "encoder.stages.ctrl",
    }


@BOTH
def test_every_parameter_learns(driving: bool) -> None:
    settings = {"slow_target_every": 3}
    agent = isodream_agent(driving=driving, latent={"free_nats": 0.0}, behavior=settings)
    trainer = isodream_learner(agent)
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    for seed in range(3):
        metrics = trainer.update(records(seed))
    assert not [n for n, p in agent.named_parameters() if torch.equal(p, before[n])]
    assert {"kl_ctrl_loss", "inverse_loss", "image_loss", "actor_loss"} <= set(metrics)
    assert all(torch.isfinite(value) for value in metrics.values())


def test_the_attention_learns_from_values_alone() -> None:
    agent = isodream_agent(driving=True)
    update = updated(agent)
    actor, critic = agent.plan()[1].compute(update)
    attention = list(agent.behavior.attention.parameters())
    grads = torch.autograd.grad(critic.loss, attention, retain_graph=True)
    assert all(g.any() for g in grads if g.shape != (16,))  # keys shift all weights alike by bias
    grads = torch.autograd.grad(actor.loss, attention, allow_unused=True)
    assert all(g is None for g in grads)
    assert critic.trains == ("behavior.critic", "behavior.attention")


def test_the_slow_critic_is_copied_after_every_nth_update() -> None:
    agent = isodream_agent(behavior={"slow_target_every": 2})
    fast, slow = agent.behavior.critic.out.weight, agent.behavior.slow_critic.out.weight
    assert torch.equal(slow, fast)
    learner, copied = isodream_learner(agent), []
    for number in range(1, 6):
        learner.update(records(seed=number))
        copied += [number] if torch.equal(slow, fast) else []
    assert copied == [2, 4]


def test_the_constant_divergence_of_the_authors_code() -> None:
    agent = isodream_agent(latent={"parity": True})
    losses = agent.world_model.losses(records()).losses
    assert losses["kl_free"].item() == 1.0
    assert not losses["kl_free"].requires_grad
    assert "kl_free" not in isodream_agent().world_model.loss_names


# Pictures


def test_decoding_all_frames_at_once_equals_one_by_one() -> None:
    model = isodream_agent().world_model
    batch = records()
    context = model.context(batch)
    states = model.losses(batch).observed.states
    whole = model.decode(states, context)["pixels"].mean
    for t in range(whole.shape[1]):
        one = tree_map(lambda x, t=t: x[:, t : t + 1], states)
        assert_allclose(
            model.decode(one, context)["pixels"].mean[:, 0].detach(),
            whole[:, t].detach(),
            atol=1e-6,
        )


def test_the_background_looks_at_the_first_frames_through_the_encoders_trunk() -> None:
    model = isodream_agent().world_model
    batch = records()
    assert model.context_encoder.trunk is model.encoder.trunk
    assert not any("trunk" in name for name, _ in model.context_encoder.named_parameters())
    before = model.context(batch)["background"]
    assert before.abs().max() <= 0.5
    later, early = batch.clone(), batch.clone()
    later["pixels"][:, 3:] = 255 - later["pixels"][:, 3:]
    early["pixels"][:, 2] = 255 - early["pixels"][:, 2]
    assert torch.equal(model.context(later)["background"], before)
    assert not torch.equal(model.context(early)["background"], before)
    grad = torch.autograd.grad(before.sum(), list(model.encoder.trunk.parameters()))
    assert all(g.any() for g in grad)


def test_a_background_over_another_encoder_keeps_a_trunk_of_its_own() -> None:
    made = BackgroundContext(SPEC.observations, depth=2)
    made.share(CNNEncoder(SPEC.observations, depth=2))
    assert made.own_trunk is not None
    made.share(BranchEncoder(SPEC.observations, depth=4))  # does not fit
    assert made.own_trunk is not None
    short = made.select(torch.randint(256, (2, 3, 3, 64, 64), dtype=torch.uint8))
    assert short.shape[1] == 10
    assert torch.equal(short[:, 3:], short[:, 2:3].expand(-1, 7, -1, -1, -1))


def test_two_layers_without_a_background() -> None:
    agent = isodream_agent(model={"context_encoder": None})
    assert torch.isfinite(agent.world_model.losses(records()).losses["image"])
    assert agent.open_loop(records(), 3)["model"].shape == (3, 5, 3, 64, 64)


def test_masks_start_where_they_are_told() -> None:
    features = {name: torch.zeros(1, 1, 4) for name in ("ctrl", "free")}
    context = {"background": torch.zeros(1, 3, 64, 64)}
    found = []
    for bias in (0.0, -2.0):
        torch.manual_seed(0)
        specs = {name: ArraySpec((4,)) for name in features}
        made = MaskDecoder(specs, SPEC.observations, depth=2, mask_bias=bias)
        found.append(made.layers(features, context).masks["ctrl"])
    assert_allclose(found[1].logit().detach(), found[0].logit().detach() - 2.0, atol=1e-4)


# Other parts


@BOTH
def test_acting_and_prediction(driving: bool) -> None:
    agent, memory = isodream_agent(driving=driving), None
    for t in range(3):
        seen = {"pixels": records(t)["pixels"][:, 0]}
        first = torch.full((3,), t == 0)
        action, memory = agent.act(seen, first, memory, mode="train", agent_steps=t)
        assert action.shape == (3, 2)
        assert action.abs().max() <= 1
    found = agent.open_loop(records(), 3)
    assert found["model"].shape == found["truth"].shape
    assert torch.isfinite(found["model"]).all()


def test_the_video_bonus_reads_both_branches() -> None:
    bonus = partial(VideoBonus, queue=64, projection=4, neighbours=3, window=2)
    agent = isodream_agent(explorer=bonus)
    assert torch.isfinite(isodream_learner(agent).update(records())["intrinsic_raw"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"encoder": partial(CNNEncoder, depth=2)}, "no embedding 'ctrl'"),
        ({"reads": {"decoder": "joint"}}, "reads a vector each of"),
    ],
)
def test_parts_that_do_not_fit_are_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(IncompatibleParts, match=words):
        isodream_agent(model=model)


@BOTH
@pytest.mark.parametrize("parity", [False, True])
def test_an_update_in_lower_precision(driving: bool, parity: bool) -> None:
    behavior = {"fp32": not parity, "truncated": not parity}
    agent = isodream_agent(driving=driving, latent={"parity": parity}, behavior=behavior)
    metrics = isodream_learner(agent, precision="bf16").update(records())
    assert metrics["skipped_updates"] == 0
    assert all(torch.isfinite(value) for value in metrics.values())
