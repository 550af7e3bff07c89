"""The one conversion between uint8 and centred floats."""

import torch
from numpy.testing import assert_allclose

from wmplatform.images import to_centred, to_uint8


def test_black_and_white_are_the_ends_and_grey_is_zero() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8)
    assert_allclose(to_centred(images), [-0.5, 0.5, -0.3], atol=1e-7)
    assert to_centred(images).dtype == torch.float32


def test_every_byte_survives_the_round_trip() -> None:
    images = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_centred(images)), images)


def test_floats_pass_through() -> None:
    images = torch.rand(3) - 0.5
    assert to_centred(images) is images


def test_values_outside_are_clipped_for_display() -> None:
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
