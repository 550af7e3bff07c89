"""Forms: what a saved tree has to look like, and what is said of one that does not."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from wmplatform.forms import (
    ANY,
    FLAG,
    REAL,
    TENSOR,
    TEXT,
    Array,
    Either,
    Holding,
    Many,
    Maybe,
    Named,
    OtherForm,
    Whole,
    check_form,
    form_of,
)

FORM: dict[Any, Any] = {
    "count": Whole(),
    "moments": [Array("float32", (2, None)), Array("bool", ())],
    "sums": Many(Named(REAL)),
    "kind": "MT19937",
    "rest": Either(None, {"text": TEXT, "on": FLAG}),
    "older": Maybe(Many(Whole(least=-1), 2)),
    3: ANY,
}


def tree(**changes: Any) -> dict[Any, Any]:
    return {
        "count": 5,
        "moments": [torch.zeros(2, 7), Array("bool", ())],
        "sums": [{"a": 1, "b": math.nan}, {}],
        "kind": "MT19937",
        "rest": {"text": "", "on": False},
        3: object(),
        **changes,
    }


@pytest.mark.parametrize("changes", [{}, {"rest": None}, {"older": [-1, 0]}, {"sums": []}])
def test_what_is_of_the_form_passes(changes: dict[str, Any]) -> None:
    check_form(tree(**changes), FORM)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": -1}, "count is -1, not a whole number 0 .. 9007199254740992"),
        ({"count": True}, "count is True"),
        ({"count": 1.0}, "count is 1.0"),
        ({"count": 9**4000}, "count is a number of about 3817 digits"),
        ({"moments": [torch.zeros(2, 7)]}, "moments is a list of 1, not a list of 2"),
        ({"moments": (1, 2)}, "moments is (1, 2), not a list of 2"),
        ({"moments": [torch.zeros(2), ANY]}, "moments/0 is float32 [2], not float32 [2, any]"),
        ({"moments": [torch.zeros(3, 1), ANY]}, "moments/0 is float32 [3, 1], not"),
        ({"moments": [np.zeros((2, 1)), ANY]}, "moments/0 is float64 [2, 1], not"),
        ({"moments": [torch.zeros(2, 7), {}]}, "moments/1 is a dict of 0, not a tensor"),
        ({"sums": [{"a": "x"}]}, "sums/0/a is 'x', not a number"),
        ({"sums": [{"a": 2**5000}]}, "sums/0/a is a number of about"),
        ({"sums": [{1: 1}]}, "sums/0 has the key 1, which is no name"),
        ({"kind": "PCG64"}, "kind is 'PCG64', not 'MT19937'"),
        ({"rest": {"text": 1, "on": True}}, "rest/text is 1, not a str"),
        ({"rest": {"text": ""}}, "rest lacks the entry 'on'"),
        ({"older": [0]}, "older is a list of 1, not a list of 2"),
        ({"more": 1}, "has the entry 'more', which does not belong there"),
        ({"kind": "x" * 10**6}, "..."),
    ],
)
def test_the_first_place_that_differs_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(OtherForm) as caught:
        check_form(tree(**changes), FORM)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


def test_names_may_be_words_only_and_dicts_may_hold_more() -> None:
    check_form({"a_1": 2, "x": 3}, Named(Whole(), words=True))
    with pytest.raises(OtherForm, match="no name"):
        check_form({"[/red]": 2}, Named(Whole(), words=True))
    check_form({"a": 1, "b": []}, Holding({"a": Whole()}))
    with pytest.raises(OtherForm, match="lacks the entry 'a'"):
        check_form({"b": []}, Holding({"a": Whole()}))


def test_the_form_of_a_tree_takes_its_like() -> None:
    state = {"a": [torch.zeros(2, dtype=torch.bfloat16), None], "n": 3, "t": torch.tensor(1)}
    check_form({"a": [torch.ones(2).bfloat16(), None], "n": "x", "t": state["t"]}, form_of(state))
    other = {"a": [torch.zeros(2), None], "n": 3, "t": torch.tensor(1)}
    with pytest.raises(OtherForm, match=r"a/0 is float32 \[2\], not bfloat16 \[2\]"):
        check_form(other, form_of(state))
    check_form(other, form_of(state, any_float=True))
    with pytest.raises(OtherForm, match="t is float32"):
        check_form({**other, "t": torch.tensor(1.0)}, form_of(state, any_float=True))
    check_form(torch.zeros(3), TENSOR)
