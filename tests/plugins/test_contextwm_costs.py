"""Operators and arithmetic of a full-size update, counted on fake tensors.

The authors' code takes 23,927 operators that are no views and 10.55 TFLOP to fine-tune on 50 x 50
records, and 6,433 and 1.109 to pre-train on 16 x 25 frames. Fake tensors have shapes but no
values, so that the counts cost neither memory nor arithmetic; they are those of real tensors.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from wmplatform import assembly
from wmplatform.config import load

FOLDER = Path(__file__).resolve().parents[2] / "experiments"


class OperatorCount(TorchDispatchMode):
    """Counts operators that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += func.namespace == "aten" and not func.is_view
        return func(*args, **(kwargs or {}))


def records(batch: int, length: int, action: int) -> TensorDict:
    lead = (batch, length)
    columns = {
        "pixels": torch.zeros(*lead, 3, 64, 64, dtype=torch.uint8),
        "is_first": torch.zeros(lead, dtype=torch.bool),
    }
    if action:
        columns |= {"action": torch.zeros(*lead, action), "reward": torch.zeros(lead)}
        columns |= {name: columns["is_first"].clone() for name in ("is_last", "is_terminal")}
    return TensorDict(columns, batch_size=lead)


@pytest.mark.parametrize(
    ("name", "batch", "length", "operators", "tera"),
    [
        ("contextwm_metaworld", 50, 50, 9_000, 9.8),
        ("contextwm_pretrain_ssv2", 16, 25, 2_600, 1.109),
    ],
    ids=["fine-tuning", "pre-training"],
)
def test_an_update_takes_less_than_that_of_the_authors_code(
    name: str, batch: int, length: int, operators: int, tera: float
) -> None:
    config = load([FOLDER / f"{name}.gin"], [])
    spec = assembly.build_spec(config)
    with FakeTensorMode():
        agent = assembly.build_agent(config, spec)
        learner = assembly.build_part(config, "learner", agent)
        clips = records(batch, length, spec.action.size)
        with FlopCounterMode(display=False) as arithmetic, OperatorCount() as count:
            learner.update(clips)
    assert count.operators <= operators
    assert 0.9 * tera < arithmetic.get_total_flops() / 1e12 <= tera
