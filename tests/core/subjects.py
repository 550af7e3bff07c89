"""What the contract tests run on: the platform's components, and small references beside them.

What other distributions have put beside them is left out: it is for its authors to check.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from unittest import mock

import pytest

from wmplatform import registry
from wmplatform.contracts.laws import Law, NotApplicable, Report
from wmplatform.contracts.run import settings_of, wiring_of

__all__ = ["Subject", "holds", "only_law", "subjects"]


@dataclass(frozen=True)
class Subject:
    """A component and how to build it small."""

    name: str
    load: Callable[[], Callable[..., Any]]

    @cached_property
    def component(self) -> Callable[..., Any]:
        """Class or function; imported when first used."""
        return self.load()

    @property
    def wiring(self) -> Mapping[str, Any]:
        """Specs that it is checked with."""
        return wiring_of(self.component)

    def make(self, *wiring: Any) -> Any:
        """Build it with its settings for checks."""
        return self.component(*wiring, **settings_of(self.component))

    def __str__(self) -> str:
        return self.name


def subjects(group: str, *references: Callable[..., Any]) -> pytest.MarkDecorator:
    """Parametrise `subject` over the built-in components of a group, and some references."""
    own = [c for c in registry.components(group) if c.distribution == "wmplatform"]
    found = [Subject(c.selector, c.load) for c in own]
    found += [Subject(r.__name__, partial(_same, r)) for r in references]
    return pytest.mark.parametrize("subject", found, ids=str)


def holds(law: Law[...], *args: Any, **kwargs: Any) -> None:
    """Run a law; one that does not concern the component holds."""
    with suppress(NotApplicable):
        law(*args, **kwargs)


@contextmanager
def only_law(name: str) -> Iterator[None]:
    """Let checkers run the law of this name alone, on all the cases that they have for it.

    A mutant is tried against the law that it breaks, which is most of what its test costs.
    """
    run = Report.run

    def run_one(report: Report, law: Law[...], *args: Any, **kwargs: Any) -> None:
        if law.name == name:
            run(report, law, *args, **kwargs)

    with mock.patch.object(Report, "run", run_one):
        yield


def _same(component: Callable[..., Any]) -> Callable[..., Any]:
    return component
