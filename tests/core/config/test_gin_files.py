"""gin files by name: what packages ship, what lies in the current folder, and which one counts."""

import sys
from pathlib import Path

import pytest

from wmplatform.config import ConfigErrors, gin_files, load
from wmplatform.config.gin_files import find

from .conftest import CORE, VALID, distribution

OWN = "drqv2_pendulum_small.gin"
"""An experiment that the platform ships."""


@pytest.fixture
def lab(acme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Experiments of a distribution that cannot be imported; another folder is the current one."""
    site, here = tmp_path / "site", tmp_path / "here"
    home = site / "lab" / "more" / "experiments"
    for folder in (home / "base", here):
        folder.mkdir(parents=True)
    for package in (site / "lab", site / "lab" / "more"):
        (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (home / "x.gin").write_text("# Trains. Well.\ninclude 'base/b.gin'\nLoop.rate = 2\n")
    (home / "base" / "b.gin").write_text("include 'c.gin'\nLoop.limit = 3\n")
    (home / "c.gin").write_text(VALID)
    distribution(site, "lab-wm", "1.0", "[wmplatform.envs]\nlab = lab.more.envs:Lab\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(here)
    return home


def checked(target: str) -> object:
    return load([target], configurables=CORE, roots=["Loop"])


def message(target: str) -> str:
    with pytest.raises(ConfigErrors) as caught:
        checked(target)
    return str(caught.value)


def test_a_package_is_found_and_not_imported(lab: Path) -> None:
    config = load(["lab.more:x.gin"], configurables=CORE, roots=["Loop"])
    assert (config.parameter("Loop.rate"), config.parameter("Loop.limit")) == (2.0, 3)
    assert "lab" not in sys.modules
    assert {file.name: file.path for file in config.files} == {
        "lab.more:x.gin": lab / "x.gin",
        "lab.more:base/b.gin": lab / "base" / "b.gin",
        "lab.more:c.gin": lab / "c.gin",
    }


def test_the_resolved_text_of_a_package_s_file_reads_back(lab: Path) -> None:
    config = load(["lab.more:x.gin"], configurables=CORE, roots=["Loop"])
    Path("config.gin").write_text(config.text)
    assert load(["config.gin"], configurables=CORE, roots=["Loop"]) == config


def test_a_file_of_one_s_own_includes_a_package_s_by_name(lab: Path) -> None:
    Path("mine.gin").write_text("include 'lab.more:x.gin'\nLoop.rate = 5\n")
    config = load(["mine.gin"], configurables=CORE, roots=["Loop"])
    assert (config.parameter("Loop.rate"), config.parameter("Loop.limit")) == (5.0, 3)


def test_messages_name_the_line_in_the_package_s_file(lab: Path) -> None:
    (lab / "base" / "b.gin").write_text("include 'c.gin'\nLoop.limit = 'a'\n")
    assert "at   lab.more:base/b.gin:2   Loop.limit = 'a'" in message("lab.more:x.gin")


def test_a_package_s_file_means_the_same_in_any_folder(lab: Path) -> None:
    for name in ("c.gin", "base/c.gin", "base/b.gin", "experiments/c.gin", "lab.more:x.gin"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("Loop.rate = 7\n")
    config = load(["lab.more:x.gin"], configurables=CORE, roots=["Loop"])
    assert config.parameter("Loop.rate") == 2.0


def test_a_package_s_file_may_include_the_platform_s(lab: Path) -> None:
    (lab / "x.gin").write_text(f"include '{OWN}'\nencoders.drq.channels = 'a'\n")
    with pytest.raises(ConfigErrors) as caught:
        load(["lab.more:x.gin"])
    assert "lab.more:x.gin:2" in str(caught.value)
    assert "does not exist" not in str(caught.value)


def test_a_package_s_files_may_be_links(lab: Path, tmp_path: Path) -> None:
    for name in ("x.gin", "base/b.gin", "c.gin"):
        (lab / name).rename(tmp_path / Path(name).name)
        (lab / name).symlink_to(tmp_path / Path(name).name)
    assert load(["lab.more:x.gin"], configurables=CORE, roots=["Loop"]).parameter("Loop.limit") == 3


def test_what_lies_outside_of_a_package_s_experiments_is_not_its(lab: Path) -> None:
    (lab.parent / "secret.gin").write_text(VALID)
    assert find("lab.more:../secret.gin") is None
    (lab / "x.gin").write_text("include '../secret.gin'\n")
    assert "included file '../secret.gin' does not exist" in message("lab.more:x.gin")


@pytest.mark.parametrize("name", [OWN, f"experiments/{OWN}"])
def test_a_file_that_is_there_comes_before_one_that_is_shipped(lab: Path, name: str) -> None:
    shipped = find(name)
    assert shipped is not None
    assert shipped.name == f"wmplatform:{OWN}"
    Path("experiments").mkdir()
    Path(name).write_text(VALID)
    mine = find(name)
    assert mine is not None
    assert (mine.name, mine.package) == (name, "")
    assert find(f"wmplatform:{OWN}") == shipped


def test_a_path_is_itself_even_where_it_looks_like_a_package_s_name(lab: Path) -> None:
    Path("lab.more:").mkdir()
    Path("lab.more:", "x.gin").write_text(VALID)
    for name in (Path("lab.more:/x.gin"), "./lab.more:/x.gin"):
        config = load([name], configurables=CORE, roots=["Loop"])
        assert [file.package for file in config.files] == [""]
    assert find(Path(OWN)) is None


def test_a_path_that_leads_elsewhere_is_no_shipped_file(lab: Path) -> None:
    for name in (f"./elsewhere/{OWN}", f"../{OWN}", str(lab / OWN)):
        assert find(name) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wmplatform:drqv2_pendulm_small.gin", f"near 'wmplatform:{OWN}'"),
        ("experiments/drqv2_pendulm_small.gin", f"near 'wmplatform:{OWN}'"),
        ("bse/b.gin", "near 'wmplatform:base/"),
        ("lab.more:y.gin", "near 'lab.more:x.gin'"),
        ("lab.mre:x.gin", "no package 'lab.mre' with a folder 'experiments'"),
        ("lab.mre:x.gin", "known: wmplatform:, lab.more:"),
        ("lab:x.gin", "known: wmplatform:, lab.more:"),
        ("lab.more:y.gin", "looked in: lab.more:\n"),
        ("y.gin", "looked in: ., experiments, wmplatform:\n"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(lab: Path, name: str, said: str) -> None:
    text = message(name)
    assert f"no such file: {name}" in text
    assert said in text


def test_what_packages_ship_is_listed_with_its_first_sentence(lab: Path) -> None:
    assert gin_files.shipping() == ["wmplatform", "lab.more"]
    assert gin_files.shipped("lab.more") == ["base/b.gin", "c.gin", "x.gin"]
    file = find("lab.more:x.gin")
    assert file is not None
    assert gin_files.summary(file) == "Trains"
