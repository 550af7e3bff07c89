"""Small healthy components, the neighbours of whatever is checked inside a whole agent.

Behaviors and world models cannot be checked alone. These parts obey every law, are tiny (8 x 8
images), and belong to no paper: a plain stochastic recurrent model with Gaussian states.

Shape letters: B batch, T time, N rows, E embedding, S stochastic, D deterministic.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.contracts.probes import draw_actions, draw_specs, generator
from wmplatform.distributions import Bernoulli, UnitNormal
from wmplatform.factory import Factory
from wmplatform.images import to_centred
from wmplatform.interfaces.behavior import Behavior
from wmplatform.interfaces.encoder import Encoder
from wmplatform.interfaces.explorer import Explorer
from wmplatform.interfaces.latent_dynamics import Imagined, LatentDynamics, Observed
from wmplatform.interfaces.reward_head import Head, RewardHead
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
    Batch,
    Carry,
    Context,
    Distribution,
    EnvSpec,
    Features,
    FeatureSpec,
    Latent,
    Metrics,
    Policy,
    Target,
    select_where,
    tree_map,
)
from wmplatform.world_model import WorldModel

__all__ = [
    "LinearContinueHead",
    "LinearEncoder",
    "LinearRewardHead",
    "RecurrentDynamics",
    "draw_records",
    "draw_transitions",
    "env_spec",
    "make_agent",
    "make_explorers_agent",
    "make_world_model",
]

PIXELS = ArraySpec((3, 8, 8), "uint8")


def env_spec(action: ActionSpec) -> EnvSpec:
    """An environment of 8 x 8 images."""
    return EnvSpec({"pixels": PIXELS}, action, time_limit=10)


class LinearEncoder(Encoder):
    """One linear layer and a tanh over the flattened image."""

    def __init__(
        self, observations: Mapping[str, ArraySpec], *, width: int = 8, key: str = "pixels"
    ) -> None:
        super().__init__()
        self.key, self.keys, self.width = key, (key,), width
        self.linear = nn.Linear(math.prod(observations[key].shape), width)

    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        """One embedding, `embed`."""
        return {"embed": ArraySpec((self.width,))}

    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed `[*lead, C, H, W]` to `[*lead, E]`."""
        return {"embed": torch.tanh(self.linear(to_centred(observations[self.key]).flatten(-3)))}


class RecurrentDynamics(LatentDynamics):
    """A recurrent cell with a Gaussian posterior and prior of unit variance."""

    loss_names = ("kl",)

    def __init__(
        self,
        embeds: Mapping[str, ArraySpec],
        action: ActionSpec,
        *,
        deter: int = 6,
        stoch: int = 4,
        embed: str = "embed",
    ) -> None:
        super().__init__()
        self.deter, self.stoch, self.embed = deter, stoch, embed
        self.cell = nn.Linear(deter + stoch + action.size, deter)
        self.prior = nn.Linear(deter, stoch)
        self.posterior = nn.Linear(deter + math.prod(embeds[embed].shape), stoch)

    @property
    def views(self) -> frozenset[str]:
        """All views are the same."""
        return frozenset({"policy", "value", "reward", "decode", "continue"})

    def feature_spec(self, view: str) -> FeatureSpec:
        """Deterministic and stochastic part, concatenated."""
        del view
        return ArraySpec((self.deter + self.stoch,))

    def features(self, state: Latent, view: str) -> Features:
        """Concatenate, `[*lead, D + S]`."""
        del view
        return torch.cat([state["deter"], state["stoch"]], -1)

    def initial(self, batch: int, device: torch.device | str = "cpu") -> Carry:
        """Zeros."""
        zeros = torch.zeros(batch, self.deter + self.stoch, device=device)
        deter, stoch = zeros.split([self.deter, self.stoch], -1)
        return {"deter": deter, "stoch": stoch}

    def observe(
        self,
        embeds: Mapping[str, Tensor],
        actions: Tensor | None,
        is_first: Tensor,
        carry: Carry | None = None,
        *,
        context: Context | None = None,
        deterministic: bool = False,
    ) -> Observed:
        """Infer record after record."""
        assert actions is not None
        carry = self.initial(is_first.shape[0], is_first.device) if carry is None else carry
        states = []
        for t in range(is_first.shape[1]):
            embed = {name: x[:, t] for name, x in embeds.items()}
            state, carry = self.observe_step(
                embed,
                actions[:, t],
                is_first[:, t],
                carry,
                context=context,
                deterministic=deterministic,
            )
            states.append(state)
        return Observed(tree_map(lambda *x: torch.stack(x, 1), *states), carry)

    def observe_step(
        self,
        embeds: Mapping[str, Tensor],
        action: Tensor | None,
        is_first: Tensor,
        carry: Carry,
        *,
        context: Context | None = None,
        deterministic: bool = False,
    ) -> tuple[Latent, Carry]:
        """Forget where an episode starts, go one step on, take the observation in."""
        assert action is not None
        del context
        carry = select_where(is_first, self.initial(len(action), action.device), carry)
        action = select_where(is_first, torch.zeros_like(action), action)
        deter = self._advance(carry, action)
        mean = self.posterior(torch.cat([deter, embeds[self.embed].flatten(1)], -1))
        state = {"deter": deter, "stoch": _draw(mean, deterministic), "mean": mean}
        return state, {"deter": deter, "stoch": state["stoch"]}

    def _advance(self, carry: Carry, action: Tensor) -> Tensor:
        deter: Tensor = self.cell(torch.cat([carry["deter"], carry["stoch"], action], -1))
        return deter.tanh()

    def losses(self, observed: Observed) -> tuple[dict[str, Tensor], Metrics]:
        """KL of two normals of unit variance."""
        gap = observed.states["mean"] - self.prior(observed.states["deter"])
        kl = 0.5 * gap.square().sum(-1).mean()
        return {"kl": kl}, {"kl": kl.detach()}

    def imagine(
        self,
        start: Latent,
        carry: Carry,
        policy: Policy | Tensor,
        horizon: int,
        *,
        context: Context | None = None,
        deterministic: bool = False,
    ) -> Imagined:
        """Act on the state, go one step on, draw from the prior."""
        del context
        state, states, actions = start, [], []
        for i in range(horizon):
            if isinstance(policy, Tensor):
                action = policy[:, i]
            else:
                action = policy(self.features(state, "policy"))
            deter = self._advance(carry, action)
            mean = self.prior(deter)
            state = {"deter": deter, "stoch": _draw(mean, deterministic), "mean": mean}
            carry = {"deter": deter, "stoch": state["stoch"]}
            states.append(state)
            actions.append(action)
        stacked = tree_map(lambda *x: torch.stack(x, 1), *states)
        return Imagined(stacked, torch.stack(actions, 1), carry)


class LinearRewardHead(RewardHead):
    """Reward by one linear layer, as a normal of unit variance."""

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__()
        assert isinstance(features, ArraySpec)
        self.linear = nn.Linear(features.shape[0], 1)

    def forward(self, features: Features) -> Distribution:
        """Predict `[*lead]`."""
        assert isinstance(features, Tensor)
        return UnitNormal(self.linear(features).squeeze(-1), event_dims=0)

    def target(self, batch: Batch) -> Target:
        """Return the reward of each record."""
        return Target(batch["reward"].float())


class LinearContinueHead(Head):
    """Whether an episode goes on, by one linear layer."""

    view = "continue"

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__()
        assert isinstance(features, ArraySpec)
        self.linear = nn.Linear(features.shape[0], 1)

    def forward(self, features: Features) -> Distribution:
        """Predict `[*lead]`."""
        assert isinstance(features, Tensor)
        return Bernoulli(self.linear(features).squeeze(-1))

    def target(self, batch: Batch) -> Target:
        """Return 0 where the environment terminated, else 1."""
        return Target(1.0 - batch["is_terminal"].float())


class _PlainExplorer(Explorer):
    """Samples the policy."""

    def __init__(self, action: ActionSpec, views: Mapping[str, FeatureSpec]) -> None:
        super().__init__(action)
        del views


def make_world_model(
    spec: EnvSpec, *, dynamics: Factory[LatentDynamics] | None = RecurrentDynamics
) -> WorldModel:
    """A world model of the parts above, with heads `reward` and `continue`.

    Without a dynamics its state is the embedding, as behaviors that learn from transitions need it.
    """
    return WorldModel(
        spec,
        encoder=LinearEncoder,
        dynamics=dynamics,
        heads={"reward": LinearRewardHead, "continue": LinearContinueHead},
    )


def make_agent(behavior: Factory[Behavior], action: ActionSpec, *, memory: bool = True) -> Agent:
    """An agent of the parts above and this behavior; without memory its state is the embedding."""
    return Agent(
        env_spec(action),
        world_model=partial(make_world_model, dynamics=RecurrentDynamics if memory else None),
        behavior=behavior,
        explorer=_PlainExplorer,
    )


class _ShowingDynamics(RecurrentDynamics):
    """Shows its state in views of any specs, repeated until it fills them."""

    def __init__(
        self,
        embeds: Mapping[str, ArraySpec],
        action: ActionSpec,
        *,
        shown: Mapping[str, FeatureSpec],
    ) -> None:
        super().__init__(embeds, action)
        self.shown = shown

    @property
    def views(self) -> frozenset[str]:
        """Those that are given, and the usual ones."""
        return super().views | self.shown.keys()

    def feature_spec(self, view: str) -> FeatureSpec:
        """As given, else the usual one."""
        return self.shown.get(view, super().feature_spec(view))

    def features(self, state: Latent, view: str) -> Features:
        """Fill the spec, `[*lead, ...]`."""
        x = super().features(state, view)
        assert isinstance(x, Tensor)
        return _filled(self.shown[view], x) if view in self.shown else x


def _filled(spec: FeatureSpec, x: Tensor) -> Features:
    if isinstance(spec, Mapping):
        return {name: _filled(part, x) for name, part in spec.items()}
    index = torch.arange(math.prod(spec.shape), device=x.device) % x.shape[-1]
    return x[..., index].reshape(*x.shape[:-1], *spec.shape)


def make_explorers_agent(
    explorer: Factory[Explorer], action: ActionSpec, views: Mapping[str, FeatureSpec]
) -> Agent:
    """A world model of the parts above with these views and this explorer; nobody acts."""
    read_by_heads = ("reward", "continue")
    shown = {name: spec for name, spec in views.items() if name not in read_by_heads}
    dynamics = partial(_ShowingDynamics, shown=shown)
    model = partial(make_world_model, dynamics=dynamics)
    return Agent(env_spec(action), world_model=model, explorer=explorer)


def draw_records(spec: EnvSpec, seed: int, *, batch: int = 3, length: int = 5) -> TensorDict:
    """A random segment `[B, T]`, as replay gives it; row 1 starts an episode at record 2."""
    lead = (batch, length)
    flags = torch.zeros(4, *lead, dtype=torch.bool)
    flags[0, :, 0] = flags[0, 1:2, 2:3] = True
    flags[1:3, 1:2, 1:2] = True
    is_first, is_last, is_terminal, _ = flags
    keep = (~is_first).float()
    return TensorDict(
        {
            **draw_specs(spec.observations, lead, seed),
            "action": draw_actions(spec.action, lead, seed + 1) * keep[..., None],
            "reward": torch.randn(lead, generator=generator(seed + 2)) * keep,
            "is_first": is_first,
            "is_last": is_last,
            "is_terminal": is_terminal,
        },
        batch_size=lead,
    )


def draw_transitions(spec: EnvSpec, seed: int, *, batch: int = 6) -> TensorDict:
    """Random n-step transitions `[B]`, as replay gives them."""
    following = TensorDict(draw_specs(spec.observations, (batch,), seed + 3), batch_size=[batch])
    return TensorDict(
        {
            **draw_specs(spec.observations, (batch,), seed),
            "action": draw_actions(spec.action, (batch,), seed + 1),
            "reward": torch.randn(batch, generator=generator(seed + 2)),
            "discount": torch.full((batch,), 0.97),
            "next": following,
        },
        batch_size=[batch],
    )


def _draw(mean: Tensor, deterministic: bool) -> Tensor:
    return mean if deterministic else mean + torch.randn_like(mean)


def names_below(names: Sequence[str], prefixes: Sequence[str]) -> set[str]:
    """Names of parameters that lie below one of these prefixes."""
    return {n for n in names if any(n == p or n.startswith(f"{p}.") for p in prefixes)}
