"""Heads that each break one law."""

from typing import Any

import torch
from torch import Tensor, nn

from wmplatform.distributions import UnitNormal
from wmplatform.types import Batch, Distribution, Features, FeatureSpec, Target, tree_map

from ..reference_components import InverseHead, LinearContinueHead, LinearRewardHead


class TargetOneRecordLate(LinearRewardHead):
    """The reward of record t - 1 stands at record t."""

    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"].roll(1, 1))


class TargetOneRecordEarly(LinearRewardHead):
    """The reward that follows record t stands at record t: departure by hand."""

    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"][:, 1:], slice(0, -1))


class RecordsOffByOne(LinearRewardHead):
    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"][:, :-1], slice(1, None))


class TargetSumsTheRest(LinearRewardHead):
    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"].flip(1).cumsum(1).flip(1))


class TargetIgnoresTheRecord(LinearRewardHead):
    def target(self, batch: Batch) -> Target:
        return Target(torch.zeros_like(batch["reward"]))


class TargetCentredOverTheBatch(LinearRewardHead):
    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"] - batch["reward"].mean(0, keepdim=True))


class TargetInDoubles(LinearRewardHead):
    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"].double())


class LossBesideTheTarget(LinearRewardHead):
    def loss(self, features: Features, target: Tensor) -> Tensor:
        return super().loss(features, target + 1)


class LossUpsideDown(LinearRewardHead):
    def loss(self, features: Features, target: Tensor) -> Tensor:
        return (self(features).mean + target).square()


class LossOfTheBatch(LinearRewardHead):
    def loss(self, features: Features, target: Tensor) -> Tensor:
        return super().loss(features, target).mean()


class LossAcrossRecords(LinearRewardHead):
    def loss(self, features: Features, target: Tensor) -> Tensor:
        return super().loss(features, target - target.mean(-1, keepdim=True))


class LearnsTheNeighbour(LinearRewardHead):
    """Pairs the state of record t with the reward of record t + 1 inside its own loss."""

    def loss(self, features: Features, target: Tensor) -> Tensor:
        return super().loss(features, target.roll(-1, -1))


class KeepsTheLastDim(LinearRewardHead):
    def forward(self, features: Features) -> Distribution:
        return UnitNormal(self.linear(features), event_dims=1)


class MeanInDoubles(LinearRewardHead):
    def forward(self, features: Features) -> Distribution:
        wide = UnitNormal(super().forward(features).mean, event_dims=0)
        wide._mean = wide._mean.double()
        return wide


class MixesRows(LinearRewardHead):
    def forward(self, features: Features) -> Distribution:
        mean = super().forward(features).mean
        return UnitNormal(mean - mean.mean(), event_dims=0)


class CutsTheFeatures(LinearRewardHead):
    def forward(self, features: Features) -> Distribution:
        assert isinstance(features, Tensor)
        return super().forward(features.detach())


class HasAnUnusedLayer(LinearRewardHead):
    def __init__(self, features: FeatureSpec) -> None:
        super().__init__(features)
        self.unused = nn.Linear(2, 2)


class LearnsTheNeighbourInTrainMode(LinearRewardHead):
    def loss(self, features: Features, target: Tensor) -> Tensor:
        return super().loss(features, target.roll(-1, -1) if self.training else target)


class TargetScalesInPlace(LinearRewardHead):
    """Whoever reads the batch after it gets other rewards."""

    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"].div_(10))


class EndsAtTheTimeLimit(LinearContinueHead):
    def target(self, batch: Batch) -> Target:
        return Target(1.0 - batch["is_last"].float())


class WritesIntoTheFeatures(LinearRewardHead):
    def forward(self, features: Features) -> Distribution:
        assert isinstance(features, Tensor)
        return super().forward(features.detach().mul_(0.5) if not self.training else features)


class JittersInEvalMode(LinearRewardHead):
    """Too little to see, but the run is another one."""

    def forward(self, features: Features) -> Distribution:
        mean = super().forward(features).mean
        return UnitNormal(mean + 1e-7 * torch.randn_like(mean), event_dims=0)


class ReadsItsLoss(LinearRewardHead):
    def loss(self, features: Features, target: Tensor) -> Tensor:
        loss = super().loss(features, target)
        return loss * 0.5 if loss.mean().item() > 1e6 else loss


class ReadsTheAnswer(InverseHead):
    def forward(self, features: Features) -> Distribution:
        assert isinstance(features, dict)
        return UnitNormal(self.change(features) + features["action"], event_dims=1)


class PeeksAtTheAnswer(InverseHead):
    """The action is one input among others."""

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__(features)
        self.peek = nn.Linear(3, 3)

    def forward(self, features: Features) -> Distribution:
        assert isinstance(features, dict)
        return UnitNormal(self.change(features) + self.peek(features["action"]), event_dims=1)


class ReadsStatesThatKnowTheAnswer(InverseHead):
    """The state after an action depends on it."""

    view = "policy"

    def part(self, features: Any) -> Any:
        return features


class ReadsTheStateThatItLedInto(LinearRewardHead):
    """Predicts the action that led into the state it reads."""

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__(features)
        self.linear = nn.Linear(12, 3)

    def forward(self, features: Features) -> Distribution:
        return UnitNormal(self.linear(features), event_dims=1)

    def target(self, batch: Batch) -> Target:
        return Target(batch["action"])


class RemembersTheAnswer(LinearRewardHead):
    answer: Tensor | None = None

    def target(self, batch: Batch) -> Target:
        self.answer = batch["reward"]
        return Target(self.answer)

    def forward(self, features: Features) -> Distribution:
        mean = super().forward(features).mean
        fits = self.answer is not None and self.answer.shape == mean.shape
        return UnitNormal(mean + self.answer if fits else mean, event_dims=0)  # type: ignore[operator]


class _ReadsAShare(LinearRewardHead):
    """Reads some entries of the features only."""

    share = slice(None)

    def forward(self, features: Features) -> Distribution:
        assert isinstance(features, Tensor)
        seen = torch.zeros_like(features)
        seen[..., self.share] = features[..., self.share]
        return super().forward(seen)


class BlindToTheLastEntry(_ReadsAShare):
    share = slice(-1)


class BlindToTheFirstHalf(_ReadsAShare):
    share = slice(6, None)


class BlindToPartOfTheChange(InverseHead):
    """Of the embedding after it sees all, of that before only the first entries."""

    def change(self, features: Any) -> Tensor:
        before = tree_map(lambda x: torch.cat([x[..., :4], x[..., 4:] * 0], -1), features["before"])
        return super().change({**features, "before": before})


class MixesRowsInTrainMode(LinearRewardHead):
    def forward(self, features: Features) -> Distribution:
        mean = super().forward(features).mean
        return UnitNormal(mean - 0.1 * mean.mean() if self.training else mean, event_dims=0)


class HidesABatchNorm(LinearRewardHead):
    """Statistics over the batch that it does not declare."""

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__(features)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, features: Features) -> Distribution:
        assert isinstance(features, Tensor)
        flat = features.reshape(-1, features.shape[-1])
        return super().forward(self.norm(flat).view_as(features))


class BatchNormInEvalMode(HidesABatchNorm):
    """Declares its statistics, and uses those of the batch when it predicts too."""

    batch_statistics = True

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__(features)
        self.norm = nn.BatchNorm1d(12, track_running_stats=False)


class ChangesItsTiming(LinearRewardHead):
    """The class says `arrival`, and the platform builds it so."""

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__(features)
        self.timing = "departure"


class ChangesItsView(LinearRewardHead):
    def __init__(self, features: FeatureSpec) -> None:
        super().__init__(features)
        self.view = "policy"


class ScaleIsNoBuffer(LinearRewardHead):
    """Rewards are divided by a running scale that no checkpoint holds."""

    scale = 1.0

    def target(self, batch: Batch) -> Target:
        return Target(batch["reward"] / self.scale)

    def loss(self, features: Features, target: Tensor) -> Tensor:
        self.scale += 0.5
        return super().loss(features, target)


MUTANTS = {
    TargetOneRecordLate: "law_3_target_keeps_time",
    TargetOneRecordEarly: "law_3_target_keeps_time",
    RecordsOffByOne: "law_3_target_keeps_time",
    TargetSumsTheRest: "law_3_target_keeps_time",
    TargetIgnoresTheRecord: "law_3_target_keeps_time",
    TargetCentredOverTheBatch: "law_3_target_reads_its_row_only",
    TargetInDoubles: "law_3_target_keeps_time",
    LossBesideTheTarget: "law_2_loss_is_minimal_at_the_target",
    LossUpsideDown: "law_2_loss_is_minimal_at_the_target",
    LossOfTheBatch: "law_2_loss_is_one_number_a_record",
    LossAcrossRecords: "law_2_loss_is_one_number_a_record",
    LearnsTheNeighbour: "law_4_learns_the_counter",
    KeepsTheLastDim: "law_1_scalars_for_any_leading_dims",
    MeanInDoubles: "law_1_scalars_for_any_leading_dims",
    MixesRows: "law_1_scalars_for_any_leading_dims",
    CutsTheFeatures: "law_5_gradients_reach_features_and_parameters",
    HasAnUnusedLayer: "law_5_gradients_reach_features_and_parameters",
    LearnsTheNeighbourInTrainMode: "law_4_learns_the_counter",
    TargetScalesInPlace: "law_3_target_keeps_time",
    EndsAtTheTimeLimit: "law_3_target_keeps_time",
    WritesIntoTheFeatures: "law_1_scalars_for_any_leading_dims",
    JittersInEvalMode: "law_1_scalars_for_any_leading_dims",
    ReadsItsLoss: "law_2_loss_is_one_number_a_record",
    ReadsTheAnswer: "law_6_does_not_read_its_answer",
    PeeksAtTheAnswer: "law_6_does_not_read_its_answer",
    ReadsStatesThatKnowTheAnswer: "law_6_does_not_read_its_answer",
    ReadsTheStateThatItLedInto: "law_6_does_not_read_its_answer",
    RemembersTheAnswer: "law_6_does_not_read_its_answer",
    BlindToTheLastEntry: "law_5_gradients_reach_features_and_parameters",
    BlindToTheFirstHalf: "law_5_gradients_reach_features_and_parameters",
    BlindToPartOfTheChange: "law_5_gradients_reach_features_and_parameters",
    MixesRowsInTrainMode: "law_7_rows_do_not_mix_in_training",
    HidesABatchNorm: "law_7_rows_do_not_mix_in_training",
    BatchNormInEvalMode: "law_1_scalars_for_any_leading_dims",
    ChangesItsTiming: "law_8_the_class_says_what_is_read",
    ChangesItsView: "law_8_the_class_says_what_is_read",
    ScaleIsNoBuffer: "law_9_state_is_checkpointed",
}
