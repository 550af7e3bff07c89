"""The laws of LossBalancer on every registered balancer, and the checker on broken ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.contracts import check
from wmplatform.contracts import loss_balancer as laws
from wmplatform.interfaces import LossBalancer

from .mutants.balancers import MUTANTS
from .reference_components import LearnedBalancer, WeighedBalancer
from .subjects import Subject, holds, subjects

every_balancer = subjects("balancers", WeighedBalancer, LearnedBalancer)


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


@every_balancer
def test_checker_passes(subject: Subject) -> None:
    assert check("balancers", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[LossBalancer]) -> None:
    report = check("balancers", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report
