"""The laws of Decoder on every registered decoder, and the checker on broken ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.contracts import ContractViolation, check, check_decoder
from wmplatform.contracts import decoder as laws
from wmplatform.contracts.probes import shake
from wmplatform.interfaces import Decoder
from wmplatform.types import ArraySpec

from .mutants.decoders import MUTANTS
from .reference_components import ContextDecoder, OptionalContextDecoder, PlainDecoder
from .subjects import Subject, holds, subjects

every_decoder = subjects("decoders", PlainDecoder, ContextDecoder, OptionalContextDecoder)
leads = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@every_decoder
@given(
    width=st.integers(2, 16),
    lead=leads,
    row=st.integers(0, 1),
    t=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
def test_laws_hold(
    subject: Subject, width: int, lead: tuple[int, ...], row: int, t: int, seed: int
) -> None:
    wiring = subject.wiring
    features, observations = wiring["features"], wiring["observations"]
    features = ArraySpec((width,)) if isinstance(features, ArraySpec) else features
    context = wiring["context"]
    decoder = shake(subject.make(features, observations, context), seed).eval()
    given_ = None if decoder.context == "refused" else context
    specs = (features, observations, given_)
    lead = (2, *lead[:1], 2)[:2] if given_ else lead
    holds(laws.law_1_images_as_declared, decoder, *specs, lead=lead, seed=seed)
    holds(laws.law_1_likelihood_is_highest_at_the_mode, decoder, *specs, seed=seed)
    holds(laws.law_2_context_as_declared, decoder, *specs, seed=seed)
    holds(laws.law_3_frames_do_not_mix, decoder, *specs, row=row, t=t, seed=seed)
    holds(laws.law_3_rows_use_their_own_context, decoder, *specs, row=row, seed=seed)
    holds(laws.law_4_gradients_reach_features_and_parameters, decoder, *specs, seed=seed)
    holds(laws.law_5_eval_is_deterministic, decoder, *specs, seed=seed)


@every_decoder
def test_checker_passes(subject: Subject) -> None:
    assert check("decoders", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[Decoder]) -> None:
    report = check("decoders", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report


def test_a_context_decoder_is_checked_with_a_context() -> None:
    observations = {"pixels": ArraySpec((3, 8, 8), "uint8")}

    def make(*wiring: object) -> Decoder:
        return ContextDecoder(wiring[0], wiring[1], {"static": ArraySpec((5,))})  # type: ignore[arg-type]

    with pytest.raises(ContractViolation, match="Decoder law 2: its context is required"):
        check_decoder(make, ArraySpec((4,)), observations)
