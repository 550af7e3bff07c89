"""How a law is written, run and reported; needs no torch.

A law is a small function that drives one component and calls `require`. `Law` gives it its
interface and number, so that whatever goes wrong in it becomes a `ContractViolation` naming both.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, NoReturn, ParamSpec, TypeAlias

from wmplatform.contracts.violation import ContractViolation

__all__ = ["Finding", "Law", "NotApplicable", "Outcome", "Report", "fail", "law", "require", "skip"]

P = ParamSpec("P")

Outcome: TypeAlias = Literal["passed", "skipped", "broken"]


class NotApplicable(Exception):  # noqa: N818 - not an error: the law does not concern the component
    """A law does not concern this component, because a capability says so."""


class _Broken(Exception):  # noqa: N818 - never leaves a law
    """A law's body saw it broken; `Law` adds interface and number."""


def fail(what: str) -> NoReturn:
    """Report the law at hand as broken."""
    raise _Broken(what)


def require(holds: bool, what: str) -> None:
    """Report the law at hand as broken unless `holds`; `what` says what was seen."""
    if not holds:
        fail(what)


def skip(why: str) -> NoReturn:
    """Leave the law at hand: it does not concern this component."""
    raise NotApplicable(why)


@dataclass(frozen=True)
class Law(Generic[P]):
    """One runnable law of an interface; call it as the function it wraps."""

    interface: str
    number: int
    body: Callable[P, None]

    @property
    def name(self) -> str:
        """Name of the law's function, e.g. `law_3_reset_cuts_history`."""
        return self.body.__name__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run the law.

        Raises:
            ContractViolation: the law is broken, or the component raised an error of its own.
            NotApplicable: the law does not concern this component.
        """
        try:
            self.body(*args, **kwargs)
        except (ContractViolation, NotApplicable):
            raise
        except _Broken as broken:
            raise ContractViolation(self.interface, self.number, str(broken)) from None
        except Exception as error:
            what = f"the component raised {type(error).__name__}: {error}"
            raise ContractViolation(self.interface, self.number, what) from error


def law(interface: str, number: int) -> Callable[[Callable[P, None]], Law[P]]:
    """Make the decorated function law `number` of `interface`."""

    def wrap(body: Callable[P, None]) -> Law[P]:
        return Law(interface, number, body)

    return wrap


@dataclass(frozen=True)
class Finding:
    """What a check says of one law."""

    law: int
    name: str
    outcome: Outcome
    detail: str = ""
    """Why it was skipped, or how it is broken."""


@dataclass
class Report:
    """What a check found, law by law.

    A law that runs on several cases is broken if one breaks it, and skipped if all skip it.
    """

    interface: str
    component: str = ""
    collect: bool = False
    """Go on after a violation instead of raising it."""
    violations: list[ContractViolation] = field(default_factory=list)
    _findings: dict[str, Finding] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """One for each law function, by number, then in the order in which they first ran."""
        return sorted(self._findings.values(), key=lambda finding: finding.law)

    @property
    def ok(self) -> bool:
        """Whether no law is broken."""
        return not self.violations

    def run(self, law_: Law[P], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a law on one case and note the outcome.

        Raises:
            ContractViolation: the law is broken and this report does not collect.
        """
        try:
            law_(*args, **kwargs)
        except NotApplicable as why:
            self._note(Finding(law_.number, law_.name, "skipped", str(why)))
        except ContractViolation as violation:
            self._note(Finding(violation.law, law_.name, "broken", violation.what))
            self.violations.append(violation)
            if not self.collect:
                raise
        else:
            self._note(Finding(law_.number, law_.name, "passed"))

    def merged(self, other: "Report") -> "Report":
        """This report with the findings of another one."""
        for finding in other.findings:
            self._note(finding)
        self.violations += other.violations
        return self

    def _note(self, finding: Finding) -> None:
        rank = {"skipped": 0, "passed": 1, "broken": 2}
        before = self._findings.get(finding.name)
        if before is None or rank[finding.outcome] > rank[before.outcome]:
            self._findings[finding.name] = finding

    def __str__(self) -> str:
        """One line a law, with the reason where it was skipped or broken."""
        title = f"{self.interface} {self.component}".rstrip()
        return "\n".join([title, *(_line(finding) for finding in self.findings)])


def _line(finding: Finding) -> str:
    name = finding.name.removeprefix(f"law_{finding.law}_").replace("_", " ")
    detail = f"  ({finding.detail})" if finding.detail else ""
    number = f"law {finding.law}" if finding.law else ""
    return f"  {finding.outcome:<8} {number:<5}  {name}{detail}"
