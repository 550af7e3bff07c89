"""Checkpoints: exact round trips, a generation or nothing, messages with the way back."""

import json
import math
import os
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
from wmplatform.files import CannotWrite
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
