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


class HalvesTheGradient(WeighedBalancer):
    """The total is right, and so is the gradient's sign."""

    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        return 0.5 * total + 0.5 * total.detach(), metrics


class SwapsGradients(WeighedBalancer):
    """Two losses of different weights move each other's parameters by their own."""

    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total = torch.zeros(())
        names = [name for name in losses if self.needed(name)]
        for weight, value, moved in zip(range(1, 9), names, reversed(names), strict=False):
            total = total + weight * (
                losses[value].detach() + losses[moved] - losses[moved].detach()
            )
        return total, {}


class ShowsOneLossAndLearnsAnother(WeighedBalancer):
    """The gradient is that of the squared losses."""

    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        squares, _ = super().forward({name: x.square() for name, x in losses.items()})
        return squares + (total - squares).detach(), metrics


class WeighsByPlace(WeighedBalancer):
    """Takes the losses to come in the order of their names."""

    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        pairs = zip(self.names, losses.values(), strict=True)
        terms = [(1 + i) * x for i, (name, x) in enumerate(pairs) if self.needed(name)]
        return torch.stack(terms).sum(), {}


class TakesLossesOut(WeighedBalancer):
    """What is used up is missing in the log."""

    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        assert isinstance(losses, dict)
        for name in self.off:
            losses.pop(name, None)
        return super().forward(losses)


class RunningMeanIsNoBuffer(WeighedBalancer):
    """Divides by a running mean that no checkpoint holds."""

    mean = 1.0

    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        self.__dict__["mean"] = 0.9 * self.mean + 0.1 * total.detach()
        return total / self.mean, metrics


class BranchesOnALoss(WeighedBalancer):
    def forward(self, losses: Losses) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        return (total * 0.5 if total > 1e9 else total), metrics


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
    BranchesOnALoss: "law_2_total_is_a_finite_scalar",
    HalvesTheGradient: "law_3_gradient_is_that_of_the_total",
    SwapsGradients: "law_3_gradient_is_that_of_the_total",
    ShowsOneLossAndLearnsAnother: "law_3_gradient_is_that_of_the_total",
    WeighsByPlace: "law_4_losses_go_by_name",
    TakesLossesOut: "law_4_losses_go_by_name",
    RunningMeanIsNoBuffer: "law_5_state_is_checkpointed",
}
