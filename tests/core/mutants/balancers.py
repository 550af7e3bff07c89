"""Loss balancers that each break one law."""

from collections.abc import Mapping

import torch
from torch import Tensor

from wmplatform.types import Metrics

from ..reference_components import LearnedBalancer, WeighedBalancer

Losses = Mapping[str, Tensor]


class MultipliesByZero(WeighedBalancer):
    """Zero times NaN is NaN."""

    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        return torch.stack([x * float(self.needed(n)) for n, x in losses.items()]).sum(), {}


class CountsTheUnneeded(WeighedBalancer):
    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        return torch.stack(list(losses.values())).sum(), {}


class TrainsTheUnneeded(WeighedBalancer):
    """The value cancels, the gradient does not."""

    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        extra = torch.stack([torch.nan_to_num(losses[name]) for name in self.off]).sum()
        return total + extra - extra.detach(), metrics


class NegativeWeight(WeighedBalancer):
    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        return total - 2 * losses["reward"], metrics


class DropsALoss(WeighedBalancer):
    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        return total - losses["reward"], metrics


class NormalisesByItself(WeighedBalancer):
    """Every loss divided by its own value: a constant."""

    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        used = [x / x.detach() for name, x in losses.items() if self.needed(name)]
        return torch.stack(used).sum(), {}


class TotalIsAVector(WeighedBalancer):
    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        return total[None], metrics


class Overflows(LearnedBalancer):
    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        return total.exp(), metrics


class MetricsAttached(LearnedBalancer):
    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, _ = super().forward(losses)
        return total, {"total": total}


MUTANTS = {
    MultipliesByZero: "law_1_unneeded_losses_take_no_part",
    CountsTheUnneeded: "law_1_unneeded_losses_take_no_part",
    TrainsTheUnneeded: "law_1_unneeded_losses_take_no_part",
    NegativeWeight: "law_2_total_grows_with_each_loss",
    DropsALoss: "law_2_total_grows_with_each_loss",
    NormalisesByItself: "law_2_total_grows_with_each_loss",
    TotalIsAVector: "law_2_total_is_a_finite_scalar",
    Overflows: "law_2_total_is_a_finite_scalar",
    MetricsAttached: "law_2_total_is_a_finite_scalar",
}
