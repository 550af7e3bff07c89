"""The laws of Augmentation on every registered augmentation, and the checker on broken ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wmplatform.contracts import augmentation as laws
from wmplatform.contracts import check
from wmplatform.interfaces import Augmentation
from wmplatform.types import ArraySpec

from .mutants.augmentations import MUTANTS
from .reference_components import Shift
from .subjects import Subject, holds, subjects


class Tint(Augmentation):
    """Darkens each colour of an image by its own share, in all frames of a stack."""

    recolours = True

    def forward(self, images: Tensor) -> Tensor:
        share = 0.5 + 0.5 * torch.rand(len(images), min(3, images.shape[1]), 1, 1)
        share = share.repeat(1, images.shape[1] // share.shape[1], 1, 1)
        if images.dtype == torch.uint8:
            return (images * share).round().to(torch.uint8)
        return (images + 0.5) * share - 0.5


every_augmentation = subjects("augmentations", Shift, Tint)


@every_augmentation
@settings(max_examples=10)
@given(
    channels=st.sampled_from([1, 3, 9]),
    size=st.integers(12, 32),
    kind=st.sampled_from(laws.KINDS),
    row=st.integers(0, 5),
    seed=st.integers(0, 2**16),
)
def test_laws_hold(
    subject: Subject, channels: int, size: int, kind: laws.Kind, row: int, seed: int
) -> None:
    augmentation = subject.make()
    pixels = ArraySpec((channels, size, size), "uint8")
    holds(laws.law_1_keeps_shape_dtype_and_range, augmentation, pixels, kind, seed=seed)
    holds(laws.law_2_rows_do_not_mix, augmentation, pixels, kind, row=row, seed=seed)
    holds(laws.law_2_frames_are_drawn_independently, augmentation, pixels, kind, seed=seed)
    holds(laws.law_3_equal_random_states_agree, augmentation, pixels, kind, seed=seed)
    holds(laws.law_4_channels_and_frames_stay_together, augmentation, pixels, kind, seed=seed)
    holds(laws.law_5_the_mode_does_not_matter, augmentation, pixels, kind, seed=seed)
    holds(laws.law_6_bytes_and_floats_change_alike, augmentation, pixels, seed=seed)


@every_augmentation
def test_checker_passes(subject: Subject) -> None:
    assert check("augmentations", subject.component).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[Augmentation]) -> None:
    report = check("augmentations", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report
