"""World models that each break one law of assembly."""

from typing import Any

import torch
from torch import Tensor

from wmplatform.agent import ActMemory, Agent
from wmplatform.types import Batch, tree_map
from wmplatform.world_model import ModelLosses, WorldModel


class _Recast(WorldModel):
    """Computes its losses from a batch that is not the one it was given."""

    def losses(self, batch: Batch, *a: Any, **k: Any) -> ModelLosses:
        return super().losses({**batch, **self.recast(batch)}, *a, **k)

    def recast(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError


class PairsTheNextReward(_Recast):
    """The state of record t with the reward of record t + 1, for a head of timing `arrival`."""

    def recast(self, batch: Batch) -> dict[str, Tensor]:
        return {"reward": batch["reward"].roll(-1, 1)}


class PairsTheLastReward(_Recast):
    def recast(self, batch: Batch) -> dict[str, Tensor]:
        return {"reward": batch["reward"].roll(1, 1)}


class PairsTheNextRow(_Recast):
    def recast(self, batch: Batch) -> dict[str, Tensor]:
        return {"reward": batch["reward"].roll(1, 0)}


class CrossesEpisodes(_Recast):
    """Departure pairs run across the end of an episode."""

    def recast(self, batch: Batch) -> dict[str, Tensor]:
        return {"is_first": torch.zeros_like(batch["is_first"])}


class SendsEveryGradient(WorldModel):
    """Ignores `sends_gradient`."""

    def losses(self, batch: Batch, *a: Any, **k: Any) -> ModelLosses:
        heads = [self.head(name) for name in self.heads]
        declared = [head.sends_gradient for head in heads]
        for head in heads:
            head.sends_gradient = True
        found = super().losses(batch, *a, **k)
        for head, sends in zip(heads, declared, strict=True):
            head.sends_gradient = sends
        return found


class ForgetsALoss(WorldModel):
    def losses(self, batch: Batch, *a: Any, **k: Any) -> ModelLosses:
        found = super().losses(batch, *a, **k)
        del found.losses["kl"]
        return found


class MixesRows(WorldModel):
    def losses(self, batch: Batch, *a: Any, **k: Any) -> ModelLosses:
        found = super().losses(batch, *a, **k)
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
