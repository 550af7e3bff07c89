"""The folder of a run: what lies where, one owner at a time, and one configuration for its life.

    config.gin          the resolved configuration; loads to the same run
    operative.gin       what was in use, defaults included; written when a command ends
    config-history/     earlier ones, where a change was allowed
    provenance.json     versions, plug-ins and the command of every start
    metrics.jsonl       one JSON object a line
    tensorboard/ videos/ pictures/ checkpoints/ replay/ milestones/

This file imports no torch.
"""

import fcntl
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import (
    CannotRead,
    CannotWrite,
    ForeignFile,
    explained_writes,
    open_own,
    parse_json,
    read_regular,
    replace_file,
    to_json,
)
from wmplatform.gin_lines import Difference, compare
from wmplatform.source_state import git_state

__all__ = [
    "MAY_DIFFER",
    "ConfigChanged",
    "FolderInUse",
    "NotARunFolder",
    "RunFolder",
    "config_of",
    "versions",
]

MAY_DIFFER = re.compile(
    r"""(.*[./])?
    ((Online|Pretrain)\.(
        total_\w+|(eval|validate|video|save|log|milestone)_every\w*|keep\w*|replay_device
        |validation_batches|observed_frames|predicted_frames|video_clips|fps
    )|Evaluation\.\w+)""",
    re.VERBOSE,
)
"""Parameters that may change when a run is resumed: how long it is, and when and how it is looked
at. None of them changes what an update computes."""

_FOLDERS = ("tensorboard", "videos", "pictures", "checkpoints", "replay")
_LOCK = "run.lock"
_OWNER = re.compile(rb"process [0-9]+ on [^\n]{0,255}\n?")
_NOTES = ("config.gin", "provenance.json")
_NOTE_BYTES = 1 << 24
_HISTORY = "config-history"
_WORKING = "replay-working"
_LIBRARIES = ("torch", "torchrl", "tensordict", "gymnasium", "numpy", "gin-config", "safetensors")


class FolderInUse(PlatformError):
    """Another process works in the run folder."""

    exit_code = ExitCode.BAD_RUN

    def __init__(self, path: Path, owner: str) -> None:
        self.path, self.owner = path, owner
        super().__init__(
            f"the run folder is in use by {owner or 'another process'}",
            where=str(path),
            hint="wait for it or stop it; for a second run choose another folder with --run-dir",
        )


class NotARunFolder(PlatformError):
    """A folder is there that no run has made, or a run was expected and there is none."""

    exit_code = ExitCode.BAD_RUN


class ConfigChanged(PlatformError):
    """The configuration differs from the one that the run was started with.

    Args:
        path: the run folder.
        differences: what differs and may not.
    """

    exit_code = ExitCode.BAD_RUN

    def __init__(self, path: Path, differences: list[Difference]) -> None:
        self.path, self.differences = path, differences
        super().__init__(
            f"the run was started with another configuration ({len(differences)} differ)",
            where=[str(path), *map(str, differences)],
            hint="choose another folder with --run-dir, or go on with the new configuration:\n"
            "--allow-config-change (curves before and after are then of two different runs)",
        )


@dataclass(frozen=True)
class _Lock:
    """A lock that ends with the process, however it ends."""

    descriptor: int

    @classmethod
    def take(cls, folder: Path) -> "_Lock":
        """Lock a folder.

        Raises:
            FolderInUse: another process has it.
            ForeignFile: what has the lock's name is a link, no file, or holds something else.
        """
        path = folder / _LOCK
        descriptor = open_own(path)
        owner = os.read(descriptor, 300)
        if owner and not _OWNER.fullmatch(owner):
            os.close(descriptor)
            raise ForeignFile(path, "it holds something else than a lock", _LOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):  # held, or just taken back with its folder
            os.close(descriptor)
            raise FolderInUse(folder, owner.decode(errors="replace").strip()) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let others in."""
        os.close(self.descriptor)


class RunFolder:
    """An open, locked run folder; use it as a context manager. Made by `open`."""

    def __init__(self, path: Path, lock: _Lock | None, is_new: bool) -> None:
        self.path = path
        self.is_new = is_new
        """False where this process resumes a run."""
        self._lock: _Lock | None = lock
        self._made = [path / name for name in _FOLDERS if not os.path.lexists(path / name)]
        self._notes = {name: _content(path / name) for name in _NOTES}
        self._sizes = self._sizes_now()
        self._history: Path | None = None
        self.operative: Callable[[], str] | None = None
        """Gives the operative configuration, defaults in effect included, once all is built."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        config_text: str,
        provenance: Mapping[str, Any] | None = None,
        allow_config_change: bool = False,
    ) -> "RunFolder":
        """Create a run folder, or take up the run that is in it.

        Args:
            path: the folder; parents are made.
            config_text: the resolved configuration, in gin's language.
            provenance: JSON values added to this start's entry, e.g. plug-ins and render profile;
                a `seed` must stay the same.
            allow_config_change: take up the run even where its configuration differs.

        Raises:
            FolderInUse: another process works in it.
            NotARunFolder: it holds files, but no run.
            ConfigChanged: lists what differs.
            DiskFull: there is no space.
            CannotWrite: the folder cannot be made or written.
            CannotRead: the configuration or the provenance is a link or no regular file.
            ForeignFile: so is the lock.
        """
        _refuse_foreign(path)  # before a lock file is left in it
        with explained_writes(path, "the run folder"):
            path.mkdir(parents=True, exist_ok=True)
            lock = _Lock.take(path)
        try:
            folder = cls(path, lock, is_new=not os.path.lexists(path / "config.gin"))
        except BaseException:
            lock.release()
            raise
        try:
            folder._settle(config_text, (provenance or {}).get("seed"), allow_config_change)
            folder._record_start(provenance or {})
        except BaseException:
            folder.take_back()
            folder.close()
            raise
        return folder

    @classmethod
    def shared(cls, path: Path) -> "RunFolder":
        """Use the folder that another process of the same run has opened; it owns it."""
        return cls(path, None, is_new=False)

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.gin"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def videos(self) -> Path:
        """Policy and prediction videos."""
        return self.path / "videos"

    @property
    def pictures(self) -> Path:
        """Prediction strips and curves."""
        return self.path / "pictures"

    @property
    def checkpoints(self) -> Path:
        """Generations, see `wmplatform.checkpoint`."""
        return self.path / "checkpoints"

    @property
    def milestones(self) -> Path:
        """World models that are kept for good, as generations numbered by updates."""
        return self.path / "milestones"

    @property
    def replay(self) -> Path:
        """Chunks of records that checkpoints refer to."""
        return self.path / "replay"

    def take_back(self) -> None:
        """Undo what `open` did, if nothing was logged or saved since.

        A start that fails leaves no folder, or that of the run as it was: the mended command then
        neither meets another configuration nor a run that never began.
        """
        if self._lock is None or self._sizes_now() != self._sizes:
            return
        for name, content in self._notes.items():
            if content != _content(self.path / name):
                _put_back(self.path / name, content)
        if self._history is not None:
            self._history.unlink(missing_ok=True)
            _remove_if_empty(self._history.parent)
        for folder in (*self._made, self.path / _WORKING):
            shutil.rmtree(folder, ignore_errors=True)
        if self.is_new:
            self.metrics.unlink(missing_ok=True)
            (self.path / _LOCK).unlink(missing_ok=True)
            _remove_if_empty(self.path)

    def _sizes_now(self) -> dict[Path, int]:
        """Look up the size of every file that holds something of the run's work."""
        ours = {_LOCK, _HISTORY, _WORKING, *_NOTES}
        tops = [top for top in self.path.iterdir() if top.name not in ours]
        files = [path for top in tops for path in (top, *top.rglob("*")) if path.is_file()]
        return {path: size for path in files if (size := path.stat().st_size)}

    def write_operative(self) -> None:
        """Write `operative.gin`, if it is known: at every save, so that a killed run has it too."""
        if self.operative is not None:
            replace_file(self.path / "operative.gin", self.operative())

    def close(self) -> None:
        """Let other processes use the folder; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @staticmethod
    def seed_of(path: Path) -> int | None:
        """Look up the seed that the run in a folder was started with; None where there is none."""
        for start in _starts(path / "provenance.json"):
            seed = start.get("seed")
            if type(seed) is int and 0 <= seed < 2**63:
                return seed
        return None

    def _settle(self, config_text: str, seed: int | None, allow_config_change: bool) -> None:
        """Write the configuration of a new run, or compare it with that of an old one."""
        if self.is_new:
            _refuse_foreign(self.path)
        else:
            self._compare(config_text, seed, allow_config_change)
        with explained_writes(self.path, "the run folder"):
            for name in _FOLDERS:
                (self.path / name).mkdir(exist_ok=True)
        # Last: a folder with a config.gin is a run folder, and complete.
        if self.is_new or config_of(self.path) != config_text:
            replace_file(self.config, config_text)

    def _compare(self, config_text: str, seed: int | None, allow_config_change: bool) -> None:
        stored = config_of(self.path)
        differences = compare(stored, config_text)
        forbidden = [each for each in differences if not MAY_DIFFER.fullmatch(each.name)]
        before = self.seed_of(self.path)
        if None not in (before, seed) and before != seed:
            forbidden.append(Difference("--seed", str(before), str(seed)))
        if forbidden and not allow_config_change:
            raise ConfigChanged(self.path, forbidden)
        if differences:
            self._keep_old(stored)

    def _keep_old(self, stored: str) -> None:
        history = self.path / _HISTORY
        with explained_writes(history, "the old configuration"):
            history.mkdir(exist_ok=True)
        number = 1 + len(list(history.glob("*.gin")))
        self._history = history / f"{number:03d}.gin"
        replace_file(self._history, stored)

    def _record_start(self, provenance: Mapping[str, Any]) -> None:
        path = self.path / "provenance.json"
        starts = _starts(path)
        if os.path.lexists(path) and not starts:
            # A record of the past only: kept for whoever looks, no reason to refuse the run.
            path.rename(path.with_suffix(".unreadable"))
        replace_file(path, to_json({"starts": [*starts, {**_start(), **provenance}]}))


def config_of(run_dir: Path) -> str:
    """Read the resolved configuration of a run.

    Raises:
        CannotRead: it is missing, a link or no text.
    """
    path = run_dir / "config.gin"
    try:
        return read_regular(path, at_most=_NOTE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise CannotRead(path, f"is no text: {error}") from None


def _refuse_foreign(path: Path) -> None:
    """Refuse a folder that holds files, but no run."""
    if not path.is_dir() or os.path.lexists(path / "config.gin"):
        return
    own = {_LOCK, ".writing-config.gin", *_FOLDERS}
    foreign = sorted(each.name for each in path.iterdir() if each.name not in own)
    if foreign:
        more = ", ..." if len(foreign) > 3 else ""
        raise NotARunFolder(
            f"the folder is not empty and holds no run (it has {', '.join(foreign[:3])}{more})",
            where=str(path),
            hint="choose another folder with --run-dir",
        )


def _content(path: Path) -> bytes | None:
    """Read a note; None where there is none.

    Raises:
        CannotRead: it is a link, no file, or far larger than any note.
    """
    return read_regular(path, at_most=_NOTE_BYTES) if os.path.lexists(path) else None


def _put_back(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
        return
    with suppress(CannotWrite):  # the error that led here is the one to be told
        replace_file(path, content)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _starts(path: Path) -> list[dict[str, Any]]:
    """Read the starts recorded in a provenance file; none where it is missing or damaged."""
    try:
        record = parse_json(read_regular(path, at_most=_NOTE_BYTES))
    except (CannotRead, ValueError):
        return []
    starts = record.get("starts") if isinstance(record, dict) else None
    return [each for each in starts if isinstance(each, dict)] if isinstance(starts, list) else []


def _start() -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": sys.argv,
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "versions": versions(_LIBRARIES),
        "source": git_state(Path(__file__).parent),
    }


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Look installed versions up; what is not installed is left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
