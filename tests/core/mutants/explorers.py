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


class WarmsUpWithTwoOnes(BonusExplorer):
    def warmup(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        action = super().warmup(batch, device)
        return (action + action.roll(1, -1)).clamp(-1, 1)


class WarmsUpAllRowsAlike(BonusExplorer):
    def warmup(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return super().warmup(1, device).expand(batch, -1)


class WarmsUpOneRowForTwo(BonusExplorer):
    def warmup(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        return super().warmup((batch + 1) // 2, device).repeat(2, 1)[:batch]


class _Noisy(BonusExplorer):
    """Adds what `noise` says to the mode of the policy."""

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        if mode == "eval" or self.action.kind == "discrete":
            return super().act(policy, mode, agent_steps)
        return (policy.mode + self.noise(policy.mode)).clamp(-1, 1)

    def noise(self, mode: Tensor) -> Tensor:
        return 0.3 * torch.randn_like(mode)


class OneNoiseForAllRows(_Noisy):
    def noise(self, mode: Tensor) -> Tensor:
        return 0.3 * torch.randn(mode.shape[-1])


class OneSampleForAllRows(BonusExplorer):
    """The index of a discrete action, or the noise of a continuous one, is drawn once."""

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        action = super().act(policy, mode, agent_steps)
        return action if mode == "eval" else action[:1].expand_as(action)


class ExploresInTheFirstRow(_Noisy):
    def noise(self, mode: Tensor) -> Tensor:
        rows = torch.arange(len(mode))[:, None]
        return super().noise(mode) * (rows == 0)


class RestsInTheLastRow(_Noisy):
    def noise(self, mode: Tensor) -> Tensor:
        rows = torch.arange(len(mode))[:, None]
        return super().noise(mode) * (rows < len(mode) - 1)


class ScalesNoiseByItsRow(_Noisy):
    def noise(self, mode: Tensor) -> Tensor:
        return super().noise(mode) * torch.linspace(0.2, 1.8, len(mode))[:, None]


class ScalesNoiseByTheBatch(_Noisy):
    """The actions of other rows decide how much a row explores."""

    def noise(self, mode: Tensor) -> Tensor:
        return super().noise(mode) * (1 + mode.std())


class PullsRowsTogether(BonusExplorer):
    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        action = super().act(policy, mode, agent_steps)
        if mode == "eval" or self.action.kind == "discrete":
            return action
        return 0.9 * action + 0.1 * policy.mode.mean(0)


class ExploresInTrainModeOnly(BonusExplorer):
    """Agents act with their modules in eval mode: it would never explore."""

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        return super().act(policy, mode if self.training else "eval", agent_steps)


class JittersInEval(BonusExplorer):
    """From a generator of its own, so that no global state moves."""

    def act(self, policy: Distribution, mode: Mode, agent_steps: int) -> Tensor:
        action = super().act(policy, mode, agent_steps)
        if mode == "train" or self.action.kind == "discrete":
            return action
        jitter = 1e-6 * torch.randn(action.shape, generator=torch.Generator())
        return (action + jitter).clamp(-1, 1)


class BonusOfTheRecordBefore(BonusExplorer):
    def intrinsic(self, features: Features) -> Intrinsic | None:
        bonus = super().intrinsic(features)
        assert bonus is not None
        return Intrinsic(bonus.values.roll(1, 1), bonus.metrics)


class BonusOfAnotherRow(BonusExplorer):
    def intrinsic(self, features: Features) -> Intrinsic | None:
        bonus = super().intrinsic(features)
        assert bonus is not None
        return Intrinsic(bonus.values.flip(0), bonus.metrics)


class BonusOfTheBatch(BonusExplorer):
    def intrinsic(self, features: Features) -> Intrinsic | None:
        bonus = super().intrinsic(features)
        assert bonus is not None
        return Intrinsic(bonus.values.mean().expand_as(bonus.values), bonus.metrics)


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
    WarmsUpWithTwoOnes: "law_1_actions_are_valid",
    WarmsUpAllRowsAlike: "law_7_rows_explore_alike_and_apart",
    WarmsUpOneRowForTwo: "law_7_rows_explore_alike_and_apart",
    OneNoiseForAllRows: "law_7_rows_explore_alike_and_apart",
    OneSampleForAllRows: "law_7_rows_explore_alike_and_apart",
    ExploresInTheFirstRow: "law_7_rows_explore_alike_and_apart",
    RestsInTheLastRow: "law_7_rows_explore_alike_and_apart",
    ScalesNoiseByItsRow: "law_7_rows_explore_alike_and_apart",
    ScalesNoiseByTheBatch: "law_7_rows_do_not_mix",
    PullsRowsTogether: "law_7_rows_do_not_mix",
    ExploresInTrainModeOnly: "law_3_equal_clocks_agree",
    JittersInEval: "law_2_eval_is_quiet",
    BonusOfTheRecordBefore: "law_4_bonus_belongs_to_its_record",
    BonusOfAnotherRow: "law_4_bonus_belongs_to_its_record",
    BonusOfTheBatch: "law_4_bonus_belongs_to_its_record",
}
