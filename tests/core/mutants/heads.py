"""Heads that each break one law."""

import torch
from torch import Tensor, nn

from wmplatform.distributions import UnitNormal
from wmplatform.types import Batch, Distribution, Features, FeatureSpec, Target

from ..reference_components import LinearRewardHead


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
}
