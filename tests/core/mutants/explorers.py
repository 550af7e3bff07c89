"""Explorers that each break one law."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from wmplatform.interfaces import Intrinsic
from wmplatform.types import ActionSpec, Distribution, Features, FeatureSpec, Mode

from ..reference_components import BonusExplorer


class WarmUpOutOfRange(BonusExplorer):
    def warmup(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return torch.randn(batch, self.action.size)


class WarmUpInDoubles(BonusExplorer):
    def warmup(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return super().warmup(batch, device).double()


class LeavesTheRange(BonusExplorer):
    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        action = super().act(policy, mode, agent_steps)
        return action if mode == "eval" else action + 0.5 * torch.randn_like(action)


class SamplesInEval(BonusExplorer):
    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        return super().act(policy, "train", agent_steps)


class DrawsInEval(BonusExplorer):
    """Adds noise of scale zero, which is quiet but not silent: the run is another one."""

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        action = super().act(policy, mode, agent_steps)
        return action + torch.randn_like(action) * 0


class ActsByTheMeanInEval(BonusExplorer):
    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        return policy.mean if mode == "eval" else super().act(policy, mode, agent_steps)


class CountsItsOwnCalls(BonusExplorer):
    calls = 0

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        self.calls += 1
        return super().act(policy, mode, self.calls)


class DrawsFromNumPy(BonusExplorer):
    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        if mode == "eval":
            return policy.mode
        noise = torch.from_numpy(np.random.default_rng().normal(size=policy.mode.shape)).float()
        return (policy.mode + noise).clamp(-1, 1)


class BonusWithGradient(BonusExplorer):
    def intrinsic(self, features: Features) -> Intrinsic | None:
        assert isinstance(features, Tensor)
        return Intrinsic((features - self.center).norm(dim=-1), {})


class BonusForTooManyRecords(BonusExplorer):
    def intrinsic(self, features: Features) -> Intrinsic | None:
        assert isinstance(features, Tensor)
        return Intrinsic(torch.zeros(features.shape[0], features.shape[1] + 1), {})


class BonusChangesTheFeatures(BonusExplorer):
    def intrinsic(self, features: Features) -> Intrinsic | None:
        assert isinstance(features, Tensor)
        features.detach().sub_(self.center + 1)
        return super().intrinsic(features)


class BonusWithoutAView(BonusExplorer):
    view = None


class ViewWithoutABonus(BonusExplorer):
    def intrinsic(self, features: Features) -> Intrinsic | None:
        return None


class BonusTrainsAParameter(BonusExplorer):
    def __init__(self, action: ActionSpec, views: Mapping[str, FeatureSpec]) -> None:
        super().__init__(action, views)
        self.scale = nn.Parameter(torch.ones(()))

    def intrinsic(self, features: Features) -> Intrinsic | None:
        with torch.no_grad():
            self.scale.mul_(0.9)
        return super().intrinsic(features)


class StateIsNoBuffer(BonusExplorer):
    seen = 0

    def intrinsic(self, features: Features) -> Intrinsic | None:
        bonus = super().intrinsic(features)
        assert bonus is not None
        self.seen += 1
        return Intrinsic(bonus.values / self.seen, {})


class QueueIsAList(BonusExplorer):
    """Rewards the distance to what it has seen, NaN included."""

    def __init__(self, action: ActionSpec, views: Mapping[str, FeatureSpec]) -> None:
        super().__init__(action, views)
        self.queue: list[Tensor] = []

    def intrinsic(self, features: Features) -> Intrinsic | None:
        assert isinstance(features, Tensor)
        self.queue.append(features.detach().mean((0, 1)))
        self.center.copy_(torch.stack(self.queue).mean(0))
        return super().intrinsic(features)


class RemembersNaN(BonusExplorer):
    """Leaves out what was ever NaN; on finite features nothing ever changes."""

    def __init__(self, action: ActionSpec, views: Mapping[str, FeatureSpec]) -> None:
        super().__init__(action, views)
        self.__dict__["fine"] = torch.ones(self.center.shape)

    def intrinsic(self, features: Features) -> Intrinsic | None:
        assert isinstance(features, Tensor)
        self.fine = self.fine * features.detach().isfinite().all(0).all(0)
        return super().intrinsic(features * self.fine)


MUTANTS = {
    WarmUpOutOfRange: "law_1_actions_are_valid",
    WarmUpInDoubles: "law_1_actions_are_valid",
    LeavesTheRange: "law_1_actions_are_valid",
    SamplesInEval: "law_2_eval_is_quiet",
    DrawsInEval: "law_2_eval_is_quiet",
    ActsByTheMeanInEval: "law_2_eval_is_quiet",
    CountsItsOwnCalls: "law_3_equal_clocks_agree",
    DrawsFromNumPy: "law_3_equal_clocks_agree",
    BonusWithGradient: "law_4_intrinsic_moves_no_gradient",
    BonusForTooManyRecords: "law_4_intrinsic_moves_no_gradient",
    BonusChangesTheFeatures: "law_4_intrinsic_moves_no_gradient",
    BonusWithoutAView: "law_4_intrinsic_moves_no_gradient",
    ViewWithoutABonus: "law_4_intrinsic_moves_no_gradient",
    BonusTrainsAParameter: "law_4_intrinsic_moves_no_gradient",
    StateIsNoBuffer: "law_5_state_is_in_buffers",
    QueueIsAList: "law_6_skipped_updates_leave_no_trace",
    RemembersNaN: "law_6_skipped_updates_leave_no_trace",
}
