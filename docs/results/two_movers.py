"""Judge what Iso-Dream's branches took on in the toy world of two movers, and draw it.

Usage: python docs/results/two_movers.py RUN_DIR [RUN_DIR ...] [--out docs/results]

Plays new episodes with random actions, decodes their most likely states into layers, and compares
each branch's pixels with the true masks. Writes `two_movers.json` (figures of each run),
`two_movers.png` (intersection over union, a dot a run) and `two_movers_masks.png` (the first run).
"""

import argparse
import copy
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

mpl.use("Agg")
from matplotlib import pyplot as plt

from wmplatform.saved_agent import open_saved
from wmplugins.isodream.decoders import Layers
from wmplugins.isodream.separation import layers_of, separation
from wmplugins.toyworlds import TwoMovers

HERE = Path(__file__).parent
LENGTH, EPISODES, SHOWN, EVERY = 16, 32, 2, 3
SEED = 10_000
"""Of the first episode; training draws its own in another way."""


def play(adapter: TwoMovers) -> dict[str, Tensor]:
    """Records `[EPISODES, LENGTH, ...]` of random actions, with the true masks."""
    adapter = copy.copy(adapter)
    adapter.objects = True
    env, random = adapter.make(SEED), np.random.default_rng(SEED)
    keys: tuple[str, ...] = ("pixels", "objects", "action")
    episodes: list[dict[str, NDArray[np.generic]]] = []
    for number in range(EPISODES):
        action = np.zeros(2, np.float32)
        seen, _ = env.reset(seed=SEED + number)
        records = [{**seen, "action": action}]
        while len(records) < LENGTH:
            action = random.uniform(-1, 1, 2).astype(np.float32)
            seen = env.step(action)[0]
            records.append({**seen, "action": action})
        episodes.append({key: np.stack([record[key] for record in records]) for key in keys})
    env.close()
    batch = {key: torch.from_numpy(np.stack([each[key] for each in episodes])) for key in keys}
    batch["is_first"] = torch.zeros(EPISODES, LENGTH, dtype=torch.bool)
    batch["is_first"][:, 0] = True
    return batch


def judge(run_dir: Path) -> tuple[dict[str, float], Layers, Tensor]:
    """Figures of one run, its layers, and the centred images that they are to show."""
    saved = open_saved(run_dir, device="cpu")
    assert isinstance(saved.adapter, TwoMovers), f"{run_dir} is no run on two movers"
    batch = play(saved.adapter)
    layers, known = layers_of(saved.agent, batch)
    truth = batch["pixels"][:, known].float() / 255 - 0.5
    rows = separation(layers, batch["objects"][:, known]).rows()
    error = (layers.compose() - truth).square().mean()
    return (
        {**rows, "image_mse": float(error), "least_rest": float(layers.rest.min())},
        layers,
        truth,
    )


def strip(images_TCHW: Tensor) -> NDArray[np.uint8]:
    """Every few centred images beside each other, `[H, W * n, 3]`."""
    rgb = images_TCHW[::EVERY].expand(-1, 3, -1, -1).clamp(-0.5, 0.5) + 0.5
    return (255 * rgb).byte().permute(2, 0, 3, 1).flatten(1, 2).numpy()


def pictures(layers: Layers, truth: Tensor) -> Image.Image:
    """Clips side by side; rows: truth, model, mask and masked image of each branch, background."""
    clips = []
    for b in range(SHOWN):
        rows = [strip(truth[b]), strip(layers.compose()[b])]
        for name, mask in layers.masks.items():
            rows += [strip(mask[b] - 0.5), strip(mask[b] * (layers.images[name][b] + 0.5) - 0.5)]
        if layers.background is not None:
            rows.append(strip(layers.background[b].expand_as(truth[b])))
        clips.append(np.pad(np.concatenate(rows), ((0, 0), (0, 6), (0, 0)), constant_values=255))
    return Image.fromarray(np.concatenate(clips, 1))


def draw(runs: dict[str, dict[str, float]], path: Path) -> None:
    """A bar a branch and object: the mean over runs; a dot a run."""
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 2.8), sharey=True)
    for axis, (what, title) in zip(
        axes,
        (("iou", "intersection over union"), ("coverage", "mask weight on object")),
        strict=True,
    ):
        for number, thing in enumerate(("square (controlled)", "disc (by itself)")):
            for b, branch in enumerate(("ctrl", "free")):
                values = [rows[f"{what}/{branch}/{number}"] for rows in runs.values()]
                place = b + 0.36 * number - 0.18
                label = thing if b == 0 else None
                axis.bar(place, np.mean(values), 0.32, color=f"C{1 - number}", label=label)
                axis.plot([place] * len(values), values, "ko", markersize=3)
        axis.set(title=title, xticks=[0, 1], ylim=(0, 1))
        axis.set_xticklabels(["branch ctrl", "branch free"])
    axes[0].legend(fontsize=7, loc="upper center")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Judge runs and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.manual_seed(0)
    runs = {}
    for number, run_dir in enumerate(options.runs):
        rows, layers, truth = judge(run_dir)
        runs[run_dir.name] = {key: round(value, 4) for key, value in rows.items()}
        if number == 0:
            pictures(layers, truth).save(options.out / "two_movers_masks.png")
    (options.out / "two_movers.json").write_text(json.dumps(runs, indent=2) + "\n")
    draw(runs, options.out / "two_movers.png")


if __name__ == "__main__":
    main()
