"""How fast data comes: frames of each adapter and render profile, new looks, replay samples.

    python benchmarks/data.py [--frames 40] [--repeats 5] [--match dmcontrol] [--json data.json]

Every way runs in a process of its own, so that none profits from another's caches or threads, and
the ways take turns, so that other load on the machine meets them all. Ratios are within one turn.
CPU time and memory are those of the process and of what it started, servers left out (Linux only).
"""

import argparse
import atexit
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / source) for source in ("platform", "plugins", "benchmarks")]

PLAIN_METAWORLD = "metaworld/drawer-open, mujoco.Renderer"
PLAIN_DMCONTROL = "dmcontrol/cheetah-run, physics.render"
PLAIN_GYM = "gym/Pendulum-v1, full-size render"
PLAIN_CARLA = "carla/highway, plain client loop"

CARLA_THROTTLE = 0.02
"""Straight on at walking pace: the first bend of the road is 6000 frames away."""
CARLA_PATIENCE_S = 30.0

SERVERS: set[int] = set()
"""Processes of this one that stand in for servers elsewhere: what they cost is not the way's."""

Step = Callable[[], object]


@dataclass(frozen=True)
class Way:
    """One way to produce frames and the plain way that it is compared with."""

    name: str
    start: Callable[[], Step]
    plain: str
    needs: tuple[str, ...] = ()
    """Modules without which it is left out."""


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
    """Largest resident memory, summed over the way's processes."""


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


def plain_carla() -> Step:
    """Drive as CARLA's documentation does: tick, then take the camera's picture from a queue."""
    import queue

    import carla
    import numpy as np

    client = carla.Client("127.0.0.1", _carla_server())
    client.set_timeout(CARLA_PATIENCE_S)
    world = client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
    world.apply_settings(settings)
    library = world.get_blueprint_library()
    start = world.get_map().get_spawn_points()[0]
    car = world.spawn_actor(library.find("vehicle.audi.a2"), start)
    sensor = library.find("sensor.camera.rgb")
    for side in ("image_size_x", "image_size_y"):
        sensor.set_attribute(side, "64")
    place = carla.Transform(carla.Location(x=1.6, z=1.7))
    camera = world.spawn_actor(sensor, place, attach_to=car)
    images: queue.Queue[Any] = queue.Queue()
    camera.listen(images.put)
    atexit.register(camera.stop)

    def step() -> object:
        car.apply_control(carla.VehicleControl(throttle=CARLA_THROTTLE))
        world.tick()
        image = images.get(timeout=CARLA_PATIENCE_S)
        return np.frombuffer(image.raw_data, np.uint8).reshape(64, 64, 4)[:, :, 2::-1]

    return step


def carla_adapter() -> Step:
    """Drive through the adapter, whose client library has a process of its own."""
    import numpy as np

    from wmplugins.carla import Carla

    patience: dict[str, Any] = {"camera_timeout_s": CARLA_PATIENCE_S}
    ports = (_carla_server(),)
    adapter = Carla(host="127.0.0.1", ports=ports, traffic=0, time_limit=10**6, **patience)
    env = adapter.make(seed=0)
    atexit.register(env.close)
    env.reset()
    action = np.array([0.0, CARLA_THROTTLE], np.float32)
    return lambda: env.step(action)


def _carla_server() -> int:
    """Start the tests' stand-in for a server, to end with this process, and return its port."""
    sys.path.append(str(ROOT / "tests"))
    double = importlib.import_module("carla_double.launch").Double()
    double.start()
    atexit.register(double.stop)  # runs after what the clients register later
    SERVERS.add(double.process.pid)
    return int(double.port)


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
    Way(PLAIN_CARLA, plain_carla, PLAIN_CARLA, needs=("carla", "msgpack")),
    Way("carla/highway, adapter", carla_adapter, PLAIN_CARLA, needs=("carla", "msgpack")),
)


def work(way: Way, orders: Connection) -> None:
    """Serve orders for N frames with (CPU seconds, wall seconds, MiB), until told None."""
    step = way.start()
    for _ in range(3):
        step()
    pids = _processes(os.getpid())
    while (frames := orders.recv()) is not None:
        wall_s, cpu_s = time.perf_counter(), _cpu_s(pids)
        for _ in range(frames):
            step()
        spent = _cpu_s(pids) - cpu_s, time.perf_counter() - wall_s
        orders.send((*spent, sum(map(_peak_memory_mib, pids))))


def _processes(pid: int) -> list[int]:
    """Return a process and all that it and its children started, without the servers."""
    lists = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
    children = {int(child) for path in lists for child in path.read_text().split()}
    return [pid, *(one for child in children - SERVERS for one in _processes(child))]


def _cpu_s(pids: list[int]) -> float:
    """CPU seconds of processes that all still run; an OSError where one has ended."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)  # clock_getcpuclockid(3)


def _peak_memory_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


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
    """Measure the ways whose names begin so and their plain ways, in turns; the first warms up."""
    chosen = [way for way in WAYS if way.name.startswith(match) and _installed(way)]
    plain = {way.plain for way in chosen}
    ways = [way for way in WAYS if way in chosen or way.name in plain]
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


def _installed(way: Way) -> bool:
    """Whether all is there that a way needs; says so where it is not."""
    missing = [name for name in way.needs if find_spec(name) is None]
    if missing:
        print(f"left out: {way.name} (not installed: {', '.join(missing)})")
    return not missing


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
