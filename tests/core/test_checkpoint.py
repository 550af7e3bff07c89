"""Checkpoints: exact round trips, a generation or nothing, messages with the way back."""

import hashlib
import json
import math
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmplatform.checkpoint import Checkpoints, DiskFull, UnreadableCheckpoint
from wmplatform.errors import ExitCode
from wmplatform.files import CannotWrite, sealed
from wmplatform.forms import Array
from wmplatform.tree_json import from_plain, to_plain

from .. import warm

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
KEYS = st.text(max_size=4) | st.sampled_from(["$tensor", "~", "a/b", "0", "__metadata__"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.builds(
        lambda shape, dtype: torch.arange(math.prod(shape)).to(dtype).reshape(shape),
        st.sampled_from([(), (0,), (3,), (2, 0, 2), (2, 3)]),
        st.sampled_from(DTYPES),
    )
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(-3, 3), inner, max_size=4)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value, type and bits; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.reshape(-1).view(torch.uint8).equal(b.reshape(-1).view(torch.uint8))
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@given(tree=TREES)
def test_trees_survive_json_and_safetensors(tree: Any) -> None:
    plain, tensors = to_plain(tree)
    stored = safetensors.torch.load(safetensors.torch.save(tensors)) if tensors else {}
    assert same(tree, from_plain(json.loads(json.dumps(plain, allow_nan=False)), stored))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def state(value: float) -> dict[str, Any]:
    return {"world_model": {"encoder.weight": torch.full((4,), value)}, "counters": {"a": value}}


def test_a_generation_comes_back_as_it_was(checkpoints: Checkpoints) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    tied = torch.arange(6.0)
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "odd": {
            "view": tied[2:4],
            "other_view": tied[1:3],
            "strided": tied.view(2, 3).T,
            "all": tied,
        },
        "counters": {"updates": 3, "loss": float("nan"), "nothing": [], "pair": (1, None)},
        "random": torch.get_rng_state(),
    }
    checkpoints.save(7, saved)
    loaded = checkpoints.load()
    assert list(loaded["optimizer"]["state"]) == [0, 1]  # int keys stay ints
    assert loaded["counters"]["pair"] == [1, None]
    assert torch.equal(loaded["odd"]["strided"], tied.view(2, 3).T)
    assert torch.equal(loaded["odd"]["other_view"], tied[1:3])
    assert torch.equal(loaded["random"], saved["random"])
    twin = torch.nn.Linear(3, 2)
    twin.load_state_dict(loaded["model"])
    assert torch.equal(twin.weight, model.weight)
    torch.optim.Adam(twin.parameters()).load_state_dict(loaded["optimizer"])


def test_weights_lie_in_a_file_of_their_own(checkpoints: Checkpoints) -> None:
    folder = checkpoints.save(1, state(2.0))
    weights = safetensors.torch.load_file(folder / "world_model.safetensors")
    assert torch.equal(weights["encoder.weight"], torch.full((4,), 2.0))
    assert checkpoints.parts() == ["counters", "world_model"]
    (folder / "counters.json").unlink()
    part = checkpoints.load_part("world_model")
    assert torch.equal(part["encoder.weight"], torch.full((4,), 2.0))


def test_only_the_newest_generations_stay(checkpoints: Checkpoints) -> None:
    for generation in range(1, 6):
        checkpoints.save(generation, state(generation))
    assert checkpoints.generations() == [4, 5]
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == [
        "gen-000000004",
        "gen-000000005",
    ]


def test_generations_only_grow(checkpoints: Checkpoints) -> None:
    checkpoints.save(2, state(2))
    with pytest.raises(ValueError, match="not newer"):
        checkpoints.save(2, state(2))


def test_leftovers_of_a_kill_are_removed_by_the_next_save(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, state(1))
    for name in (".writing-000000002", ".removing-0"):
        (checkpoints.directory / name).mkdir()
    assert checkpoints.latest() == 1
    checkpoints.save(2, state(2))
    assert not list(checkpoints.directory.glob(".*"))


def test_newer_generations_can_be_set_aside(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    (moved,) = checkpoints.set_aside(after=1)
    assert checkpoints.generations() == [1]
    assert (moved / "manifest.json").exists()
    checkpoints.save(2, state(3))
    assert checkpoints.load()["counters"] == {"a": 3}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def remove(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    target = path.parents[2] / f"outside-{path.name}"
    path.rename(target)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip, cut, remove, link, pipe, zeros, folder_instead])
@pytest.mark.parametrize("name", ["world_model.safetensors", "counters.json", "manifest.json"])
def test_a_damaged_file_is_named_with_the_way_back(
    checkpoints: Checkpoints, name: str, damage: Any
) -> None:
    checkpoints.save(1, state(1))
    folder = checkpoints.save(2, state(2))
    damage(folder / name)
    with pytest.raises(UnreadableCheckpoint) as caught:
        checkpoints.load()
    assert caught.value.exit_code == ExitCode.BAD_RUN
    assert caught.value.path.parent == folder
    assert "--resume-from 1" in str(caught.value)
    assert caught.value.path.name == name
    assert same(checkpoints.load(1), state(1) | {"counters": {"a": 1}})


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


def test_a_missing_generation_lists_those_there_are(checkpoints: Checkpoints) -> None:
    with pytest.raises(UnreadableCheckpoint, match="no generation"):
        checkpoints.load()
    checkpoints.save(3, state(1))
    with pytest.raises(UnreadableCheckpoint, match="no generation 2; there are 3"):
        checkpoints.load(2)


def test_what_cannot_be_saved_is_named_and_leaves_nothing(checkpoints: Checkpoints) -> None:
    with pytest.raises(TypeError, match="counters/deep/1 is a set"):
        checkpoints.save(1, {"counters": {"deep": [0, {1}]}})
    assert list(checkpoints.directory.iterdir()) == []


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="Not a directory") as caught:
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, state(1))
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    """No file of this process may exceed 64 KiB: the system's own error, without root rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("file_size_limit")
def test_a_full_disk_leaves_the_previous_generation(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, state(1))
    refuse_second_generation(checkpoints)


def refuse_second_generation(checkpoints: Checkpoints) -> None:
    with pytest.raises(DiskFull) as caught:
        checkpoints.save(2, {"small": {"a": 1}, "big": torch.zeros(1 << 20)})
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert "free some space" in str(caught.value)
    assert [path.name for path in checkpoints.directory.iterdir()] == ["gen-000000001"]
    assert checkpoints.load()["counters"] == {"a": 1}
    checkpoints.save(2, state(2))  # once there is space again


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_really_full_disk_leaves_the_previous_generation(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        checkpoints = Checkpoints(disk / "checkpoints")
        checkpoints.save(1, state(1))
        refuse_second_generation(checkpoints)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


SAVES_FOR_EVER = """
import itertools, sys, torch
from wmplatform.checkpoint import Checkpoints
torch.set_num_threads(1)
checkpoints = Checkpoints(sys.argv[1])
for n in itertools.count(1 + (checkpoints.latest() or 0)):
    checkpoints.save(n, {"a": torch.full((5000,), n), "b": [torch.tensor(n)], "c": {"n": n}})
"""


def test_a_kill_at_any_moment_leaves_a_complete_generation(checkpoints: Checkpoints) -> None:
    random = torch.Generator().manual_seed(0)
    newest = 0
    for _ in range(30):
        process = warm.start(SAVES_FOR_EVER, checkpoints.directory)
        process.wait_for(lambda: (checkpoints.latest() or 0) > newest)  # noqa: B023
        time.sleep(0.02 * float(torch.rand((), generator=random)))
        process.send_signal(signal.SIGKILL)
        process.finish()
        loaded = checkpoints.load()
        n = loaded["c"]["n"]
        assert n > newest
        assert n == checkpoints.latest() == int(loaded["b"][0])
        assert loaded["a"].eq(n).all()
        newest = n
