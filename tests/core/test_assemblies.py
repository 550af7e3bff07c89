"""Agents of very different kinds, assembled from parts that a third party could have written.

Each runs updates and acts; none needs a line of the core. What is checked are the laws that keep
an assembly honest: what an update moves, what is paired with what, and what is refused.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts import run as contracts
from wmplatform.contracts.latent_dynamics import check_latent_dynamics
from wmplatform.contracts.reference import draw_records, draw_transitions
from wmplatform.distributions import UnitNormal
from wmplatform.interfaces import ActionSpec, ArraySpec, Encoder, EnvSpec, Phase, Update
from wmplatform.replay import Replay, Segments, Transitions
from wmplatform.types import tree_map
from wmplatform.world_model import IncompatibleParts, WorldModel
from wmplugins.dreamer.balancers import FixedScales

from .assemblies import branches, joint, model_free, stacked, window
from .assemblies.kit import SPEC, below, learner, moved, snapshot, trainable
from .tiny_dreamer import DISCRETE, learner_of, segments, tiny_agent


def records(seed: int = 0, *, length: int = 7, spec: EnvSpec = SPEC) -> TensorDict:
    return draw_records(spec, seed, length=length)


def play(agent: Agent, steps: int = 4, rows: int = 3, mode: str = "train") -> Tensor:
    """Act for some steps and check that the actions are valid."""
    memory, actions = None, []
    for t in range(steps):
        seen = {"pixels": records(t)["pixels"][:rows, 0]}
        first = torch.full((rows,), t == 0)
        first[1] |= t == 2
        action, memory = agent.act(seen, first, memory, mode=mode, agent_steps=t)
        actions.append(action)
    played = torch.stack(actions, 1)
    assert played.shape == (rows, steps, agent.spec.action.size)
    assert torch.isfinite(played).all()
    assert (played.abs() <= 1).all()
    return played


def imagines(agent: Agent) -> None:
    """Open-loop prediction gives images of the records that remain."""
    batch = records()
    found = agent.open_loop(batch, 3)
    assert found["model"].shape == found["truth"].shape
    assert torch.isfinite(found["model"]).all()


@pytest.mark.parametrize(
    ("dynamics", "embeds"),
    [
        (branches.Isolated, {"ctrl": ArraySpec((5,)), "free": ArraySpec((4,))}),
        (window.Ring, {"embed": ArraySpec((8,))}),
        (stacked.ActionFree, {"embed": ArraySpec((8,))}),
    ],
)
def test_the_laws_of_dynamics_hold_for_unusual_ones(dynamics: Any, embeds: Any) -> None:
    assert check_latent_dynamics(dynamics, embeds, ActionSpec(3)).violations == []


# A model-free agent


def stacks(seed: int = 0) -> TensorDict:
    """Transitions with three frames an observation."""
    wide = replace(SPEC, observations={"pixels": ArraySpec((9, 8, 8), "uint8")})
    return draw_transitions(wide, seed)


def test_a_model_free_agent_has_no_world_model_phase() -> None:
    agent = model_free.build()
    assert [phase.name for phase in agent.plan()] == ["critic", "actor"]
    assert agent.world_model.loss_names == ()
    assert list(agent.world_model.dynamics.parameters()) == []


def test_model_free_phases_move_what_their_objectives_name() -> None:
    agent = model_free.build()
    trainer = learner(agent, model_free.GROUPS, data=partial(Transitions, stack=3))
    critic, actor = trainer.plan
    update, before = Update(stacks()), snapshot(agent)
    trainer._run(critic, update)
    assert moved(agent, before) == below(set(before), "world_model.encoder.", "behavior.critic.")
    before = snapshot(agent)
    trainer._run(actor, update)
    assert moved(agent, before) == below(set(before), "behavior.actor.")
    assert not update.memory["features"].requires_grad
    assert actor.after is not None
    before = snapshot(agent)
    actor.after(update)
    assert moved(agent, before) == below(set(before), "behavior.target.")
    for name in below(set(before), "behavior.target."):
        fast = before[name.replace("target", "critic")]
        torch.testing.assert_close(agent.state_dict()[name], before[name].lerp(fast, 0.25))


def test_a_model_free_agent_learns_on_an_encoder_that_stays_as_it_is() -> None:
    agent = model_free.build(train_encoder=False)
    data = partial(Transitions, stack=3)
    trainer, before = learner(agent, model_free.GROUPS, data=data), snapshot(agent)
    for seed in range(3):
        trainer.update(stacks(seed))
    now = moved(agent, before)
    assert below(now, "world_model.") == set()
    assert below(trainable(agent), "behavior.") <= now


def test_frames_are_stacked_alike_in_acting_and_in_replay() -> None:
    agent, steps, seen = model_free.build(), 8, []
    agent.world_model.encoder.register_forward_pre_hook(lambda _, a: seen.append(a[0]["pixels"]))
    frames = torch.randint(256, (2 * (steps + 1), 3, 8, 8), dtype=torch.uint8)
    first = torch.arange(len(frames)) % (steps + 1) == 0
    memory, actions = None, []
    for t in range(len(frames)):
        action, memory = agent.act(
            {"pixels": frames[t][None]}, first[t : t + 1], memory, mode="train", agent_steps=t
        )
        actions.append(action[0])
    taken = torch.stack([torch.zeros(2), *actions[:-1]])  # the action that led into each record
    replay = Replay(SPEC, capacity=100)
    columns = {
        "pixels": frames,
        "action": taken.masked_fill(first[:, None], 0.0),
        "reward": torch.zeros(len(frames)),
        "is_first": first,
        "is_last": first.roll(-1),
        "is_terminal": torch.zeros(len(frames), dtype=torch.bool),
        "stream": torch.zeros(len(frames), dtype=torch.int64),
    }
    replay.extend(TensorDict(columns, [len(frames)]))
    batch = Transitions(batch=64, n=2, stack=3).sample(replay)
    shown = torch.cat(seen).mul(255).add(127.5).round().byte()
    acted = {x.numpy().tobytes(): t for t, x in enumerate(shown)}
    for now, later, action in zip(
        batch["pixels"], batch["next", "pixels"], batch["action"], strict=True
    ):
        t = acted[now.numpy().tobytes()]
        assert acted[later.numpy().tobytes()] == t + 2
        assert torch.equal(action, actions[t])
    trainer = learner(agent, model_free.GROUPS, data=partial(Transitions, stack=3))
    assert torch.isfinite(trainer.update(batch, agent_steps=3)["critic_loss"])


@pytest.mark.parametrize("data", [Segments, partial(Transitions, stack=2)])
def test_batches_of_another_stack_than_the_agents_are_refused(data: Any) -> None:
    with pytest.raises(IncompatibleParts, match="frame_stack"):
        learner(model_free.build(), model_free.GROUPS, data=data)


def test_a_phase_may_have_nothing_to_learn_in_an_update() -> None:
    agent = model_free.build()
    trainer = learner(agent, model_free.GROUPS, data=partial(Transitions, stack=3))
    critic, actor = trainer.plan
    trainer.plan = [critic, Phase("actor", lambda u: actor.compute(u) if u.updates % 2 else [])]
    for updates in range(2):
        before = snapshot(agent)
        metrics = trainer.update(stacks(updates))
        assert bool(below(moved(agent, before), "behavior.actor.")) == bool(updates % 2)
        assert metrics["skipped_updates"] == 0


def test_a_model_free_agent_acts_quietly_in_evaluation() -> None:
    agent = model_free.build()
    assert torch.equal(play(agent, mode="eval"), play(agent, mode="eval"))
    assert not torch.equal(play(agent), play(agent))


# Branches


def test_a_branched_agent_trains_every_parameter_once() -> None:
    agent = branches.build()
    trainer, before = learner(agent, branches.GROUPS), snapshot(agent)
    for seed in range(3):
        metrics = trainer.update(records(seed))
    assert trainable(agent) <= moved(agent, before)
    assert [n for n in before if n.endswith(("trunk.weight", "trunk.bias"))] == [
        "world_model.encoder.trunk.weight",
        "world_model.encoder.trunk.bias",
    ]
    assert {"kl_ctrl_loss", "kl_free_loss", "inverse_loss", "image_loss"} <= set(metrics)
    assert agent.open_loop(records(), 3)["model"].shape == (3, 6, 3, 8, 8)  # record 0 is used up
    play(agent)


def gradients(agent: Agent, loss: str) -> set[str]:
    """Parameters that a loss reaches."""
    total = agent.world_model.losses(records()).losses[loss]
    names, parameters = zip(*agent.world_model.named_parameters(), strict=True)
    grads = torch.autograd.grad(total, parameters, allow_unused=True)
    return {n for n, g in zip(names, grads, strict=True) if g is not None and g.any()}


def test_inverse_dynamics_shapes_the_embedding_it_reads_and_nothing_else() -> None:
    parts = {name.rsplit(".", 1)[0] for name in gradients(branches.build(), "inverse")}
    assert parts == {"encoder.trunk", "encoder.stages.ctrl", "heads.inverse.linear"}


def test_the_image_loss_reaches_the_shared_trunk_through_the_background() -> None:
    class Still(branches.Isolated):
        def features(self, state: Any, view: str) -> Any:
            return tree_map(lambda x: x.detach(), super().features(state, view))

    reached = gradients(branches.build(dynamics=Still), "image")
    assert {"encoder.trunk.weight", "context_encoder.stage.weight"} <= reached
    assert not any("stages" in name or "dynamics" in name for name in reached)


class Position(Encoder):
    """Hands on a vector observation."""

    def __init__(self, observations: Any) -> None:
        super().__init__()

    @property
    def embed_specs(self) -> dict[str, ArraySpec]:
        return {"embed": ArraySpec((2,)), "ctrl": ArraySpec((2,))}

    def forward(self, observations: Any) -> dict[str, Tensor]:
        return {"embed": observations["position"], "ctrl": observations["position"]}


class Exact(branches.InverseDynamics):
    """The change itself."""

    def forward(self, features: Any) -> UnitNormal:
        change = features["after"]["ctrl"] - features["before"]["ctrl"]
        return UnitNormal(change, event_dims=1)


def test_a_transition_is_paired_with_the_action_between_and_never_across_episodes() -> None:
    spec = replace(SPEC, observations={"position": ArraySpec((2,))})
    model = WorldModel(spec, encoder=Position, heads={"inverse": Exact})
    batch = draw_records(spec, 0, length=7)
    assert batch["is_first"][:, 1:].any()
    moves = torch.where(batch["is_first"][..., None], torch.randn(2) * 9, batch["action"])
    batch["position"] = moves.cumsum(1)
    assert model.losses(batch).losses["inverse"].item() == pytest.approx(0.0, abs=1e-9)
    batch["action"] = batch["action"].roll(1, 1)
    assert model.losses(batch).losses["inverse"].item() > 0.1


def test_the_laws_of_heads_hold_for_transitions() -> None:
    assert contracts.check("heads", branches.InverseDynamics).violations == []


def test_the_free_branch_does_not_react_to_actions() -> None:
    dynamics = branches.build().world_model.dynamics
    start = dynamics.initial(2)
    runs = [
        dynamics.imagine(start, start, torch.full((2, 3, 2), a), 3, deterministic=True).states
        for a in (-1.0, 1.0)
    ]
    assert torch.equal(runs[0]["free"]["deter"], runs[1]["free"]["deter"])
    assert not torch.equal(runs[0]["ctrl"]["deter"], runs[1]["ctrl"]["deter"])


def test_the_background_comes_from_the_first_frames_of_its_own_row() -> None:
    model, batch = branches.build().world_model, records()
    states = model.losses(batch).observed.states
    image = model.decode(states, model.context(batch))["pixels"].mean
    for row, t, same in [(1, 0, False), (1, 1, False), (1, 2, True), (0, 0, True)]:
        other = batch.clone()
        other["pixels"][row, t] = 255 - other["pixels"][row, t]
        again = model.decode(states, model.context(other))["pixels"].mean
        assert torch.equal(image[1], again[1]) == same


# A window of tokens


def test_a_model_whose_carry_is_a_ring_learns_and_acts() -> None:
    agent = window.build()
    trainer, before = learner(agent, window.GROUPS), snapshot(agent)
    for seed in range(3):
        trainer.update(records(seed))
    assert trainable(agent) <= moved(agent, before)
    play(agent)


def test_starts_name_the_records_they_come_from() -> None:
    agent, batch = window.build(), records()
    batch["is_terminal"][:] = False
    batch["is_terminal"][2, -1] = True
    observed = agent.world_model.losses(batch).observed
    starts = agent.world_model.dynamics.starts(observed)
    assert starts.rows.tolist() == [6, 13, 20]
    for name, value in starts.states.items():
        assert torch.equal(value, observed.states[name].flatten(0, 1)[starts.rows])
    update = Update(batch, memory={"observed": observed})
    states = tree_map(lambda x: x[:, None].repeat(1, 4, *[1] * (x.dim() - 1)), starts.states)
    discount = agent.behavior._discount(agent, states, torch.zeros(3, 4), update, starts.rows)
    assert discount[:, 0].tolist() == pytest.approx([0.99, 0.99, 0.0])


@pytest.mark.parametrize(
    ("dynamics", "behavior", "words"),
    [
        (window.Ring, {"gradient": "dynamics"}, "gradients through rollouts"),
        (window.Ring, {"horizon": 4}, "imagines 4 steps, the dynamics at most 3"),
        (window.Unimaginative, {}, "imagination, which this dynamics does not support"),
    ],
)
def test_a_behavior_is_refused_where_the_dynamics_cannot_serve_it(
    dynamics: Any, behavior: dict[str, Any], words: str
) -> None:
    with pytest.raises(IncompatibleParts, match=words) as caught:
        window.build(dynamics, **behavior)
    assert dynamics.__name__ in str(caught.value)


@pytest.mark.parametrize("head", [joint.NextReward, joint.DepartureReward])
def test_imagination_refuses_a_reward_of_another_state(head: Any) -> None:
    agent = stacked.build(heads={"reward": head}, balancer=None)
    with pytest.raises(IncompatibleParts, match="timing"):
        agent.plan()


# An action-free model under an action-conditional one, and a context


def test_a_stacked_agent_freezes_what_was_pretrained_and_trains_the_rest() -> None:
    agent = stacked.build()
    trainer = learner(agent, stacked.GROUPS, enc_model={"frozen_updates": 2})
    before = snapshot(agent)
    frozen = {n for n in trainable(agent) if n.startswith(stacked.GROUPS["enc_model"])}
    for seed in range(2):
        metrics = trainer.update(records(seed))
    assert moved(agent, before) & frozen == set()
    assert trainable(agent) - frozen <= moved(agent, before)
    trainer.update(records(2))
    priors = {n for n in frozen if ".img_out." in n or ".img_dist." in n}
    assert frozen - priors <= moved(agent, before)
    assert not moved(agent, before) & priors  # its divergence is left out: nothing trains them
    assert torch.isinf(metrics["action_free_kl_loss"])
    assert torch.isfinite(metrics["model_loss"])
    assert metrics["skipped_updates"] == 0


def rewarded(last: float) -> Any:
    """Losses of a segment whose last four rewards are this, and the others zero."""
    agent, batch = stacked.build(), records()
    batch["reward"][:] = 0.0
    batch["reward"][:, -4:] = last
    torch.manual_seed(1)
    return agent.world_model.losses(batch, agent.explorer)


def test_the_bonus_is_part_of_one_reward_where_it_is_known_and_not_of_the_other() -> None:
    low, high = rewarded(0.0), rewarded(100.0)
    assert low.metrics["reward_target"] > 0.1
    assert low.metrics["plain_reward_target"] == 0.0
    assert torch.equal(low.losses["reward"], high.losses["reward"])
    assert high.losses["plain_reward"] > 1000 > low.losses["plain_reward"]


def test_a_stacked_agent_acts_and_predicts() -> None:
    agent = stacked.build()
    play(agent)
    imagines(agent)
    observed = agent.world_model.losses(records()).observed
    assert set(agent.world_model.dynamics.starts(observed).states) == {"s"}


def test_an_image_depends_on_the_context_of_its_own_row() -> None:
    model, batch = stacked.build().world_model, records()
    states, context = model.losses(batch).observed.states, model.context(batch)
    image = model.decode(states, context)["pixels"].mean
    other = {name: x.clone() for name, x in context.items()}
    for x in other.values():
        x[1] += 1
    again = model.decode(states, other)["pixels"].mean
    changed = (image != again).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


def test_prediction_sees_the_observed_records_only() -> None:
    agent, batch = stacked.build(), records()
    other = batch.clone()
    other["pixels"][:, 3:] = 255 - other["pixels"][:, 3:]
    found = []
    for each in (batch, other):
        torch.manual_seed(3)
        found.append(agent.open_loop(each, 3)["model"])
    assert torch.equal(*found)


def test_acting_and_imagination_need_no_context() -> None:
    agent = stacked.build()

    def refuse(*_: object) -> None:
        raise AssertionError("the context encoder ran")

    agent.world_model.context_encoder.register_forward_pre_hook(refuse)
    play(agent)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"context_encoder": None}, "has context required, but the model has no context encoder"),
        ({"decoder": stacked.Reluctant}, "has context refused, but the model has a context"),
    ],
)
def test_a_decoder_and_a_context_that_do_not_fit_are_refused(
    parts: dict[str, Any], words: str
) -> None:
    with pytest.raises(IncompatibleParts, match=words):
        stacked.build(**parts)


@pytest.mark.parametrize("context", [None, stacked.RandomFrame])
def test_an_optional_context_may_be_there_or_not(context: Any) -> None:
    agent = stacked.build(decoder=stacked.Paint, context_encoder=context)
    groups = dict(stacked.GROUPS)
    learner(agent, groups).update(records())
    imagines(agent)


def test_a_dynamics_that_needs_a_context_is_refused_without_one() -> None:
    class Needy(stacked.Stacked):
        capabilities = replace(stacked.Stacked.capabilities, needs_context=True)

    stacked.build(dynamics=Needy)
    with pytest.raises(IncompatibleParts, match="needs a context"):
        stacked.build(dynamics=Needy, context_encoder=None, decoder=stacked.Paint)


# One joint phase


@pytest.mark.parametrize("reward", [joint.NextReward, joint.DepartureReward])
def test_a_joint_phase_moves_everything_at_once(reward: Any) -> None:
    agent = joint.build(reward)
    trainer = learner(agent, joint.GROUPS, harmony={"lr": 0.1})
    (phase,) = trainer.plan
    before = snapshot(agent)
    metrics = trainer.update(records())
    now = moved(agent, before)
    assert trainable(agent) <= now
    assert below(now, "behavior.slow", "behavior.range") == {
        "behavior.slow.weight",
        "behavior.slow.bias",
        "behavior.range",
    }
    assert phase.name == "joint"
    assert {"joint_loss", "model_loss", "all_grad_norm", "harmony_grad_norm"} <= set(metrics)
    play(agent)


def test_learned_loss_weights_have_a_rate_of_their_own() -> None:
    agent = joint.build()
    trainer, before = learner(agent, joint.GROUPS, harmony={"lr": 0.1}), snapshot(agent)
    trainer.update(records())
    scales = below(set(before), "world_model.balancer.")
    assert len(scales) == 1 + len(agent.world_model.heads)
    for name in scales:
        step = (agent.state_dict()[name] - before[name]).abs()
        torch.testing.assert_close(step, torch.tensor(0.1), rtol=1e-2, atol=0)
    assert trainer.group_sizes()["harmony"] == 2


def test_replayed_values_shape_the_representation() -> None:
    agent = joint.build()
    (phase,) = agent.plan()
    update = Update(records())
    (objective,) = phase.compute(update)
    assert objective.trains == ("world_model", "behavior.actor", "behavior.critic")
    agent.behavior.critic.requires_grad_(False)
    loss = agent.behavior._replayed(agent, update)
    encoder = next(agent.world_model.encoder.parameters())
    assert torch.autograd.grad(loss, encoder)[0].abs().sum() > 0


def test_a_segment_goes_on_from_a_latent_that_replay_kept() -> None:
    agent, batch = joint.build(stored=True), records(length=8)
    batch["is_first"][:] = False
    deter, stoch = torch.randn(2, 3, 8, 6)[0], torch.randn(3, 8, 4)
    batch["kept_deter"], batch["kept_stoch"] = deter, stoch
    (phase,) = agent.plan()
    seen = []
    real = agent.world_model.dynamics.observe

    def observe(embeds: Any, actions: Any, is_first: Any, carry: Any = None, **k: Any) -> Any:
        seen.append((carry, is_first.shape))
        return real(embeds, actions, is_first, carry, **k)

    agent.world_model.dynamics.observe = observe
    update = Update(batch)
    phase.compute(update)
    ((carry, shape),) = seen
    assert shape == (3, 7)
    assert torch.equal(carry["deter"], deter[:, 0])
    assert update.memory["observed"].carry["deter"].shape == (3, 6)  # to be written back


# Discrete actions


def test_discrete_actions_learn_by_likelihood_ratio_with_a_continue_head() -> None:
    agent = tiny_agent(DISCRETE, discount=True)
    assert agent.behavior.gradient == "reinforce"
    trainer, before = learner_of(agent), snapshot(agent)
    metrics = trainer.update(segments(spec=DISCRETE))
    assert trainable(agent) <= moved(agent, before)
    assert torch.isfinite(metrics["continue_loss"])
    memory = None
    for t in range(3):
        seen = {"pixels": segments(t)["pixels"][:, 0]}
        first = torch.full((3,), t == 0)
        action, memory = agent.act(seen, first, memory, mode="train", agent_steps=t)
        assert (action.sum(-1) == 1).all()
        assert action.eq(0).logical_or(action.eq(1)).all()


# Videos


def video(seed: int = 0) -> TensorDict:
    """A clip without actions and rewards."""
    full = records(seed)
    return full.select("pixels", "is_first")


def test_pre_training_needs_neither_actions_nor_anything_that_acts() -> None:
    agent = stacked.build_for_videos()
    assert [phase.name for phase in agent.plan()] == ["world_model"]
    trainer, before = learner(agent, {"model": ("world_model",)}), snapshot(agent)
    for seed in range(2):
        metrics = trainer.update(video(seed))
    assert trainable(agent) <= moved(agent, before)
    assert {"image_loss", "kl_loss"} <= set(metrics)
    found = agent.open_loop(video(), 3)
    assert found["model"].shape == (3, 7, 3, 8, 8)
    with pytest.raises(IncompatibleParts, match="cannot act"):
        play(agent)


def test_what_was_pre_trained_fits_into_the_stacked_agent() -> None:
    before, after = stacked.build_for_videos().world_model, stacked.build().world_model
    for part in ("encoder", "context_encoder", "decoder"):
        after.get_submodule(part).load_state_dict(before.get_submodule(part).state_dict())
    low = before.dynamics.action_free.state_dict()
    after.dynamics.action_free.load_state_dict(low)


# Segments and transitions come from one store; what does not fit is refused


def test_every_loss_has_a_weight_or_is_refused() -> None:
    with pytest.raises(IncompatibleParts, match="scales"):
        stacked.build(balancer=partial(FixedScales, scales={"no_such_loss": 1.0}))


def test_requests_are_values() -> None:
    assert Segments(batch=3, length=7).records == 7
    assert Transitions(n=3).records == 4
