"""Components by name: what the installed distributions declare as entry points.

One entry-point group per interface, `wmplatform.<group>`. Reading the declarations imports nothing;
a component is imported when it is asked for, and one that cannot be imported stops only those who
ask for it.
"""

import importlib
import inspect
import typing
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from wmplatform import declarations
from wmplatform.errors import ExitCode, PlatformError

__all__ = [
    "GROUPS",
    "BrokenPlugin",
    "Component",
    "DuplicateComponent",
    "Group",
    "UnknownComponent",
    "closest",
    "components",
    "failures",
    "find",
    "nearest",
    "provenance",
]

PREFIX = "wmplatform."


@dataclass(frozen=True)
class Group:
    """One entry-point group: the components that implement one interface."""

    name: str
    interface: str
    """`module:attribute` of the abstract class."""
    summary: str

    @property
    def kind(self) -> str:
        """Name of the interface, e.g. `Encoder`."""
        return self.interface.partition(":")[2]


def _group(name: str, module: str, kind: str, summary: str) -> tuple[str, Group]:
    return name, Group(name, f"wmplatform.interfaces.{module}:{kind}", summary)


GROUPS: Mapping[str, Group] = MappingProxyType(
    dict(
        [
            _group("encoders", "encoder", "Encoder", "observation -> named embeddings"),
            _group(
                "context_encoders",
                "context_encoder",
                "ContextEncoder",
                "frames of a segment -> context",
            ),
            _group("dynamics", "latent_dynamics", "LatentDynamics", "latent state through time"),
            _group("decoders", "decoder", "Decoder", "features -> distribution over images"),
            _group("heads", "reward_head", "Head", "features -> distribution over a scalar"),
            _group("explorers", "explorer", "Explorer", "warm-up, action noise, intrinsic reward"),
            _group("envs", "env_adapter", "EnvAdapter", "a simulator as gymnasium environments"),
            _group("behaviors", "behavior", "Behavior", "how the policy acts and learns"),
            _group("augmentations", "augmentation", "Augmentation", "changes the learner's images"),
            _group("balancers", "loss_balancer", "LossBalancer", "named losses -> one loss"),
            _group("optimizers", "optimizer", "Optimizer", "gradients -> parameter steps"),
            _group("requests", "request", "Request", "replay -> the batch of one update"),
            _group("videos", "video_source", "VideoSource", "clips to pre-train on"),
        ]
    )
)
"""Every group by its name, without the `wmplatform.` of the entry-point group."""


class UnknownComponent(PlatformError):
    """No installed distribution declares this name.

    Attributes:
        group: the group that was searched.
        name: the name that was asked for.
        known: the names that exist.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, group: str, name: str, known: Iterable[str]) -> None:
        self.group, self.name, self.known = group, name, sorted(known)
        notes = [nearest(name, self.known)]
        notes += [f"plug-in {f.component} failed to load: {f.cause}" for f in failures(group)]
        kind = f"{GROUPS[group].kind} in group {group!r}" if group in GROUPS else "group"
        super().__init__(f"no {kind} named {name!r}", hint="\n".join(notes))


class DuplicateComponent(PlatformError):
    """Two distributions declare the same name.

    Attributes:
        candidates: the components that carry it.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, candidates: list["Component"]) -> None:
        self.candidates = candidates
        first = candidates[0]
        super().__init__(
            f"{first.selector!r} is declared by "
            + " and by ".join(f"{c.distribution} {c.version}" for c in candidates),
            where=[str(c) for c in candidates],
            hint="uninstall one of them, or ask its author for another entry-point name",
        )


class BrokenPlugin(PlatformError):
    """A component is declared but cannot be used.

    Attributes:
        component: what was asked for.
        cause: why it failed, in one line.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, component: "Component", cause: str, hint: str = "") -> None:
        self.component, self.cause = component, cause
        if hint:  # what is missing is installed, not edited
            self.exit_code = ExitCode.ENVIRONMENT
        super().__init__(
            f"{component.selector!r} of {component.distribution} {component.version} "
            f"failed to load: {cause}",
            where=str(component),
            hint=hint or f"mend or uninstall {component.distribution!r}, or name another component",
        )


_FAILURES: dict["Component", BrokenPlugin] = {}


@dataclass(frozen=True)
class Component:
    """One declared component. Making one imports nothing."""

    group: str
    name: str
    value: str
    """`module:attribute`."""
    distribution: str
    version: str
    extras: tuple[str, ...] = ()
    """Extras of its distribution that it needs, as in `name = "module:attribute [extra]"`."""

    @property
    def selector(self) -> str:
        """How a gin file names it, e.g. `encoders.cnn`."""
        return f"{self.group}.{self.name}"

    def __str__(self) -> str:
        return f"{self.selector} = {self.value} ({self.distribution} {self.version})"

    def missing(self) -> list[str]:
        """Names of distributions that its extras ask for and that are not installed."""
        wanted = declarations.requirements(self.distribution, self.extras)
        return [name for name in wanted if not declarations.installed(name)]

    def install_hint(self) -> str:
        """The command that installs its extras; empty where it declares none."""
        names = ",".join(self.extras)
        return f'pip install "{self.distribution}[{names}]"' if names else ""

    def broken(self, cause: str, *, missing: bool = False) -> BrokenPlugin:
        """Remember and return the error that says why this component cannot be used."""
        error = BrokenPlugin(self, cause, self.install_hint() if missing else "")
        _FAILURES[self] = error
        return error

    def load(self) -> Any:
        """Import the component: a class of the interface, or a function that makes one.

        Raises:
            BrokenPlugin: an extra is missing, the import fails for whatever reason, or what it
                gives is not of the group's interface.
        """
        if absent := self.missing():
            raise self.broken(f"{' and '.join(absent)} not installed", missing=True)
        module, _, attribute = self.value.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as error:  # a stranger's module may raise anything
            missing = isinstance(error, ModuleNotFoundError) and bool(self.extras)
            cause = f"{type(error).__name__}: {error}"
            raise self.broken(cause, missing=missing) from error
        self._check_kind(found)
        _FAILURES.pop(self, None)
        return found

    def _check_kind(self, found: object) -> None:
        module, _, kind = GROUPS[self.group].interface.partition(":")
        interface = getattr(importlib.import_module(module), kind)
        made = found if isinstance(found, type) else _return_type(found)
        if not (isinstance(made, type) and issubclass(made, interface)):
            what = "a class that does not derive from" if isinstance(found, type) else "not"
            raise self.broken(
                f"{self.value} is {what} {kind}"
                + ("" if isinstance(found, type) else f", nor a function annotated '-> {kind}'")
            )
        if made is found and inspect.isabstract(found):
            lacks = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            raise self.broken(f"{self.value} does not implement {lacks}")

    def status(self) -> str:
        """Say how it stands without importing it: installed, clash, missing extra, failed."""
        others = [c for c in components(self.group) if c.name == self.name and c != self]
        if others:
            return "clash with " + ", ".join(f"{c.distribution} {c.version}" for c in others)
        if absent := self.missing():
            return f"needs {', '.join(absent)}: {self.install_hint()}"
        if self in _FAILURES:
            return f"failed: {_FAILURES[self].cause}"
        return "installed"


def _return_type(function: object) -> object:
    try:
        return typing.get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):
        return None


def components(group: str | None = None) -> list[Component]:
    """Every declared component of one group or of all, sorted; names that clash appear twice.

    Raises:
        UnknownComponent: there is no such group.
    """
    if group is not None and group not in GROUPS:
        raise UnknownComponent(group, group, GROUPS)
    wanted = [PREFIX + name for name in ([*GROUPS] if group is None else [group])]
    found = [
        Component(
            d.group.removeprefix(PREFIX), d.name, d.value, d.distribution, d.version, d.extras
        )
        for d in declarations.declared(wanted)
    ]
    order = list(GROUPS)
    return sorted(found, key=lambda c: (order.index(c.group), c.name, c.distribution))


def find(group: str, name: str, among: Iterable[Component] | None = None) -> Component:
    """The component of that name, not yet imported.

    Args:
        group: a name of `GROUPS`.
        name: of the entry point.
        among: components of the group that were listed before; lists them anew by default.

    Raises:
        UnknownComponent: no such group or name; the message gives the nearest ones.
        DuplicateComponent: several distributions declare the name.
    """
    available = components(group) if among is None else list(among)
    candidates = [c for c in available if c.name == name]
    if not candidates:
        raise UnknownComponent(group, name, (c.name for c in available))
    if len(candidates) > 1:
        raise DuplicateComponent(candidates)
    return candidates[0]


def failures(group: str | None = None) -> list[BrokenPlugin]:
    """What failed to load in this process so far."""
    return [e for c, e in _FAILURES.items() if group is None or c.group == group]


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant; empty where none is near."""
    folded = {n.lower(): n for n in known}
    near = get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """One line for a message: the known name nearest to `name`, then all of them."""
    names = sorted(set(known))
    everything = "known: " + (", ".join(names) or "none")
    near = closest(name, names)
    return f"near {near!r}   {everything}" if near else everything


def provenance(used: Iterable[Component]) -> list[dict[str, Any]]:
    """Which distribution, in which version, each used component came from; for run folders.

    Returns one entry a distribution: `distribution`, `version`, `components` (selector -> value).
    """
    grouped: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for component in used:
        grouped[component.distribution, component.version][component.selector] = component.value
    return [
        {"distribution": name, "version": version, "components": dict(sorted(parts.items()))}
        for (name, version), parts in sorted(grouped.items())
    ]
