"""Building from a configuration, and writing it down so that it reads back the same."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wmplatform import registry
from wmplatform.config import Config, ConfigErrors
from wmplatform.config.parsing import parse
from wmplatform.config.values import write_value
from wmplatform.errors import PlatformError

if TYPE_CHECKING:
    from conftest import Workspace

FULL = """include 'base/b.gin'
rate = 3
Loop.rate = %rate
Loop.layers = [4, 2]
Loop.folder = 'out'
Loop.envs = {
    'train': @train/envs.grid,   # a comment
    'eval': @eval/envs.grid,
}
train/envs.grid.size = 16
eval/envs.grid:
    size = 32
    task = 'pick'
Learner.schedule = @warmup
"""
BASE = "Loop.env = @envs.grid\nLoop.learner = @Learner\nLearner.optimizer = @Adam\nAdam.lr = 1e-4\n"


@pytest.fixture
def full(gin_files: "Workspace") -> Config:
    gin_files.write("base/b.gin", BASE)
    return gin_files.load(FULL, "envs.grid.task = 'push'")


def test_values_arrive_as_they_are_annotated(full: Config) -> None:
    loop = full.build("Loop")
    assert (loop.rate, type(loop.rate)) == (3.0, float)
    assert loop.layers == [4, 2]
    assert loop.folder == Path("out")
    assert loop.size == (1, 2)


def test_references_are_factories_with_their_settings(full: Config) -> None:
    loop = full.build("Loop")
    learner = loop.learner()
    assert type(learner).__name__ == "Learner"
    assert learner.optimizer().lr == 1e-4
    assert learner.optimizer(lr=0.5).lr == 0.5


def test_scopes_make_two_of_one_component_over_common_settings(full: Config) -> None:
    loop = full.build("Loop")
    train, evaluate = loop.envs["train"](), loop.envs["eval"]()
    assert (train.size, train.task) == (16, "push")
    assert (evaluate.size, evaluate.task) == (32, "pick")
    assert loop.env().size == 8


def test_instances_are_of_the_original_class(full: Config) -> None:
    from acme_wm.envs import Grid

    assert type(full.build("Loop").env()) is Grid


def test_a_default_that_is_a_configurable_is_configured(gin_files: "Workspace") -> None:
    config = gin_files.load(BASE + "Clock.hz = 50\n")
    assert config.build("Loop").clock().hz == 50.0
    assert "Loop.clock = @Clock\n" in config.text
    assert gin_files.load(config.text) == config


def test_the_caller_wins_over_the_file(full: Config) -> None:
    loop = full.build("Loop", "runs/1", rate=7.0)
    assert (loop.run_dir, loop.rate) == ("runs/1", 7.0)


def test_the_resolved_text_loads_to_an_equal_configuration(
    gin_files: "Workspace", full: Config
) -> None:
    again = gin_files.load(full.text)
    assert again == full
    assert again.text == full.text
    assert "%" not in full.text
    assert "include '" not in full.text
    assert again != gin_files.load(full.text, "Loop.agent_steps = 11")


def test_later_files_and_then_binds_override(gin_files: "Workspace") -> None:
    from wmplatform.config import load

    first = gin_files.write("a.gin", BASE + "Loop.rate = 1.0\nLoop.limit = 1\n")
    second = gin_files.write("b.gin", "Loop.rate = 2.0\nLoop.limit = 2\n")
    config = load([first, second], ["Loop.limit = 3"], roots=["Loop"], configurables=gin_files.CORE)
    assert (config.parameter("Loop.rate"), config.parameter("Loop.limit")) == (2.0, 3)


def test_includes_are_found_beside_the_file_and_in_experiments(gin_files: "Workspace") -> None:
    gin_files.write("experiments/b.gin", BASE)
    assert gin_files.load("include 'b.gin'\n").parameter("Adam.lr") == 1e-4
    gin_files.write("b.gin", BASE.replace("1e-4", "1e-5"))
    assert gin_files.load("include 'b.gin'\n").parameter("Adam.lr") == 1e-5


def test_parameters_are_bound_values_or_defaults(full: Config) -> None:
    assert full.parameter("Loop.rate") == 3.0
    assert full.parameter("eval/envs.grid.size") == 32
    assert full.parameter("Loop.agent_steps") == 10
    with pytest.raises(KeyError):
        full.parameter("Loop.no_such")


def test_components_used_carry_their_provenance(full: Config) -> None:
    assert [c.selector for c in full.components_used()] == ["envs.grid"]
    assert registry.provenance(full.components_used()) == [
        {
            "distribution": "acme-wm",
            "version": "0.2",
            "components": {"envs.grid": "acme_wm.envs:Grid"},
        }
    ]


def test_the_operative_text_holds_what_was_used_with_defaults(full: Config) -> None:
    full.activate()
    assert "Loop" not in full.operative()
    loop = full.build("Loop", rate=1.0)
    loop.envs["train"]()
    text = full.operative()
    assert "Loop.agent_steps = 10\n" in text
    assert "Loop.rate" not in text, "the caller gave it"
    assert "Loop.learner = @Learner\n" in text
    assert "train/envs.grid.size = 16\n" in text
    assert "Adam" not in text, "not built yet"


def test_two_configurations_do_not_mix(gin_files: "Workspace") -> None:
    one = gin_files.load(BASE, "Loop.rate = 1.0")
    two = gin_files.load(BASE, "Loop.agent_steps = 2")
    assert one.build("Loop").agent_steps == 10
    assert two.build("Loop").rate == 1.0
    assert two.build("Loop").agent_steps == 2
    assert one.build("Loop").agent_steps == 10


def test_a_setting_handed_on_to_the_base_class_can_be_bound(gin_files: "Workspace") -> None:
    text = BASE.replace("@envs.grid", "@envs.needy")
    config = gin_files.load(text + "envs.needy.host = 'h'\nenvs.needy.size = 4\n")
    assert config.build("Loop").env().size == 4
    assert "less than or equal to 64" in str(
        gin_files.errors(text + "envs.needy.host = 'h'\nenvs.needy.size = 65\n")
    )


def test_an_error_of_a_component_arrives_as_it_was_raised(gin_files: "Workspace") -> None:
    config = gin_files.load(BASE + "Loop.anything = @envs.refuses()\n")
    with pytest.raises(PlatformError) as caught:
        config.build("Loop")
    assert type(caught.value) is PlatformError
    assert str(caught.value).splitlines()[-1] == "  fix  ask another"


def test_a_wrong_call_is_a_configuration_error(full: Config) -> None:
    with pytest.raises(ConfigErrors, match="1 problem") as caught:
        full.build("Loop", nonsense=1)
    assert "Loop cannot be built: got an unexpected keyword argument" in str(caught.value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(st.characters(codec="utf-8")) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


def same_bits(a: Any, b: Any) -> bool:
    """Equal in type and value; 0.0 is not -0.0, and 1 is neither 1.0 nor True."""
    if isinstance(a, dict) and isinstance(b, dict):
        return same_bits(list(a.items()), list(b.items()))
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_bits, a, b))
    signs = isinstance(a, float) and math.copysign(1, a) != math.copysign(1, b)
    return bool(a == b) and not signs


@given(value=values)
@settings(max_examples=200)
def test_every_value_survives_being_written_and_read(value: Any) -> None:
    (binding,) = parse([], [f"A.b = {write_value(value)}"]).bindings
    assert same_bits(binding.value, value)


@given(
    steps=st.integers(1),
    rate=st.floats(allow_nan=False),
    name=st.text(st.characters(codec="utf-8")),
    flag=st.booleans(),
    limit=st.none() | st.integers(),
    layers=st.lists(st.integers(), min_size=1, max_size=3),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bindings_survive_the_resolved_text(
    gin_files: "Workspace", steps: int, rate: float, name: str, flag: bool, limit: Any, layers: Any
) -> None:
    given_values = {
        "agent_steps": steps,
        "rate": rate,
        "name": name,
        "flag": flag,
        "limit": limit,
        "layers": layers,
    }
    binds = [f"Loop.{key} = {write_value(value)}" for key, value in given_values.items()]
    config = gin_files.load(BASE, *binds)
    again = gin_files.load(config.text)
    assert again == config
    for key, value in given_values.items():
        assert same_bits(again.parameter(f"Loop.{key}"), value)
