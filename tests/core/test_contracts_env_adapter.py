"""The checker of `EnvAdapter` against adapters that each break one law."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from wmplatform.contracts.env_adapter import _messages, check_env_adapter
from wmplatform.contracts.run import check
from wmplatform.contracts.violation import ContractViolation

from .mutants.env_adapters import (
    MUTANTS,
    CallsTheLimitATermination,
    DeclaresFloats,
    GlobalGenerator,
    LastRewardOnly,
    OneRepeatTooMany,
    PaintsFloats,
    StandsStill,
)
from .toy_envs import Env, ToyAdapter

GOOD = ToyAdapter()


class Trap:
    def __del__(self) -> None:
        raise RuntimeError("freed too late")


@pytest.mark.parametrize(
    "adapter",
    [
        GOOD,
        ToyAdapter(kind="discrete"),
        ToyAdapter(goal=1.0),
        ToyAdapter(time_limit=None),
        ToyAdapter(time_limit=None, lifetime=5),
        ToyAdapter(time_limit=500),
        ToyAdapter(goal=-1e9),
        ToyAdapter(still=("pixels",), wrap=StandsStill),
    ],
)
def test_adapters_that_keep_the_laws_pass(adapter: ToyAdapter) -> None:
    shorter = replace(adapter, time_limit=4) if adapter.time_limit else None
    check_env_adapter(adapter, steps=12, shorter=shorter)


def test_a_repeat_that_keeps_law_5_passes() -> None:
    check_env_adapter(ToyAdapter(action_repeat=3), single=ToyAdapter(time_limit=None))


def test_an_adapter_that_declares_itself_random_may_be() -> None:
    random = ToyAdapter(deterministic=False, action_repeat=2, wrap=GlobalGenerator)
    single = ToyAdapter(deterministic=False, time_limit=None, wrap=GlobalGenerator)
    check_env_adapter(random, single=single)


@pytest.mark.parametrize(("law", "mutant"), MUTANTS, ids=[m.__name__ for _, m in MUTANTS])
def test_mutant_is_caught_by_its_law(law: int, mutant: Callable[[Env], Env]) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_env_adapter(
            ToyAdapter(wrap=mutant), steps=12, shorter=ToyAdapter(time_limit=4, wrap=mutant)
        )
    assert (caught.value.interface, caught.value.law) == ("EnvAdapter", law), str(caught.value)
    assert str(caught.value) == f"EnvAdapter law {law}: {caught.value.what}"


@pytest.mark.parametrize("mutant", [LastRewardOnly, OneRepeatTooMany])
def test_a_wrong_repeat_is_caught_by_law_5(mutant: Callable[[Env], Env]) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_env_adapter(
            ToyAdapter(action_repeat=3, wrap=mutant), single=ToyAdapter(time_limit=None)
        )
    assert caught.value.law == 5, str(caught.value)


def test_an_adapter_that_does_not_pickle_breaks_law_8() -> None:
    with pytest.raises(ContractViolation) as caught:
        check_env_adapter(ToyAdapter(wrap=lambda env: env))
    assert caught.value.law == 8


@pytest.mark.parametrize("settings", [{}, {"time_limit": 7}, {"action_repeat": 1}])
def test_check_gives_an_adapter_the_limits_that_show_a_lie(settings: dict[str, Any]) -> None:
    check("envs", ToyAdapter, **settings)
    with pytest.raises(ContractViolation) as caught:
        check("envs", ToyAdapter, wrap=CallsTheLimitATermination, **settings)
    assert caught.value.law == 3
    limit = settings.get("time_limit", 8)
    assert f"all episodes terminate after {limit} agent steps, or {limit // 2}" in caught.value.what


def test_what_a_simulator_paints_is_told_with_dtypes_and_values() -> None:
    with pytest.raises(ContractViolation, match=r"float64 \(3, 4, 4\) with values from .* uint8"):
        check_env_adapter(ToyAdapter(wrap=PaintsFloats))


def test_pictures_declared_as_floats_break_law_9() -> None:
    with pytest.raises(ContractViolation, match="pictures are uint8") as caught:
        check_env_adapter(DeclaresFloats())
    assert caught.value.law == 9


def test_shorter_must_be_shorter() -> None:
    with pytest.raises(ValueError, match="time limit 8, which is not below 8"):
        check_env_adapter(GOOD, shorter=GOOD)


def test_single_must_not_repeat() -> None:
    with pytest.raises(ValueError, match="action_repeat 1"):
        check_env_adapter(ToyAdapter(action_repeat=2), single=ToyAdapter(action_repeat=2))


def test_exceptions_lost_while_collecting_count_as_messages() -> None:
    with _messages() as said:
        Trap()
    assert said == ["RuntimeError('freed too late')"]
