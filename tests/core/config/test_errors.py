"""Every mistake gives one clear message with file and line, all of them together, exit code 2."""

# ruff: noqa: E501 - one case a line

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wmplatform.config import load
from wmplatform.errors import ExitCode

if TYPE_CHECKING:
    from conftest import Workspace

ONE_LINE = {
    "unknown configurable": ("Lop.name = 'a'", "nothing is named 'Lop'", "near 'Loop'"),
    "unknown component": ("envs.gird.size = 4", "no EnvAdapter in group 'envs' named 'gird'", "near 'grid'"),
    "unknown group": ("env.grid.size = 4", "no group is named 'env'", "near 'envs'"),
    "group left out": ("grid.size = 4", "nothing is named 'grid'", "envs.grid"),
    "unknown parameter": ("envs.grid.sise = 4", "envs.grid has no setting named 'sise'", "near 'size'"),
    "wiring argument": ("Loop.run_dir = 'a'", "'run_dir' is not a setting", "known: agent_steps"),
    "string for int": ("Loop.agent_steps = '3'", "cannot be '3'", "should be a valid integer"),
    "float for int": ("Loop.agent_steps = 3.0", "cannot be 3.0", "should be a valid integer"),
    "bool for int": ("Loop.agent_steps = True", "cannot be True", "should be a valid integer"),
    "bool for float": ("Loop.rate = True", "cannot be True", "should be a valid number"),
    "int for bool": ("Loop.flag = 1", "cannot be 1", "should be a valid boolean"),
    "int for string": ("Loop.name = 1", "cannot be 1", "should be a valid string"),
    "none where none is not allowed": ("Loop.name = None", "cannot be None", "valid string"),
    "out of range": ("envs.grid.size = 65", "cannot be 65", "less than or equal to 64"),
    "range from a constant": ("Loop.agent_steps = 0", "cannot be 0", "greater than or equal to 1"),
    "range in a dataclass": ("Adam.lr = -1", "cannot be -1", "greater than 0"),
    "not one of the choices": ("Loop.speed = 'fats'", "cannot be 'fats'", "'fast' or 'reference'"),
    "too short a tuple": ("Loop.size = (1,)", "cannot be (1,)", "required"),
    "wrong item": ("Loop.layers = [1, 'a']", "cannot be [1, 'a']", "[1] should be a valid integer"),
    "too long a list": ("Loop.layers = [1, 2, 3, 4]", "cannot be [1, 2, 3, 4]", "at most 3 items"),
    "neither of two types": ("Loop.either = 1.5", "cannot be 1.5", "integer or should be a valid string"),
    "true": ("Loop.flag = true", "true is not a value", "write True"),
    "bare word": ("Loop.name = walker", "walker is not a value", "strings need quotes: 'walker'"),
    "no value": ("Loop.name =", "cannot read this line", "Loop.name ="),
    "unclosed bracket": ("Loop.size = (1, 2", "", "Loop.size = (1, 2"),
    "unclosed string": ("Loop.name = 'abc", "cannot read this line", "Loop.name = 'abc"),
    "two statements": ("Loop.rate = 1 Loop.flag = 2", "expected newline", "Loop.rate = 1 Loop.flag"),
    "undefined macro": ("Loop.rate = %lr", "macro %lr is not defined", "known: none"),
    "unused binding": ("envs.needy.host = 'a'", "nothing uses envs.needy.host", "in use: envs.grid"),
    "unused scope": ("a/envs.grid.size = 4", "nothing uses a/envs.grid.size", "in use: (none)"),
    "unused macro": ("lr = 3", "nothing uses lr", "remove the line"),
    "import": ("import os", "may not run imports", "components are found by their name"),
    "from import": ("from os import path", "may not run imports", "remove the line"),
    "dynamic registration": ("from __gin__ import dynamic_registration", "may not run imports", ""),
    "missing include": ("include 'bsae.gin'", "included file 'bsae.gin' does not exist", "near 'x.gin'"),
    "self include": ("include 'x.gin'", "'x.gin' includes itself", "remove one of the includes"),
    "text for a reference": ("Loop.envs = {'a': 'grid'}", "['a'] takes a reference", "such as @envs."),
    "wrong kind": ("Learner.schedule = @Adam", "takes a reference to Base", "@warmup"),
    "wrong kind, inside": ("Loop.envs = {'a': @encoders.vit}", "takes a reference to EnvAdapter", "@envs"),
    "called too early": ("Loop.envs = {'a': @envs.grid()}", "is built later", "without ()"),
    "unknown reference": ("Loop.anything = @envs.gird", "named 'gird'", "near 'grid'"),
    "missing required": ("Loop.anything = @envs.needy", "needs 'host', which has no default", "host: str"),
    "wiring missing": ("Loop.anything = @warmup()", "updates is missing", "write @warmup without ()"),
    "clash": ("Loop.anything = @envs.twice", "'envs.twice' is declared by acme-wm 0.2 and by rival-wm 3.1", ""),
}  # fmt: skip


@pytest.mark.parametrize(("line", "what", "hint"), ONE_LINE.values(), ids=list(ONE_LINE))
def test_one_mistake_gives_one_message(
    gin_files: "Workspace", line: str, what: str, hint: str
) -> None:
    text = gin_files.only(line)
    assert what in text
    assert hint in text
    assert f"at   x.gin:4   {line}" in text
    assert gin_files.errors(gin_files.VALID + line).exit_code == ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    ("bind", "what"),
    [
        ("Loop.rate = fast", "fast is not a value"),
        ("Loop.rat = 1", "no setting named 'rat'"),
        ("Loop.rate", "Loop.rate"),
        ("include 'x.gin'", "--bind takes 'Name.param = value'"),
        ("envs.needy.host = 'a'", "nothing uses envs.needy.host"),
    ],
)
def test_mistakes_on_the_command_line_name_the_argument(
    gin_files: "Workspace", bind: str, what: str
) -> None:
    text = gin_files.only("", bind)
    assert what in text
    assert f'--bind "{bind}"' in text


def test_all_problems_are_reported_together_in_the_order_of_the_file(
    gin_files: "Workspace",
) -> None:
    unreadable = {"true", "bare word", "no value", "unclosed bracket", "unclosed string"}
    lines = [line for name, (line, *_) in ONE_LINE.items() if name not in unreadable]
    error = gin_files.errors("\n".join([gin_files.VALID, *lines]), "Loop.fla = 1")
    found = [p.place.line for p in error.problems if p.place and p.place.level == "file"]
    assert found == sorted(found)
    assert len(found) > 20
    assert "no setting named 'fla'" in error.problems[-1].what
    assert f"{len(error.problems)} problems in the configuration" in str(error)


def test_a_value_of_several_lines_names_the_line_of_the_wrong_reference(
    gin_files: "Workspace",
) -> None:
    text = gin_files.VALID + "Loop.envs = {\n  'a': @envs.grid,\n  'b': @envs.gird,\n}\n"
    assert "x.gin:6   'b': @envs.gird" in str(gin_files.errors(text))


def test_errors_in_an_included_file_name_that_file(gin_files: "Workspace") -> None:
    gin_files.write("base/b.gin", gin_files.VALID + "Loop.rate = 'a'\n")
    assert "base/b.gin:4   Loop.rate = 'a'" in str(gin_files.errors("include 'base/b.gin'\n"))


def test_a_circle_of_includes_is_found(gin_files: "Workspace") -> None:
    gin_files.write("a.gin", "include 'b.gin'\n")
    gin_files.write("b.gin", "include 'a.gin'\n")
    assert "b.gin:1   include 'a.gin'" in str(gin_files.errors("include 'a.gin'\n"))


def test_a_missing_file_is_named_with_the_nearest(gin_files: "Workspace") -> None:
    from wmplatform.config import ConfigErrors

    gin_files.write("dreamer.gin", "")
    with pytest.raises(ConfigErrors, match=r"no such file: draemer\.gin") as caught:
        load(["draemer.gin"], configurables={}, roots=[])
    assert "near 'dreamer.gin'" in str(caught.value)


def test_an_including_file_overrides_without_complaint(gin_files: "Workspace") -> None:
    gin_files.write("base.gin", gin_files.VALID + "Loop.rate = 1.0\n")
    config = gin_files.load("include 'base.gin'\nLoop.rate = 2\n")
    assert config.parameter("Loop.rate") == 2.0


def test_an_include_below_an_override_is_an_error(gin_files: "Workspace") -> None:
    gin_files.write("base.gin", gin_files.VALID + "Loop.rate = 1.0\n")
    text = str(gin_files.errors("Loop.rate = 2\ninclude 'base.gin'\n"))
    assert "the include in line 2 overrides Loop.rate again" in text


def test_the_same_binding_twice_in_one_file_or_on_the_command_line_is_an_error(
    gin_files: "Workspace",
) -> None:
    twice = gin_files.VALID + "Loop.rate = 1.0\nLoop.rate = 2.0\n"
    assert "Loop.rate is already bound in line 4" in str(gin_files.errors(twice))
    binds = ["Loop.rate = 1.0", "Loop.rate=2.0"]
    assert "on the command line" in str(gin_files.errors(gin_files.VALID, *binds))


REPLACED = {
    "a reference": ("Loop.anything = @envs.needy\nenvs.needy.host = 'h'\n", "Loop.anything = None"),
    "a scope": ("Loop.anything = @a/envs.grid\na/envs.grid.size = 4\n", "Loop.anything = @b/envs.grid"),
    "a whole dictionary": (
        "Loop.envs = {'a': @a/envs.grid, 'b': @envs.needy}\na/envs.grid.size = 4\nenvs.needy.host = 'h'\n",
        "Loop.envs = {'a': @envs.grid}",
    ),
    "what led to what led to it": (
        "Loop.anything = @a/Learner\na/Learner.schedule = @warmup\nwarmup.length = 3\na/Learner.optimizer = @a/Adam\na/Adam.lr = 1\n",
        "Loop.anything = None",
    ),
    "the one use of a macro": ("Loop.rate = %rate\nrate = 2.0\n", "Loop.rate = 3.0"),
    "a macro of a setting of it": (
        "Loop.anything = @envs.needy\nenvs.needy.host = %host\nhost = 'h'\n",
        "Loop.anything = None",
    ),
    "a macro that led to it": ("part = @envs.needy\nLoop.anything = %part\nenvs.needy.host = 'h'\n", "part = None"),
    "a default": ("Clock.hz = 50\n", "Loop.clock = @Sundial"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "replacement"), REPLACED.values(), ids=list(REPLACED))
@pytest.mark.parametrize("by", ["bind", "including file", "second file"])
def test_settings_of_what_a_later_line_replaced_are_no_error(
    gin_files: "Workspace", lines: str, replacement: str, by: str
) -> None:
    base = gin_files.write("base.gin", gin_files.VALID + lines)
    plain = gin_files.load(gin_files.VALID, replacement.replace("part", "Loop.anything"))
    if by == "bind":
        config = gin_files.load(base.read_text(), replacement)
    elif by == "including file":
        config = gin_files.load(f"include 'base.gin'\n{replacement}\n")
    else:
        files = [base, gin_files.write("second.gin", replacement + "\n")]
        config = load(files, configurables=gin_files.CORE, roots=["Loop"])
    assert config.text == plain.text
    assert config.unused
    assert not plain.unused


def test_a_base_file_may_leave_it_to_others_to_lead_to_what_it_replaces(
    gin_files: "Workspace",
) -> None:
    gin_files.write("part.gin", "Learner.schedule = @warmup\nwarmup.length = 3\n")
    text = "include 'part.gin'\n" + gin_files.VALID + "Learner.schedule = None\n"
    assert "warmup" not in gin_files.load(text).text


def test_settings_of_a_replaced_part_may_stand_beside_the_replacement(
    gin_files: "Workspace",
) -> None:
    gin_files.write("base.gin", gin_files.VALID + "Loop.anything = @envs.needy\n")
    text = "include 'base.gin'\nenvs.needy.host = 'h'\nLoop.anything = None\n"
    assert gin_files.load(text).unused == ("envs.needy.host",)


@pytest.mark.parametrize("replaced_by", ["file", "bind"])
def test_a_setting_of_a_replaced_part_on_the_command_line_is_an_error(
    gin_files: "Workspace", replaced_by: str
) -> None:
    base = gin_files.VALID + "Loop.anything = @envs.needy\n"
    gin_files.write("base.gin", base)
    text, binds = base, ["envs.needy.host = 'h'", "Loop.anything = None"]
    if replaced_by == "file":
        text, binds = "include 'base.gin'\nLoop.anything = None\n", binds[:1]
    (problem,) = gin_files.errors(text, *binds).problems
    assert problem.what == "nothing uses envs.needy.host"


def test_a_setting_in_an_included_file_that_nothing_ever_used_is_an_error(
    gin_files: "Workspace",
) -> None:
    gin_files.write("base.gin", gin_files.VALID + "envs.needy.host = 'h'\nadma/Adam.lr = 1\n")
    text = "include 'base.gin'\nLearner.optimizer = @adam/Adam\n"
    first, second = gin_files.errors(text).problems
    assert first.what == "nothing uses envs.needy.host"
    assert str(first.place).startswith("base.gin:4")
    assert second.what == "nothing uses adma/Adam.lr"
    assert second.hint == "near 'adam'   scopes of Adam in use: adam"


def test_a_missing_requirement_of_the_root_is_reported(gin_files: "Workspace") -> None:
    text = str(gin_files.errors("Loop.env = @envs.grid\n"))
    assert "Loop needs 'learner', which has no default\n  at   x.gin\n" in text


def test_a_misspelt_reference_does_not_make_its_settings_unused(gin_files: "Workspace") -> None:
    text = "Loop.env = @envs.gird\nLoop.learner = @Lerner\nLearner.optimizer = @Adam\n"
    error = gin_files.errors(text + "Adam.lr = 1\nenvs.grid.size = 4\n")
    assert [p.place.line for p in error.problems if p.place] == [1, 2]


def test_a_broken_plugin_that_is_not_used_changes_nothing(gin_files: "Workspace") -> None:
    config = gin_files.load(gin_files.VALID)
    assert config.build("Loop").env().name == "grid/reach"


def test_a_broken_plugin_that_is_used_is_named_with_its_distribution(
    gin_files: "Workspace",
) -> None:
    from wmplatform.config import ConfigErrors

    config = gin_files.load(gin_files.VALID.replace("@envs.grid", "@envs.broken"))
    with pytest.raises(ConfigErrors) as caught:
        config.activate()
    assert "'envs.broken' of acme-wm 0.2 failed to load" in str(caught.value)
    assert "No module named 'surely_not_installed'" in str(caught.value)
    assert "x.gin:1   Loop.env = @envs.broken" in str(caught.value)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "failed to load" in str(gin_files.errors(gin_files.VALID + "Loop.anything = @envs.nix"))


def test_a_plugin_whose_module_is_gone_is_found_without_importing(gin_files: "Workspace") -> None:
    text = gin_files.only("Loop.anything = @envs.gone")
    assert "'envs.gone' of acme-wm 0.2" in text
    assert "No module named 'acme_wm.nowhere'" in text


def test_a_malformed_entry_point_stops_only_those_who_use_it(gin_files: "Workspace") -> None:
    text = gin_files.only("Loop.anything = @envs.odd")
    assert "'envs.odd' of acme-wm 0.2 failed to load: ModuleNotFoundError" in text
    assert "No module named 'acme wm, perhaps'" in text


def test_a_plugin_of_the_wrong_class_is_refused(gin_files: "Workspace") -> None:
    from wmplatform.config import ConfigErrors

    config = gin_files.load(gin_files.VALID + "Loop.anything = @envs.wrong\n")
    with pytest.raises(ConfigErrors, match="1 problem") as caught:
        config.activate()
    assert "does not derive from EnvAdapter" in str(caught.value)


def test_a_missing_extra_gives_the_command_that_installs_it(gin_files: "Workspace") -> None:
    error = gin_files.errors(gin_files.VALID + "Loop.anything = @envs.extra")
    assert "envs.extra needs surely-not-installed, not installed here" in str(error)
    assert 'fix  pip install "acme-wm[fancy]"' in str(error)
    assert error.exit_code == ExitCode.ENVIRONMENT


def test_a_problem_with_a_file_outweighs_a_missing_extra(gin_files: "Workspace") -> None:
    error = gin_files.errors(gin_files.VALID + "Loop.anything = @envs.extra\nLoop.rate = 'a'")
    assert error.exit_code == ExitCode.BAD_INPUT


def test_imports_are_allowed_by_name(gin_files: "Workspace") -> None:
    text = "import colorsys\n" + gin_files.VALID
    config = gin_files.load(text, allowed_imports={"colorsys"})
    sys.modules.pop("colorsys", None)
    config.activate()
    assert "colorsys" in sys.modules
    assert config.text.splitlines()[2] == "import colorsys"


def test_errors_come_before_torch_and_before_the_plugin(gin_files: "Workspace", acme: Path) -> None:
    path = gin_files.write("x.gin", gin_files.VALID + "encoders.vit.depth = 'a'\n")
    code = f"""
import sys
sys.path.insert(0, {str(acme)!r})
from wmplatform.config import ConfigErrors, load
try:
    load([{str(path)!r}], configurables={gin_files.CORE!r}, roots=["Loop"])
except ConfigErrors as error:
    assert "cannot be 'a'" in str(error), error
    heavy = {{"torch", "numpy", "tensordict", "gymnasium", "acme_app"}} & set(sys.modules)
    heavy |= {{name for name in sys.modules if name.startswith("acme_wm")}}
    sys.exit(f"imported {{heavy}}" if heavy else error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
