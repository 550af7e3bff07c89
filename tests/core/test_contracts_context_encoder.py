"""The laws of ContextEncoder on every registered one, and the checker on broken ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.contracts import check
from wmplatform.contracts import context_encoder as laws
from wmplatform.contracts.probes import shake
from wmplatform.interfaces import ContextEncoder

from .mutants.context_encoders import MUTANTS
from .reference_components import RandomFrame
from .subjects import Subject, holds, subjects

every_context_encoder = subjects("context_encoders", RandomFrame)


@every_context_encoder
@given(
    observed=st.integers(1, 5),
    batch=st.integers(1, 4),
    row=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
def test_laws_hold(subject: Subject, observed: int, batch: int, row: int, seed: int) -> None:
    observations = subject.wiring["observations"]
    encoder, pixels = shake(subject.make(observations), seed).eval(), observations["pixels"]
    holds(laws.law_1_frames_are_centred_and_detached, encoder, pixels, seed=seed)
    holds(laws.law_1_frames_come_from_their_row, encoder, pixels, row=row, seed=seed)
    holds(laws.law_1_only_observed_records, encoder, pixels, observed=observed, seed=seed)
    holds(laws.law_2_context_as_declared, encoder, pixels, batch=batch, seed=seed)
    holds(laws.law_2_rows_do_not_mix, encoder, pixels, row=row, seed=seed)
    holds(laws.law_4_gradients_reach_parameters, encoder, pixels, seed=seed)


@every_context_encoder
def test_checker_passes(subject: Subject) -> None:
    assert check("context_encoders", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[ContextEncoder]) -> None:
    report = check("context_encoders", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report
