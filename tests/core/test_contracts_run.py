"""Reports, and checking any component by its group."""

from collections.abc import Mapping
from typing import Any

import pytest

from wmplatform.contracts import ContractViolation, Report, check
from wmplatform.contracts.laws import NotApplicable, fail, law, require, skip
from wmplatform.contracts.run import CannotCheck
from wmplatform.types import ActionSpec, ArraySpec

from .mutants.encoders import MixesRows
from .reference_components import LinearEncoder
from .reference_dynamics import RecurrentDynamics


@law("Thing", 3)
def law_3_is_positive(value: int) -> None:
    if value == 0:
        skip("zero has no sign")
    if value == 13:
        raise KeyError("thirteen")
    require(value > 0, f"{value} is negative")


def test_a_broken_law_names_interface_number_and_what_was_seen() -> None:
    with pytest.raises(ContractViolation, match=r"^Thing law 3: -1 is negative$") as caught:
        law_3_is_positive(-1)
    assert (caught.value.interface, caught.value.law) == ("Thing", 3)


def test_an_error_inside_the_component_breaks_the_law_and_stays_the_cause() -> None:
    with pytest.raises(ContractViolation, match="the component raised KeyError") as caught:
        law_3_is_positive(13)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_law_that_does_not_concern_the_component_is_skipped() -> None:
    with pytest.raises(NotApplicable, match="zero"):
        law_3_is_positive(0)


def test_a_report_is_broken_if_one_case_is_and_skipped_if_all_are() -> None:
    report = Report("Thing", "mine", collect=True)
    report.run(law_3_is_positive, 0)
    assert report.findings[0].outcome == "skipped"
    report.run(law_3_is_positive, 1)
    assert (report.findings[0].outcome, report.ok) == ("passed", True)
    report.run(law_3_is_positive, -1)
    report.run(law_3_is_positive, 2)
    assert (report.findings[0].outcome, report.ok) == ("broken", False)
    assert "broken   law 3  is positive  (-1 is negative)" in str(report)


def test_a_report_that_does_not_collect_raises_the_first_violation() -> None:
    with pytest.raises(ContractViolation):
        Report("Thing").run(law_3_is_positive, -1)


def test_fail_outside_of_a_law_is_an_error() -> None:
    with pytest.raises(Exception, match="seen"):
        fail("seen")


def test_check_names_the_component() -> None:
    assert check("encoders", LinearEncoder).component.endswith("reference.LinearEncoder")


def test_check_takes_the_singular() -> None:
    assert check("encoder", LinearEncoder).ok


def test_check_raises_the_first_violation_unless_it_collects() -> None:
    with pytest.raises(ContractViolation, match="Encoder law"):
        check("encoders", MixesRows)
    assert not check("encoders", MixesRows, collect=True).ok


def test_check_passes_settings_on() -> None:
    with pytest.raises(CannotCheck, match="KeyError: 'depth'"):
        check("encoders", LinearEncoder, key="depth")


def test_an_unknown_setting_says_so() -> None:
    with pytest.raises(CannotCheck, match="wideness"):
        check("encoders", LinearEncoder, wideness=4)


def test_an_unknown_group_says_what_is_known() -> None:
    with pytest.raises(CannotCheck) as caught:
        check("sorcerers", LinearEncoder)
    assert "context_encoders" in caught.value.hint


class NeedsItsOwnWiring(RecurrentDynamics):
    """Built with an embedding that nobody else has."""

    def __init__(self, embeds: Mapping[str, ArraySpec], action: ActionSpec, *, deter: int) -> None:
        super().__init__(embeds, action, deter=deter, embed="tokens")

    @classmethod
    def contract_settings(cls) -> dict[str, Any]:
        return {"deter": 3}

    @classmethod
    def contract_wiring(cls) -> dict[str, Any]:
        return {"embeds": {"tokens": ArraySpec((2, 3))}, "action": ActionSpec(2)}


def test_a_component_says_what_it_is_checked_with() -> None:
    assert check("dynamics", NeedsItsOwnWiring).ok


def test_given_settings_win_over_declared_ones() -> None:
    with pytest.raises(CannotCheck, match="TypeError"):
        check("dynamics", NeedsItsOwnWiring, deter="wide")


class MisspellsItsWiring(NeedsItsOwnWiring):
    @classmethod
    def contract_wiring(cls) -> dict[str, Any]:
        return {"embedings": {}}


def test_misspelt_wiring_says_so() -> None:
    with pytest.raises(CannotCheck, match="embedings"):
        check("dynamics", MisspellsItsWiring)


class RefusesEverything(LinearEncoder):
    def __init__(self, observations: Mapping[str, ArraySpec]) -> None:
        raise ValueError("needs images of 512 x 512")


def test_a_component_that_refuses_its_wiring_is_no_violation() -> None:
    with pytest.raises(CannotCheck, match="512 x 512") as caught:
        check("encoders", RefusesEverything)
    assert "contract_wiring" in caught.value.hint
