"""Reading one vector, and the refusal of what is not one."""

import pytest
import torch

from wmplatform.types import ArraySpec
from wmplugins.blocks import as_vector, embed_size, flat_size

TWO = {"ctrl": ArraySpec((4,)), "free": ArraySpec((4,))}


def test_one_vector_is_read() -> None:
    x = torch.zeros(2, 3)
    assert as_vector(x) is x
    assert flat_size(ArraySpec((7,))) == 7
    assert embed_size({"embed": ArraySpec((5,)), "other": ArraySpec((6,))}, "embed") == 5


@pytest.mark.parametrize("spec", [TWO, ArraySpec((4, 4)), ArraySpec(())])
def test_a_view_that_is_no_vector_is_refused(spec: object) -> None:
    with pytest.raises(ValueError, match="reads one feature vector, but the view gives"):
        flat_size(spec)


def test_several_parts_are_refused_by_their_names() -> None:
    with pytest.raises(ValueError, match=r"got the parts \['ctrl', 'free'\]"):
        as_vector({name: torch.zeros(4) for name in TWO})


def test_an_embedding_that_is_missing_or_no_vector_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no embedding 'embed'; the encoder gives \['ctrl', 'free'\]"
    ):
        embed_size(TWO, "embed")
    with pytest.raises(ValueError, match="'pyramid' is no vector"):
        embed_size({"pyramid": ArraySpec((3, 4, 4))}, "pyramid")
