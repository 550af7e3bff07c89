"""The page on loading: its code plays what it says, in the order of the page."""

import inspect
import math
import re
from pathlib import Path

import pytest

import wmplatform
from wmplatform.saved_agent import SavedAgent

from .core.test_saved_agent import TINY, saved_run

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "loading.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_code_of_the_page_plays_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_run(tmp_path / "runs" / "reach", TINY)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    one, several, inside = BLOCKS
    exec(compile(one, "loading.md", "exec"), names)
    assert re.fullmatch(r"checkpoint 1, return -\d+\.\d\n", capsys.readouterr().out)
    exec(compile(several.replace("range(100)", "range(30)"), "loading.md", "exec"), names)
    assert names["actions"].shape == (2, 1)  # type: ignore[attr-defined]
    exec(compile(inside, "loading.md", "exec"), names)
    assert math.isfinite(names["reward"].item())  # type: ignore[attr-defined]


def test_an_episode_takes_ten_lines_or_so() -> None:
    body = [line for line in BLOCKS[0].splitlines() if line and not line.startswith("import")]
    assert len(body) <= 11


def test_what_the_table_names_is_there() -> None:
    rows = " ".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))
    names = re.findall(r"`agent\.(\w+)", rows)
    assert {"act", "make_env", "spec", "world_model", "config"} <= set(names)
    for name in names:
        assert hasattr(SavedAgent, name) or name in SavedAgent.__dataclass_fields__, name
    (arguments,) = re.findall(r"`wmplatform\.load\((.*?)\)`", rows)
    assert (
        re.findall(r"\w+(?==)", arguments)
        == list(inspect.signature(wmplatform.load).parameters)[1:]
    )
