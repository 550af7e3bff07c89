"""Checkpoints: everything a run needs to go on, written as one generation or not at all.

A generation is a folder `gen-000000012` with one pair of files for each named part of the state:

    world_model.safetensors   the part's tensors, by their path (`encoder.trunk.0.weight`)
    world_model.json          the part's shape: dicts, lists, numbers, and where the tensors go
    manifest.json             every file with its size and SHA-256, and a seal over all of that

It is written into `.writing-*`, every file and folder is flushed to the disk, and only then it is
renamed: a generation that can be seen is complete. Nothing is ever unpickled.

Whoever reads a part may say of which form it has to be. That is compared with the JSON and with the
header of the tensors, before any tensor is read. The manifest's format is 2; format 1, which had no
seal, is read as well.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from torch import Tensor

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import (
    CannotRead,
    DiskFull,
    explained_writes,
    is_sealed,
    open_regular,
    parse_json,
    read_regular,
    remove,
    sealed,
    sync_folder,
    to_json,
    write_durably,
)
from wmplatform.forms import ANY, TEXT, Array, Named, OtherForm, Whole, check_form
from wmplatform.tensor_files import read_header
from wmplatform.tree_json import from_plain, to_plain

__all__ = ["Checkpoints", "DiskFull", "UnreadableCheckpoint"]

_T = TypeVar("_T")
_FORMAT = 2
_UNSEALED = 1
_MANIFEST = "manifest.json"
_MOST_JSON_BYTES = 1 << 25
_NAME = re.compile(r"gen-([0-9]{9,})")
_PART = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]")
_FILES = Named({"bytes": Whole(), "sha256": TEXT})


class UnreadableCheckpoint(PlatformError):
    """A generation is missing, damaged, or written by another version.

    Args:
        path: the offending file or folder.
        reason: what is wrong with it, as the end of a sentence.
        older: generations before it, oldest first, that may be used instead.
    """

    exit_code = ExitCode.BAD_RUN

    def __init__(self, path: Path, reason: str, older: list[int]) -> None:
        self.path, self.reason, self.older = path, reason, older
        hint = "there is no older generation: start again in another folder (--run-dir)"
        if older:
            hint = (
                f"use generation {older[-1]}: --resume-from {older[-1]} goes on from it "
                f"(of evaluate: --checkpoint {older[-1]})"
            )
        super().__init__(f"the checkpoint {reason}", where=str(path), hint=hint)


class Checkpoints:
    """The generations in one folder. Making one neither reads nor writes.

    Args:
        directory: the folder; made by the first `save`.
        keep: how many of the newest generations stay.
    """

    def __init__(self, directory: Path | str, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least one generation must stay")
        self.directory = Path(directory)
        self.keep = keep

    def generations(self) -> list[int]:
        """Number every complete generation, oldest first."""
        if not self.directory.is_dir():
            return []
        names = {path.name for path in self.directory.iterdir()}
        found = (int(match[1]) for match in map(_NAME.fullmatch, names) if match)
        return sorted(number for number in found if self.path(number).name in names)

    def latest(self) -> int | None:
        """Return the newest generation, or None where there is none."""
        return max(self.generations(), default=None)

    def path(self, generation: int) -> Path:
        """Name the folder of a generation, whether it exists or not."""
        return self.directory / f"gen-{generation:09d}"

    def save(self, generation: int, state: Mapping[str, Any]) -> Path:
        """Write a generation and remove those beyond `keep`.

        Args:
            generation: a number greater than all there are.
            state: parts by name; each a tree of dicts and lists with tensors (any device) and
                JSON values as leaves. Floats are exact, NaN and infinity included; keys are
                strings or ints; tuples come back as lists, and tensors on the CPU.

        Returns:
            The folder of the generation.

        Raises:
            DiskFull: nothing of this generation remains, and the others are untouched.
            TypeError: a leaf can be stored neither as a tensor nor as JSON; likewise.
        """
        self._refuse_old(generation)
        aside = self.directory / f".writing-{generation:09d}"
        with explained_writes(self.path(generation), f"checkpoint {generation}"):
            self.directory.mkdir(parents=True, exist_ok=True)
            self.clean()
            try:
                self._write(aside, generation, state)
                os.rename(aside, self.path(generation))
            except BaseException:
                with suppress(OSError):
                    remove(aside)
                raise
            sync_folder(self.directory)
        self._remove(self.generations()[: -self.keep])
        return self.path(generation)

    def load(self, generation: int | None = None) -> dict[str, Any]:
        """Read all parts of a generation, the newest unless a number is given.

        Raises:
            UnreadableCheckpoint: names the file, the reason, and the way back.
        """
        generation = self._existing(generation)
        names = [name for name in self._manifest(generation) if name.endswith(".json")]
        return {name[:-5]: self.load_part(name[:-5], generation) for name in names}

    def load_part(self, part: str, generation: int | None = None, form: Any = ANY) -> Any:
        """Read one part of a generation, e.g. `world_model`, without the others.

        Args:
            part: its name.
            generation: the newest unless given.
            form: of which it has to be, see `wmplatform.forms`.

        Raises:
            UnreadableCheckpoint: names the file, the reason, and the way back.
        """
        generation = self._existing(generation)
        files = self._manifest(generation)
        plain, arrays = self._outlined(part, generation, files, form)
        tensors: dict[str, Tensor] = {}
        if arrays:
            name = f"{part}.safetensors"
            content = self._checked(generation, name, files[name])
            try:
                tensors = safetensors.torch.load(content)
            except safetensors.SafetensorError as error:
                raise self._bad(generation, name, f"is broken: {error}") from error
            except MemoryError:
                size = f"{len(content)} bytes"
                raise self._bad(generation, name, f"does not fit into memory: {size}") from None
        return from_plain(plain, tensors)

    def restore_part(self, generation: int, part: str, form: Any, load: Callable[[Any], _T]) -> _T:
        """Read a part of a certain form, hand it to whom it belongs, and return its answer.

        Args:
            generation: that is there.
            part: its name.
            form: of which it has to be.
            load: takes it over; a ValueError says that it is none of its own.

        Raises:
            UnreadableCheckpoint: as `load_part` and `load` say.
        """
        state = self.load_part(part, generation, form)
        try:
            return load(state)
        except ValueError as error:
            raise self._bad(
                generation, f"{part}.json", f"does not fit this run: {error}"
            ) from error

    def outline(self, part: str, generation: int | None = None, form: Any = ANY) -> Any:
        """Read a part with an `Array`, dtype and shape, in the place of each tensor.

        Raises:
            UnreadableCheckpoint: as `load_part` says.
        """
        generation = self._existing(generation)
        plain, arrays = self._outlined(part, generation, self._manifest(generation), form)
        return from_plain(plain, arrays)

    def parts(self, generation: int | None = None) -> list[str]:
        """Name the parts of a generation."""
        files = self._manifest(self._existing(generation))
        return sorted(name[:-5] for name in files if name.endswith(".json"))

    def set_aside(self, after: int) -> list[Path]:
        """Rename all generations newer than `after`, so that a run goes on from there.

        Returns:
            Where they lie now; nothing deletes them.
        """
        moved = []
        for generation in self.generations():
            if generation > after:
                target = self._free_name(f"set-aside-{generation:09d}")
                moved.append(self.path(generation).rename(target))
        return moved

    def clean(self) -> None:
        """Delete what a killed process left half written or half removed."""
        for pattern in (".writing-*", ".removing-*"):
            for leftover in self.directory.glob(pattern):
                remove(leftover)

    def _write(self, aside: Path, generation: int, state: Mapping[str, Any]) -> None:
        aside.mkdir()
        files: dict[str, dict[str, Any]] = {}
        for part, tree in state.items():
            for name, content in _encoded(part, tree).items():
                write_durably(aside / name, content)
                files[name] = _fingerprint(content)
        manifest = {"format": _FORMAT, "generation": generation, "files": files}
        write_durably(aside / _MANIFEST, to_json(sealed(manifest)).encode())
        sync_folder(aside)

    def _refuse_old(self, generation: int) -> None:
        newest = self.latest()
        if newest is not None and generation <= newest:
            raise ValueError(f"generation {generation} is not newer than {newest}")

    def _remove(self, generations: list[int]) -> None:
        for generation in generations:
            # Renamed first, so that a kill halfway leaves no generation with missing files.
            remove(self.path(generation).rename(self._free_name(f".removing-{generation}")))

    def _free_name(self, name: str) -> Path:
        path, number = self.directory / name, 1
        while path.exists():
            number += 1
            path = self.directory / f"{name}-{number}"
        return path

    def _existing(self, generation: int | None) -> int:
        known = self.generations()
        if generation is None and known:
            return known[-1]
        if generation is None or generation not in known:
            name = "no generation" if generation is None else f"no generation {generation}"
            others = f"; there are {', '.join(map(str, known))}" if known else ""
            raise UnreadableCheckpoint(self.directory, f"is missing: {name}{others}", known)
        return generation

    def _manifest(self, generation: int) -> dict[str, dict[str, Any]]:
        """Read what files a generation has, by name, each with `bytes` and `sha256`."""
        manifest = self._parsed(generation, _MANIFEST, {"bytes": _MOST_JSON_BYTES})
        if not isinstance(manifest, dict) or manifest.get("format") not in (_UNSEALED, _FORMAT):
            raise self._bad(generation, _MANIFEST, f"is not of format {_FORMAT} or {_UNSEALED}")
        if manifest["format"] != _UNSEALED and not is_sealed(manifest):
            raise self._bad(generation, _MANIFEST, "was altered: its seal differs")
        files: Any = manifest.get("files")
        try:
            check_form(files, _FILES, ("files",))
        except ValueError as error:
            raise self._bad(generation, _MANIFEST, f"does not list its files: {error}") from None
        return dict(files)

    def _outlined(
        self, part: str, generation: int, files: dict[str, dict[str, Any]], form: Any
    ) -> tuple[Any, dict[str, Array]]:
        """Read a part's JSON and the header of its tensors, and compare both with a form."""
        name, arrays = f"{part}.json", {}
        if name not in files:
            raise self._bad(generation, name, "has no such part")
        plain = self._parsed(generation, name, files[name])
        if f"{part}.safetensors" in files:
            arrays = self._header(generation, f"{part}.safetensors", files)
        try:
            outline = from_plain(plain, arrays)
        except ValueError as error:
            raise self._bad(generation, name, f"was altered: {error}") from None
        try:
            check_form(outline, form, (part,))
        except OtherForm as error:
            raise self._bad(generation, name, f"does not fit this run: {error}") from None
        return plain, arrays

    def _header(self, generation: int, name: str, files: dict[str, Any]) -> dict[str, Array]:
        path, expected = self.path(generation) / name, files[name]["bytes"]
        try:
            with open_regular(path, self.directory) as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected:
                    reason = f"is damaged: it has {size} bytes, {expected} were written"
                    raise self._bad(generation, name, reason)
                return read_header(file, size)
        except CannotRead as error:
            raise self._bad(generation, name, error.reason) from None
        except ValueError as error:
            raise self._bad(generation, name, f"is broken: {error}") from None

    def _parsed(self, generation: int, name: str, entry: dict[str, Any]) -> Any:
        if entry["bytes"] > _MOST_JSON_BYTES:
            raise self._bad(generation, name, f"would have {entry['bytes']} bytes of JSON")
        content = self._checked(generation, name, entry)
        try:
            return parse_json(content)
        except ValueError as error:
            raise self._bad(generation, name, f"is not JSON: {error}") from None

    def _checked(self, generation: int, name: str, entry: dict[str, Any]) -> bytes:
        """Read a file and compare it with the manifest's entry."""
        path = self.path(generation) / name
        try:
            content = read_regular(path, self.directory, at_most=entry["bytes"])
        except CannotRead as error:
            raise self._bad(generation, name, error.reason) from None
        if "sha256" in entry and _fingerprint(content) != entry:
            lengths = f"{len(content)} bytes, {entry['bytes']} were written"
            raise self._bad(generation, name, f"is damaged: its checksum differs ({lengths})")
        return content

    def _bad(self, generation: int, name: str, reason: str) -> UnreadableCheckpoint:
        older = [number for number in self.generations() if number < generation]
        return UnreadableCheckpoint(self.path(generation) / name, reason, older)


def _encoded(part: str, tree: Any) -> dict[str, bytes]:
    """Encode a part into the contents of its files."""
    if not _PART.fullmatch(part) or part == "manifest":
        raise ValueError(f"{part!r} cannot name a part of a checkpoint: it names a file")
    plain, tensors = to_plain(tree, part)
    files = {f"{part}.json": json.dumps(plain, allow_nan=False).encode()}
    if len(files[f"{part}.json"]) > _MOST_JSON_BYTES:
        raise ValueError(f"{part} has more than {_MOST_JSON_BYTES} bytes of JSON: use tensors")
    if tensors:
        files[f"{part}.safetensors"] = safetensors.torch.save(_separate(tensors))
    return files


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to the CPU, each with a storage of its own, as safetensors wants them."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        host = tensor.detach().cpu().contiguous()
        storage = host.untyped_storage().data_ptr()
        separate[name] = host.clone() if storage in seen else host
        seen.add(storage)
    return separate


def _fingerprint(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
