"""Small records for the tests of replay; every record's numbers say which one it is."""

from typing import Any

import torch
from tensordict import TensorDict

from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec
from wmplatform.replay import Replay

SPEC = EnvSpec({"pixels": ArraySpec((1, 2, 2), "uint8")}, ActionSpec(2), signals={"success": "max"})


def records(
    first: list[bool],
    last: list[bool],
    *,
    stream: int = 0,
    number: int = 0,
    terminal: bool = False,
) -> TensorDict:
    """Records number, number + 1, ... of a stream."""
    count = len(first)
    numbers = torch.arange(number, number + count)
    ends = torch.tensor(last, dtype=torch.bool)
    return TensorDict(
        {
            "pixels": (numbers % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone(),
            "action": numbers.float().view(-1, 1) + torch.tensor([0.0, 0.5]),
            "reward": numbers.float() + 1000 * stream,
            "is_first": torch.tensor(first, dtype=torch.bool),
            "is_last": ends,
            "is_terminal": ends & terminal,
            "success": torch.full((count,), float(stream)),
            "stream": torch.full((count,), stream, dtype=torch.int64),
        },
        [count],
    )


def episode(
    steps: int,
    *,
    stream: int = 0,
    number: int = 0,
    terminal: bool = False,
    running: bool = False,
) -> TensorDict:
    """An episode of this many agent steps, which is one more record."""
    first = [True] + [False] * steps
    last = [False] * (steps + 1)
    last[-1] = not running
    return records(first, last, stream=stream, number=number, terminal=terminal)


def filled(steps: list[int], **settings: Any) -> Replay:
    """A replay of episodes, numbered through."""
    replay = Replay(SPEC, **{"capacity": 1000, **settings})
    number = 0
    for length in steps:
        replay.extend(episode(length, number=number))
        number += length + 1
    return replay


def equal(a: TensorDict, b: TensorDict) -> bool:
    """Whether two batches are the same, bit for bit."""
    a, b = a.flatten_keys("/"), b.flatten_keys("/")
    return set(a.keys()) == set(b.keys()) and all(torch.equal(a[key], b[key]) for key in a.keys())  # noqa: SIM118
