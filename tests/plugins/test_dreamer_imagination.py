"""The behavior's phase on a tiny agent: both losses recomputed, and where gradients go."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from torch.nn import functional as F

from wmplatform.agent import Agent
from wmplatform.distributions import TruncatedNormal
from wmplatform.interfaces import Imagined, Update
from wmplatform.types import EnvSpec
from wmplugins.blocks import discount_weights, lambda_return

from ..core.tiny_dreamer import DISCRETE, segments, tiny_agent
from . import dreamer_reference as ref

# The whole phase, recomputed


class Recorded:
    """An agent whose imagined rollout is kept, and the objectives it led to."""

    def __init__(self, agent: Agent, batch_seed: int = 0, agent_steps: int = 0) -> None:
        self.agent = agent
        self.update = Update(segments(batch_seed, spec=agent.spec), agent_steps=agent_steps)
        model, self.phase = agent.plan()
        model.compute(self.update)
        dynamics, real = agent.world_model.dynamics, agent.world_model.dynamics.imagine

        def imagine(start: Any, *args: Any, **kwargs: Any) -> Imagined:
            self.start, self.imagined = start, real(start, *args, **kwargs)
            return self.imagined

        dynamics.imagine = imagine
        self.objectives = {o.name: o for o in self.phase.compute(self.update)}
        del dynamics.imagine

    def states(self) -> dict[str, Tensor]:
        """States 0..H `[N, K, ...]`, detached."""
        future = self.imagined.states
        return {k: torch.cat([v[:, None], future[k]], 1).detach() for k, v in self.start.items()}

    def features(self) -> Tensor:
        states = self.states()
        return torch.cat([states["stoch"], states["deter"]], -1)


def numpy_losses(roll: Recorded, eta: float, leak: bool = False) -> tuple[float, float]:
    """Actor's and critic's loss of a recorded rollout, from the equations."""
    agent, features = roll.agent, roll.features()
    learner = agent.behavior
    with torch.no_grad():
        reward = agent.world_model.head("reward").mlp(features)[..., 0]
        slow, online = learner.slow_critic(features)[..., 0], learner.critic(features)[..., 0]
        discount = torch.full_like(reward, 0.99)
        if "continue" in agent.world_model.heads:
            discount = agent.world_model.head("continue").mlp(features)[..., 0].sigmoid()
            terminal = roll.update.batch["is_terminal"].flatten()
            discount[:, 0] = torch.where(terminal, 0.0, 0.99)
        policy = learner.policy(features[:, :-1])
        entropy, log_prob = policy.entropy(), policy.log_prob(roll.imagined.actions)
    reward, slow, online, discount, entropy, log_prob = (
        ref.f64(x).T for x in (reward, slow, online, discount, entropy, log_prob)
    )
    target, weight = ref.lambda_return(reward, slow, discount, 0.95), ref.weights(discount)
    if agent.spec.action.kind == "continuous":
        loss = ref.actor_loss(target, weight, entropy, eta)
    else:
        loss = ref.reinforce_loss(target, slow, log_prob, weight, entropy, eta)
    if leak:
        target = target + eta * np.concatenate([np.zeros_like(entropy[:1]), entropy[:-1]])
    return loss, ref.critic_loss(online, target, weight)


@pytest.mark.parametrize("discount", [False, True])
@pytest.mark.parametrize("spec", [None, DISCRETE])
def test_both_losses_recomputed_in_numpy(spec: EnvSpec | None, discount: bool) -> None:
    kwargs = {} if spec is None else {"spec": spec}
    roll = Recorded(tiny_agent(discount=discount, entropy_scale=0.1, **kwargs))
    actor_loss, critic_loss = numpy_losses(roll, 0.1)
    assert_allclose(roll.objectives["actor"].loss.detach(), actor_loss, rtol=1e-4, atol=1e-6)
    assert_allclose(roll.objectives["critic"].loss.detach(), critic_loss, rtol=1e-4, atol=1e-6)


def test_the_parity_switch_lets_the_entropy_leak_into_the_critic() -> None:
    roll = Recorded(tiny_agent(entropy_scale=0.1, entropy_in_critic_target=True))
    actor_loss, leaked = numpy_losses(roll, 0.1, leak=True)
    _, clean = numpy_losses(roll, 0.1)
    assert abs(leaked - clean) > 1e-3
    assert_allclose(roll.objectives["critic"].loss.detach(), leaked, rtol=1e-4)
    assert_allclose(roll.objectives["actor"].loss.detach(), actor_loss, rtol=1e-4)


def test_entropy_follows_its_schedule_over_agent_steps() -> None:
    roll = Recorded(tiny_agent(entropy_scale="linear(0.5, 0.1, 1000)"), agent_steps=500)
    assert_allclose(roll.objectives["actor"].loss.detach(), numpy_losses(roll, 0.3)[0], rtol=1e-4)


def test_start_states_are_all_posterior_states_detached() -> None:
    roll = Recorded(tiny_agent())
    observed = roll.update.memory["observed"].states
    for key, value in roll.start.items():
        assert torch.equal(value, observed[key].flatten(0, 1))
        assert not value.requires_grad
        assert len(value) == 15
    assert roll.imagined.actions.shape == (15, 4, 2)


# Gradients


def by_hand(roll: Recorded) -> Tensor:
    """The actor's loss with its graph rebuilt from the recorded samples.

    Actions keep their quantiles (pathwise), states their classes (straight-through).
    """
    agent, cell = roll.agent, roll.agent.world_model.dynamics.cell
    learner = agent.behavior
    start = {k: v.detach() for k, v in roll.start.items()}
    features = [torch.cat([start["stoch"], start["deter"]], -1)]
    stoch, deter, entropies = start["stoch"], start["deter"], []
    for i in range(roll.imagined.actions.shape[1]):
        u, v = learner.actor.mlp(features[-1].detach()).chunk(2, -1)
        policy = TruncatedNormal(torch.tanh(u), 2 * torch.sigmoid(v / 2) + 0.1)
        taken = roll.imagined.actions[:, i].detach().double()
        cut = ref.truncnorm(policy.loc.detach().double(), policy.scale.detach().double())
        action = policy.icdf(torch.as_tensor(cut.cdf(taken)).float())
        x = F.elu(F.linear(torch.cat([stoch, action], -1), cell.img_in.weight, cell.img_in.bias))
        deter = cell.gru(x, deter)
        probs = cell.prior(deter).softmax(-1).flatten(1)
        stoch = roll.imagined.states["stoch"][:, i].detach() + probs - probs.detach()
        features.append(torch.cat([stoch, deter], -1))
        entropies.append(policy.entropy())
    states = torch.stack(features, 1)
    reward = agent.world_model.head("reward").mlp(states)[..., 0]
    value = learner.slow_critic(states)[..., 0]
    steps, returns, last = len(entropies), [], value[:, -1]
    for i in reversed(range(steps)):
        last = reward[:, i] + 0.99 * (0.05 * value[:, i + 1] + 0.95 * last)
        returns.append(last)
    returns.reverse()
    terms = [0.99**i * (returns[i + 1] + 0.1 * entropies[i]) for i in range(steps - 1)]
    return -torch.stack(terms, 1).mean()


def test_actor_gradient_goes_through_the_dynamics() -> None:
    roll = Recorded(tiny_agent(entropy_scale=0.1))
    parameters = list(roll.agent.behavior.actor.parameters())
    ours = torch.autograd.grad(roll.objectives["actor"].loss, parameters)
    theirs = torch.autograd.grad(by_hand(roll), parameters)
    assert any(float(g.abs().max()) > 1e-4 for g in theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert_allclose(a, b, rtol=2e-3, atol=2e-5)


def test_reinforce_ignores_the_gradient_of_the_dynamics() -> None:
    roll = Recorded(tiny_agent(DISCRETE, entropy_scale=0.1))
    agent, features = roll.agent, roll.features()
    policy = agent.behavior.policy(features[:, :-1])
    with torch.no_grad():
        reward = agent.world_model.head("reward").mlp(features)[..., 0]
        slow = agent.behavior.slow_critic(features)[..., 0]
        target = lambda_return(reward, slow, torch.full_like(slow, 0.99), 0.95)
        weight = discount_weights(torch.full_like(slow, 0.99))
    score = policy.log_prob(roll.imagined.actions.detach())[:, :-1] * (target[:, 1:] - slow[:, :-2])
    loss = -(weight[:, :-2] * (score + 0.1 * policy.entropy()[:, :-1])).mean()
    parameters = list(agent.behavior.actor.parameters())
    ours = torch.autograd.grad(roll.objectives["actor"].loss, parameters)
    theirs = torch.autograd.grad(loss, parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_objectives_reach_no_other_parameters() -> None:
    roll = Recorded(tiny_agent(discount=True))
    named = dict(roll.agent.named_parameters())
    trainable = {k: p for k, p in named.items() if p.requires_grad}
    assert set(trainable) == {k for k in named if "slow_critic" not in k}
    for name, objective in roll.objectives.items():
        assert objective.trains == (f"behavior.{name}",)
        grads = torch.autograd.grad(
            objective.loss, list(trainable.values()), allow_unused=True, retain_graph=True
        )
        moved = {k for k, g in zip(trainable, grads, strict=True) if g is not None}
        assert moved == {k for k in trainable if k.startswith(f"behavior.{name}.")}
