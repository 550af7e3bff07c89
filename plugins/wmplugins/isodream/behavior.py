"""Actor and critic on what is controlled, with a look at what is not (Iso-Dream section 3.2).

Shape letters: N start states, K states of a rollout with its start, W window, F features of a
branch, A action.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeAlias

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.distributions import OneHot, TruncatedNormal, UnitNormal
from wmplatform.interfaces import Behavior, Objective, Phase, Update
from wmplatform.schedules import Schedule
from wmplatform.types import (
    ActionSpec,
    Distribution,
    Features,
    FeatureSpec,
    Metrics,
    tree_map,
)
from wmplatform.world_model import IncompatibleParts
from wmplugins.blocks import (
    MLP,
    Act,
    Actor,
    Init,
    as_vector,
    discount_weights,
    flat_size,
    follow,
    frozen,
    in_fp32,
    lambda_return,
)

__all__ = ["Attention", "IsolatedActorCritic", "LooseNormal"]

Rollout: TypeAlias = tuple[Features, Tensor, list[Tensor]]


class Attention(nn.Module):
    """What is controlled looks at what comes by itself (Iso-Dream eq. 7).

    One head without normalisation: queries of ctrl's features, keys and values of the free
    branch's, present and future, and the answer added to ctrl's features. Parameters at 250:
    501,750.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        inner = 2 * features
        self.query, self.key, self.value = (nn.Linear(features, inner) for _ in range(3))
        self.out = nn.Linear(inner, features)

    def forward(self, ctrl: Tensor, future: Tensor) -> Tensor:
        """Map `[*lead, F]` and `[*lead, W, F]` to `[*lead, F]`."""
        read = self.weights(ctrl, future).unsqueeze(-2) @ self.value(future)
        return self.out(read.squeeze(-2)) + ctrl

    def weights(self, ctrl: Tensor, future: Tensor) -> Tensor:
        """How strongly each of the W states is looked at, `[*lead, W]`."""
        query, key = self.query(ctrl), self.key(future)
        return (key @ query.unsqueeze(-1)).squeeze(-1).mul(query.shape[-1] ** -0.5).softmax(-1)


class LooseNormal(TruncatedNormal):
    """The authors' "truncated normal": a plain one. Actions that leave are clamped; not `loose`."""

    def loose(self) -> Tensor:
        """Draw without bounds, pathwise gradient, `[*lead, A]`."""
        return self.loc + self.scale * torch.randn_like(self.loc)

    def sample(self) -> Tensor:
        """Draw and clamp, `[*lead, A]`."""
        return self.loose().clamp(-1.0, 1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the plain normal, summed over A, `[*lead]`."""
        return (
            torch.distributions.Normal(self.loc, self.scale, validate_args=False)
            .log_prob(value.float())
            .sum(-1)
        )

    def entropy(self) -> Tensor:
        """Entropy of the plain normal, summed over A, `[*lead]`."""
        return (
            torch.distributions.Normal(self.loc, self.scale, validate_args=False).entropy().sum(-1)
        )


class IsolatedActorCritic(Behavior):
    """Pathwise actor-critic on imagined states (Iso-Dream algorithm 1).

    Where the view `policy` has the parts `ctrl` and `future`, actor and critic read them through
    an attention, which the critic's loss trains. Plan: the world model's phase, then one phase with
    both objectives, after which the slow critic is copied if due.

    Returns are `G_i = r_i + gamma * ((1 - lambda) * v_{i+1} + lambda * G_{i+1})` for the K - 1
    first of `horizon` = K states, the start being number 0, and all of them are the actor's
    objective, discounted.
    """

    needs_imagination = True
    needs_differentiable_rollout = True

    def __init__(
        self,
        views: Mapping[str, FeatureSpec],
        action: ActionSpec,
        *,
        horizon: Annotated[int, Ge(2)] = 15,
        gamma: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.99,
        lambda_: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.95,
        entropy_scale: float | str = 1e-4,
        actor_layers: Annotated[int, Ge(0)] = 4,
        critic_layers: Annotated[int, Ge(0)] = 3,
        units: Annotated[int, Ge(1)] = 400,
        act: Act = "elu",
        init: Init = "torch",
        min_std: Annotated[float, Gt(0.0)] = 0.1,
        init_std: float = 0.0,
        slow_target_every: Annotated[int, Ge(1)] = 100,
        reward_head: str = "reward",
        value_gradient: bool = True,
        truncated: bool = True,
        reversed_returns: bool = False,
        fp32: bool = True,
    ) -> None:
        """Build actor, critic, slow critic, and the attention where views ask for one.

        Args:
            views: of the dynamics; `policy` feeds the actor, `value` the critic.
            action: the action's spec.
            horizon: states of an imagined rollout, the start included.
            gamma: discount; no head predicts ends of episodes.
            lambda_: of the lambda return.
            entropy_scale: weight of the policy's entropy, a schedule over agent steps.
            actor_layers: hidden layers of the actor.
            critic_layers: hidden layers of the critic.
            units: width of both.
            act: their activation.
            init: of their layers.
            min_std: smallest scale of the policy.
            init_std: shift of its raw scale.
            slow_target_every: updates n between copies to the slow critic, which equals the
                critic at first: after update n, 2n, ...
            reward_head: head that imagination reads.
            value_gradient: actions learn from later values through the attention. The authors'
                code detaches its input, so that they learn from rewards alone there.
            truncated: imagine actions that stay in [-1, 1]. The authors' code draws from a plain
                normal, and clamps in the environment only.
            reversed_returns: give the returns to the states in reversed order, as the authors'
                code does.
            fp32: keep actor, critic and attention out of autocast.
        """
        super().__init__()
        self.horizon, self.gamma, self.lambda_ = horizon, gamma, lambda_
        self.entropy_scale, self.slow_every = Schedule(entropy_scale), slow_target_every
        self.reward_head, self.fp32 = reward_head, fp32
        self.value_gradient, self.truncated = value_gradient, truncated
        self.reversed_returns = reversed_returns
        width = _width(views["policy"])
        if _width(views["value"]) != width:
            raise ValueError("the views 'policy' and 'value' differ, but share an attention")
        self.actor = Actor(
            width,
            action,
            layers=actor_layers,
            units=units,
            norm="none",
            act=act,
            min_std=min_std,
            init_std=init_std,
            fp32=fp32,
            init=init,
        )
        self.critic, self.slow_critic = (
            MLP(width, 1, layers=critic_layers, units=units, act=act, init=init) for _ in range(2)
        )
        self.slow_critic.load_state_dict(self.critic.state_dict())
        self.slow_critic.requires_grad_(False)
        attends = isinstance(views["policy"], Mapping)
        self.attention = Attention(width) if attends else None

    @property
    def capturable(self) -> bool:
        """Whether the entropy's weight is a constant."""
        return self.entropy_scale.constant

    def policy(self, features: Features) -> Distribution:
        """Distribution over actions for the view `policy`; samples are valid actions."""
        return self.distribution(self.actor(self.read(features)))

    def read(self, features: Features) -> Tensor:
        """Turn a view into one vector `[*lead, F]`."""
        if self.attention is None:
            return as_vector(features)
        assert isinstance(features, dict)
        ctrl, future = as_vector(features["ctrl"]), as_vector(features["future"])
        with torch.autocast(ctrl.device.type, enabled=not self.fp32 and _autocasts(ctrl)):
            found: Tensor = self.attention(ctrl, future)
        return found.float()

    def distribution(self, raw: Tensor) -> OneHot | TruncatedNormal:
        """Turn the actor's outputs into a distribution over `[*lead, A]`."""
        made = self.actor.distribution(raw)
        if isinstance(made, TruncatedNormal) and not self.truncated:
            return LooseNormal(made.loc, made.scale)
        assert isinstance(made, OneHot | TruncatedNormal)
        return made

    def plan(self, agent: Agent) -> Sequence[Phase]:
        """World model, then actor and critic together, then the slow copy.

        Raises:
            IncompatibleParts: the reward head predicts for another state than the one it reads.
        """
        model = agent.world_model
        if model.head(self.reward_head).timing != "arrival":
            raise IncompatibleParts(
                f"head {self.reward_head!r} has the timing "
                f"{model.head(self.reward_head).timing!r}; imagination reads what belongs to the "
                "state itself",
                hint="use a head of the timing 'arrival'",
            )

        def copy_slow(update: Update) -> None:
            if (update.updates + 1) % self.slow_every == 0:
                follow(self.slow_critic, self.critic)

        return [
            model.phase(agent.explorer),
            Phase("behavior", lambda update: self._objectives(agent, update), after=copy_slow),
        ]

    def _objectives(self, agent: Agent, update: Update) -> Sequence[Objective]:
        quiet = [agent.world_model, self.slow_critic]
        with frozen(*quiet, *([self.attention] if self.attention else [])):
            seen, reward, raws = self.rollout(agent, update)
            slow_value = self.slow_value(seen)
        returns = self.returns(reward, slow_value)
        weight = discount_weights(torch.full_like(reward, self.gamma))[:, :-1]
        entropy = self.distribution(torch.stack(raws, 1)).entropy()
        scale = self.entropy_scale(update.agent_steps)
        actor_loss = -(weight * (returns + scale * entropy)).mean()
        before_last = tree_map(lambda x: x[:, :-1], _detached(seen))
        value = in_fp32(self.critic, self.read(before_last), self.fp32).squeeze(-1)
        error = -UnitNormal(value, event_dims=0).log_prob(returns.detach())
        update.metrics.update(_metrics(reward, returns, value, slow_value, entropy))
        own = ("behavior.attention",) if self.attention else ()
        return [
            Objective("actor", actor_loss, ("behavior.actor",)),
            Objective("critic", (weight * error).mean(), ("behavior.critic", *own)),
        ]

    def slow_value(self, seen: Features) -> Tensor:
        """Slow critic's values `[*lead]` of the view `value`, with a gradient where that is set."""
        kept = seen if self.value_gradient or self.attention is None else _detached(seen)
        return in_fp32(self.slow_critic, self.read(kept), self.fp32).squeeze(-1)

    def returns(self, reward: Tensor, value: Tensor) -> Tensor:
        """Lambda returns `[N, K - 1]` of rewards and values `[N, K]`."""
        found = lambda_return(reward, value, torch.full_like(reward, self.gamma), self.lambda_)
        return found.flip(1) if self.reversed_returns else found

    def rollout(self, agent: Agent, update: Update) -> Rollout:
        """Imagine from every observed state.

        Returns:
            The view `value` `[N, K, ...]` and rewards `[N, K]` of the start and the K - 1 states
            after it, with gradients to the actions, and the actor's K - 1 raw outputs.
        """
        model = agent.world_model
        starts = model.dynamics.starts(update.memory["observed"])
        raws: list[Tensor] = []

        def act(features: Features) -> Tensor:
            raws.append(self.actor(self.read(_detached(features))))
            policy = self.distribution(raws[-1])
            return policy.loose() if isinstance(policy, LooseNormal) else policy.sample()

        imagined = model.dynamics.imagine(starts.states, starts.carry, act, self.horizon - 1)
        states = tree_map(
            lambda first, rest: torch.cat([first.unsqueeze(1), rest], 1),
            starts.states,
            imagined.states,
        )
        reward = model.predict(self.reward_head, states).mean
        return model.dynamics.features(states, "value"), reward, raws

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"horizon": 4, "actor_layers": 1, "critic_layers": 1, "units": 8}


def _width(spec: FeatureSpec) -> int:
    """Width F of a vector, or of ctrl's part where there is a future."""
    return flat_size(spec["ctrl"] if isinstance(spec, Mapping) else spec)


def _detached(features: Features) -> Features:
    found: Features = tree_map(lambda x: x.detach(), features)
    return found


def _autocasts(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _metrics(
    reward: Tensor, returns: Tensor, value: Tensor, slow: Tensor, entropy: Tensor
) -> Metrics:
    """What is worth logging of an imagined rollout."""
    return {
        "imagined_reward": reward.detach().mean(),
        "critic": value.detach().mean(),
        "critic_slow": slow.detach().mean(),
        "critic_target": returns.detach().mean(),
        "critic_target_std": returns.detach().std(),
        "actor_entropy": entropy.detach().mean(),
    }
