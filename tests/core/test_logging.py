"""Logging: whole lines, exact resume, means without waiting, honest progress."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wmplatform.files import DiskFull
from wmplatform.json_lines import JsonLines, read_json_lines
from wmplatform.logging import Progress, RunLogger, RunningMeans
from wmplatform.logging.progress import as_duration


def counters(number: int) -> dict[str, int]:
    return {"env_frames": 2 * number, "agent_steps": number, "updates": number // 5}


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_lines_are_strict_json(metrics: Path) -> None:
    with JsonLines(metrics) as lines:
        lines.append({"a": float("nan"), "b": float("-inf"), "c": 0.1, "d": 3})
    assert metrics.read_text() == '{"a": null, "b": null, "c": 0.1, "d": 3}\n'


@pytest.mark.parametrize("torn", ['{"n": 3', "x" * 10_000])
def test_a_torn_last_line_is_cut_off(metrics: Path, torn: str) -> None:
    metrics.write_text('{"n": 1}\n{"n": 2}\n' + torn)
    assert [line["n"] for line in read_json_lines(metrics)] == [1, 2]
    with JsonLines(metrics) as lines:
        lines.append({"n": 3})
    assert [line["n"] for line in read_json_lines(metrics)] == [1, 2, 3]


def test_a_file_of_half_a_line_becomes_empty(metrics: Path) -> None:
    metrics.write_text("{")
    JsonLines(metrics).close()
    assert metrics.read_text() == ""


def test_a_line_that_does_not_fit_leaves_no_half(metrics: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with JsonLines(metrics) as lines:
        lines.append({"n": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
        try:
            with pytest.raises(DiskFull):
                lines.append({"n": 2, "much": "x" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert metrics.read_text() == '{"n": 1}\n'
        lines.append({"n": 2})
    assert [line["n"] for line in read_json_lines(metrics)] == [1, 2]


def test_killed_writers_leave_whole_lines_in_order(metrics: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from wmplatform.json_lines import JsonLines, read_json_lines\n"
        "path = Path(sys.argv[1]); lines = JsonLines(path)\n"
        "n = len(list(read_json_lines(path)))\n"
        "while True:\n    lines.append({'n': n, 'x': 'y' * 200}); n += 1; print(flush=True)"
    )
    script = metrics.with_name("script.py")
    script.write_text(code)
    for delay_s in (0.0, 0.002, 0.005):
        process = subprocess.Popen(
            [sys.executable, str(script), str(metrics), *sys.path], stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(delay_s)
        process.kill()
        process.communicate()
    numbers = [json.loads(line)["n"] for line in metrics.read_text().splitlines()]
    assert numbers == list(range(len(numbers)))
    assert numbers


@given(
    rows=st.lists(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=2), min_size=1),
    split=st.integers(0, 20),
)
def test_means_are_means_and_survive_a_checkpoint(rows: list[list[float]], split: int) -> None:
    means = RunningMeans()
    for number, (a, b) in enumerate(rows):
        if number == split:
            resumed = RunningMeans()
            resumed.load_state_dict(means.state_dict())
            means = resumed
        means.add({"a": torch.tensor(a), "b": torch.tensor([b], dtype=torch.float64)})
    means.add({"a": torch.tensor(3)})  # on its own, and an int
    taken = means.take()
    column = np.array(rows)
    assert taken["a"] == pytest.approx((column[:, 0].sum() + 3) / (len(rows) + 1), abs=1e-6)
    assert taken["b"] == pytest.approx(column[:, 1].mean(), abs=1e-6)
    assert means.take() == {}


def test_a_nan_shows_in_the_mean() -> None:
    means = RunningMeans()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
    means.add({"a": torch.tensor(float("nan")), "b": torch.tensor(3.0)})
    taken = means.take()
    assert np.isnan(taken["a"])
    assert taken["b"] == 2.0


def test_means_keep_no_graph_and_never_wait() -> None:
    from torch._subclasses import FakeTensorMode

    weight = torch.ones(2, requires_grad=True)
    means = RunningMeans()
    means.add({"a": (weight * 2).sum()})
    assert not means.state_dict()[0]["sum"].requires_grad
    with FakeTensorMode():  # reading a value of a fake tensor raises
        fakes = RunningMeans()
        for _ in range(2):
            fakes.add({"a": torch.ones(()), "b": torch.ones(())})


def log_some(logger: RunLogger, first: int, last: int) -> None:
    for number in range(first, last):
        logger.add({"loss": torch.tensor(float(number))})
        if number % 2:
            logger.flush(counters(number), {"extra": 0.5})


def without_time(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "time_s"} for line in read_json_lines(path)]


def test_every_line_holds_all_counters(tmp_path: Path, metrics: Path) -> None:
    with RunLogger(tmp_path, tensorboard=False) as logger:
        log_some(logger, 0, 4)
    assert without_time(metrics) == [
        {"env_frames": 2, "agent_steps": 1, "updates": 0, "loss": 0.5, "extra": 0.5},
        {"env_frames": 6, "agent_steps": 3, "updates": 0, "loss": 2.5, "extra": 0.5},
    ]


def test_without_news_no_line_is_written(tmp_path: Path, metrics: Path) -> None:
    with RunLogger(tmp_path, tensorboard=False) as logger:
        for number in (1, 1, 2):
            logger.flush(counters(number), {"records": 1.0})
    assert [line["agent_steps"] for line in without_time(metrics)] == [1, 2]


def test_a_resumed_run_has_each_line_once(tmp_path: Path, metrics: Path) -> None:
    with RunLogger(tmp_path) as logger:
        log_some(logger, 0, 5)
        state = logger.state_dict()  # one value is summed up and not written
        log_some(logger, 5, 10)
    with RunLogger(tmp_path) as logger:
        logger.load_state_dict(state)
        log_some(logger, 5, 12)
    twin = tmp_path / "twin"
    twin.mkdir()
    with RunLogger(twin, tensorboard=False) as logger:
        log_some(logger, 0, 12)
    assert without_time(metrics) == without_time(twin / "metrics.jsonl")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 6, 10, 14, 18, 22]


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    tmp_path: Path, metrics: Path
) -> None:
    with RunLogger(tmp_path, tensorboard=False) as logger:
        log_some(logger, 0, 5)
    with RunLogger(tmp_path, tensorboard=False) as logger:
        logger.start_over()
        log_some(logger, 0, 3)
    assert [line["agent_steps"] for line in without_time(metrics)] == [1]


def test_pictures_and_videos_are_named_by_their_moment(tmp_path: Path) -> None:
    with RunLogger(tmp_path) as logger:
        image = logger.image("open_loop", counters(5), np.zeros((8, 8, 3), np.uint8))
        video = logger.video("eval/policy", counters(5), np.zeros((3, 8, 8, 3), np.uint8), 10)
    assert image == tmp_path / "pictures" / "open_loop-000000010.png"
    assert video == tmp_path / "videos" / "eval-policy-000000010.mp4"
    assert image.exists()
    assert video.exists()


@contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """No file may exceed so many bytes: the system's own error, without root rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_lines_wait_and_a_checkpoint_waits_for_them(
    tmp_path: Path, metrics: Path
) -> None:
    shown, _, text = progress(terminal=False)
    logger = RunLogger(tmp_path, progress=shown)
    log_some(logger, 0, 4)
    with largest_file(metrics.stat().st_size + 10):
        log_some(logger, 4, 8)
        logger.image("open_loop", counters(9), np.zeros((80, 80, 3), np.uint8))
        logger.video("policy", counters(9), np.zeros((3, 80, 80, 3), np.uint8), 10)
        with pytest.raises(DiskFull):
            logger.state_dict()
    assert text.getvalue().count("the disk is full, the run goes on") == 1
    assert [line["agent_steps"] for line in without_time(metrics)] == [1, 3]
    assert not list(tmp_path.glob("*/.writing-*"))
    logger.state_dict()
    logger.close()
    assert [line["agent_steps"] for line in without_time(metrics)] == [1, 3, 5, 7]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("loss")[0].step == 2


class Clock:
    """A clock that is set by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def progress(*, terminal: bool) -> tuple[Progress, Clock, io.StringIO]:
    clock, text = Clock(), io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=200)
    return Progress(1000, console=console, clock=clock, every_s=10), clock, text


def test_without_a_terminal_plain_lines_come_now_and_then() -> None:
    shown, clock, text = progress(terminal=False)
    for number in range(101):
        clock.now_s = number * 0.25
        shown.update(counters(number), last_return=12.5)
    shown.close()
    lines = text.getvalue().splitlines()
    assert len(lines) == 4  # at 0, 10 and 20 seconds, and the last one
    assert lines[-1].startswith("agent_steps 100/1,000  env_frames 200  updates 20")
    assert lines[-2] == (
        "agent_steps 80/1,000  env_frames 160  updates 16  0.8 updates/s  8.0 frames/s  "
        "last return 12.5  left 3 min 50 s"
    )
    assert "\x1b" not in text.getvalue()


def test_rates_are_of_the_last_half_minute() -> None:
    shown, clock, _ = progress(terminal=False)
    for second in range(200):
        clock.now_s = second
        shown.update({"agent_steps": second if second < 100 else 100 + (second - 100) * 4})
    assert shown.rates()["agent_steps"] == pytest.approx(4.0)
    assert shown.left_s() == pytest.approx((1000 - 496) / 4)


def test_on_a_terminal_one_live_line_is_shown() -> None:
    shown, clock, text = progress(terminal=True)
    for number in range(5):
        clock.now_s = number
        shown.update(counters(number))
    shown.close()
    shown.close()
    assert "agent_steps 4/1,000" in text.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (3700, "1 h 1 min"), (90000, "1 d 1 h")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert as_duration(seconds) == text


def test_reading_metrics_needs_no_torch() -> None:
    code = "import wmplatform.run_folder, wmplatform.files, sys; assert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
