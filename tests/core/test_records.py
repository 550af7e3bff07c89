"""Transitions become records, with everything in its place."""

import pytest
import torch
from tensordict import TensorDict

from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec
from wmplatform.records import record_bytes, record_columns, to_records

SPEC = EnvSpec({"pixels": ArraySpec((1, 2, 2), "uint8")}, ActionSpec(1), signals={"success": "max"})


def transitions(lengths: list[int], terminated: bool, stream: int = 0) -> TensorDict:
    """Episodes of these many steps; frame and reward of step t are t, action t + 0.5."""
    rows = []
    for length in lengths:
        for t in range(length):
            last = t + 1 == length
            image = torch.full((1, 2, 2), t, dtype=torch.uint8)
            flag = torch.tensor([last])
            arrival = {
                "pixels": image + 1,
                "success": torch.tensor([float(t + 1)]),
                "reward": torch.tensor([float(t + 1)]),
                "done": flag,
                "terminated": flag & terminated,
                "truncated": flag & (not terminated),
            }
            row = {
                "pixels": image,
                "success": torch.tensor([float(t)]),
                "is_init": torch.tensor([t == 0]),
                "stream": torch.tensor([stream]),
                "action": torch.tensor([t + 0.5]),
                "next": TensorDict(arrival, []),
            }
            rows.append(TensorDict(row, []))
    return torch.stack(rows)


def test_an_episode_of_n_steps_is_n_plus_1_records_each_with_what_led_into_it() -> None:
    records = to_records(transitions([3], terminated=True), SPEC)
    assert len(records) == 4
    assert records["pixels"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert records["action"][:, 0].tolist() == [0, 0.5, 1.5, 2.5]
    assert records["reward"].tolist() == [0, 1, 2, 3]
    assert records["success"].tolist() == [0, 1, 2, 3]
    assert records["is_first"].tolist() == [True, False, False, False]
    assert records["is_last"].tolist() == [False, False, False, True]
    assert records["is_terminal"].tolist() == [False, False, False, True]


def test_a_truncation_is_last_but_not_terminal() -> None:
    records = to_records(transitions([2, 1], terminated=False), SPEC)
    assert records["is_last"].tolist() == [False, False, True, False, True]
    assert not records["is_terminal"].any()


def test_steps_that_continue_an_episode_give_no_reset_record() -> None:
    steps = transitions([4], terminated=True)
    pieces = [to_records(steps[:1], SPEC), to_records(steps[1:], SPEC)]
    whole = to_records(steps, SPEC)
    assert (torch.cat(pieces) == whole).all()


def test_streams_come_one_after_the_other() -> None:
    both = torch.stack([transitions([2, 1], True, 7), transitions([3], False, 8)])
    records = to_records(both, SPEC)
    assert records["stream"].tolist() == [7] * 5 + [8] * 4
    assert (records[5:] == to_records(both[1], SPEC)).all()


def test_a_nan_action_does_not_reach_the_first_record() -> None:
    steps = transitions([1], terminated=True)
    steps["action"][:] = float("nan")
    steps["next", "reward"][:] = float("nan")
    records = to_records(steps, SPEC)
    assert records["action"][0].item() == 0
    assert records["reward"][0].item() == 0


def test_columns_hold_each_frame_once_as_uint8() -> None:
    columns = record_columns(SPEC)
    assert set(columns) == {
        "pixels", "action", "reward", "is_first", "is_last", "is_terminal", "success"
    }  # fmt: skip
    assert record_bytes(columns) == 4 + 4 + 4 + 3 + 4


@pytest.mark.parametrize("name", ["reward", "action", "pixels", "is_last"])
def test_a_signal_may_not_take_the_name_of_a_column(name: str) -> None:
    spec = EnvSpec(SPEC.observations, SPEC.action, signals={name: "max"})
    with pytest.raises(ValueError, match="taken"):
        record_columns(spec)
