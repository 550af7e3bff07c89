"""Records: the one layout of stored experience, and the one place where transitions become records.

A record is one observed frame and what led into it. An episode of N agent steps has N + 1 records:

    record 0    reset observation, action 0, reward 0, is_first
    record t+1  o_{t+1}, a_t, r_{t+1}, is_last = done, is_terminal = terminated

Shape letters: T steps, N streams, K records, A action.
"""

from collections.abc import Mapping

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wmplatform.interfaces.env_adapter import ArraySpec, EnvSpec

__all__ = ["record_bytes", "record_columns", "to_records"]

_SCALARS = {
    "reward": ArraySpec((), "float32"),
    "is_first": ArraySpec((), "bool"),
    "is_last": ArraySpec((), "bool"),
    "is_terminal": ArraySpec((), "bool"),
}


def record_columns(spec: EnvSpec) -> dict[str, ArraySpec]:
    """List what one record holds: observations, `action`, `reward`, three flags, signals.

    Raises:
        ValueError: an observation or a signal has the name of another column.
    """
    columns = dict(spec.observations)
    rest = {"action": ArraySpec((spec.action.size,), "float32"), **_SCALARS}
    rest |= {name: ArraySpec((), "float32") for name in spec.signals if name not in rest}
    twice = sorted((columns.keys() & rest.keys()) | (spec.signals.keys() & _SCALARS.keys()))
    if twice or "action" in spec.signals:
        raise ValueError(f"these names are taken by other parts of a record: {twice or 'action'}")
    return columns | rest


def record_bytes(columns: Mapping[str, ArraySpec]) -> int:
    """Size of one stored record in bytes."""
    return sum(
        int(np.prod(column.shape, dtype=np.int64)) * np.dtype(column.dtype).itemsize
        for column in columns.values()
    )


def to_records(steps: TensorDictBase, spec: EnvSpec) -> TensorDict:
    """Turn consecutive transitions, as a TorchRL collector gives them, into records.

    Args:
        steps: `[T]` of one stream or `[N, T]` of N streams; observations, signals `[..., 1]`,
            `is_init`, `stream`, `action` and `next` with observations, signals, `reward`, `done`
            and `terminated`. A step with `is_init` yields the reset record too; one whose arrival
            was lost (`next` has `fault` other than 0) yields no record of it.
        spec: of the environment.

    Returns:
        `[K]` records, all of one stream after the other and in order of time, with the int64
        column `stream`.
    """
    flat = steps.reshape(-1)
    first = flat["is_init"].reshape(-1)
    arrivals = flat["next"]
    fault = arrivals.get("fault", None)
    repeats = first.long() + (1 if fault is None else (fault.reshape(-1) == 0).long())
    source = torch.repeat_interleave(torch.arange(len(first)), repeats)
    is_first = torch.zeros(len(source), dtype=torch.bool)
    is_first[(repeats.cumsum(0) - repeats)[first]] = True

    def arrived(key: str) -> Tensor:
        """Value on arrival, `[K, ...]`; at `is_first` it belongs to the record after."""
        return arrivals[key].index_select(0, source)

    def observed(key: str, shape: tuple[int, ...]) -> Tensor:
        before = flat[key].index_select(0, source).reshape(-1, *shape)
        mask = is_first.view(-1, *[1] * len(shape))
        return torch.where(mask, before, arrived(key).reshape(-1, *shape))

    columns = {key: observed(key, array.shape) for key, array in spec.observations.items()}
    columns |= {name: observed(name, ()) for name in spec.signals}
    action = flat["action"].float().index_select(0, source)
    columns["action"] = action.masked_fill(is_first[:, None], 0.0)
    columns["reward"] = arrived("reward").float().reshape(-1).masked_fill(is_first, 0.0)
    columns["is_first"] = is_first
    columns["is_last"] = arrived("done").reshape(-1) & ~is_first
    columns["is_terminal"] = arrived("terminated").reshape(-1) & ~is_first
    columns["stream"] = flat["stream"].reshape(-1).index_select(0, source)
    return TensorDict(columns, [len(source)])
