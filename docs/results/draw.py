"""Draw the curves of docs/results.md from the JSON lines beside this file.

Usage: python docs/results/draw.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

HERE = Path(__file__).parent
RUNS = {
    "pendulum": ("Pendulum-v1 from pixels", ["pendulum-seed0", "pendulum-seed1", "pendulum-seed2"]),
    "drqv2_pendulum": (
        "Pendulum-v1 from pixels, small DrQ-v2",
        ["drqv2-pendulum-seed0", "drqv2-pendulum-seed1", "drqv2-pendulum-seed2"],
    ),
    "reach": ("Meta-World reach from pixels", ["reach-seed0", "reach-weighted-seed0"]),
    "drawer_open": (
        "Meta-World drawer-open from pixels",
        ["drawer-open-pretrained-seed0", "drawer-open-scratch-seed0"],
    ),
}
CARTPOLE = {
    "cartpole": (
        "cartpole from pixels, small DreamerV2",
        ["cartpole-balance-seed0", "cartpole-swingup-seed0"],
    ),
    "drqv2_cartpole": (
        "cartpole-balance from pixels, small DrQ-v2",
        ["drqv2-balance-seed2", "drqv2-balance-seed3", "drqv2-balance-seed4"],
    ),
}


def read(name: str) -> list[dict[str, Any]]:
    """Lines of one run."""
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text().splitlines()]


def column(
    lines: list[dict[str, Any]], key: str, axis: str = "env_frames"
) -> tuple[list[float], list[float]]:
    """Counter and values of the lines that have this key."""
    found = [line for line in lines if line.get(key) is not None]
    return [line[axis] for line in found], [line[key] for line in found]


def draw(file: str, title: str, names: list[str]) -> None:
    """Evaluation return, and success where there is any, of some runs over environment frames."""
    runs = {name: read(name) for name in names}
    success = any("eval/success" in line for lines in runs.values() for line in lines)
    figure, axes = plt.subplots(1, 1 + success, figsize=(5 + 4 * success, 3.2), squeeze=False)
    for number, (name, lines) in enumerate(runs.items()):
        color = f"C{number}"
        for kind in ("random", "train"):
            axes[0][0].plot(
                *column(lines, f"{kind}/return"), color=color, alpha=0.25, linewidth=0.8
            )
        axes[0][0].plot(*column(lines, "eval/return"), "o-", color=color, label=name, markersize=3)
        if success:
            axes[0][1].plot(*column(lines, "eval/success"), "o-", color=color, markersize=3)
    axes[0][0].set(title=title, xlabel="env_frames", ylabel="return (bold: evaluation)")
    axes[0][0].legend(fontsize=7)
    if success:
        axes[0][1].set(title="evaluation success", xlabel="env_frames", ylim=(-0.05, 1.05))
    figure.tight_layout()
    figure.savefig(HERE / f"{file}.png", dpi=110)


def draw_rewards(file: str, title: str, names: list[str]) -> None:
    """Mean reward of an environment frame, where learning and evaluation have other lengths."""
    figure, axis = plt.subplots(figsize=(5, 3.2))
    for number, name in enumerate(names):
        lines = read(name)
        for kind in ("random", "train", "eval"):
            found = [line for line in lines if line.get(f"{kind}/return") is not None]
            frames = [line["env_frames"] for line in found]
            repeats = [line["env_frames"] / line["agent_steps"] for line in found]
            means = [
                line[f"{kind}/return"] / line[f"{kind}/length"] / repeat
                for line, repeat in zip(found, repeats, strict=True)
            ]
            if kind == "eval":
                axis.plot(frames, means, "o-", color=f"C{number}", label=name, markersize=3)
            else:
                axis.plot(frames, means, color=f"C{number}", alpha=0.25, linewidth=0.8)
    axis.set(title=title, xlabel="env_frames", ylabel="reward of a frame", ylim=(0, 1))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(HERE / f"{file}.png", dpi=110)


def draw_pretraining() -> None:
    """Held-out errors over updates, three seeds each: two ways to read a context, and without."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    kinds = {
        "apv": ("no context", "C1"),
        "contextwm": ("cross-attention", "C0"),
        "contextwm-concat": ("concatenation", "C2"),
    }
    errors = {
        "validation/reconstruction_mse": "reconstruction of 15 frames",
        "validation/open_loop_mse": "prediction of the next 10",
    }
    for panel, (key, title) in zip(axes, errors.items(), strict=True):
        for kind, (label, color) in kinds.items():
            for seed in range(3):
                values = column(read(f"{kind}-pretrain-seed{seed}"), key, "updates")
                name = label if seed == 0 else None
                panel.plot(*values, color=color, label=name, linewidth=1)
        panel.set(title=title, xlabel="updates", yscale="log")
    axes[0].set_ylabel("MSE of a pixel, held out")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(HERE / "pretraining.png", dpi=110)


if __name__ == "__main__":
    for file, (title, names) in RUNS.items():
        draw(file, title, names)
    for file, (title, names) in CARTPOLE.items():
        draw_rewards(file, title, names)
    draw_pretraining()
