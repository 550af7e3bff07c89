"""Draw the pictures of docs/dmc_remastered.md: 32 looks of each domain, and each factor alone.

Usage: python docs/images/draw_dmcr.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmplatform.pictures import enlarge, write_png
from wmplugins.dmcremastered import FACTORS, DMCRemastered

HERE = Path(__file__).parent
TASKS = {"cheetah": "cheetah-run", "hopper": "hopper-stand", "walker": "walker-run"}
ROWS, COLUMNS = 4, 8
GAP, WHITE = 2, 255

Picture = NDArray[np.uint8]


def frames(seeds: range, **settings: Any) -> Iterator[Picture]:
    """First frames of episodes, uint8 `[H, W, 3]`, twice as large as an agent sees them."""
    env = DMCRemastered(**settings).make(0)
    for seed in seeds:
        pixels, _ = env.reset(seed=seed)
        yield enlarge(pixels["pixels"].transpose(1, 2, 0)[None], 2)[0]
    env.close()


def sheet(pictures: list[Picture], columns: int) -> Picture:
    """Lay pictures out in rows of `columns`, with gaps between them."""
    framed = [np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=WHITE) for p in pictures]
    rows = [framed[start : start + columns] for start in range(0, len(framed), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])[:-GAP, :-GAP]


def main() -> None:
    """Draw a sheet for each domain, and one with a row for each domain and a column a factor."""
    alone: list[Picture] = []
    for domain, task in TASKS.items():
        looks = list(frames(range(ROWS * COLUMNS), task=task))
        write_png(HERE / f"dmcr_{domain}.png", sheet(looks, COLUMNS))
        for vary in ((), *((factor,) for factor in FACTORS), FACTORS):
            alone += frames(range(1), task=task, vary=vary)
    write_png(HERE / "dmcr_factors.png", sheet(alone, len(FACTORS) + 2))


if __name__ == "__main__":
    main()
