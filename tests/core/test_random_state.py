"""The process's generators: seeded, saved and restored together."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.training.random_state import random_state, restore_random_state, seed_process

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_randomness() -> Iterator[None]:
    before = random_state(CPU)
    yield
    restore_random_state(before, CPU)


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002


@given(seed=st.integers(0, 2**63 - 1))
def test_a_seed_decides_what_every_generator_draws(seed: int) -> None:
    seed_process(seed)
    first = draws()
    seed_process(seed)
    assert draws() == first
    seed_process(seed ^ 1)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_restoring_goes_on_where_the_state_was_taken() -> None:
    seed_process(3)
    draws()
    state = random_state(CPU)
    expected = draws(), draws()
    draws()
    restore_random_state(state, CPU)
    assert (draws(), draws()) == expected
