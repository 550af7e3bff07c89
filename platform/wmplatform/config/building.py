"""A checked configuration: building from it, and writing it down."""

import importlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gin

from wmplatform.config.catalogue import Target
from wmplatform.config.checking import Bound, Key
from wmplatform.config.gin_files import GinFile
from wmplatform.config.parsing import Ref
from wmplatform.config.problems import ConfigErrors, Place, Problem
from wmplatform.config.signatures import MISSING
from wmplatform.config.values import write_value
from wmplatform.registry import BrokenPlugin, Component

__all__ = ["Config", "without_gin"]

CORE = "core"
"""gin's module for configurables of the core; components have their group's."""

_active: "Config | None" = None


@dataclass(frozen=True, eq=False)
class Config:
    """What a set of files and bindings says, checked. Equal if the resolved text is.

    gin keeps its bindings globally: one configuration is active in a process at a time, and
    factories made under one must be called before another is activated.
    """

    files: tuple[GinFile, ...]
    """Every file that was read."""
    unused: tuple[str, ...]
    """Settings and macros that replaced parts left behind, such as `decoders.cnn.depth`."""
    bound: Mapping[Key, Bound]
    targets: Mapping[str, tuple[Target, Place | None]]
    imports: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def text(self) -> str:
        """The resolved configuration: one line a binding, no includes, no macros.

        Loading it again gives an equal configuration.
        """
        return _format(
            "Resolved configuration: every include, override and macro applied.",
            (f"import {name}" for name in self.imports),
            {key: write_value(bound.raw) for key, bound in self.bound.items()},
        )

    def parameter(self, name: str) -> Any:
        """The value of `Name.param`: as bound, or its default.

        Raises:
            KeyError: there is no such setting, or it has neither a value nor a literal default.
        """
        scoped, _, param = name.rpartition(".")
        scope, _, selector = scoped.rpartition("/")
        if (scope, selector, param) in self.bound:
            return self.bound[scope, selector, param].value
        target, _ = self.targets.get(selector, (None, None))
        setting = target.signature.settings.get(param) if target else None
        if setting is None or setting.default is MISSING:
            raise KeyError(name)
        return setting.default

    def components_used(self) -> list[Component]:
        """Components of plug-ins that the configuration leads to."""
        return [t.component for t, _ in self.targets.values() if t.component]

    def activate(self) -> None:
        """Import what the configuration names, and hand its bindings to gin.

        Raises:
            ConfigErrors: a plug-in cannot be imported; each with the line that names it.
        """
        global _active
        loaded = self._load()
        gin.clear_config()
        for name in self.imports:
            importlib.import_module(name)
        with gin.config.interactive_mode():  # another configuration may have used a name before
            for selector, found in loaded.items():
                gin.register(_gin_name(selector))(found)
        for (scope, selector, param), bound in self.bound.items():
            gin.bind_parameter((scope, _gin_name(selector), param), _for_gin(bound.value))
        _active = self

    def _load(self) -> dict[str, Any]:
        loaded, problems = {}, []
        for selector, (target, place) in self.targets.items():
            try:
                loaded[selector] = _import(target)
            except BrokenPlugin as error:
                problems.append(Problem(error.what, place, error.hint, error.exit_code))
        if problems:
            raise ConfigErrors(problems)
        return loaded

    def build(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Build a configurable of the core, with its bindings; the caller's arguments win.

        Raises:
            ConfigErrors: a plug-in cannot be imported, or an argument is missing.
        """
        if _active is not self:
            self.activate()
        make = self.factory(name)
        self._check_call(name, args, kwargs)
        try:
            return make(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - raised again, whatever it is
            raise without_gin(error)  # noqa: B904 - the cause is its own

    def factory(self, name: str) -> Callable[..., Any]:
        """A callable that builds `name`, a selector with or without a scope, with its bindings.

        Raises:
            KeyError: no root leads to `name`.
        """
        scope, _, selector = name.rpartition("/")
        if selector not in self.targets:
            raise KeyError(f"{selector} is not part of this configuration")
        if _active is not self:
            self.activate()
        scoped = f"{scope}/{_gin_name(selector)}" if scope else _gin_name(selector)
        made: Callable[..., Any] = gin.get_configurable(scoped)
        return made

    def _check_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        selector = name.rpartition("/")[2]
        scope = name.rpartition("/")[0]
        bound = {p for s, sel, p in self.bound if sel == selector and f"{scope}/".startswith(s)}
        found = _import(self.targets[selector][0])
        try:
            inspect.signature(found).bind(*args, **{**dict.fromkeys(bound), **kwargs})
        except TypeError as error:
            raise ConfigErrors([Problem(f"{name} cannot be built: {error}")]) from error

    def operative(self) -> str:
        """What was used so far, defaults included, as gin text; grows as things are built."""
        used: dict[Key, str] = {}
        for (scope, full), values in gin.config._OPERATIVE_CONFIG.items():
            selector = full.removeprefix(f"{CORE}.")
            target, _ = self.targets.get(selector, (None, None))
            for param, value in values.items():
                if target and param in target.signature.settings and _is_literal(value):
                    used[scope, selector, param] = write_value(_from_gin(value))
        return _format("Operative configuration: what was used, defaults included.", (), used)


def _import(target: Target) -> Any:
    if target.component:
        return target.component.load()
    module, _, attribute = target.value.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _gin_name(selector: str) -> str:
    return selector if "." in selector else f"{CORE}.{selector}"


def _for_gin(value: Any) -> Any:
    if isinstance(value, Ref):
        scope = f"{value.scope}/" if value.scope else ""
        name = f"{scope}{_gin_name(value.selector)}"
        return gin.config.ConfigurableReference(name, value.evaluate)
    if isinstance(value, dict):
        return {_for_gin(k): _for_gin(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_for_gin, value))
    return value


def _from_gin(value: Any) -> Any:
    if isinstance(value, gin.config.ConfigurableReference):
        selector = value.selector.removeprefix(f"{CORE}.")
        return Ref("/".join(value.scopes), selector, value.evaluate)
    if isinstance(value, dict):
        return {_from_gin(k): _from_gin(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_from_gin, value))
    return value


def _is_literal(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_literal(part) for pair in value.items() for part in pair)
    if type(value) in (list, tuple):
        return all(map(_is_literal, value))
    if isinstance(value, float):
        return value == value  # noqa: PLR0124 - gin has no word for NaN
    kinds = (bool, int, str, bytes, gin.config.ConfigurableReference)
    return value is None or isinstance(value, kinds)


def _format(title: str, head: Iterable[str], values: Mapping[Key, str]) -> str:
    blocks: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (scope, selector, param), value in sorted(values.items()):
        scoped = f"{scope}/{selector}" if scope else selector
        blocks[selector, scope].append(f"{scoped}.{param} = {value}")
    # the core first: what is assembled, then the settings of the parts
    order = sorted(blocks, key=lambda block: ("." in block[0], block))
    parts = [f"# {title}", *head, *("\n".join(blocks[block]) for block in order)]
    return "\n\n".join(parts) + "\n"


def without_gin(error: Exception) -> Exception:
    """The exception itself; gin re-raises it as a copy, once for each configurable it passes."""
    while (inner := error.__context__) is not None and type(error).__bases__ == (type(inner),):
        if not isinstance(inner, Exception):
            break
        error = inner
    return error
