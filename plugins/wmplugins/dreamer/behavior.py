"""Actor-critic learned in imagination (DreamerV2 section 2.2).

Shape letters: N start states, H imagined steps, K = H + 1 states with the start, A action.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.distributions import UnitNormal
from wmplatform.interfaces import Behavior, Objective, Phase, Update
from wmplatform.schedules import Schedule
from wmplatform.types import (
    ActionSpec,
    Distribution,
    Features,
    FeatureSpec,
    Latent,
    Metrics,
    tree_map,
)
from wmplatform.world_model import IncompatibleParts
from wmplugins.blocks import (
    MLP,
    Act,
    Actor,
    Norm,
    as_vector,
    discount_weights,
    flat_size,
    follow,
    frozen,
    in_fp32,
    lambda_return,
)

__all__ = ["ImaginationActorCritic"]

Gradient = Literal["auto", "dynamics", "reinforce", "both"]


class ImaginationActorCritic(Behavior):
    """DreamerV2's behavior: rollouts of `horizon` steps from every replayed state.

    Plan: the world model's phase, then one phase with the actor's and the critic's objective. The
    start states come from the world model's forward pass (before its step); rewards and
    transitions use the stepped model.
    """

    needs_imagination = True

    def __init__(
        self,
        views: Mapping[str, FeatureSpec],
        action: ActionSpec,
        *,
        horizon: Annotated[int, Ge(2)] = 15,
        gamma: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.99,
        lambda_: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.95,
        entropy_scale: float | str = 1e-4,
        gradient: Gradient = "auto",
        mix: float | str = 0.1,
        layers: Annotated[int, Ge(0)] = 4,
        units: Annotated[int, Ge(1)] = 400,
        norm: Norm = "none",
        act: Act = "elu",
        min_std: Annotated[float, Gt(0.0)] = 0.1,
        init_std: float = 0.0,
        slow_target_every: Annotated[int, Ge(1)] = 100,
        slow_target_fraction: Annotated[float, Interval(gt=0.0, le=1.0)] = 1.0,
        reward_head: str = "reward",
        continue_head: str = "continue",
        entropy_in_critic_target: bool = False,
        fp32: bool = True,
    ) -> None:
        """Build actor, critic and slow critic.

        Args:
            views: of the dynamics; `policy` feeds the actor, `value` the critic.
            action: the action's spec.
            horizon: imagined agent steps H.
            gamma: discount where the model has no head named `continue_head`.
            lambda_: of the lambda return.
            entropy_scale: weight of the policy's entropy, a schedule over agent steps.
            gradient: of the actor: through the dynamics, by likelihood ratio, both, or the
                first for continuous and the second for discrete actions.
            mix: share of the dynamics gradient where `gradient` is both; a schedule.
            layers: hidden layers of actor and critic.
            units: their width.
            norm: their normalisation.
            act: their activation.
            min_std: smallest scale of the truncated normal.
            init_std: shift of its raw scale.
            slow_target_every: updates n between copies to the slow critic, which equals the
                critic at first: after update n, 2n, ...
            slow_target_fraction: 1 copies, less moves by that share.
            reward_head: head that imagination reads.
            continue_head: head that predicts the discount, if the model has one.
            entropy_in_critic_target: reproduce a code whose critic regresses on returns that
                the entropy bonus had been added to in place.
            fp32: keep actor and critic out of autocast.
        """
        super().__init__()
        self.horizon, self.gamma, self.lambda_ = horizon, gamma, lambda_
        self.entropy_scale, self.mix = Schedule(entropy_scale), Schedule(mix)
        self.gradient = gradient
        if gradient == "auto":
            self.gradient = "dynamics" if action.kind == "continuous" else "reinforce"
        self.needs_differentiable_rollout = self.gradient != "reinforce"
        self.slow_every, self.slow_fraction = slow_target_every, slow_target_fraction
        self.reward_head, self.continue_head = reward_head, continue_head
        self.entropy_in_critic_target, self.fp32 = entropy_in_critic_target, fp32
        self.actor = Actor(
            flat_size(views["policy"]),
            action,
            layers=layers,
            units=units,
            norm=norm,
            act=act,
            min_std=min_std,
            init_std=init_std,
            fp32=fp32,
        )
        values = flat_size(views["value"])
        self.critic = MLP(values, 1, layers=layers, units=units, norm=norm, act=act)
        self.slow_critic = MLP(values, 1, layers=layers, units=units, norm=norm, act=act)
        self.slow_critic.load_state_dict(self.critic.state_dict())
        self.slow_critic.requires_grad_(False)

    @property
    def capturable(self) -> bool:
        """Whether entropy scale and mix are constants."""
        return self.entropy_scale.constant and self.mix.constant

    def policy(self, features: Features) -> Distribution:
        """Distribution over actions for the view `policy`."""
        return self.actor.distribution(self.actor(as_vector(features)))

    def plan(self, agent: Agent) -> Sequence[Phase]:
        """World model, then actor and critic together, then the slow copy.

        Raises:
            IncompatibleParts: a head predicts for another state than the one it reads.
        """
        model = agent.world_model
        for name in (self.reward_head, self.continue_head):
            if name in model.heads and model.head(name).timing != "arrival":
                raise IncompatibleParts(
                    f"head {name!r} has the timing {model.head(name).timing!r}; imagination reads "
                    "what belongs to the state itself",
                    hint="use a head of the timing 'arrival'",
                )

        def imagine_and_learn(update: Update) -> Sequence[Objective]:
            return self._objectives(agent, update)

        def copy_slow(update: Update) -> None:
            if (update.updates + 1) % self.slow_every == 0:
                follow(self.slow_critic, self.critic, self.slow_fraction)

        return [
            model.phase(agent.explorer),
            Phase("behavior", imagine_and_learn, after=copy_slow),
        ]

    def _objectives(self, agent: Agent, update: Update) -> Sequence[Objective]:
        model = agent.world_model
        starts = model.dynamics.starts(update.memory["observed"])
        raws: list[Tensor] = []

        def act(features: Features) -> Tensor:
            raws.append(self.actor(as_vector(features).detach()))
            return self.actor.distribution(raws[-1]).sample()

        with frozen(model, self.slow_critic):
            imagined = model.dynamics.imagine(starts.states, starts.carry, act, self.horizon)
            states = tree_map(
                lambda first, rest: torch.cat([first.unsqueeze(1), rest], 1),
                starts.states,
                imagined.states,
            )
            reward = model.predict(self.reward_head, states).mean
            discount = self._discount(agent, states, reward, update, starts.rows)
            value_features = as_vector(model.dynamics.features(states, "value"))
            slow_value = in_fp32(self.slow_critic, value_features, self.fp32).squeeze(-1)
        returns = lambda_return(reward, slow_value, discount, self.lambda_)
        weight = discount_weights(discount)
        policy = self.actor.distribution(torch.stack(raws, 1))
        scale = self.entropy_scale(update.agent_steps)
        mix = self.mix(update.agent_steps)
        actor_loss, entropy = self.actor_loss(
            returns, slow_value, weight, policy, imagined.actions, scale, mix
        )
        target = returns.detach()
        if self.entropy_in_critic_target and self.gradient == "dynamics":
            leak = scale * entropy.detach()[:, :-1]
            target = torch.cat([target[:, :1], target[:, 1:] + leak], 1)
        value = in_fp32(self.critic, value_features[:, :-1].detach(), self.fp32).squeeze(-1)
        critic_loss = self.critic_loss(value, target, weight)
        update.metrics.update(_metrics(reward, returns, value, slow_value, entropy, weight))
        return [
            Objective("actor", actor_loss, ("behavior.actor",)),
            Objective("critic", critic_loss, ("behavior.critic",)),
        ]

    def actor_loss(
        self,
        returns: Tensor,
        value: Tensor,
        weight: Tensor,
        policy: Distribution,
        actions: Tensor,
        entropy_scale: float,
        mix: float,
    ) -> tuple[Tensor, Tensor]:
        """Return the actor's loss (DreamerV2 eq. 6) and the policy's entropy `[N, H]`.

        Args:
            returns: `[N, H]`, with gradient to the actions where the dynamics carry it.
            value: slow critic `[N, H + 1]`, the baseline.
            weight: `[N, H + 1]`.
            policy: at the states 0..H-1.
            actions: `[N, H, A]`; entry i was chosen at state i.
            entropy_scale: weight of the entropy.
            mix: share of the dynamics gradient where both are used.
        """
        entropy = policy.entropy()
        objective = returns[:, 1:]
        if self.gradient != "dynamics":
            log_prob = policy.log_prob(actions.detach())[:, :-1]
            advantage = (returns[:, 1:] - value[:, :-2]).detach()
            objective = log_prob * advantage
            if self.gradient == "both":
                objective = mix * returns[:, 1:] + (1 - mix) * objective
        objective = objective + entropy_scale * entropy[:, :-1]
        return -(weight[:, :-2] * objective).mean(), entropy

    def critic_loss(self, value: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Half the squared error to the lambda returns, weighted (DreamerV2 eq. 5).

        Args:
            value: `[N, H]`.
            target: `[N, H]`, detached.
            weight: `[N, H + 1]`.
        """
        return -(weight[:, :-1] * UnitNormal(value, event_dims=0).log_prob(target)).mean()

    def _discount(
        self, agent: Agent, states: Latent, reward: Tensor, update: Update, rows: Tensor
    ) -> Tensor:
        """Discount of each state `[N, H + 1]`; that of the start comes from the record."""
        model = agent.world_model
        if self.continue_head not in model.heads:
            return torch.full_like(reward, self.gamma)
        discount = model.predict(self.continue_head, states).mean
        observed = update.memory["observed"]
        terminal = update.batch["is_terminal"][:, observed.records].bool().flatten()
        first = self.gamma * (~terminal.index_select(0, rows)).float()
        return torch.cat([first.unsqueeze(1), discount[:, 1:]], 1)

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"horizon": 3, "layers": 1, "units": 8}


def _metrics(
    reward: Tensor, returns: Tensor, value: Tensor, slow: Tensor, entropy: Tensor, weight: Tensor
) -> Metrics:
    """What is worth logging of an imagined rollout."""
    return {
        "imagined_reward": reward.detach().mean(),
        "critic": value.detach().mean(),
        "critic_slow": slow.detach().mean(),
        "critic_target": returns.detach().mean(),
        "critic_target_std": returns.detach().std(),
        "actor_entropy": entropy.detach().mean(),
        "imagined_weight": weight.mean(),
    }
