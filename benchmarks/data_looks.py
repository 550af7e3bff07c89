"""What a new look costs at a reset of DMC Remastered, in one run.

    python benchmarks/data_looks.py [--repeats 30] [--json looks.json]

Every way resets walker-run and draws the first frame, in turn, so that noise of the machine falls
on all of them; each turn warms up by a reset that is not counted. Medians of CPU time count. What
a look costs is the difference to the plain task.
"""

# ruff: noqa: E402  the source roots come before the packages below

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / source) for source in ("platform", "plugins")]
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")

import numpy as np
from PIL import Image

from wmplugins.dmcontrol import DMControl
from wmplugins.dmcremastered import DMCRemastered

TASK = "walker-run"
PLAIN = "plain task"
FILES = "live model, files already read"
POOL = "live model, pool already drawn"

Reset = Callable[[], object]


def live(adapter: DMControl) -> Reset:
    """Reset one environment again and again."""
    env = adapter.make(seed=0)
    return env.reset


def rebuilt(adapter: DMControl) -> Reset:
    """Make a new model and OpenGL context for every look, as the published code does."""
    seeds = iter(range(10**9))

    def reset() -> None:
        env = adapter.make(next(seeds))
        env.reset()
        env.close()

    return reset


def photographs(folder: Path, count: int = 16) -> str:
    """Write pictures of the published sizes, of noise."""
    random = np.random.default_rng(0)
    for name, side in (("floors", 300), ("skies", 800)):
        (folder / name).mkdir()
        for number in range(count):
            noise = random.integers(256, size=(side // 8, side // 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((side, side)).save(folder / name / f"{number}.png")
    return str(folder)


def ways(folder: Path) -> dict[str, Reset]:
    """Every way that is measured, by name."""
    fast: dict[str, Any] = {"task": TASK, "render_profile": "fast"}
    files = photographs(folder)
    return {
        PLAIN: live(DMControl(**fast)),
        "live model, new drawn pictures": live(DMCRemastered(**fast)),
        "live model, new drawn pictures of 256": live(DMCRemastered(**fast, texture_size=256)),
        POOL: live(DMCRemastered(**fast, visual_seeds=(1, 10))),
        FILES: live(DMCRemastered(**fast, pictures=files)),
        "live model, no pictures": live(
            DMCRemastered(**fast, vary=("body", "target", "reflectance", "camera", "light"))
        ),
        "new model and context, drawn pictures": rebuilt(DMCRemastered(**fast)),
        "new model and context, pictures of 800": rebuilt(DMCRemastered(**fast, texture_size=800)),
    }


def measure_looks(repeats: int) -> dict[str, float]:
    """CPU milliseconds of a reset with its first frame, by way."""
    with tempfile.TemporaryDirectory() as folder:
        resets = ways(Path(folder))
        for _ in range(60):  # until every file was read and the whole pool drawn
            resets[FILES]()
            resets[POOL]()
        times: dict[str, list[float]] = {name: [] for name in resets}
        for _ in range(repeats):
            for name, reset in resets.items():
                reset()
                start_s = time.process_time()
                reset()
                times[name].append(time.process_time() - start_s)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def show(costs: Mapping[str, float]) -> None:
    """Print the costs as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"A reset of {TASK} with its first frame, CPU ms")
    table.add_column("way")
    for column in ("reset", "the look"):
        table.add_column(column, justify="right")
    for name, cost in costs.items():
        table.add_row(name, f"{cost:.2f}", f"{cost - costs[PLAIN]:.2f}")
    Console().print(table)


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=30, help="resets of each way")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    costs = measure_looks(options.repeats)
    show(costs)
    if options.json is not None:
        options.json.write_text(json.dumps(costs, indent=2) + "\n")


if __name__ == "__main__":
    main()
