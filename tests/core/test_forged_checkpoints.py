"""Checkpoints that somebody has altered, with the right checksums: each is refused by name."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from wmplatform.checkpoint import Checkpoints, UnreadableCheckpoint
from wmplatform.collect import Collection
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.evaluation import Evaluation
from wmplatform.replay import Replay, Segments
from wmplatform.run_folder import RunFolder
from wmplatform.saved_agent import OtherAgent
from wmplatform.training.learner import Learner
from wmplatform.training.online import Online, OnlineRun
from wmplatform.training.optim import Adam

from .moving_square import MovingSquare
from .tiny_dreamer import tiny_agent

Change = Callable[[Any], Any]


def learner(agent: Any) -> Learner:
    prefixes = {"model": "world_model", "actor": "behavior.actor", "critic": "behavior.critic"}
    return Learner(
        agent,
        groups={name: (prefix,) for name, prefix in prefixes.items()},
        optimizers=dict.fromkeys(prefixes, Adam),
        data=partial(Segments, batch=2, length=4),
    )


def resume(path: Path, steps: int = 0) -> OnlineRun:
    """Resume a run, or begin it, and take some agent steps and an update."""
    online = Online(
        env=MovingSquare,
        agent=tiny_agent,
        learner=learner,
        replay=partial(Replay, capacity=100),
        collection=partial(Collection, agent_steps_per_collect=4),
        evaluation=Evaluation,
        prefill_agent_steps=12,
        prefetch=True,
    )
    with RunFolder.open(path, config_text="") as folder:
        run = OnlineRun(online, folder, seed=0, device="cpu")
        try:
            run.resume()
            while run.agent_steps < steps:
                run.collect()
            if steps:
                run.learn()
                run.save()
        finally:
            run.close()
    return run


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forged") / "run"
    resume(path, steps=20)
    assert resume(path).agent_steps == 20
    return path


def spoil(folder: Path, part: str, path: tuple[Any, ...], change: Change) -> Path:
    """Change one place of a part and write the checkpoint anew; returns the generation."""
    checkpoints = Checkpoints(folder / "checkpoints")
    (generation,) = checkpoints.generations()
    state = checkpoints.load(generation)
    place: Any = state
    for key in (part, *path)[:-1]:
        place = place[key]
    last = (part, *path)[-1]
    changed = change(place[last])
    if changed is GONE:
        del place[last]
    else:
        place[last] = changed
    shutil.rmtree(checkpoints.path(generation))
    return checkpoints.save(generation, state)


GONE = object()


def to(value: Any) -> Change:
    return lambda old: value


def gone(old: Any) -> Any:
    return GONE


def twice(old: Any) -> Any:
    return [*old, *old] if isinstance(old, list) else torch.cat([old, old])


def wide(old: torch.Tensor) -> torch.Tensor:
    return old.double()


STREAM = ("streams", 0)
CASES: tuple[tuple[str, tuple[Any, ...], Change], ...] = (
    ("loop", (), to([])),
    ("loop", (), to(None)),
    ("loop", ("counters",), to([])),
    ("loop", ("counters",), gone),
    ("loop", ("counters", "agent_steps"), to(-1)),
    ("loop", ("counters", "agent_steps"), to(2**70)),
    ("loop", ("counters", "updates"), to(True)),
    ("loop", ("counters", "updates"), to(7)),
    ("loop", ("counters", "episodes"), to(float("nan"))),
    ("loop", ("counters", "episodes"), to("3")),
    ("loop", ("logs",), to(None)),
    ("loop", ("evaluations",), to(-(2**80))),
    ("loop", ("learn_from",), to([1])),
    ("loop", ("fault_log",), to({"counts": {}, "eval": []})),
    ("loop", ("fault_log", "eval"), to([0.5])),
    ("loop", ("seed",), to(-3)),
    ("learner", ("updates",), to(-1)),
    ("learner", ("guard",), to({})),
    ("learner", ("guard", "scale"), wide),
    ("learner", ("guard", "scale"), to(1.0)),
    ("learner", ("optimizers", "model"), gone),
    ("learner", ("optimizers", "model", "first"), twice),
    ("learner", ("optimizers", "model", "first", 0), to("x")),
    ("learner", ("optimizers", "model", "second", 0), wide),
    ("learner", ("optimizers", "model", "steps"), to([])),
    ("logger", ("offset",), to(-5)),
    ("logger", ("means",), to({})),
    ("logger", ("means", 0, "sum"), twice),
    ("logger", ("means", 0, "names"), to([3])),
    ("logger", ("means", 0, "count"), to(0)),
    ("logger", ("counters",), to({"[/red]": 1})),
    ("random", ("torch",), twice),
    ("random", ("torch",), torch.zeros_like),
    ("random", ("numpy", 0), to("PCG64")),
    ("random", ("numpy", 1, 0), to(2**40)),
    ("random", ("numpy", 2), to(700)),  # NumPy would read past its numbers
    ("random", ("python", 1), to([1, 2])),
    ("random", ("python", 1, 624), to(10_000)),
    ("random", ("python", 0), to(2)),
    ("replay", (), to([])),
    ("replay", ("heads",), to([])),
    ("replay", ("heads", 0), to(2**52)),
    ("replay", ("heads", 0), to("9")),
    ("replay", ("chunks", 0, "spans"), to([[0, 0, 2**41]])),
    ("replay", ("chunks", 0, "file"), to(None)),
    ("replay", ("generator",), to("AAAA")),
    ("replay", ("closed",), to([[0, 1000]])),
    ("prefetch", ("ready",), to([])),
    ("prefetch", ("ready", "pixels"), gone),
    ("prefetch", ("ready", "reward"), wide),
    ("prefetch", ("ready", "reward"), twice),
    ("prefetch", ("batch_size",), to([1000, 1000])),
    ("collection", (), to(3)),
    ("collection", ("streams",), twice),
    ("collection", ("streams",), to("x")),
    ("collection", ("agent_steps",), to(16)),
    ("collection", ("started",), to(["x"])),
    ("collection", ("tally",), to({})),
    ("collection", ("tally", "running"), twice),
    ("collection", ("tally", "running", 0), to([0.0])),
    ("collection", ("tally", "running", 0, 1), to(float("inf"))),
    ("collection", ("memory",), to({"odd": []})),
    ("collection", ("memory", "dict", "action"), twice),
    ("collection", ("memory", "dict", "carry"), to(None)),
    ("collection", (*STREAM, "episode"), to(-1)),
    ("collection", (*STREAM, "episode"), to("x")),
    ("collection", (*STREAM, "actions"), lambda old: old[:, :1].repeat(1, 9)),
    ("collection", (*STREAM, "actions"), lambda old: old.new_zeros(10**5, old.shape[1])),
    ("collection", (*STREAM, "actions"), lambda old: old * float("nan")),
    ("collection", (*STREAM, "observation"), to({"pixels": torch.zeros(3)})),
    ("collection", (*STREAM, "observation", "pixels"), lambda old: old.float()),
    ("collection", (*STREAM, "agent_steps"), to(-1)),
    ("collection", (*STREAM, "faults"), to([None])),
    ("world_model", (), to([])),
    ("behavior", (), gone),
)


@pytest.mark.parametrize(
    ("part", "path", "change"), CASES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_an_altered_part_is_refused_by_name(
    unspoilt: Path, tmp_path: Path, part: str, path: tuple[Any, ...], change: Change
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unspoilt, folder)
    generation = spoil(folder, part, path, change)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(PlatformError) as caught:
        resume(folder)
    assert caught.value.exit_code == ExitCode.BAD_RUN
    if isinstance(caught.value, UnreadableCheckpoint):
        assert caught.value.path == generation / f"{part}.json"
    else:
        assert part in ("world_model", "behavior", "replay")
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        gone,
        to(3),
        to([torch.zeros(1)]),
        lambda old: old.double(),
        lambda old: old.unsqueeze(0),
        lambda old: old.new_zeros(0),
    ],
)
def test_weights_of_another_kind_are_refused_by_tensor(
    unspoilt: Path, tmp_path: Path, change: Change
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unspoilt, folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    name = next(iter(checkpoints.outline("world_model")))
    spoil(folder, "world_model", (name,), change)
    with pytest.raises(OtherAgent) as caught:
        resume(folder)
    assert name in str(caught.value)
    assert caught.value.exit_code == ExitCode.BAD_RUN


def test_forged_folders_end_in_one_message(repo_root: Path) -> None:
    """A drawn sample of everything that may be forged; `--count 1000` tries more of it."""
    command = [
        sys.executable,
        repo_root / "scripts/drill/forged.py",
        "--count",
        "60",
        "--seed",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("forged: 60 folders, ")
