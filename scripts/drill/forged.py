"""Forged folders: what somebody who knows the formats has spoilt ends in one clear message.

A tiny run, its pre-training, prepared videos and their sources are made once. Each case then takes
a copy of one of them, spoils it in one way drawn by the seed (a value, a key, a tensor, a header, a
manifest, the kind of a file), gives it the right checksums again, and reads it in a child process
whose time and memory are bounded. The outcome is

    refused    a `PlatformError` with an exit code of its own
    harmless   it was read, and what came of it is no worse than another start would be

and anything else fails the drill: a traceback, a hang, memory without bound, a file outside of the
folder that changed.

    python scripts/drill/forged.py --count 1000 --seed 0
"""

import argparse
import gc
import importlib
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bounded import Outcome, in_child
from spoiling import spoil_run, spoil_shards, spoil_source

from wmplatform.assembly import build_agent, build_spec
from wmplatform.config import load
from wmplatform.saved_agent import open_saved
from wmplatform.training.launch import launch
from wmplatform.transfer import transfer
from wmplatform.videos import Clips, Prepare
from wmplugins.videos.rlbench import NpzEpisodes

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
CANARY = b"what lies outside of the folder stays as it is\n"

ONLINE = """
include 'base/dreamerv2.gin'
Online.env = @envs.two_movers
Online.total_agent_steps = 40
Online.prefill_agent_steps = 20
Online.pretrain_updates = 1
Online.updates_every = 10
Online.eval_every = 1000
Online.save_every = 10
Online.log_every = 20
Online.prefetch = True
Evaluation.episodes = 1
Evaluation.video_episodes = 0
envs.two_movers.time_limit = 12
encoders.cnn.depth = 2
decoders.cnn.depth = 2
dynamics.rssm.deter = 8
dynamics.rssm.hidden = 8
dynamics.rssm.groups = 4
dynamics.rssm.classes = 4
heads.reward.layers = 1
heads.reward.units = 8
behaviors.imagination.layers = 1
behaviors.imagination.units = 8
behaviors.imagination.horizon = 3
Segments.batch = 2
Segments.length = 5
Replay.capacity = 200
"""
PRETRAIN = """
Pretrain.agent = @Agent
Pretrain.learner = @Learner
Pretrain.clips = @Clips
Pretrain.total_updates = 4
Pretrain.log_every = 4
Pretrain.video_every = 1000
Pretrain.validate_every = 1000
Pretrain.save_every = 2
Pretrain.milestone_every = 0
Clips.data = '{shards}'
Clips.batch = 2
Clips.length = 4
Clips.prefetch = 0
Agent.world_model = @WorldModel
WorldModel.encoder = @encoders.cnn
WorldModel.dynamics = @dynamics.action_free
WorldModel.decoder = @decoders.cnn
WorldModel.balancer = @balancers.fixed
encoders.cnn.depth = 2
decoders.cnn.depth = 2
dynamics.action_free.deter = 8
dynamics.action_free.hidden = 8
dynamics.action_free.groups = 4
dynamics.action_free.classes = 4
dynamics.action_free.pad_action = 6
Learner.groups = {{'model': ('world_model',)}}
Learner.optimizers = {{'model': @Adam}}
"""


# What is read -------------------------------------------------------------------------------------


class World:
    """The unspoilt folders, below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source, self.shards = root / "source", root / "shards"
        self.runs = {"online": root / "online", "pretrain": root / "pretrain"}
        self.canary = root / "outside" / "canary"
        self.configs: dict[str, Any] = {}

    def make(self) -> None:
        """Prepare videos and run both runs, in a child: threads must not be forked later."""
        self.canary.parent.mkdir()
        self.canary.write_bytes(CANARY)
        self.source.mkdir()
        for seed in range(3):
            images = np.random.default_rng(seed).integers(0, 255, (6, 64, 64, 3), np.uint8)
            np.savez(self.source / f"{seed}.npz", image=images)
        for name, text in (("online", ONLINE), ("pretrain", PRETRAIN)):
            file = self.root / f"{name}.gin"
            file.write_text(text.format(shards=self.shards) if name == "pretrain" else text)
        outcome = in_child(self._run, self.root / "log")
        if outcome.kind != "harmless":
            raise SystemExit(f"the unspoilt runs fail: {outcome.text}\n{outcome.detail}")
        self._import()
        gc.freeze()  # children then share these pages for longer
        longer = {
            "online": ["Online.total_agent_steps = 45"],
            "pretrain": ["Pretrain.total_updates = 5"],
        }
        for name, lines in longer.items():
            self.configs[name] = load([self.root / f"{name}.gin"], lines)

    def _run(self) -> None:
        self.prepare(self.source, self.shards)
        for name, folder in self.runs.items():
            launch(load([self.root / f"{name}.gin"]), folder, root=name.title(), device="cpu")
        (self.root / "modules").write_text(" ".join(sys.modules))

    def _import(self) -> None:
        """Import once what every child would import for itself."""
        for name in (self.root / "modules").read_text().split():
            if name.partition(".")[0] in ("tensorboard", "torch", "torchrl", "wmplatform"):
                with suppress(ImportError):
                    importlib.import_module(name)

    @staticmethod
    def prepare(source: Path, out: Path) -> None:
        """Decode the sources; what cannot be used is quarantined."""
        job = Prepare(
            source=lambda: NpzEpisodes(root=str(source), size=64), processes=0, max_bad_share=0.9
        )
        job.run(out)


def resume(world: World, kind: str, folder: Path) -> None:
    """Go on with the spoilt run for a moment."""
    launch(world.configs[kind], folder, root=kind.title(), device="cpu")


def evaluate(world: World, kind: str, folder: Path) -> None:
    """Load the agent, as `evaluate` and `analyse` do."""
    del world, kind
    open_saved(folder, device="cpu")


def fine_tune(world: World, kind: str, folder: Path) -> None:
    """Load modules of the spoilt run into another agent."""
    del kind
    config = world.configs["online"]
    config.activate()
    transfer(build_agent(config, build_spec(config)), folder, ("encoder", "decoder"))


def draw_clips(world: World, kind: str, folder: Path) -> None:
    """Read the spoilt shards."""
    del world, kind
    clips = Clips(data=str(folder), batch=8, length=3, prefetch=0)
    clips.sample()
    clips.close()


def decode(world: World, kind: str, folder: Path) -> None:
    """Prepare the spoilt sources."""
    del kind
    world.prepare(folder, folder.parent / "prepared")


SUBJECTS: tuple[tuple[int, str, Any, tuple[Any, ...]], ...] = (
    (60, "online", spoil_run, (resume, resume, resume, evaluate)),
    (20, "pretrain", spoil_run, (resume, fine_tune, evaluate)),
    (12, "shards", spoil_shards, (draw_clips,)),
    (8, "source", spoil_source, (decode,)),
)


def case(world: World, seed: int, number: int) -> tuple[str, Outcome]:
    """Spoil one copy and read it; returns what was spoilt, and the outcome."""
    draw = random.Random(f"{seed}/{number}")
    _, name, spoil, readers = draw.choices(SUBJECTS, [weight for weight, *_ in SUBJECTS])[0]
    place = world.root / f"case-{number}"
    folder = place / name
    shutil.copytree(world.root / name, folder)
    world.canary.write_bytes(CANARY)
    done = spoil(folder, world.canary, draw)
    outside = contents(world.canary.parent)
    read = draw.choice(readers)
    outcome = in_child(lambda: read(world, name, folder), world.root / "log")
    if contents(world.canary.parent) != outside:
        outcome = Outcome("overwrote", outcome.text, outcome.detail)
    shutil.rmtree(place)
    for path in world.canary.parent.iterdir():
        path.unlink()
    return f"{read.__name__} {name}: {done}", outcome


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> int:
    """Run the drill; 1 where a case fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="cases (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases (0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--show", action="store_true", help="print every case and its outcome")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds: Counter[str] = Counter()
    os.chdir(EXPERIMENTS.parent)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.make()
        for number in range(options.first, options.first + options.count):
            what, outcome = case(world, options.seed, number)
            kinds[outcome.kind] += 1
            if options.show or not outcome.good:
                print(f"{number} {what} -> {outcome.kind}: {outcome.text}", flush=True)
            if not outcome.good:
                print(outcome.detail, flush=True)
    bad = sum(n for kind, n in kinds.items() if kind not in ("refused", "harmless"))
    found = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    print(f"forged: {options.count} folders, {found}: {'FAILED' if bad else 'ok'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
