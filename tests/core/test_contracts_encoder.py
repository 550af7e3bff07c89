"""The laws of Encoder on every registered encoder, and the checker on broken ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.contracts import check
from wmplatform.contracts import encoder as laws
from wmplatform.contracts.probes import shake
from wmplatform.interfaces import Encoder
from wmplatform.types import ArraySpec

from .mutants.encoders import MUTANTS
from .reference_components import LinearEncoder
from .subjects import Subject, holds, subjects

leads = st.lists(st.integers(1, 3), max_size=3).map(tuple)
seeds = st.integers(0, 2**16)
images = st.builds(
    lambda c, h, w, dtype: ArraySpec((c, h, w), dtype),
    st.sampled_from([1, 3, 9]),
    st.sampled_from([48, 64]),
    st.sampled_from([48, 64, 80]),
    st.sampled_from(["uint8", "float32"]),
)

every_encoder = subjects("encoders", LinearEncoder)


@every_encoder
@given(image=images, lead=leads, batch=st.integers(1, 3), length=st.integers(1, 4), seed=seeds)
def test_laws_hold(
    subject: Subject, image: ArraySpec, lead: tuple[int, ...], batch: int, length: int, seed: int
) -> None:
    observations = {**subject.wiring["observations"], "pixels": image}
    encoder = build(subject, observations, seed)
    if encoder is None:
        return
    holds(
        laws.law_1_frames_do_not_mix, encoder, observations, batch=batch, length=length, seed=seed
    )
    holds(laws.law_1_no_state, encoder, observations, batch=batch, seed=seed)
    holds(laws.law_2_leading_dims_are_free, encoder, observations, lead=lead, seed=seed)
    holds(laws.law_3_uint8_equals_centred_float, encoder, observations, lead=lead, seed=seed)
    holds(laws.law_4_outputs_as_declared, encoder, observations, lead=lead, seed=seed)
    holds(laws.law_5_gradients_reach_parameters, encoder, observations, batch=batch + 1, seed=seed)


@every_encoder
def test_checker_passes(subject: Subject) -> None:
    assert check("encoders", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[Encoder]) -> None:
    report = check("encoders", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report


def build(subject: Subject, observations: dict[str, ArraySpec], seed: int) -> Encoder | None:
    """The encoder, or None where it refuses images of this size."""
    try:
        return shake(subject.make(observations), seed).eval()
    except ValueError:
        return None
