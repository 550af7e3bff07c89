"""Optimizers that each break one law."""

from typing import Any

import torch
from torch import Tensor

from wmplatform.training.optim import Adam


class TellsTheClippedNorm(Adam):
    def clip(self, grads: list[Tensor]) -> Tensor:
        super().clip(grads)
        return torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads]))


class Amplifies(Adam):
    def clip(self, grads: list[Tensor]) -> Tensor:
        norm = super().clip(grads)
        torch._foreach_mul_(grads, 2.0)
        return norm


class NeverSkips(Adam):
    def step(self, grads: list[Tensor], skip: Tensor) -> None:
        super().step(grads, torch.zeros_like(skip))


class MultipliesByTheSkip(Adam):
    """Zero times NaN is NaN."""

    def step(self, grads: list[Tensor], skip: Tensor) -> None:
        super().step([g * (1 - skip) for g in grads], torch.zeros_like(skip))


class ForgetsItsSteps(Adam):
    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "steps": [torch.zeros_like(t) for t in state["steps"]]}


class TakesAnyState(Adam):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, mine in self.state_dict().items():
            for a, b in zip(mine, state[name], strict=False):
                if a.shape == b.shape:
                    a.copy_(b)


class GoesUphill(Adam):
    def step(self, grads: list[Tensor], skip: Tensor) -> None:
        super().step([-g for g in grads], skip)


class WalksMemory(Adam):
    """Pairs weights and gradients in the order of memory, as fused kernels do."""

    def clip(self, grads: list[Tensor]) -> Tensor:
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))

    def step(self, grads: list[Tensor], skip: Tensor) -> None:
        pairs = zip(grads, self.parameters, strict=True)
        super().step(
            [g if 0 in g.stride() else g.as_strided(p.shape, p.stride()) for g, p in pairs], skip
        )


class TakesTheNormOfMemory(Adam):
    """Counts what lies in the gaps, and an expanded element once."""

    def clip(self, grads: list[Tensor]) -> Tensor:
        norm = torch.stack([torch.tensor(g.untyped_storage()).square().sum() for g in grads])
        super().clip(grads)
        return norm.sum().sqrt()


MUTANTS = {
    TellsTheClippedNorm: "law_1_clip_tells_the_norm",
    Amplifies: "law_1_clip_tells_the_norm",
    NeverSkips: "law_2_skipped_steps_change_nothing",
    MultipliesByTheSkip: "law_2_skipped_steps_change_nothing",
    ForgetsItsSteps: "law_3_restoring_continues",
    TakesAnyState: "law_3_restoring_continues",
    GoesUphill: "law_4_steps_go_downhill",
    WalksMemory: "law_5_only_values_count",
    TakesTheNormOfMemory: "law_5_only_values_count",
}
