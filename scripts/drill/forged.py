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
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from wmplatform.checkpoint import Checkpoints
from wmplatform.config import load
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import sealed
from wmplatform.saved_agent import open_saved
from wmplatform.training.launch import launch
from wmplatform.transfer import transfer
from wmplatform.videos import Clips, Prepare
from wmplugins.videos.rlbench import NpzEpisodes

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
CPU_S = 30
"""Processor time of a child; a slow machine makes no hang of it."""
IDLE_S = 10.0
"""Seconds that a child may wait for something without using the processor at all."""
MEMORY_BYTES = 1 << 30
"""What a child may take beyond what it begins with."""
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
    from wmplatform.assembly import build_agent, build_spec

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


# How it is spoilt ---------------------------------------------------------------------------------

DEEP = 100_000
LEAVES = (
    "null", "true", "0", "1", "-1", "2.5", "1e999", "-1e308", "NaN", "Infinity",
    "9007199254740993", "9223372036854775808", "-9223372036854775809", "9" * 4000, "9" * 5000,
    '""', '"x"', '"../../outside/canary"', '"/dev/zero"', '"\\u202egnp"', '"\\ud800"', '"\\u0000"',
    '"1"', "[]", "{}", "[[]]", "[null]", '{"a": 1, "a": 2}', '{"": {}}',
    "[" * DEEP + "]" * DEEP, "[" * 200 + "]" * 200, '{"a":' * 300 + "1" + "}" * 300,
    "[" + "0," * 200_000 + "0]",
    '{"$tensor": "nothing"}', '{"$tensor": 3}', '{"$tensor": ["a"]}', '{"$tensor": null}',
    '{"$float": "x"}', '{"$float": 1}', '{"$float": "nan"}', '{"$dict": 3}', '{"$dict": [[1]]}',
    '{"$dict": [[{}, 1]]}', '{"$dict": [[1, 2], [1, 3]]}', '{"$dict": [["a", 1, 2]]}',
)  # fmt: skip
"""JSON that stands where something else should."""
KEYS = ("", "x", "a/b", "..", "\u202e", "n\u0455mes", "$tensor", "$dict", "__metadata__", "9" * 300)
_HOLE = "@@hole@@"


def spoil_json(text: str, draw: random.Random) -> tuple[str, str]:
    """Change one place of a JSON text; returns the text and what was done."""
    value = json.loads(text)
    places = list(_places(value))
    path = draw.choice(places)
    if not path:
        leaf = draw.choice(LEAVES)
        return leaf, f"all of it is {leaf[:30]}"
    parent, key = _at(value, path[:-1]), path[-1]
    shown = "/".join(map(str, path))
    how = draw.choice(("leaf", "leaf", "leaf", "leaf", "delete", "add", "rename", "twice"))
    if how == "leaf":
        leaf = draw.choice(LEAVES)
        parent[key] = _HOLE
        return json.dumps(value).replace(f'"{_HOLE}"', leaf), f"{shown} is {leaf[:30]}"
    if how == "delete":
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, parent[key])
        how = "twice"
    elif how == "add":
        parent[draw.choice(KEYS)] = draw.choice((None, 1, {}, []))
    elif how == "rename":
        parent[draw.choice(KEYS)] = parent.pop(key)
    else:
        leaf = draw.choice(LEAVES)
        parent[_HOLE] = parent[key]
        again = json.dumps(value).replace(f'"{_HOLE}"', json.dumps(key))
        return again, f"{shown} stands there twice"
    return json.dumps(value), f"{how} {shown}"


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = list(enumerate(value))[:6]
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def spoil_tensors(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Change one tensor; returns the file and what was done."""
    tensors = safetensors.torch.load(content)
    name = draw.choice(sorted(tensors))
    x = tensors[name]
    changes: dict[str, Callable[[], Any]] = {
        "float64": x.double,
        "int64": lambda: x.nan_to_num().long() if x.is_floating_point() else x.long(),
        "uint8": lambda: torch.zeros_like(x, dtype=torch.uint8),
        "bool": lambda: torch.ones_like(x, dtype=torch.bool),
        "flat": lambda: x.reshape(-1),
        "one dimension more": lambda: x.unsqueeze(0),
        "empty": lambda: x.new_zeros(0),
        "twice as long": lambda: torch.cat([x.reshape(-1)] * 2),
        "no dimension": lambda: x.reshape(-1)[0].clone() if x.numel() else x,
        "64 MiB": lambda: torch.zeros(1 << 24),
        "not finite": lambda: torch.full_like(x, float("nan")) if x.is_floating_point() else x + 1,
        "noise": lambda: _noise(x, draw),
        "missing": lambda: None,
    }
    how = draw.choice(sorted(changes))
    changed = changes[how]()
    del tensors[name]
    if changed is not None:
        tensors[name] = changed.contiguous()
    else:
        tensors[draw.choice(("nobody", "../x", "\u202e"))] = x
    return safetensors.torch.save(tensors), f"tensor {name}: {how}"


def _noise(x: torch.Tensor, draw: random.Random) -> torch.Tensor:
    if x.dtype == torch.bool:
        return ~x
    raw = draw.randbytes(x.numel() * x.element_size())
    return (
        torch.frombuffer(bytearray(raw or b"\0"), dtype=torch.uint8)[: len(raw)]
        .view(x.dtype)
        .reshape(x.shape)
    )


def spoil_header(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Forge the header of a file of tensors; returns the file and what was done."""
    end = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:end]), content[end:]
    name = draw.choice(sorted(name for name in header if name != "__metadata__"))
    entry = header[name]
    hows = ("shape", "negative", "overflow", "offsets", "length", "cut", "dtype", "json")
    how = draw.choice(hows)
    if how == "shape":
        entry["shape"] = [*entry["shape"], 1 << 40]
    elif how == "negative":
        entry["shape"] = [-1, *entry["shape"]]
    elif how == "overflow":
        entry["shape"] = [1 << 32, 1 << 32, *entry["shape"]]
    elif how == "offsets":
        entry["data_offsets"] = [entry["data_offsets"][0], 1 << 50]
    elif how == "dtype":
        entry["dtype"] = draw.choice(("F3", "F8_E5M2", 3, None))
    text = json.dumps(header).encode()
    if how == "json":
        text = spoil_json(text.decode(), draw)[0].encode()
    size = (1 << draw.choice((20, 40, 63))) if how == "length" else len(text)
    forged = size.to_bytes(8, "little") + text + body
    return forged[: len(forged) // 2] if how == "cut" else forged, f"header of {name}: {how}"


def change_kind(path: Path, world: World, draw: random.Random) -> str:
    """Put something else in the place of a file; returns what."""
    content = path.read_bytes()
    path.unlink()
    how = draw.choice(
        ("link", "link", "hard link", "pipe", "folder", "zero", "nowhere", "sparse", "missing")
    )
    if how == "link":
        target = world.canary.parent / path.name
        target.write_bytes(content)
        path.symlink_to(target)
    elif how == "hard link":
        os.link(world.canary, path)
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "nowhere":
        path.symlink_to(world.canary.parent / "nothing")
    elif how == "sparse":
        path.write_bytes(content)
        os.truncate(path, 1 << draw.choice((31, 36, 40)))
    return f"{path.name} is a {how}"


def spoil_generation(folder: Path, world: World, draw: random.Random) -> str:
    """Spoil one file of a generation and write the checksums anew."""
    path = draw.choice(sorted(folder.iterdir()))
    if draw.random() < 0.1:
        done = change_kind(path, world, draw)
    else:
        done = spoil_file(path, draw)
    if path.name != "manifest.json" and path.is_file():
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][path.name] = fingerprint(path)
        (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return done


def spoil_file(path: Path, draw: random.Random) -> str:
    """Spoil what is in a file, as its kind allows."""
    if path.suffix == ".safetensors":
        spoil = draw.choice((spoil_tensors, spoil_tensors, spoil_header))
        content, done = spoil(path.read_bytes(), draw)
        path.write_bytes(content)
    elif path.suffix == ".json":
        text, done = spoil_json(path.read_text(), draw)
        if path.name == "manifest.json":
            with suppress(ValueError, TypeError, RecursionError):
                text = json.dumps(sealed(json.loads(text)))
        path.write_text(text)
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines(keepends=True) or ["{}\n"]
        at = draw.randrange(len(lines))
        text, done = spoil_json(lines[at], draw)
        lines[at] = draw.choice((text + "\n", text))
        path.write_text("".join(lines))
    else:
        raw = bytearray(path.read_bytes())
        at = draw.randrange(len(raw) + 1)
        raw[at : at + draw.choice((0, 1, 9))] = draw.randbytes(draw.choice((0, 1, 9)))
        path.write_bytes(raw)
        done = f"bytes at {at}"
    return f"{path.name}: {done}"


def fingerprint(path: Path) -> dict[str, Any]:
    """Give a manifest's entry; a large file is sparse, and its checksum nobody waits for."""
    size = path.stat().st_size
    if size > 1 << 30:
        return {"bytes": size, "sha256": "0" * 64}
    return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def spoil_run(folder: Path, world: World, draw: random.Random) -> str:
    """Spoil a run folder: mostly its newest checkpoint, else its records or its notes."""
    checkpoints = Checkpoints(folder / "checkpoints")
    newest = checkpoints.path(max(checkpoints.generations()))
    chance = draw.random()
    if chance < 0.7:
        return spoil_generation(newest, world, draw)
    chunks = sorted((folder / "replay").glob("records-*"))
    if chance < 0.85 and chunks:
        return _spoil_records(draw.choice(chunks), newest, world, draw)
    notes = ("config.gin", "provenance.json", "metrics.jsonl", "run.lock")
    path = folder / draw.choice(notes)
    return change_kind(path, world, draw) if draw.random() < 0.7 else spoil_file(path, draw)


def _spoil_records(chunk: Path, newest: Path, world: World, draw: random.Random) -> str:
    """Spoil a file of records, and let the replay's manifest agree with it."""
    done = change_kind(chunk, world, draw) if draw.random() < 0.3 else spoil_file(chunk, draw)
    if chunk.is_file():
        part = newest / "replay.json"
        listed = json.loads(part.read_text())
        found = fingerprint(chunk)
        for entry in listed["chunks"]:
            if entry["file"] == chunk.name:
                entry |= {"size_bytes": found["bytes"], "sha256": found["sha256"]}
        part.write_text(json.dumps(listed))
        manifest = json.loads((newest / "manifest.json").read_text())
        manifest["files"][part.name] = fingerprint(part)
        (newest / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return done


def spoil_shards(folder: Path, world: World, draw: random.Random) -> str:
    """Spoil prepared videos."""
    path = draw.choice(sorted(path for path in folder.iterdir() if path.name != ".lock"))
    done = change_kind(path, world, draw) if draw.random() < 0.3 else spoil_file(path, draw)
    if path.name != "manifest.json" and path.is_file():
        manifest = json.loads((folder / "manifest.json").read_text())
        found = fingerprint(path)
        for entry in manifest["shards"]:
            if entry["file"] == path.name:
                entry |= found
        if path.name == "videos.jsonl":
            manifest["videos"]["sha256"] = found["sha256"]
        (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return done


def spoil_source(folder: Path, world: World, draw: random.Random) -> str:
    """Spoil an episode's .npz: its bytes, its kind, or the shape that its header declares."""
    path = draw.choice(sorted(folder.glob("*.npz")))
    chance = draw.random()
    if chance < 0.4:
        return change_kind(path, world, draw)
    if chance < 0.6:
        return spoil_file(path, draw)
    huge = draw.choice(("(1099511627776, 64, 64, 3)", "(-1, 64, 64, 3)", "(" * 5000, "(6,)"))
    kind = draw.choice(("|u1", "|O", "<f8"))
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {huge}, }}"
    text += " " * (draw.choice((0, 60_000)) + 63 - (len(text) + 10) % 64) + "\n"
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", header + bytes(draw.choice((0, 1 << 26))))
    return f"{path.name}: declares {kind} {huge[:20]}"


# One case in a child process ----------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    kind: str
    text: str
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether this may happen."""
        return self.kind in ("refused", "harmless")


def in_child(work: Callable[[], None], log: Path) -> Outcome:
    """Do something in a child process with bounded time and memory."""
    child = os.fork()
    if child == 0:
        _do(work, log)
    status = wait(child)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hung = number in (signal.SIGKILL, signal.SIGXCPU)
        return Outcome("hang" if hung else f"signal {number}", "")
    found = json.loads(log.read_text())
    return Outcome(found["kind"], found["text"], found["detail"])


def wait(child: int) -> int:
    """Wait for a child; one that sleeps all the time is killed. Returns its status."""
    before, since_s = "", time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
        # Behind the name in brackets: its state, and ten fields on its processor times.
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        now = " ".join((fields[0], *fields[11:13]))
        if now != before or fields[0] == "R":
            before, since_s = now, time.monotonic()
        elif time.monotonic() - since_s > IDLE_S:
            os.kill(child, signal.SIGKILL)


def _do(work: Callable[[], None], log: Path) -> None:
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    try:
        work()
        found = Outcome("harmless", "")
    except PlatformError as error:
        kind = "refused" if error.exit_code in set(ExitCode) else "no exit code"
        found = Outcome(kind, str(error))
    except MemoryError:
        found = Outcome("memory", "", traceback.format_exc())
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is counted
        found = Outcome("traceback", repr(error)[:300], traceback.format_exc()[-3000:])
    log.write_text(json.dumps(vars(found)))
    os._exit(0)


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
    done = spoil(folder, world, draw)
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
