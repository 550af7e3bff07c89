"""How fast data comes: frames of each adapter and render profile, new looks, replay samples.

    python benchmarks/data.py [--frames 40] [--repeats 5] [--match dmcontrol] [--json data.json]

Every way runs in a process of its own, so that none profits from another's caches or threads, and
the ways take turns, so that other load on the machine meets them all. Ratios are within one turn.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / source) for source in ("platform", "plugins", "benchmarks")]

PLAIN_METAWORLD = "metaworld/drawer-open, mujoco.Renderer"
PLAIN_DMCONTROL = "dmcontrol/cheetah-run, physics.render"
PLAIN_GYM = "gym/Pendulum-v1, full-size render"

Step = Callable[[], object]


@dataclass(frozen=True)
class Way:
    """One way to produce frames and the plain way that it is compared with."""

    name: str
    start: Callable[[], Step]
    plain: str


@dataclass(frozen=True)
class Rate:
    """Medians over the repeats."""

    name: str
    frames_per_cpu_s: float
    frames_per_wall_s: float
    plain: str
    cpu_ratio: float
    """Frames per CPU second over those of `plain`, taken turn by turn."""
    wall_ratio: float
    memory_mib: float
    """Largest resident memory of the way's process."""


def plain_metaworld() -> Step:
    """Step Meta-World and render as its documentation does: `mujoco.Renderer` at its defaults."""
    os.environ.pop("LP_NUM_THREADS", None)  # Mesa's own default
    import mujoco

    from wmplugins.metaworld.simulator import _task_class

    env: Any = _task_class("drawer-open")(seed=0)
    env.max_path_length = 2**31
    env.reset()
    renderer = mujoco.Renderer(env.model, 64, 64)

    def step() -> object:
        env.step(env.action_space.sample())
        renderer.update_scene(env.data, camera="corner")
        return renderer.render()

    return step


def plain_dmcontrol() -> Step:
    """Step cheetah twice and render it as dm_control's documentation does: `physics.render`."""
    env, act = _suite_cheetah()

    def step() -> object:
        env.step(act())
        env.step(act())
        return env.physics.render(64, 64, camera_id=0)

    return step


def renderer_dmcontrol() -> Step:
    """Step cheetah twice and render it with `mujoco.Renderer`, as gymnasium's environments do."""
    env, act = _suite_cheetah()
    import mujoco

    renderer = mujoco.Renderer(env.physics.model.ptr, 64, 64)

    def step() -> object:
        env.step(act())
        env.step(act())
        renderer.update_scene(env.physics.data.ptr, camera=0)
        return renderer.render()

    return step


def torchrl_dmcontrol() -> Step:
    """Step cheetah by TorchRL's wrapper from pixels, at the size of the others."""
    env, _ = _suite_cheetah()
    from torchrl.envs import DMControlWrapper

    wrapped: Any = DMControlWrapper(
        env, from_pixels=True, frame_skip=2, render_kwargs={"height": 64, "width": 64}
    )
    start = wrapped.reset()
    return lambda: wrapped.step(wrapped.rand_action(start.clone()))


def _suite_cheetah() -> tuple[Any, Callable[[], Any]]:
    os.environ.pop("LP_NUM_THREADS", None)  # Mesa's own default
    import numpy as np
    from dm_control import suite

    env = suite.load("cheetah", "run", task_kwargs={"random": 0, "time_limit": float("inf")})
    env.reset()
    random = np.random.default_rng(0)
    return env, lambda: random.uniform(-1, 1, 6)


def plain_gym() -> Step:
    """Step Pendulum and render it at its own size, unshrunk."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    import gymnasium

    env = gymnasium.make("Pendulum-v1", render_mode="rgb_array", max_episode_steps=-1)
    env.reset(seed=0)

    def step() -> object:
        env.step(env.action_space.sample())
        return env.render()

    return step


def metaworld(**settings: Any) -> Step:
    """Step `drawer-open` through its adapter."""
    from wmplugins.metaworld import MetaWorld

    return _adapter_step(MetaWorld(task="drawer-open", time_limit=10**6, **settings))


def gym(**settings: Any) -> Step:
    """Step Pendulum through its adapter."""
    from wmplugins.gym import GymPixels

    return _adapter_step(GymPixels(time_limit=10**6, **settings))


def metaworld_reference() -> Step:
    """Draw what the model's XML asks for."""
    return metaworld(render_profile="reference")


def metaworld_fast() -> Step:
    """Draw without shadows, reflections and MSAA, twice as large."""
    return metaworld(render_profile="fast")


def dmcontrol(**settings: Any) -> Step:
    """Step cheetah, two frames at a time, through its adapter."""
    from wmplugins.dmcontrol import DMControl

    return _adapter_step(DMControl(task="cheetah-run", time_limit=10**6, **settings))


def dmcontrol_reference() -> Step:
    """Draw what the model's XML asks for."""
    return dmcontrol(render_profile="reference")


def dmcontrol_fast() -> Step:
    """Draw without shadows, reflections and MSAA."""
    return dmcontrol(render_profile="fast")


def _adapter_step(adapter: Any) -> Step:
    env = adapter.make(seed=0)
    env.reset()
    env.action_space.seed(0)
    return lambda: env.step(env.action_space.sample())


WAYS = (
    Way(PLAIN_METAWORLD, plain_metaworld, PLAIN_METAWORLD),
    Way("metaworld/drawer-open, reference", metaworld_reference, PLAIN_METAWORLD),
    Way("metaworld/drawer-open, fast", metaworld_fast, PLAIN_METAWORLD),
    Way(PLAIN_DMCONTROL, plain_dmcontrol, PLAIN_DMCONTROL),
    Way("dmcontrol/cheetah-run, mujoco.Renderer", renderer_dmcontrol, PLAIN_DMCONTROL),
    Way("dmcontrol/cheetah-run, TorchRL", torchrl_dmcontrol, PLAIN_DMCONTROL),
    Way("dmcontrol/cheetah-run, reference", dmcontrol_reference, PLAIN_DMCONTROL),
    Way("dmcontrol/cheetah-run, fast", dmcontrol_fast, PLAIN_DMCONTROL),
    Way(PLAIN_GYM, plain_gym, PLAIN_GYM),
    Way("gym/Pendulum-v1, 64 x 64", gym, PLAIN_GYM),
)


def work(way: Way, orders: Connection) -> None:
    """Serve orders for N frames with (CPU seconds, wall seconds, MiB), until told None."""
    step = way.start()
    for _ in range(3):
        step()
    while (frames := orders.recv()) is not None:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(frames):
            step()
        spent = time.process_time() - cpu_s, time.perf_counter() - wall_s
        orders.send((*spent, _peak_memory_mib()))


def _peak_memory_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Worker:
    """A way running in its own process."""

    def __init__(self, way: Way) -> None:
        context = multiprocessing.get_context("spawn")
        self.orders, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(way, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def measure(self, frames: int) -> tuple[float, float, float]:
        """Return (frames per CPU second, frames per wall second, MiB)."""
        self.orders.send(frames)
        cpu_s, wall_s, memory_mib = self.orders.recv()
        return frames / cpu_s, frames / wall_s, memory_mib

    def stop(self) -> None:
        """Let the process end by itself, so that it frees what it holds."""
        self.orders.send(None)
        self.process.join(timeout=30)


def measure_envs(frames: int, repeats: int, match: str = "") -> list[Rate]:
    """Measure the ways whose names begin so, in turns; the first one warms up and is dropped."""
    ways = [way for way in WAYS if way.name.startswith(match)]
    workers = {way.name: Worker(way) for way in ways}
    try:
        turns = [
            {name: worker.measure(frames) for name, worker in workers.items()}
            for _ in range(repeats + 1)
        ][1:]
    finally:
        for worker in workers.values():
            worker.stop()
    return [_rate(way, turns) for way in ways]


def _rate(way: Way, turns: list[dict[str, tuple[float, float, float]]]) -> Rate:
    def median(index: int) -> float:
        return statistics.median(turn[way.name][index] for turn in turns)

    def ratio(index: int) -> float:
        return statistics.median(turn[way.name][index] / turn[way.plain][index] for turn in turns)

    return Rate(way.name, median(0), median(1), way.plain, ratio(0), ratio(1), median(2))


def show(rates: list[Rate]) -> None:
    """Print the rates as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Agent steps, each with one 64 x 64 picture")
    for column in ("way", "per CPU s", "per wall s", "CPU ratio", "wall ratio", "MiB"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for rate in rates:
        table.add_row(
            rate.name,
            f"{rate.frames_per_cpu_s:.0f}",
            f"{rate.frames_per_wall_s:.0f}",
            f"{rate.cpu_ratio:.2f}",
            f"{rate.wall_ratio:.2f}",
            f"{rate.memory_mib:.0f}",
        )
    Console().print(table)


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    import platform

    return {
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "mujoco_gl": os.environ.get("MUJOCO_GL", "egl"),
        "load_1min": os.getloadavg()[0],
    }


def replay_part(repeats: int) -> Any:
    """Measure replay, where `data_replay.py` lies beside this file: `measure_replay` and `show`."""
    if not (Path(__file__).parent / "data_replay.py").exists():
        return None
    module = importlib.import_module("data_replay")
    rates = module.measure_replay(repeats=4 * repeats)
    module.show(rates)
    return rates


def looks_part(repeats: int) -> Any:
    """Measure what a new look costs, where `data_looks.py` lies beside this file."""
    if not (Path(__file__).parent / "data_looks.py").exists():
        return None
    module = importlib.import_module("data_looks")
    costs = module.measure_looks(repeats=6 * repeats)
    module.show(costs)
    return costs


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=40, help="frames of one turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns that count")
    parser.add_argument("--match", default="", help="measure ways whose names begin so, e.g. gym")
    parser.add_argument("--only", choices=("envs", "looks", "replay"), help="measure one part only")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    os.environ.setdefault("MUJOCO_GL", "egl")
    report: dict[str, Any] = {"machine": machine()}
    if options.only in (None, "envs"):
        rates = measure_envs(options.frames, options.repeats, options.match)
        show(rates)
        report["envs"] = [asdict(rate) for rate in rates]
    if options.only in (None, "looks"):
        report["looks"] = looks_part(options.repeats)
    if options.only in (None, "replay"):
        report["replay"] = replay_part(options.repeats)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
