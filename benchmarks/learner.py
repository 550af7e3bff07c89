"""How fast the learner updates: rate, operators, arithmetic, memory, and where the time goes.

    python benchmarks/learner.py [--gin experiments/dreamerv2_metaworld.gin] [--bind "..."]
                                 [--device cpu] [--updates 5] [--count] [--json learner.json]

Agent and learner are assembled from gin as a run assembles them; batches are random bytes in the
shape that replay would give, or clips of videos, already on the device. No simulator is started.
Operators and arithmetic are counted apart from the rate: on an accelerator in updates of their own,
as are the stages; for a CPU on fake tensors, so that `--updates 1 --warmup 0` computes one update.
With --count nothing is computed.
Settings are tried with --bind, e.g. "Learner.precision = 'bf16'" or "Segments.batch = 16".
"""

# ruff: noqa: E402  the source roots come before the packages below

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / source) for source in ("platform", "plugins")]

import torch
from tensordict import TensorDict
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from wmplatform import assembly
from wmplatform.config import Config, load
from wmplatform.interfaces import Request
from wmplatform.records import record_columns
from wmplatform.replay import Replay, Segments
from wmplatform.training.host_memory import keep_freed_memory
from wmplatform.training.launch import choose_device
from wmplatform.training.learner import Learner
from wmplatform.types import ArraySpec, EnvSpec

STAGES = ("forward", "backward", "optimizer", "after")


@dataclass
class Counts:
    """What one update takes, whatever the machine."""

    batch: list[int]
    parameters: int
    operators: int
    """ATen operators of an update, views included."""
    kernels: int
    """Those that are no views; on an accelerator, about the number of launches."""
    gflops: float
    """Arithmetic of one update in 1e9 floating-point operations (convolutions, products)."""
    operators_by_phase: dict[str, dict[str, int]]
    most_frequent: dict[str, int]


@dataclass
class Report(Counts):
    """What was measured, of updates after the warm-up."""

    device: str
    update_s: float
    """Median wall time of an update."""
    processor_s: float
    """Median time that its threads computed; on a machine that is shared it says more."""
    updates_per_s: float
    spread: float
    """Slowest over fastest update."""
    gflops_per_s: float
    peak_memory_mib: float
    """Of the device; on a CPU the largest resident memory of this process."""
    stages: dict[str, dict[str, float]]
    """Seconds by phase and stage."""


class OperatorCount(TorchDispatchMode):
    """Counts ATen operators as they are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.views = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run one operator."""
        if func.namespace == "aten":  # fake tensors ask for devices by operators of another one
            self.names[str(func)] += 1
            self.views += func.is_view
        return func(*args, **(kwargs or {}))


class Stages:
    """Adds up what each stage of each phase took: seconds, or operators."""

    def __init__(self, learner: Learner, measure: Callable[[], float]) -> None:
        self.learner, self.measure = learner, measure
        self.found: dict[str, dict[str, float]] = {}
        self._phase = ""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Wrap the learner's stages; they are bare again afterwards."""
        learner, plan = self.learner, self.learner.plan
        gradients, run = learner._gradients, learner._run
        optimizers = [(o, o.clip, o.step) for o in learner.optimizers.values()]
        learner.plan = [_with(phase, self) for phase in plan]
        learner._gradients = self.timed("backward", gradients)  # type: ignore[method-assign]
        learner._run = self._entered(run)  # type: ignore[method-assign]
        for optimizer, clip, step in optimizers:
            optimizer.clip = self.timed("optimizer", clip)  # type: ignore[method-assign]
            optimizer.step = self.timed("optimizer", step)  # type: ignore[method-assign]
        try:
            yield
        finally:
            learner.plan = plan
            learner._gradients, learner._run = gradients, run  # type: ignore[method-assign]
            for optimizer, clip, step in optimizers:
                optimizer.clip, optimizer.step = clip, step  # type: ignore[method-assign]

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Add what a call takes to a stage of the running phase."""

        def call(*args: Any) -> Any:
            before = self.measure()
            result = function(*args)
            stages = self.found.setdefault(self._phase, dict.fromkeys(STAGES, 0.0))
            stages[stage] += self.measure() - before
            return result

        return call

    def _entered(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(phase: Any, update: Any) -> Any:
            self._phase = phase.name
            return run(phase, update)

        return call


def _with(phase: Any, stages: Stages) -> Any:
    """The same phase with its forward pass and its hook measured."""
    after = stages.timed("after", phase.after) if phase.after else None
    return type(phase)(phase.name, stages.timed("forward", phase.compute), after)


def request_of(config: Config, learner: Learner) -> Request:
    """What an update takes from replay; from videos, segments without actions and rewards."""
    if assembly.root_of(config) != assembly.VIDEOS:
        return learner.data
    sizes = {name: config.parameter(f"Clips.{name}") for name in ("batch", "length")}
    return Segments(**sizes)


def synthetic(spec: EnvSpec, request: Request, device: torch.device) -> TensorDict:
    """What `request` draws from episodes of random records; of clips where nobody acts."""
    count = request.records + request.stack
    episodes = [_episode(spec, count) for _ in range(4)]
    replay = Replay(spec, capacity=max(4 * count, 1 + (spec.time_limit or 0)))
    for episode in episodes:
        replay.extend(episode)
    batch = request.sample(replay)
    batch = batch if spec.action.size else batch.select(*spec.observations, "is_first")
    return batch.to(device)


def _episode(spec: EnvSpec, count: int) -> TensorDict:
    columns = {key: _random(count, array) for key, array in record_columns(spec).items()}
    first = torch.arange(count) == 0
    action = torch.rand(count, spec.action.size) * 2 - 1
    if spec.action.kind == "discrete":
        action = torch.nn.functional.one_hot(action.argmax(-1), spec.action.size).float()
    columns |= {"action": action * ~first[:, None], "is_first": first, "is_last": first.flip(0)}
    columns["is_terminal"] = torch.zeros_like(first)
    columns["stream"] = torch.zeros(count, dtype=torch.int64)
    return TensorDict(columns, batch_size=[count])


def _random(count: int, array: ArraySpec) -> torch.Tensor:
    if array.dtype == "uint8":
        return torch.randint(0, 256, (count, *array.shape), dtype=torch.uint8)
    return torch.rand(count, *array.shape).to(getattr(torch, array.dtype))


def now(device: torch.device) -> float:
    """Seconds, after everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(
    learner: Learner, batch: TensorDict, updates: int, warmup: int, counts: Counts | None = None
) -> Report:
    """Measure a learner on one batch; without `counts`, in updates of their own."""
    device = learner.agent.device
    stages = Stages(learner, lambda: now(device))
    # Waiting for an accelerator after each stage would slow the timed updates down.
    watching = stages.attached() if device.type == "cpu" else nullcontext()
    for _ in range(warmup):
        learner.update(batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, computed = [], []
    with watching:
        for _ in range(updates):
            before, computing = now(device), time.process_time()
            learner.update(batch)
            seconds.append(now(device) - before)
            computed.append(time.process_time() - computing)
    peak_memory_mib = _peak_memory_mib(device)
    if device.type != "cpu":
        with stages.attached():
            learner.update(batch)
    watched = updates if device.type == "cpu" else 1
    counts, update_s = counts or counts_of(learner, batch), statistics.median(seconds)
    return Report(
        **asdict(counts),
        device=_device_name(device),
        update_s=update_s,
        processor_s=statistics.median(computed),
        updates_per_s=1 / update_s,
        spread=max(seconds) / min(seconds),
        gflops_per_s=counts.gflops / update_s,
        peak_memory_mib=peak_memory_mib,
        stages={
            phase: {stage: value / watched for stage, value in found.items()}
            for phase, found in stages.found.items()
        },
    )


def counts_of(learner: Learner, batch: TensorDict) -> Counts:
    """Count operators and arithmetic of an update, in one each."""
    count, by_phase = count_operators(learner, batch)
    with FlopCounterMode(display=False) as flops:
        learner.update(batch)
    return Counts(
        batch=list(batch.batch_size),
        parameters=sum(p.numel() for p in learner.agent.parameters()),
        operators=count.names.total(),
        kernels=count.names.total() - count.views,
        gflops=flops.get_total_flops() / 1e9,
        operators_by_phase=by_phase,
        most_frequent=dict(count.names.most_common(12)),
    )


def counted(config: Config, spec: EnvSpec) -> Counts:
    """Count on fake tensors: nothing is computed and no memory is taken."""
    with FakeTensorMode() as fake:
        learner: Learner = assembly.build_part(
            config, "learner", assembly.build_agent(config, spec)
        )
    batch = synthetic(spec, request_of(config, learner), torch.device("cpu"))
    with fake:
        return counts_of(learner, batch.apply(fake.from_tensor))


def count_operators(
    learner: Learner, batch: TensorDict
) -> tuple[OperatorCount, dict[str, dict[str, int]]]:
    """Count the operators of one update, and those of each stage that are no views."""
    with OperatorCount() as count:
        stages = Stages(learner, lambda: float(count.names.total() - count.views))
        with stages.attached():
            learner.update(batch)
    return count, {
        phase: {stage: int(value) for stage, value in found.items()}
        for phase, found in stages.found.items()
    }


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores"


def show(found: Counts, title: str) -> None:
    """Print what was counted, and measured, as tables."""
    from rich.console import Console
    from rich.table import Table

    report = found if isinstance(found, Report) else None
    summary = Table(title=title, show_header=False)
    rows = {
        "batch": " x ".join(map(str, found.batch)),
        "parameters": f"{found.parameters:,}",
        "ATen operators per update": f"{found.operators:,}, {found.kernels:,} without views",
        "arithmetic per update": f"{found.gflops:,.1f} GFLOP",
    }
    if report:
        spread = f"slowest / fastest {report.spread:.2f}"
        rows |= {
            "device": report.device,
            "updates per s": f"{report.updates_per_s:.3g} ({spread})",
            "processor time of an update": f"{report.processor_s:.3g} s",
            "arithmetic per second": f"{report.gflops_per_s:,.1f} GFLOP/s",
            "peak memory": f"{report.peak_memory_mib:,.0f} MiB",
        }
    for name, value in rows.items():
        summary.add_row(name, value)
    title = "Milliseconds (share of the update; operators, no views)" if report else "Operators"
    split = Table("phase", *STAGES, title=title)
    for phase, counts in found.operators_by_phase.items():
        split.add_row(phase, *(_cell(report, phase, stage, counts[stage]) for stage in STAGES))
    Console().print(summary, split)


def _cell(report: Report | None, phase: str, stage: str, operators: int) -> str:
    if report is None:
        return f"{operators:,}"
    total_s = sum(sum(stages.values()) for stages in report.stages.values())
    seconds = report.stages[phase][stage]
    return f"{1e3 * seconds:,.1f} ({seconds / total_s:.0%}; {operators:,})"


def main() -> None:
    """Assemble, measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    default = ROOT / "experiments" / "dreamerv2_metaworld.gin"
    parser.add_argument("--gin", type=Path, action="append", help=f"default: {default.name}")
    parser.add_argument("--bind", action="append", default=[], help="a gin binding; repeatable")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--updates", type=int, default=5, help="updates that are timed")
    parser.add_argument("--warmup", type=int, default=1, help="updates before them")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--count", action="store_true", help="count only; computes nothing")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `wmplatform run` does
    torch.manual_seed(0)
    files = options.gin or [default]
    config = load(files, options.bind)
    spec = assembly.build_spec(config)
    device = torch.device("cpu" if options.count else choose_device(options.device))
    found = counted(config, spec) if device.type == "cpu" else None
    if not options.count:
        agent = assembly.build_agent(config, spec).to(device)
        learner: Learner = assembly.build_part(config, "learner", agent)
        batch = synthetic(spec, request_of(config, learner), device)
        found = measure(learner, batch, options.updates, options.warmup, found)
    assert found is not None
    show(found, ", ".join(file.stem for file in files))
    if options.json is not None:
        numbers = {"files": [file.name for file in files], "bind": options.bind, **asdict(found)}
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
