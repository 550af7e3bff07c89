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

from wmplatform.contracts.reference import draw_transitions
from wmplatform.interfaces import ArraySpec, Phase, Update
from wmplatform.replay import Replay, Segments, Transitions
from wmplatform.types import tree_map
from wmplatform.world_model import IncompatibleParts

from .assemblies import joint, model_free, stacked, window
from .assemblies.kit import SPEC, below, learner, moved, play, records, snapshot, trainable
from .tiny_dreamer import DISCRETE, learner_of, segments, tiny_agent

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
    batch = Transitions(batch=64, n=2, stack=3, short_ends=False).sample(replay)
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
