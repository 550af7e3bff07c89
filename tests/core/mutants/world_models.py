"""World models that each break one law of assembly."""

import torch
from torch import Tensor

from wmplatform.agent import ActMemory, Agent
from wmplatform.interfaces import Observed
from wmplatform.types import Batch, Metrics, tree_map
from wmplatform.world_model import ModelLosses, WorldModel


class _OwnPairing(WorldModel):
    """As the healthy one for heads with timing `arrival`, with the pairs in a method of its own."""

    def _head_loss(self, name: str, observed: Observed, records: Batch, metrics: Metrics) -> Tensor:
        head = self.head(name)
        values = head.target(records).values
        features = self.dynamics.features(observed.states, head.view)
        return self.paired_loss(name, features, values).mean()

    def paired_loss(self, name: str, features: Tensor, values: Tensor) -> Tensor:
        return self.head(name).loss(features, values)


class PairsTheNextReward(_OwnPairing):
    """The state of record t with the reward of record t + 1, for a head of timing `arrival`."""

    def paired_loss(self, name: str, features: Tensor, values: Tensor) -> Tensor:
        return super().paired_loss(name, features[:, :-1], values[:, 1:])


class PairsTheLastReward(_OwnPairing):
    def paired_loss(self, name: str, features: Tensor, values: Tensor) -> Tensor:
        return super().paired_loss(name, features, values.roll(1, 1))


class PairsWithinNoRow(_OwnPairing):
    def paired_loss(self, name: str, features: Tensor, values: Tensor) -> Tensor:
        return super().paired_loss(name, features, values.roll(1, 0))


class SendsEveryGradient(_OwnPairing):
    """Ignores `sends_gradient`."""


class CrossesEpisodes(WorldModel):
    """Departure pairs run across the end of an episode."""

    def _head_loss(self, name: str, observed: Observed, records: Batch, metrics: Metrics) -> Tensor:
        joined = {**records, "is_first": torch.zeros_like(records["is_first"])}
        return super()._head_loss(name, observed, joined, metrics)


class ForgetsALoss(WorldModel):
    def losses(self, batch: Batch, explorer: object = None) -> ModelLosses:
        found = super().losses(batch)
        del found.losses["kl"]
        return found


class MixesRows(WorldModel):
    def losses(self, batch: Batch, explorer: object = None) -> ModelLosses:
        found = super().losses(batch)
        found.observed.states = tree_map(lambda x: x - x.mean(0), found.observed.states)
        return found


class ActsOnTheContext(Agent):
    """The acting path encodes a context of its own."""

    def act(
        self,
        observations: dict[str, Tensor],
        is_first: Tensor,
        memory: ActMemory | None,
        **k: object,
    ) -> tuple[Tensor, ActMemory]:
        action, memory = super().act(observations, is_first, memory, **k)  # type: ignore[arg-type]
        context = self.world_model.context({"pixels": observations["pixels"].unsqueeze(1)})
        assert context is not None
        return action + 0.01 * context["static"].mean(), memory
