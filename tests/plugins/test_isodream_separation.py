"""Figures of separation on masks that are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from wmplugins.dreamer.decoders import CNNDecoder
from wmplugins.isodream.decoders import Layers
from wmplugins.isodream.separation import layers_of, separation

from .tiny_isodream import isodream_agent, records


def layers(ctrl: Tensor, free: Tensor, *, background: bool = True) -> Layers:
    """Layers with these masks `[B, T, H, W]`; images do not matter."""
    masks = {"ctrl": ctrl.unsqueeze(2), "free": free.unsqueeze(2)}
    images = {name: torch.zeros(*ctrl.shape[:2], 3, *ctrl.shape[2:]) for name in masks}
    return Layers(images, masks, torch.zeros(len(ctrl), 3, *ctrl.shape[2:]) if background else None)


def objects() -> Tensor:
    """The square is the left column, the disc the right one, of 4 x 4 pixels."""
    truth = torch.zeros(2, 3, 2, 4, 4)
    truth[:, :, 0, :, 0] = 1
    truth[:, :, 1, :, 3] = 1
    return truth


def test_perfect_masks() -> None:
    truth = objects()
    found = separation(layers(truth[:, :, 0] * 0.9, truth[:, :, 1] * 0.8), truth)
    assert torch.equal(found.iou, torch.eye(2))
    np.testing.assert_allclose(found.coverage, [[0.9, 0], [0, 0.8]], rtol=1e-6)
    assert found.rows()["coverage/free/1"] == pytest.approx(0.8)


def test_a_branch_that_takes_everything_covers_both_and_fits_neither() -> None:
    truth = objects()
    found = separation(layers(torch.full((2, 3, 4, 4), 0.9), torch.zeros(2, 3, 4, 4)), truth)
    np.testing.assert_allclose(found.iou, [[0.25, 0.25], [0, 0]])
    np.testing.assert_allclose(found.coverage, [[0.9, 0.9], [0, 0]], rtol=1e-6)


def test_without_a_background_a_pixel_is_one_branch_s() -> None:
    truth = objects()
    ctrl = truth[:, :, 0] * 0.6 + 0.2
    found = separation(layers(ctrl, 1 - ctrl, background=False), truth)
    np.testing.assert_allclose(found.iou, [[1, 0], [0, 4 / 12]], rtol=1e-6)


@pytest.mark.parametrize("driving", [False, True])
def test_layers_of_an_agent_belong_to_the_records_that_remain(driving: bool) -> None:
    agent, batch = isodream_agent(driving=driving), records()
    found, remain = layers_of(agent, batch)
    length = batch["pixels"][:, remain].shape[1]
    assert found.masks["ctrl"].shape == (3, length, 1, 64, 64)
    assert length == (6 if driving else 5)
    again, _ = layers_of(agent, batch)
    assert torch.equal(found.masks["free"], again.masks["free"])


def test_a_decoder_without_masks_is_refused() -> None:
    agent = isodream_agent(
        model={"decoder": CNNDecoder, "context_encoder": None, "reads": {"decoder": "joint"}}
    )
    with pytest.raises(ValueError, match=r"decoders\.masks"):
        layers_of(agent, records())
