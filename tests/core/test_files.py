"""Files that somebody else wrote: only regular files are read, and nothing else is written."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import (
    CannotRead,
    ForeignFile,
    is_sealed,
    open_own,
    parse_json,
    read_regular,
    replace_file,
    sealed,
    write_durably,
)
from wmplatform.json_lines import JsonLines, read_json_lines


def link(path: Path) -> None:
    (path.parent / "target").write_text("secret")
    path.symlink_to(path.parent / "target")


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


Making = Callable[[Path], None]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (link, "is a link"),
        (dangling, "is a link"),
        (zeros, "is a link"),
        (pipe, "is a pipe"),
        (folder, "is a folder"),
        (sparse, "1099511627776 bytes, and at most 100 are expected"),
        (lambda path: None, "is missing"),
    ],
)
def test_only_a_regular_file_of_the_expected_size_is_read(
    tmp_path: Path, make: Making, reason: str
) -> None:
    make(tmp_path / "file")
    with pytest.raises(CannotRead, match=reason) as caught:
        read_regular(tmp_path / "file", at_most=100)
    assert caught.value.exit_code == ExitCode.BAD_RUN


def test_what_links_lead_to_is_read_where_that_is_asked_for(tmp_path: Path) -> None:
    link(tmp_path / "file")
    assert read_regular(tmp_path / "file", at_most=100, links=True) == b"secret"
    zeros(tmp_path / "zeros")
    with pytest.raises(CannotRead, match="is a device"):
        read_regular(tmp_path / "zeros", at_most=100, links=True)


def test_a_path_stays_in_its_folder_and_that_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "real" / "in" / "file").write_text("x")
    (tmp_path / "run").symlink_to(tmp_path / "real")
    inside = tmp_path / "run"
    assert read_regular(inside / "in" / "file", inside, at_most=1) == b"x"
    for away in (inside / "in" / ".." / "in" / "file", tmp_path / "real" / "in" / "file"):
        with pytest.raises(CannotRead, match="lies outside of"):
            read_regular(away, inside, at_most=1)
    (inside / "link").symlink_to("in")
    with pytest.raises(CannotRead, match="lies in link, which is a link"):
        read_regular(inside / "link" / "file", inside, at_most=1)
    with pytest.raises(CannotRead, match="cannot be read"):
        read_regular(inside / "a\0b", at_most=1)


@pytest.mark.parametrize("make", [link, dangling, zeros, pipe, folder])
def test_nothing_is_written_where_it_lies_through_something_else(
    tmp_path: Path, make: Making
) -> None:
    path = tmp_path / "file"
    make(path)
    with pytest.raises(ForeignFile) as caught:
        open_own(path)
    assert caught.value.exit_code == ExitCode.BAD_RUN
    with pytest.raises(ForeignFile):
        JsonLines(path)
    assert not (tmp_path / "nowhere").exists()
    if make is link:
        assert (tmp_path / "target").read_text() == "secret"


def test_a_file_with_two_names_is_not_written_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "other").write_text('{"a": 1}\n{"b')
    os.link(tmp_path / "other", tmp_path / "metrics.jsonl")
    with pytest.raises(ForeignFile, match="hard link"):
        JsonLines(tmp_path / "metrics.jsonl")
    assert (tmp_path / "other").read_text() == '{"a": 1}\n{"b'


def test_a_link_in_the_way_of_a_new_file_is_not_followed(tmp_path: Path) -> None:
    link(tmp_path / ".writing-note")
    replace_file(tmp_path / "note", "new")
    assert (tmp_path / "note").read_text() == "new"
    assert (tmp_path / "target").read_text() == "secret"
    (tmp_path / "durable").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "durable", b"new")
    assert (tmp_path / "target").read_text() == "secret"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ("[NaN]", "NaN"),
        ("[1e999]", "1e999 is no number"),
        ("[" * 100_000 + "]" * 100_000, "64 levels"),
        ("[" * 66 + "]" * 66, "64 levels"),
        ('{"a":' * 66 + "1" + "}" * 66, "64 levels"),
        ("9" * 5000, "digits"),
        ("{", "Expecting"),
        (b"\xff\xfe\xfd", "decode"),
    ],
)
def test_json_is_strict(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_a_manifest_that_was_altered_is_told_from_its_seal() -> None:
    manifest = json.loads(json.dumps(sealed({"b": [1.5, None], "a": {"x": "y"}})))
    assert is_sealed(manifest)
    assert sealed(manifest) == manifest
    assert not is_sealed(manifest | {"c": 1})
    assert not is_sealed({"b": [1.5, None]})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1}\n[1]\n', "no JSON object in line 2"),
        (b'{"a": 1}\n{"a"\n', "not JSON in line 2"),
        (b'{"a": 1}\n' + b" " * (1 + (1 << 24)), "more than 16777216 bytes in line 2"),
    ],
)
def test_lines_that_are_no_objects_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "lines").write_bytes(content)
    lines = read_json_lines(tmp_path / "lines")
    assert next(lines) == {"a": 1}
    with pytest.raises(CannotRead, match=reason):
        next(lines)


def test_a_message_does_not_steer_the_terminal() -> None:
    error = PlatformError("a\x1b[2Jb", where="\u202egnp\udc80", hint="one\ntwo\x07")
    assert str(error).splitlines() == [
        "PlatformError: a\\x1b[2Jb",
        "  at   \\u202egnp\\udc80",
        "  fix  one",
        "  fix  two\\x07",
    ]
