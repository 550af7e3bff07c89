"""The laws of LossBalancer on every registered balancer, and the checker on broken ones."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wmplatform.contracts import check
from wmplatform.contracts import loss_balancer as laws
from wmplatform.interfaces import LossBalancer
from wmplatform.types import Metrics

from .assemblies import joint
from .mutants.balancers import MUTANTS
from .reference_components import LearnedBalancer, WeighedBalancer
from .subjects import Subject, holds, subjects


class RunningBalancer(WeighedBalancer):
    """Divides by a running mean of the total, which is held fixed."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.register_buffer("mean", torch.ones(()))
        self.mean: Tensor

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        total, metrics = super().forward(losses)
        self.mean.lerp_(total.detach(), 0.1)
        return total / self.mean.clone(), metrics


class ProductBalancer(WeighedBalancer):
    """The logarithm of a product: weights that the gradient follows."""

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        return super().forward({name: torch.log1p(x) for name, x in losses.items()})


every_balancer = subjects(
    "balancers", WeighedBalancer, LearnedBalancer, RunningBalancer, ProductBalancer, joint.Harmony
)


@every_balancer
@given(
    names=st.lists(st.text("abcxyz_", min_size=1, max_size=6), min_size=2, max_size=6, unique=True),
    scale=st.floats(1e-3, 1e3),
    value=st.sampled_from([torch.nan, torch.inf, -torch.inf, 7.0]),
    seed=st.integers(0, 2**16),
)
def test_laws_hold(
    subject: Subject, names: list[str], scale: float, value: float, seed: int
) -> None:
    balancer = subject.make((*names, "kl"))
    holds(laws.law_1_unneeded_losses_take_no_part, balancer, value=value, seed=seed)
    holds(laws.law_2_total_is_a_finite_scalar, balancer, scale=scale, seed=seed)
    holds(laws.law_2_total_grows_with_each_loss, balancer, scale=scale, seed=seed)
    holds(laws.law_3_gradient_is_that_of_the_total, balancer, scale=scale, seed=seed)
    holds(laws.law_4_losses_go_by_name, balancer, seed=seed)
    holds(laws.law_5_state_is_checkpointed, subject.make, (*names, "kl"), seed=seed)


@every_balancer
def test_checker_passes(subject: Subject) -> None:
    assert check("balancers", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[LossBalancer]) -> None:
    report = check("balancers", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report
