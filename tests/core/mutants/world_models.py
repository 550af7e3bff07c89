"""World models that each break one law of assembly."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wmplatform.agent import ActMemory, Agent
from wmplatform.interfaces import Explorer, Objective, Observed, Phase, Update
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


class _RecastImages(WorldModel):
    """Compares what it decodes with other images than those of its records."""

    def _image_losses(self, observed: Observed, records: Batch, context: Any) -> dict[str, Tensor]:
        return super()._image_losses(observed, {"pixels": self.recast(records["pixels"])}, context)

    def recast(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError


class DecodesTheNextImage(_RecastImages):
    def recast(self, pixels: Tensor) -> Tensor:
        return pixels.roll(-1, 1)


class DecodesAnotherRow(_RecastImages):
    def recast(self, pixels: Tensor) -> Tensor:
        return pixels.roll(1, 0)


class LeavesOutTheLastImage(_RecastImages):
    """As if it were the end of the segment that counts, and not its records."""

    def recast(self, pixels: Tensor) -> Tensor:
        return torch.cat([pixels[:, :-1], torch.zeros_like(pixels[:, -1:])], 1)


class PairsTheActionBefore(WorldModel):
    """A head of transitions reads the action that led into the state before."""

    def _head_loss(self, name: str, seen: Any, records: Batch, metrics: Any) -> Tensor:
        action = records["action"].roll(1, 1)
        return super()._head_loss(name, seen, {**records, "action": action}, metrics)


class StaysInTrainMode(WorldModel):
    def phase(self, explorer: Explorer | None = None) -> Phase:
        phase = super().phase(explorer)

        def compute(update: Update) -> Sequence[Objective]:
            objectives = phase.compute(update)
            self.train()
            return objectives

        return Phase(phase.name, compute)


class LearnsInEvalMode(WorldModel):
    """Running statistics never follow, and dropout is never on."""

    def losses(self, batch: Batch, *a: Any, **k: Any) -> ModelLosses:
        self.eval()
        return super().losses(batch, *a, **k)


class ForgetsTheCarry(WorldModel):
    """Starts every segment anew, whatever states replay kept."""

    def losses(self, batch: Batch, explorer: Any = None, carry: Any = None) -> ModelLosses:
        return super().losses(batch, explorer)


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
