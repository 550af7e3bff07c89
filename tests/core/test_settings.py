"""`wmplatform list <part>`: every setting with its type, range, default and meaning."""

import json

import pytest

from wmplatform.cli import main
from wmplatform.config import load
from wmplatform.configurables import CONFIGURABLES
from wmplatform.errors import ExitCode
from wmplatform.registry import components
from wmplatform.settings import Argument, UnknownPart, part

PARTS = [*CONFIGURABLES, *(c.selector for c in components() if c.distribution == "wmplatform")]


def settings(selector: str) -> dict[str, Argument]:
    return {each.name: each for each in part(selector).settings}


@pytest.mark.parametrize("selector", PARTS)
def test_every_setting_of_a_built_in_part_is_typed_and_explained(selector: str) -> None:
    found = part(selector)
    assert found.summary
    assert [each.name for each in found.settings if not each.doc] == []
    assert [each.name for each in found.settings if each.type == "any value"] == []


@pytest.mark.parametrize(
    ("selector", "name", "type_", "range_", "default"),
    [
        ("encoders.resnet", "depth", "int", ">= 1", "48"),
        ("encoders.resnet", "norm", "'batch' or 'layer' or 'group' or 'none'", "", "'batch'"),
        ("decoders.cross_attention", "keep", "float", "> 0, <= 1", "0.25"),
        ("Clips", "weights", "tuple of float or None", "> 0", "None"),
        ("Learner", "optimizers", "dict of str to @Optimizer", "", None),
        ("Online", "replay", "@Replay", "", "@Replay"),
        ("Learner", "compile_parts", "tuple of str", "", "()"),
    ],
)
def test_a_setting_is_shown_as_gin_takes_it(
    selector: str, name: str, type_: str, range_: str, default: str | None
) -> None:
    found = settings(selector)[name]
    assert (found.type, found.range, found.default) == (type_, range_, default)


def test_wiring_is_told_apart_from_settings() -> None:
    found = part("encoders.resnet")
    assert [each.name for each in found.wiring] == ["observations"]
    assert found.wiring[0].type == "Mapping[str, ArraySpec]"
    assert "observations" not in settings("encoders.resnet")


def test_the_listed_defaults_are_those_of_a_configuration() -> None:
    config = load(["experiments/dreamerv2_metaworld.gin"], [])
    for name in ("prefetch", "updates_each", "keep_checkpoints"):
        assert settings("Online")[name].default == repr(config.parameter(f"Online.{name}"))


def test_the_command_prints_lines_that_gin_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "encoders.resnet"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "  encoders.resnet.depth = 48\n      int, >= 1: channels" in said
    assert "  observations\n      Mapping[str, ArraySpec]: specs" in said
    assert main(["list", "Learner", "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert found["settings"][0]["name"] == "groups"
    assert found["settings"][0]["default"] is None


def test_an_unknown_part_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownPart, match="near 'resnet'"):
        part("encoders.resnt")
    assert main(["list", "decoder.resnet"]) == ExitCode.BAD_INPUT
