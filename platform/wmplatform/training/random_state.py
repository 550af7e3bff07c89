"""The process's random states, to and from a checkpoint."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from wmplatform.forms import REAL, Array, Either, Many, Maybe, Whole

__all__ = ["random_state", "random_state_form", "restore_random_state", "seed_process"]


def seed_process(seed: int) -> None:
    """Seed the generators that `random_state` saves, so that a new run depends on its seed alone.

    The platform draws from torch and from generators of its own; a plug-in, or a library that it
    uses, may draw from the global ones of NumPy and Python.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """States of torch (CPU and `device`), NumPy's global generator and Python's."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), np.asarray(keys).tolist(), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def random_state_form() -> Any:
    """Of which form `restore_random_state` takes a state; NumPy reads past an odd position."""
    words = Whole(most=2**32 - 1)
    return {
        "torch": Array.of(torch.get_rng_state()),
        "numpy": ["MT19937", Many(words, 624), Whole(most=624), Whole(most=1), REAL],
        "python": [3, Many(words, 625), Either(None, REAL)],
        "cuda": Maybe(Array("uint8", (None,))),
    }


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore what `random_state` gave.

    Raises:
        ValueError: it is no state of these generators.
    """
    kind, keys, position, has_gauss, gauss = state["numpy"]
    version, internal, gauss_next = state["python"]
    try:
        torch.set_rng_state(state["torch"].cpu())
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    except RuntimeError as error:
        raise ValueError(f"torch does not take the random state: {error}") from error
    keys = np.asarray(keys, np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss))  # noqa: NPY002
    random.setstate((version, tuple(internal), gauss_next))
