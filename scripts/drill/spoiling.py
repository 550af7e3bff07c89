"""How a folder is spoilt by somebody who knows the formats: in one place, and sealed anew.

A value or a key of a JSON text, a tensor, a header, a manifest, the kind of a file. Checksums are
right again afterwards, so what is found is found by looking at what is there.
"""

import hashlib
import json
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from wmplatform.checkpoint import Checkpoints
from wmplatform.files import sealed

__all__ = ["spoil_run", "spoil_shards", "spoil_source"]

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


def change_kind(path: Path, canary: Path, draw: random.Random) -> str:
    """Put something else in the place of a file; returns what.

    Args:
        path: the file.
        canary: a file outside of the folder, as are those beside it that links lead to.
        draw: decides.
    """
    content = path.read_bytes()
    path.unlink()
    how = draw.choice(
        ("link", "link", "hard link", "pipe", "folder", "zero", "nowhere", "sparse", "missing")
    )
    if how == "link":
        target = canary.parent / path.name
        target.write_bytes(content)
        path.symlink_to(target)
    elif how == "hard link":
        os.link(canary, path)
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "nowhere":
        path.symlink_to(canary.parent / "nothing")
    elif how == "sparse":
        path.write_bytes(content)
        os.truncate(path, 1 << draw.choice((31, 36, 40)))
    return f"{path.name} is a {how}"


def spoil_generation(folder: Path, canary: Path, draw: random.Random) -> str:
    """Spoil one file of a generation and write the checksums anew."""
    path = draw.choice(sorted(folder.iterdir()))
    if draw.random() < 0.1:
        done = change_kind(path, canary, draw)
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


def spoil_run(folder: Path, canary: Path, draw: random.Random) -> str:
    """Spoil a run folder: mostly its newest checkpoint, else its records or its notes."""
    checkpoints = Checkpoints(folder / "checkpoints")
    newest = checkpoints.path(max(checkpoints.generations()))
    chance = draw.random()
    if chance < 0.7:
        return spoil_generation(newest, canary, draw)
    chunks = sorted((folder / "replay").glob("records-*"))
    if chance < 0.85 and chunks:
        return _spoil_records(draw.choice(chunks), newest, canary, draw)
    notes = ("config.gin", "provenance.json", "metrics.jsonl", "run.lock")
    path = folder / draw.choice(notes)
    return change_kind(path, canary, draw) if draw.random() < 0.7 else spoil_file(path, draw)


def _spoil_records(chunk: Path, newest: Path, canary: Path, draw: random.Random) -> str:
    """Spoil a file of records, and let the replay's manifest agree with it."""
    done = change_kind(chunk, canary, draw) if draw.random() < 0.3 else spoil_file(chunk, draw)
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


def spoil_shards(folder: Path, canary: Path, draw: random.Random) -> str:
    """Spoil prepared videos."""
    path = draw.choice(sorted(path for path in folder.iterdir() if path.name != ".lock"))
    done = change_kind(path, canary, draw) if draw.random() < 0.3 else spoil_file(path, draw)
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


def spoil_source(folder: Path, canary: Path, draw: random.Random) -> str:
    """Spoil an episode's .npz: its bytes, its kind, or the shape that its header declares."""
    path = draw.choice(sorted(folder.glob("*.npz")))
    chance = draw.random()
    if chance < 0.4:
        return change_kind(path, canary, draw)
    if chance < 0.6:
        return spoil_file(path, draw)
    huge = draw.choice(("(1099511627776, 64, 64, 3)", "(-1, 64, 64, 3)", "(" * 5000, "(6,)"))
    kind = draw.choice(("|u1", "|O", "<f8"))
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {huge}, }}"
    text += " " * (draw.choice((0, 60_000)) + 63 - (len(text) + 10) % 64) + "\n"
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", header + bytes(draw.choice((0, 1 << 26))))
    return f"{path.name}: declares {kind} {huge[:20]}"
