"""The page on what differs from the authors' code names settings and files that exist."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from wmplatform.config import load
from wmplatform.config.catalogue import Catalogue
from wmplatform.config.parsing import parse
from wmplatform.config.values import check_value
from wmplatform.configurables import CONFIGURABLES

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "differences.md").read_text()
EXPERIMENTS = ROOT / "experiments"
PARITY = {f.stem: f for f in (EXPERIMENTS / "base").glob("parity_*.gin")}
CATALOGUE = Catalogue(CONFIGURABLES)


def settings_in(text: str) -> dict[str, Any]:
    """Settings with their values, as a gin file would have them, between backticks."""
    found = re.findall(r"`([\w/]+(?:\.\w+)+) = ([^`]+)`", text)
    return {name: ast.literal_eval(value) for name, value in found}


def rows() -> list[list[str]]:
    """Cells of the tables that compare."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return [cells for cells in lines if len(cells) == 4 and cells[0] not in ("here", "---")]


SETTINGS = settings_in(PAGE)


def test_the_page_names_settings() -> None:
    assert len(rows()) > 40
    assert len(SETTINGS) > 35
    assert all(all(cell.strip() for cell in cells) for cells in rows())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_page_exists_and_takes_the_value(name: str) -> None:
    selector, _, param = name.rpartition(".")
    settings = CATALOGUE.find(selector).signature.settings
    assert param in settings
    check_value(SETTINGS[name], settings[param], CATALOGUE.judge)


def test_what_the_parity_files_set_is_on_the_page_with_its_value() -> None:
    promised = {
        name: value
        for cells in rows()
        if cells[3].startswith(("parity", "the same"))
        for name, value in settings_in(cells[3]).items()
    }
    kept = {}
    for file in PARITY.values():
        for binding in parse([file], []).bindings:
            kept[binding.key] = {*kept.get(binding.key, ()), binding.value}
    both = {"fp16", "fp32"}  # DrQ-v2 is the one that runs in fp32
    assert kept.pop("Learner.precision") == both
    assert promised.pop("Learner.precision") in both
    assert {key: {value} for key, value in promised.items()} == kept


def test_the_files_of_the_page_exist_and_every_parity_file_is_named() -> None:
    named = set(re.findall(r"`(?:experiments/)?([\w/]+\.gin)`", PAGE))
    assert all((EXPERIMENTS / name).is_file() for name in named)
    common = {"parity_imagination"}
    assert {f"base/{stem}.gin" for stem in {*PARITY} - common} <= named


def test_its_command_runs() -> None:
    command = re.search(r"\$ python -m platform.run (.*)", PAGE)
    assert command
    files = re.findall(r"--gin (\S+)", command[1])
    assert len(files) == 2
    load([ROOT / file for file in files])
