"""The laws of `Augmentation`, runnable."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from wmplatform.contracts.laws import Report, law, require
from wmplatform.contracts.probes import draw, equal, finite, require_unchanged, seeded
from wmplatform.images import to_centred
from wmplatform.interfaces.augmentation import Augmentation
from wmplatform.types import ArraySpec

__all__ = [
    "check_augmentation",
    "law_1_keeps_shape_dtype_and_range",
    "law_2_frames_are_drawn_independently",
    "law_2_rows_do_not_mix",
    "law_3_equal_random_states_agree",
]

Kind = Literal["uint8", "centred"]
KINDS: tuple[Kind, ...] = ("uint8", "centred")
PIXELS = ArraySpec((3, 12, 12), "uint8")


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
    """Equal images in one batch do not all come out equal."""
    images = _images(pixels, kind, 1, seed).expand(64, *pixels.shape).clone()
    out = _augment(augmentation, images, seed)
    require(
        not equal(out, out[:1].expand_as(out)), "all images of a batch get the same random change"
    )


@law("Augmentation", 3)
def law_3_equal_random_states_agree(
    augmentation: Augmentation, pixels: ArraySpec, kind: Kind, *, seed: int
) -> None:
    """Equal torch random states give equal results, whatever was augmented in between."""
    images = _images(pixels, kind, 6, seed)
    first = _augment(augmentation, images, seed)
    _augment(augmentation, images, seed + 1)
    require(equal(first, _augment(augmentation, images, seed)), "equal random states disagree")


def _images(pixels: ArraySpec, kind: Kind, count: int, seed: int) -> Tensor:
    images = draw(pixels, (count,), seed)
    return to_centred(images) if kind == "centred" else images


@torch.no_grad()
def _augment(augmentation: Augmentation, images: Tensor, seed: int) -> Tensor:
    with seeded(seed):
        out: Tensor = augmentation(images)
    return out
