"""The laws of `Augmentation`, runnable."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from wmplatform.contracts.laws import Report, law, require, skip
from wmplatform.contracts.probes import (
    any_changed,
    draw,
    equal,
    finite,
    require_unchanged,
    seeded,
)
from wmplatform.images import to_centred
from wmplatform.interfaces.augmentation import Augmentation
from wmplatform.types import ArraySpec

__all__ = [
    "check_augmentation",
    "law_1_keeps_shape_dtype_and_range",
    "law_2_frames_are_drawn_independently",
    "law_2_rows_do_not_mix",
    "law_3_equal_random_states_agree",
    "law_4_channels_and_frames_stay_together",
    "law_5_the_mode_does_not_matter",
    "law_6_bytes_and_floats_change_alike",
]

Kind = Literal["uint8", "centred"]
KINDS: tuple[Kind, ...] = ("uint8", "centred")
PIXELS = ArraySpec((3, 12, 12), "uint8")
COPIES = 128
"""Images in a batch, so that it is no accident if all of them change alike."""


def check_augmentation(
    make: Callable[[], Augmentation],
    pixels: ArraySpec = PIXELS,
    *,
    seed: int = 0,
    collect: bool = False,
) -> Report:
    """Run every law of `Augmentation`.

    Args:
        make: builds the augmentation.
        pixels: spec of one image.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("Augmentation", collect=collect)
    augmentation = make().train()
    for kind in KINDS:
        for each in range(seed, seed + 4):
            report.run(law_1_keeps_shape_dtype_and_range, augmentation, pixels, kind, seed=each)
        report.run(law_2_rows_do_not_mix, augmentation, pixels, kind, row=2, seed=seed)
        report.run(law_2_frames_are_drawn_independently, augmentation, pixels, kind, seed=seed)
        report.run(law_3_equal_random_states_agree, augmentation, pixels, kind, seed=seed)
        report.run(law_4_channels_and_frames_stay_together, augmentation, pixels, kind, seed=seed)
        report.run(law_5_the_mode_does_not_matter, augmentation, pixels, kind, seed=seed)
    report.run(law_6_bytes_and_floats_change_alike, augmentation, pixels, seed=seed)
    return report


@law("Augmentation", 1)
def law_1_keeps_shape_dtype_and_range(
    augmentation: Augmentation, pixels: ArraySpec, kind: Kind, *, seed: int
) -> None:
    """Images keep shape, dtype and the range of their kind, extreme ones too."""
    images = _images(pixels, kind, 8, seed)
    images[0], images[1] = images.min(), images.max()
    kept = images.clone()
    out = _augment(augmentation, images, seed)
    require(equal(images, kept), "the images were changed in place")
    require(out.shape == images.shape, f"{tuple(images.shape)} becomes {tuple(out.shape)}")
    require(out.dtype == images.dtype, f"{images.dtype} becomes {out.dtype}")
    require(finite(out), "a value is not finite")
    if kind == "centred":
        top = float(out.abs().max())
        require(top <= 0.5 + 1e-5, f"values leave -0.5..0.5: the largest magnitude is {top:.4g}")


@law("Augmentation", 2)
def law_2_rows_do_not_mix(
    augmentation: Augmentation, pixels: ArraySpec, kind: Kind, *, row: int, seed: int
) -> None:
    """Another image in one row changes no other row."""
    images = _images(pixels, kind, 6, seed)
    changed = images.clone()
    changed[row] = _images(pixels, kind, 6, seed + 1)[row]
    before, after = _augment(augmentation, images, seed), _augment(augmentation, changed, seed)
    others = [n for n in range(6) if n != row]
    require_unchanged(before[others], after[others], f"image {row} changes other rows")


@law("Augmentation", 2)
def law_2_frames_are_drawn_independently(
    augmentation: Augmentation, pixels: ArraySpec, kind: Kind, *, seed: int
) -> None:
    """Equal images do not all come out equal, and not all as their neighbour or any other does."""
    images = _images(pixels, kind, 1, seed).expand(COPIES, *pixels.shape).clone()
    outcome = _augment(augmentation, images, seed).flatten(1).unique(dim=0, return_inverse=True)[1]
    pairs = [(1, outcome.view(-1, 2)), (1, outcome[1:-1].view(-1, 2))]
    pairs += [(n, torch.stack([outcome[:-n], outcome[n:]], 1)) for n in range(2, COPIES // 2 + 1)]
    for gap, pair in pairs:
        require(
            bool((pair[:, 0] != pair[:, 1]).any()),
            f"images {gap} apart in a batch get the same random change",
        )


@law("Augmentation", 3)
def law_3_equal_random_states_agree(
    augmentation: Augmentation, pixels: ArraySpec, kind: Kind, *, seed: int
) -> None:
    """Equal torch random states give equal results, whatever was augmented in between.

    And others give others.
    """
    images = _images(pixels, kind, COPIES, seed)
    first, other = (_augment(augmentation, images, seed + each) for each in range(2))
    require(equal(first, _augment(augmentation, images, seed)), "equal random states disagree")
    require(any_changed(first, other), "every batch gets the same random changes")


@law("Augmentation", 4)
def law_4_channels_and_frames_stay_together(
    augmentation: Augmentation, pixels: ArraySpec, kind: Kind, *, seed: int
) -> None:
    """Equal frames of a stack stay equal, and equal channels do unless it `recolours`."""
    if augmentation.recolours and pixels.shape[0] % 3:
        skip("it recolours, and these images have no three colours")
    frame = _images(pixels, kind, COPIES, seed)
    out = _augment(augmentation, frame.repeat(1, 3, 1, 1), seed)
    for each in out.split(pixels.shape[0], 1):
        require_unchanged(out[:, : pixels.shape[0]], each, "frames of one stack change differently")
    if augmentation.recolours:
        return
    grey = _augment(augmentation, frame[:, :1].expand_as(frame).clone(), seed)
    require_unchanged(
        grey[:, :1].expand_as(grey),
        grey,
        "channels of one image change differently (declare recolours if that is meant)",
    )


@law("Augmentation", 5)
def law_5_the_mode_does_not_matter(
    augmentation: Augmentation, pixels: ArraySpec, kind: Kind, *, seed: int
) -> None:
    """Train and eval mode give equal results."""
    images = _images(pixels, kind, COPIES, seed)
    training = augmentation.training
    both = [_augment(augmentation.train(mode), images, seed) for mode in (True, False)]
    augmentation.train(training)
    require(
        equal(*both),
        "train and eval mode differ; behaviors augment in eval mode, and who wants no "
        "augmentation does not call it",
    )


@law("Augmentation", 6)
def law_6_bytes_and_floats_change_alike(
    augmentation: Augmentation, pixels: ArraySpec, *, seed: int
) -> None:
    """An image is changed as its bytes are, to within a grey level."""
    images = _images(pixels, "uint8", COPIES, seed)
    bytes_, floats = (_augment(augmentation, x, seed) for x in (images, to_centred(images)))
    gap = float((to_centred(bytes_) - floats).abs().max()) * 255
    require(gap <= 1.01, f"uint8 and centred images are {gap:.3g} grey levels apart afterwards")


def _images(pixels: ArraySpec, kind: Kind, count: int, seed: int) -> Tensor:
    images = draw(pixels, (count,), seed)
    return to_centred(images) if kind == "centred" else images


@torch.no_grad()
def _augment(augmentation: Augmentation, images: Tensor, seed: int) -> Tensor:
    with seeded(seed):
        out: Tensor = augmentation(images)
    return out
