"""The names a gin file can use: configurables of the core, and components of plug-ins."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wmplatform import registry
from wmplatform.config.annotations import Wants
from wmplatform.config.parsing import Ref
from wmplatform.config.signatures import Setting, Signature, read_signature
from wmplatform.config.source import Unreadable, ancestors
from wmplatform.registry import GROUPS, Component, nearest

__all__ = ["Catalogue", "Target", "Unknown", "references"]


class Unknown(Exception):  # noqa: N818 - becomes a Problem
    """A selector names nothing, or two things. Carries a hint, and the name that was meant."""

    def __init__(self, what: str, hint: str = "", meant: str = "") -> None:
        self.what, self.hint, self.meant = what, hint, meant
        super().__init__(what)


@dataclass(frozen=True)
class Target:
    """What a selector names."""

    selector: str
    value: str
    """`module:attribute`."""
    component: Component | None = None

    @cached_property
    def signature(self) -> Signature:
        """Its arguments.

        Raises:
            Unreadable: it cannot be imported either.
        """
        return read_signature(self.value)

    @property
    def kinds(self) -> frozenset[str]:
        """`module:attribute` of every class that what it makes is an instance of."""
        try:
            own = self.signature.kinds
        except Unreadable:
            own = ()
        interface = GROUPS[self.component.group].interface if self.component else ""
        return frozenset(own) | (_ancestors(interface) if interface else frozenset())

    @property
    def needs(self) -> list[str]:
        """Wiring arguments without a default."""
        return [name for name, wired in self.signature.wiring.items() if wired.required]


def _ancestors(origin: str) -> frozenset[str]:
    try:
        return frozenset(ancestors(origin))
    except Unreadable:
        return frozenset({origin})


class Catalogue:
    """Looks selectors up; imports nothing."""

    def __init__(self, configurables: Mapping[str, str]) -> None:
        self.core = {name: Target(name, value) for name, value in configurables.items()}
        self._components: dict[str, list[Component]] = {group: [] for group in GROUPS}
        for component in registry.components():
            self._components[component.group].append(component)
        self._found: dict[str, Target] = {}

    @cached_property
    def names(self) -> list[str]:
        """Every selector that exists."""
        return [*self.core, *(c.selector for found in self._components.values() for c in found)]

    def find(self, selector: str) -> Target:
        """What a selector names.

        Raises:
            Unknown: nothing, or several things.
        """
        if selector in self.core:
            return self.core[selector]
        if selector not in self._found:
            self._found[selector] = self._find_component(selector)
        return self._found[selector]

    def _find_component(self, selector: str) -> Target:
        group, dot, name = selector.partition(".")
        if not dot or group not in GROUPS:
            raise self._unknown(selector)
        try:
            component = registry.find(group, name, self._components[group])
        except registry.UnknownComponent as error:
            meant = registry.closest(name, error.known)
            raise Unknown(error.what, error.hint, f"{group}.{meant}" if meant else "") from error
        except registry.DuplicateComponent as error:
            raise Unknown(error.what, error.hint) from error
        return Target(component.selector, component.value, component)

    def _unknown(self, selector: str) -> Unknown:
        same = [name for name in self.names if name.partition(".")[2] == selector]
        if same:  # `cnn` for `encoders.cnn`
            hint = f"components carry their group: {' or '.join(sorted(set(same)))}"
            return Unknown(f"nothing is named {selector!r}", hint, same[0])
        group = selector.partition(".")[0]
        if "." in selector and (close := registry.closest(group, GROUPS)):
            meant = f"{close}.{selector.partition('.')[2]}"
            meant = meant if meant in self.names else ""
            return Unknown(f"no group is named {group!r}", nearest(group, GROUPS), meant)
        hint = nearest(selector, self.core)
        return Unknown(
            f"nothing is named {selector!r}", hint, registry.closest(selector, self.core)
        )

    @cached_property
    def _origins(self) -> dict[str, str]:
        found = {}
        for name, target in self.core.items():
            try:
                found[target.signature.origin] = name
            except Unreadable:
                continue
        return found

    def default_reference(self, setting: Setting) -> Ref | None:
        """The reference that a default stands for, where that is a configurable of the core.

        `replay: Factory[Replay] = Replay` builds a Replay; a file that binds `Replay.capacity`
        means that one.
        """
        name = self._origins.get(setting.made_by)
        return Ref("", name, evaluate=False) if name else None

    def judge(self, value: object, wants: Wants) -> str:
        """Say why a value is wrong where a reference is wanted; empty where it is right."""
        if not isinstance(value, Ref):
            known = wants.origin in self._kinds or not wants.call
            return f"takes a reference{self._examples(wants)}" if known else ""
        try:
            target = self.find(value.selector)
        except Unknown:
            return ""  # reported as such
        if wants.origin and (kinds := target.kinds) and wants.origin not in kinds:
            return f"takes a reference to {wants.kind}{self._examples(wants)}"
        if value.evaluate and not wants.call:
            return f"is built later: write @{value.selector} without ()"
        if wants.call and not value.evaluate:
            return f"takes what @{value.selector}() makes: write it with ()"
        return ""

    @cached_property
    def _kinds(self) -> frozenset[str]:
        interfaces = {group.interface for group in GROUPS.values()}
        return frozenset(interfaces.union(*(t.kinds for t in self.core.values())))

    def _examples(self, wants: Wants) -> str:
        """`, such as @encoders.cnn`, for what the installed distributions offer."""
        fitting = [
            name
            for group, found in self._components.items()
            if wants.origin in _ancestors(GROUPS[group].interface)
            for name in (c.selector for c in found)
        ]
        fitting += [n for n, t in self.core.items() if wants.origin and wants.origin in t.kinds]
        end = "()" if wants.call else ""
        return ", such as " + " or ".join(f"@{n}{end}" for n in fitting[:4]) if fitting else ""


def references(value: Any) -> list[Ref]:
    """Every reference inside a value."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, dict):
        return [r for pair in value.items() for part in pair for r in references(part)]
    if isinstance(value, list | tuple):
        return [r for part in value for r in references(part)]
    return []
