"""Everything that is wrong with a parsed configuration, and what is left when nothing is."""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wmplatform.config.catalogue import Catalogue, Target, Unknown, references
from wmplatform.config.parsing import Binding, Macro, Parsed, Ref
from wmplatform.config.problems import Place, Problem
from wmplatform.config.source import Unreadable
from wmplatform.config.values import BadValue, check_value, write_value
from wmplatform.errors import ExitCode
from wmplatform.registry import closest, nearest

__all__ = ["Bound", "Checked", "Key", "check"]

Key = tuple[str, str, str]
"""Scope, selector, parameter."""


@dataclass(frozen=True)
class Bound:
    """A binding that counts, its macros replaced."""

    raw: Any
    """As written."""
    value: Any
    """As the setting wants it; references are still `Ref`."""
    place: Place | None
    """None for a default that stands for a configurable of the core."""


@dataclass
class Checked:
    """The outcome: valid where `problems` is empty."""

    problems: list[Problem] = field(default_factory=list)
    bound: dict[Key, Bound] = field(default_factory=dict)
    """Bindings that something uses."""
    unused: list[str] = field(default_factory=list)
    """Left-hand sides of bindings that are without use since a later line replaced a part."""
    targets: dict[str, tuple[Target, Place | None]] = field(default_factory=dict)
    """What is used, by selector, with the first place that names it."""


def check(
    parsed: Parsed, catalogue: Catalogue, roots: Sequence[str], allowed_imports: Collection[str]
) -> Checked:
    """Check every name and value, and follow the references from the roots."""
    checker = _Checker(parsed, catalogue)
    checker.imports(allowed_imports)
    checker.names()
    checker.values()
    checker.reach(roots)
    checker.unused(roots)
    checker.sort()
    return checker.out


@dataclass(frozen=True)
class _Node:
    """Something that gets built, and why."""

    scope: str
    selector: str
    place: Place | None
    evaluate: bool = False
    certain: bool = True
    """False where a misspelt reference probably meant it."""


class _Checker:
    def __init__(self, parsed: Parsed, catalogue: Catalogue) -> None:
        self.parsed, self.catalogue = parsed, catalogue
        self.out = Checked(problems=list(parsed.problems))
        self.macros = {b.key: b for b in parsed.bindings if b.is_macro}
        self.used_macros: set[str] = set()
        self.last: dict[Key, Binding] = {}
        self.bound: dict[Key, Bound] = {}
        self.used: set[Key] = set()
        self.meant: dict[str, str] = {}
        self.reached: set[tuple[str, str]] = set()
        self.whole = next((Place(name, 0, "") for name in parsed.lines), None)

    def fail(
        self,
        what: str,
        place: Place | None,
        hint: str = "",
        code: ExitCode = ExitCode.BAD_INPUT,
    ) -> None:
        problem = Problem(what, place, hint, code)
        if problem not in self.out.problems:
            self.out.problems.append(problem)

    # -- single lines

    def imports(self, allowed: Collection[str]) -> None:
        for text, place in self.parsed.imports:
            if text.split()[1].partition(".")[0] not in allowed:
                self.fail(
                    "a configuration may not run imports",
                    place,
                    "remove the line: components are found by their name",
                )

    def names(self) -> None:
        """Selectors and parameters; the last binding of each key counts."""
        for binding in self.parsed.bindings:
            if binding.is_macro:
                continue
            try:
                target = self.catalogue.find(binding.selector)
            except Unknown as unknown:
                self.fail(unknown.what, binding.place, unknown.hint)
                continue
            if self.known_parameter(binding, target):
                self.last[binding.scope, target.selector, binding.param] = binding

    def known_parameter(self, binding: Binding, target: Target) -> bool:
        try:
            signature = target.signature
        except Unreadable:
            return True  # reported where it is used
        name = binding.param
        if name in signature.wiring:
            what = f"{name!r} is not a setting: whoever builds {target.selector} supplies it"
            self.fail(what, binding.place, nearest(name, signature.settings))
            return False
        if name not in signature.settings and not signature.open:
            what = f"{target.selector} has no setting named {name!r}"
            self.fail(what, binding.place, nearest(name, signature.settings))
            return False
        return True

    # -- values

    def values(self) -> None:
        for key, binding in self.last.items():
            raw = self.expand(binding.value, binding.place, ())
            for ref in references(raw):
                self.find_reference(ref, self.ref_place(ref, binding))
            self.bound[key] = Bound(raw, self.converted(key, raw, binding), binding.place)

    def expand(self, value: Any, place: Place, inside: tuple[str, ...]) -> Any:
        """Replace macros by what they stand for."""
        match value:
            case Macro(name=name):
                return self.expand_macro(name, place, inside)
            case dict():
                return {
                    self.expand(k, place, inside): self.expand(v, place, inside)
                    for k, v in value.items()
                }
            case list() | tuple():
                return type(value)(self.expand(part, place, inside) for part in value)
        return value

    def expand_macro(self, name: str, place: Place, inside: tuple[str, ...]) -> Any:
        self.used_macros.add(name)
        if name in inside:
            self.fail(f"macro %{name} is defined by itself", place)
            return None
        if name not in self.macros:
            self.fail(f"macro %{name} is not defined", place, nearest(name, self.macros))
            return Macro(name)
        return self.expand(self.macros[name].value, place, (*inside, name))

    def find_reference(self, ref: Ref, place: Place) -> None:
        try:
            self.catalogue.find(ref.selector)
        except Unknown as unknown:
            self.meant[ref.selector] = unknown.meant
            self.fail(unknown.what, place, unknown.hint)

    def ref_place(self, ref: Ref, binding: Binding) -> Place:
        """The line of a reference inside a value of several lines."""
        place = binding.place
        lines = self.parsed.lines.get(place.file, [])
        own = any(ref is r for r in references(binding.value))
        if not own or place.level == "bind" or not 0 < ref.line <= len(lines):
            return place
        return replace(place, line=ref.line, text=lines[ref.line - 1].strip())

    def converted(self, key: Key, raw: Any, binding: Binding) -> Any:
        target = self.catalogue.find(key[1])
        try:
            setting = target.signature.settings.get(key[2])
        except Unreadable:
            return raw
        if setting is None or _has_macro(raw):
            return raw
        try:
            return check_value(raw, setting, self.catalogue.judge)
        except BadValue as error:
            place = self.ref_place(error.reference, binding) if error.reference else binding.place
            text = write_value(error.reference or raw)
            hint = f"declared as {setting.declaration} in {target.value}"
            self.fail(f"{binding.key} cannot be {text}: {error}", place, hint)
            return raw

    # -- reachability

    def reach(self, roots: Sequence[str]) -> None:
        """Follow references from the roots; check what they lead to."""
        queue = deque(_Node("", root, None) for root in roots)
        seen: set[tuple[str, str, bool, bool]] = set()
        while queue:
            node = queue.popleft()
            mark = (node.scope, node.selector, node.evaluate, node.certain)
            if mark in seen:
                continue
            seen.add(mark)
            try:
                target = self.catalogue.find(node.selector)
            except Unknown as unknown:
                if node.place is None:
                    self.fail(unknown.what, None, unknown.hint)
                continue
            self.reached.add((node.scope, node.selector))
            self.bind_defaults(node.scope, target)
            bound = self.applicable(node.scope, node.selector)
            self.used.update(bound.values())
            if node.certain:
                self.out.targets.setdefault(node.selector, (target, node.place))
                self.check_target(node, target, {key[2] for key in bound.values()})
            queue.extend(self.edges(node, bound))

    def bind_defaults(self, scope: str, target: Target) -> None:
        """Write out the references that defaults stand for, so that gin configures them too."""
        try:
            settings = target.signature.settings.values()
        except Unreadable:
            return
        taken = {key[2] for key in self.applicable(scope, target.selector)}
        for setting in settings:
            ref = self.catalogue.default_reference(setting)
            if ref and setting.name not in taken:
                self.bound["", target.selector, setting.name] = Bound(ref, ref, None)

    def applicable(self, scope: str, selector: str) -> dict[Key, Key]:
        """Bindings that count for a selector in a scope: its own and those of outer scopes."""
        parts = scope.split("/") if scope else []
        chain = {"/".join(parts[:i]) for i in range(len(parts) + 1)}
        return {k: k for k in self.bound if k[1] == selector and k[0] in chain}

    def edges(self, node: _Node, bound: dict[Key, Key]) -> Iterator[_Node]:
        for key in bound:
            binding = self.last.get(key)
            for ref in references(self.bound[key].raw):
                selector = self.meant.get(ref.selector, ref.selector)
                certain = node.certain and ref.selector not in self.meant
                place = self.ref_place(ref, binding) if binding else node.place
                # without a scope of its own a reference is built in the current one, or later
                scopes = {ref.scope} if ref.scope else {"", node.scope}
                for scope in sorted(scopes):
                    yield _Node(scope, selector, place, ref.evaluate, certain)

    def check_target(self, node: _Node, target: Target, bound: set[str]) -> None:
        component, place = target.component, node.place or self.whole
        if component and (absent := component.missing()):
            what = f"{node.selector} needs {' and '.join(absent)}, not installed here"
            self.fail(what, place, component.install_hint(), ExitCode.ENVIRONMENT)
            return
        try:
            signature = target.signature
        except Unreadable as error:
            if component is None:
                raise
            broken = component.broken(str(error))
            self.fail(broken.what, place, broken.hint)
            return
        if node.evaluate and target.needs:
            what = f"@{node.selector}() cannot be built here: {', '.join(target.needs)} is missing"
            self.fail(what, place, f"write @{node.selector} without ()")
        if self.parsed.complete:
            for setting in signature.settings.values():
                if setting.required and setting.name not in bound:
                    what = f"{node.selector} needs {setting.name!r}, which has no default"
                    hint = f"bind {node.selector}.{setting.name}, declared as {setting.declaration}"
                    self.fail(what, place, hint)

    # -- leftovers

    def unused(self, roots: Sequence[str]) -> None:
        """Refuse bindings that nothing uses, unless a later line replaced what did."""
        if not self.parsed.complete:
            return  # the line that uses a binding may be the one that could not be read
        self.out.bound = {key: bound for key, bound in self.bound.items() if key in self.used}
        idle = [
            (self.last[key], self.why_unused(key)) for key in self.bound if key not in self.used
        ]
        for name, macro in self.macros.items():
            if name not in self.used_macros:
                near = closest(name, self.used_macros)
                idle.append((macro, f"did you mean %{near}?" if near else "remove the line"))
        excused = self.once_used(roots) if idle else set()
        for binding, hint in idle:
            if binding.place.level == "file" and id(binding) in excused:
                self.out.unused.append(binding.key)
            else:
                self.fail(f"nothing uses {binding.key}", binding.place, hint)

    def once_used(self, roots: Sequence[str]) -> set[int]:
        """`id` of each binding that would be in use if what followed some file changed nothing."""
        found: set[int] = set()
        for end in self.parsed.ends:
            earlier, later = self.parsed.bindings[:end], self.parsed.bindings[end:]
            # Once without what followed, once as if it had added to the rest, replacing nothing.
            for bindings in (earlier, later + earlier):
                then = _Checker(
                    replace(self.parsed, bindings=bindings, problems=[]), self.catalogue
                )
                then.names()
                then.values()
                then.reach(roots)
                found |= {id(then.last[key]) for key in then.used & then.last.keys()}
                found |= {id(then.macros[name]) for name in then.used_macros & then.macros.keys()}
        return found

    def why_unused(self, key: Key) -> str:
        scope, selector, _ = key
        scopes = sorted(s for s, name in self.reached if name == selector)
        if scopes:
            near = f"near {found!r}   " if (found := closest(scope, scopes)) else ""
            return f"{near}scopes of {selector} in use: {', '.join(s or '(none)' for s in scopes)}"
        group = selector.partition(".")[0] + "."
        same = sorted({name for _, name in self.reached if name.startswith(group)})
        instead = f"; in use: {', '.join(same)}" if same else ""
        return f"no binding in use refers to @{selector}{instead}"

    def sort(self) -> None:
        files = {name: i for i, name in enumerate(self.parsed.lines)}
        order = {id(p): i for i, p in enumerate(self.out.problems)}

        def position(problem: Problem) -> tuple[int, int, int]:
            place = problem.place
            if place is None:
                return -1, 0, order[id(problem)]
            return files.get(place.file, len(files)), place.line, order[id(problem)]

        self.out.problems.sort(key=position)


def _has_macro(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_macro(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return any(map(_has_macro, value))
    return isinstance(value, Macro)
