"""How fast replay serves batches, beside TorchRL's stock buffer, in one run.

    python benchmarks/data_replay.py [--records 50000] [--batch 50] [--length 50] [--repeats 40]
                                     [--size 64] [--storage memory|memmap] [--device cpu]
                                     [--transition-records 4008] [--transition-size 84]
                                     [--json replay.json]

Both hold the same episodes of 500 agent steps. Each repeat times one call of each, in turn, so that
noise of the machine falls on both; the median counts. Writes of 5 records happen in between, as in
a run. With --device cuda the device is waited for after every call.

Then n-step transitions of stacked frames, as DrQ-v2 draws them, beside two plain ways: TorchRL's
buffer with both stacks of every transition in storage, and episodes of stacked frames in memory,
drawn one transition at a time in NumPy, as the authors' loader does (its decompression and its
worker processes left out). CPU time of the least disturbed repeat counts there.
`--transition-records 0` leaves this part out.
"""

# ruff: noqa: E402  the source root comes before the packages below

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform")]

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer

from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec
from wmplatform.records import record_bytes, record_columns
from wmplatform.replay import Replay

EPISODE = 501


def records(size: int, first: int, count: int) -> TensorDict:
    """Records number `first` and so on of one endless stream of episodes."""
    number = torch.arange(first, first + count)
    return TensorDict(
        {
            "pixels": torch.randint(256, (count, 3, size, size), dtype=torch.uint8),
            "action": torch.rand(count, 4),
            "reward": torch.rand(count),
            "is_first": number % EPISODE == 0,
            "is_last": number % EPISODE == EPISODE - 1,
            "is_terminal": torch.zeros(count, dtype=torch.bool),
            "stream": torch.zeros(count, dtype=torch.int64),
        },
        [count],
    )


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure_replay(**settings: Any) -> dict[str, Any]:
    """Fill both buffers and time them in turn.

    Args:
        settings: the command line's options by name; what is missing has its default.
    """
    options = parser().parse_args([])
    vars(options).update(settings)
    with tempfile.TemporaryDirectory() as directory:
        return _measure(options, directory)


def show(found: dict[str, Any]) -> None:
    """Print it in two lines."""
    print(
        f"replay   {found['batch']}x{found['length']} segments: {found['segments_ms']:.2f} ms, "
        f"{found['records_per_s']:.0f} records/s, {found['speedup']:.1f} times the stock sampler\n"
        f"         index work {found['index_work_ms']:.3f} ms, a write of 5 records "
        f"{found['extend_5_ms']:.2f} ms, 256 transitions {found['transitions_256_ms']:.2f} ms"
    )


class StackedEpisodes:
    """Episodes whose every observation holds three frames; draws as the authors' loader does."""

    def __init__(self, count: int, size: int, gamma: float, n: int) -> None:
        self.gamma, self.n = gamma, n
        self.random = np.random.default_rng(0)
        shape = (EPISODE, 9, size, size)
        self.episodes = [
            {
                "observation": self.random.integers(0, 256, shape, dtype=np.uint8),
                "action": self.random.random((EPISODE, 4), dtype=np.float32),
                "reward": self.random.random(EPISODE, dtype=np.float32),
                "discount": np.ones(EPISODE, np.float32),
            }
            for _ in range(count)
        ]

    def transition(self) -> tuple[Any, ...]:
        """Draw one."""
        episode = self.episodes[self.random.integers(len(self.episodes))]
        index = self.random.integers(EPISODE - self.n) + 1
        reward, discount = np.zeros(()), np.ones(())
        for i in range(self.n):
            reward = reward + discount * episode["reward"][index + i]
            discount = discount * episode["discount"][index + i] * self.gamma
        now, later = (episode["observation"][index + i] for i in (-1, self.n - 1))
        return now, episode["action"][index], reward, discount, later

    def sample(self, batch: int) -> list[torch.Tensor]:
        """Draw and collate a batch."""
        columns = zip(*(self.transition() for _ in range(batch)), strict=True)
        return [torch.from_numpy(np.stack(column)) for column in columns]


def cpu_seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Time one call: CPU time of this process, which other processes do not blur, or a device's."""
    if device.type == "cuda":
        return seconds(call, device)
    start = time.process_time()
    call()
    return time.process_time() - start


def measure_transitions(**settings: Any) -> dict[str, Any]:
    """Time draws of 256 three-step transitions of three stacked frames, three ways in turn.

    Args:
        settings: `transition_records`, `transition_size`, `repeats`, `device`.
    """
    options = parser().parse_args([])
    vars(options).update(settings)
    device, size = torch.device(options.device), options.transition_size
    episodes = max(1, options.transition_records // EPISODE)
    count = episodes * EPISODE
    spec = EnvSpec({"pixels": ArraySpec((3, size, size), "uint8")}, ActionSpec(4))
    ours = Replay(spec, device=device, capacity=count)
    for first in range(0, count, EPISODE):
        ours.extend(records(size, first, EPISODE))
    stored = TensorDictReplayBuffer(storage=LazyTensorStorage(count, device=device), batch_size=256)
    for _ in range(episodes):
        stored.extend(ours.transitions(EPISODE, 3, 0.99, 3).to(device))
    loose = StackedEpisodes(episodes, size, 0.99, 3)
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours.transitions(256, 3, 0.99, 3, short_ends=True, by_length=True),
        "stored_stacks": stored.sample,
        "stacked_episodes": lambda: [x.to(device) for x in loose.sample(256)],
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(options.repeats + 2):
        for name, call in calls.items():
            taken = cpu_seconds(call, device)
            times[name] += [taken] if repeat >= 2 else []
    least = {name: min(values) for name, values in times.items()}
    frame, stack = 3 * size * size, 9 * size * size
    rest = record_bytes(record_columns(spec)) - frame
    memory = {"ours": frame, "stored_stacks": 2 * stack, "stacked_episodes": stack}
    return {
        "size": size,
        "records": count,
        **{f"{name}_ms": 1000 * value for name, value in least.items()},
        **{f"{name}_ratio": value / least["ours"] for name, value in least.items()},
        **{f"{name}_gb_per_million": (each + rest) / 1000 for name, each in memory.items()},
    }


def show_transitions(found: dict[str, Any]) -> None:
    """Print it, a line for each way."""
    print(f"256 transitions of 3 stacked frames of {found['size']} x {found['size']}, n = 3")
    for name in ("ours", "stored_stacks", "stacked_episodes"):
        print(
            f"         {name:16} {found[f'{name}_ms']:8.2f} ms {found[f'{name}_ratio']:6.2f} x   "
            f"{found[f'{name}_gb_per_million']:6.1f} GB a million frames"
        )


def _measure(options: argparse.Namespace, directory: str) -> dict[str, Any]:
    device = torch.device(options.device)
    size, batch, length = options.size, options.batch, options.length
    spec = EnvSpec({"pixels": ArraySpec((3, size, size), "uint8")}, ActionSpec(4))
    ours = Replay(
        spec, device=device, directory=directory, capacity=options.records, storage=options.storage
    )
    stock = TensorDictReplayBuffer(
        storage=LazyTensorStorage(options.records, device=device),
        sampler=SliceSampler(slice_len=length, end_key="is_last", truncated_key=None),
        batch_size=batch * length,
    )
    for first in range(0, options.records, 5000):
        piece = records(size, first, min(5000, options.records - first))
        ours.extend(piece)
        stock.extend(piece.exclude("stream").to(device))
    written = options.records
    calls: dict[str, Callable[[], Any]] = {
        "segments": lambda: ours.segments(batch, length),
        "stock_slices": stock.sample,
        "index_work": lambda: ours.sampler.segments(batch, length),
        "transitions_256": lambda: ours.transitions(256, 3, 0.99, 3),
    }
    times: dict[str, list[float]] = {name: [] for name in (*calls, "extend_5")}
    for repeat in range(options.repeats + 3):
        piece = records(size, written, 5)
        written += 5
        found = {"extend_5": seconds(lambda piece=piece: ours.extend(piece), device)}  # type: ignore[misc]
        stock.extend(piece.exclude("stream").to(device))
        found |= {name: seconds(call, device) for name, call in calls.items()}
        if repeat >= 3:
            for name, value in found.items():
                times[name].append(value)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        **{key: value for key, value in vars(options).items() if key != "json"},
        "threads": torch.get_num_threads(),
        **{f"{name}_ms": 1000 * value for name, value in median.items()},
        "records_per_s": batch * length / median["segments"],
        "stock_records_per_s": batch * length / median["stock_slices"],
        "speedup": median["stock_slices"] / median["segments"],
    }


def parser() -> argparse.ArgumentParser:
    """List the options."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--records", type=int, default=50_000)
    options.add_argument("--batch", type=int, default=50, help="segments")
    options.add_argument("--length", type=int, default=50, help="records of a segment")
    options.add_argument("--size", type=int, default=64, help="pixels of an image's side")
    options.add_argument("--repeats", type=int, default=40)
    options.add_argument("--storage", choices=["memory", "memmap"], default="memory")
    options.add_argument("--device", default="cpu")
    options.add_argument("--transition-records", type=int, default=4008)
    options.add_argument("--transition-size", type=int, default=84, help="pixels of a side there")
    options.add_argument("--json", type=Path, help="write everything that was measured there")
    return options


def main() -> None:
    """Measure and print."""
    options = vars(parser().parse_args())
    report = options.pop("json")
    found = measure_replay(**options)
    show(found)
    if options["transition_records"]:
        found["transitions"] = measure_transitions(**options)
        show_transitions(found["transitions"])
    if report is not None:
        report.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
