"""Generations whose files somebody else wrote: with the right checksums, refused all the same."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from wmplatform.checkpoint import Checkpoints, UnreadableCheckpoint
from wmplatform.files import sealed
from wmplatform.forms import Array

from .test_checkpoint import same


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def state(value: float) -> dict[str, Any]:
    return {"world_model": {"encoder.weight": torch.full((4,), value)}, "counters": {"a": value}}


def forge(folder: Path, change: Any) -> None:
    """Change the manifest, and seal it anew."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))


def put(folder: Path, name: str, content: bytes) -> None:
    """Write a file of a generation with the right checksums."""
    (folder / name).write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    forge(folder, lambda manifest: manifest["files"].update({name: entry}))


def test_an_altered_manifest_is_noticed_and_one_without_a_seal_is_read(
    checkpoints: Checkpoints,
) -> None:
    folder = checkpoints.save(1, state(1))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == 2
    (folder / "manifest.json").write_text(json.dumps({**manifest, "generation": 3}))
    with pytest.raises(UnreadableCheckpoint, match="seal differs"):
        checkpoints.load()
    del manifest["seal"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    assert same(checkpoints.load(), state(1))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(UnreadableCheckpoint, match="seal differs"):
        checkpoints.load()


@pytest.mark.parametrize(
    "files",
    [3, [], {"counters.json": 3}, {"counters.json": {"bytes": -1, "sha256": "x"}}, {"a": {}}],
)
def test_a_manifest_that_does_not_list_files_is_refused(
    checkpoints: Checkpoints, files: Any
) -> None:
    forge(checkpoints.save(1, state(1)), lambda manifest: manifest.update(files=files))
    with pytest.raises(UnreadableCheckpoint, match=r"manifest\.json"):
        checkpoints.load()


def test_a_file_outside_of_the_folder_is_no_part(checkpoints: Checkpoints) -> None:
    folder = checkpoints.save(1, state(1))
    content = b'{"secret": 1}'
    (folder.parent / "outside.json").write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    forge(folder, lambda manifest: manifest["files"].update({"../outside.json": entry}))
    with pytest.raises(UnreadableCheckpoint, match="lies outside of"):
        checkpoints.load()


def test_a_sparse_file_is_refused_by_its_header(checkpoints: Checkpoints) -> None:
    folder = checkpoints.save(1, state(1))
    os.truncate(folder / "world_model.safetensors", 1 << 42)
    entry = {"bytes": 1 << 42, "sha256": "0" * 64}
    with pytest.raises(UnreadableCheckpoint, match="4398046511104 bytes, 112 were written"):
        checkpoints.load()
    forge(folder, lambda manifest: manifest["files"].update({"world_model.safetensors": entry}))
    with pytest.raises(UnreadableCheckpoint, match="header declares 32 bytes"):
        checkpoints.load()


def test_a_form_is_compared_before_a_tensor_is_read(checkpoints: Checkpoints) -> None:
    """The header is right and the file as long as it says: a terabyte, of holes."""
    folder = checkpoints.save(1, state(1))
    elements = 1 << 38
    header = {"w": {"dtype": "F32", "shape": [elements], "data_offsets": [0, 4 * elements]}}
    text = json.dumps(header).encode()
    size = 8 + len(text) + 4 * elements
    path = folder / "world_model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, size)
    put(folder, "world_model.json", b'{"w": {"$tensor": "w"}}')
    entry = {"bytes": size, "sha256": "0" * 64}
    forge(folder, lambda manifest: manifest["files"].update({path.name: entry}))
    with pytest.raises(UnreadableCheckpoint, match=r"w is float32 \[274877906944\], not float32"):
        checkpoints.load_part("world_model", form={"w": Array("float32", (4,))})
    assert checkpoints.outline("world_model") == {"w": Array("float32", (elements,))}


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ('{"a": {"$tensor": "nobody"}}', "'$tensor' does not stand for"),
        ('{"a": {"$tensor": ["x"]}}', "'$tensor' does not stand for"),
        ('{"a": {"$float": "1e5"}}', "'$float' does not stand for"),
        ('{"a": {"$float": "nan", "b": 1}}', "'$float' does not stand for"),
        ('{"$dict": 3}', "'$dict' does not stand for"),
        ('{"$dict": [[1, 2], [1, 3]]}', "'$dict' does not stand for"),
        ('{"$dict": [[{}, 2]]}', "'$dict' does not stand for"),
        ('{"$other": 3}', "'$other' does not stand for"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 100_000, "levels"),
        ("[" * 70 + "]" * 70, "levels"),
        ('{"encoder.weight": 1}', "the tensor 'encoder.weight' belongs nowhere"),
        ("9" * 5000, "digits"),
    ],
)
def test_json_that_no_save_writes_is_refused(
    checkpoints: Checkpoints, plain: str, said: str
) -> None:
    folder = checkpoints.save(1, state(1))
    put(folder, "world_model.json", plain.encode())
    with pytest.raises(UnreadableCheckpoint, match=re.escape(said)):
        checkpoints.load_part("world_model")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [1 << 40]}, "32 bytes for int64 [1099511627776]"),
        ({"shape": [-4]}, "shape/0 is -4"),
        ({"shape": [1] * 100}, "100 axes"),
        ({"dtype": "F3"}, "unknown dtype 'F3'"),
        ({"dtype": 3}, "dtype is 3, not a str"),
        ({"data_offsets": [0, 1 << 50]}, "1125899906842624 bytes"),
        ({"data_offsets": [16, 0]}, "-16 bytes"),
    ],
)
def test_a_forged_header_is_refused(
    checkpoints: Checkpoints, change: dict[str, Any], said: str
) -> None:
    folder = checkpoints.save(1, state(1))
    content = (folder / "world_model.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["encoder.weight"] |= change
    text = json.dumps(header).encode()
    put(
        folder,
        "world_model.safetensors",
        len(text).to_bytes(8, "little") + text + content[end:],
    )
    with pytest.raises(UnreadableCheckpoint, match=re.escape(said)):
        checkpoints.load()
    put(folder, "world_model.safetensors", (1 << 62).to_bytes(8, "little") + content[8:])
    with pytest.raises(UnreadableCheckpoint, match="header would have"):
        checkpoints.load()


def test_names_that_only_look_like_generations_are_none(checkpoints: Checkpoints) -> None:
    folder = checkpoints.save(1, state(1))
    for name in ("gen-0000000002", "gen-\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0663"):
        (checkpoints.directory / name).mkdir()
    assert checkpoints.generations() == [1]
    folder.rename(checkpoints.directory / "elsewhere")
    folder.symlink_to("elsewhere")
    with pytest.raises(UnreadableCheckpoint, match="gen-000000001, which is a link"):
        checkpoints.load()


def test_links_in_the_way_are_removed_and_not_followed(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, state(1))
    (checkpoints.directory.parent / "precious").mkdir()
    (checkpoints.directory / ".writing-000000002").symlink_to("../precious")
    (checkpoints.directory / ".removing-1").symlink_to("../precious")
    for generation in (2, 3):
        checkpoints.save(generation, state(generation))
    assert checkpoints.generations() == [2, 3]
    assert (checkpoints.directory.parent / "precious").is_dir()


def test_a_tree_that_could_not_be_read_again_is_not_saved(checkpoints: Checkpoints) -> None:
    deep: Any = {1: 0}
    for _ in range(19):
        deep = {1: deep}
    checkpoints.save(1, {"deep": deep})
    assert checkpoints.load()["deep"] == deep
    with pytest.raises(TypeError, match="too deep"):
        checkpoints.save(2, {"deep": {1: deep}})
