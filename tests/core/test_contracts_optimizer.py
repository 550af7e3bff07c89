"""The laws of Optimizer on every registered optimizer, and the checker on broken ones."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.contracts import check
from wmplatform.contracts import optimizer as laws
from wmplatform.interfaces import Optimizer
from wmplatform.training.optim import Adam

from .mutants.optimizers import MUTANTS
from .subjects import Subject, holds, subjects

every_optimizer = subjects("optimizers", Adam)


@every_optimizer
@given(
    scale=st.floats(1e-4, 1e6),
    bad=st.sampled_from([torch.nan, torch.inf, -torch.inf, 1.0]),
    layout=st.sampled_from(list(laws.GRADIENT_LAYOUTS)),
    parameters=st.sampled_from(list(laws.PARAMETER_LAYOUTS)),
    seed=st.integers(0, 2**16),
)
def test_laws_hold(
    subject: Subject, scale: float, bad: float, layout: str, parameters: str, seed: int
) -> None:
    holds(laws.law_1_clip_tells_the_norm, subject.make, scale=scale, seed=seed)
    holds(laws.law_2_skipped_steps_change_nothing, subject.make, bad=bad, seed=seed)
    holds(laws.law_3_restoring_continues, subject.make, seed=seed)
    holds(laws.law_4_steps_go_downhill, subject.make, seed=seed)
    layouts = {"layout": layout, "parameters": parameters}
    holds(laws.law_5_only_values_count, subject.make, **layouts, seed=seed)


@every_optimizer
def test_checker_passes(subject: Subject) -> None:
    assert check("optimizers", subject.component).ok


@pytest.mark.parametrize("decay", ["decoupled", "l2", "adamw"])
@pytest.mark.parametrize("correction", [True, False])
def test_adam_keeps_the_laws_in_all_forms(decay: str, correction: bool) -> None:
    make = partial(Adam, decay=decay, eps_correction=correction, weight_decay=0.01)
    assert laws.check_optimizer(make).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[Optimizer]) -> None:
    report = check("optimizers", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report
