"""gin files and `--bind` strings to a flat list of bindings; every syntax error is collected.

gin's own parser reads the language. Nothing is looked up here: names are text.
"""

import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from gin import config_parser

from wmplatform.config.gin_files import GinFile, find, near
from wmplatform.config.problems import Level, Place, Problem

__all__ = ["Binding", "Macro", "Parsed", "Ref", "parse"]

STATEMENT = re.compile(r"^(?:[A-Za-z_][\w./]*\s*[=:]|(?:include|import|from)\b)")
BARE_WORD = re.compile(r"Failed to parse token '(.*)'", re.DOTALL)
WORDS = {"true": "True", "false": "False", "none": "None", "null": "None", "nil": "None"}


@dataclass(frozen=True)
class Ref:
    """`@scope/selector` or `@scope/selector()`."""

    scope: str
    selector: str
    evaluate: bool
    line: int = field(default=0, compare=False)

    def __repr__(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"@{scope}{self.selector}{'()' if self.evaluate else ''}"


@dataclass(frozen=True)
class Macro:
    """`%name`."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Binding:
    """`scope/selector.param = value`; a macro's definition has no parameter."""

    scope: str
    selector: str
    param: str
    value: Any
    place: Place

    @property
    def key(self) -> str:
        """The left-hand side as it would be written."""
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.selector}" + (f".{self.param}" if self.param else "")

    @property
    def is_macro(self) -> bool:
        """Whether it defines a macro."""
        return not self.param


@dataclass
class Parsed:
    """Everything the files and the command line say, in the order in which it counts."""

    bindings: list[Binding] = field(default_factory=list)
    imports: list[tuple[str, Place]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: list[GinFile] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)
    """Text of each file, by its displayed name."""
    ends: list[int] = field(default_factory=list)
    """How many bindings had been read where each file ended."""
    complete: bool = True
    """False where a line could not be read, so that what is missing may be in it."""

    def fail(self, what: str, place: Place | None = None, hint: str = "") -> None:
        """Note an unreadable line."""
        self.problems.append(Problem(what, place, hint))
        self.complete = False


class _Delegate(config_parser.ParserDelegate):  # type: ignore[misc]
    line = 0

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> Ref:
        scope, _, selector = scoped_name.rpartition("/")
        return Ref(scope, selector, evaluate, self.line)

    def macro(self, name: str) -> Macro:
        return Macro(name)


class _Parser(config_parser.ConfigParser):  # type: ignore[misc]
    """gin's parser that remembers in which line each value starts."""

    def parse_value(self) -> Any:
        self._delegate.line = self.current_token.start[0]
        return super().parse_value()


def parse(files: Sequence[Path | str], bindings: Sequence[str]) -> Parsed:
    """Read files in order, then `--bind` strings; later lines override earlier ones."""
    parsed = Parsed()
    for target in files:
        file = find(target)
        if file is None:
            parsed.fail(f"no such file: {target}", hint=near(target))
        else:
            _read_file(file, parsed, ())
    for text in bindings:
        _read_bind(text, parsed)
    _find_duplicates(parsed)
    return parsed


def _read_bind(text: str, parsed: Parsed) -> None:
    lines = text.splitlines() or [""]
    before = len(parsed.bindings), len(parsed.problems)
    for statement in _statements(text, "--bind", lines, "bind", parsed):
        if isinstance(statement, config_parser.BindingStatement):
            parsed.bindings.append(_binding(statement, Place("--bind", 1, text, "bind")))
    if before == (len(parsed.bindings), len(parsed.problems)):
        hint = 'for example --bind "Online.seed = 1"'
        parsed.fail("--bind takes 'Name.param = value'", Place("--bind", 1, text, "bind"), hint)


def _read_file(file: GinFile, parsed: Parsed, stack: tuple[Path, ...]) -> None:
    name = file.name
    try:
        text = file.path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        parsed.fail(f"cannot read {name}: {error}")
        return
    parsed.files.append(file)
    lines = parsed.lines[name] = text.splitlines()
    own: dict[tuple[str, str, str], Place] = {}
    for statement in _statements(text, name, lines, "file", parsed):
        place = _place(statement.location.line_num, name, lines, "file")
        match statement:
            case config_parser.BindingStatement():
                binding = _binding(statement, place)
                own[binding.scope, binding.selector, binding.param] = place
                parsed.bindings.append(binding)
            case config_parser.ImportStatement():
                parsed.imports.append((statement.format(), place))
            case config_parser.IncludeStatement():
                start = len(parsed.bindings)
                _include(statement.filename, file, place, parsed, stack)
                _find_overridden(parsed, parsed.bindings[start:], own, place)
    parsed.ends.append(len(parsed.bindings))


def _find_overridden(
    parsed: Parsed,
    included: list[Binding],
    own: dict[tuple[str, str, str], Place],
    include: Place,
) -> None:
    for binding in included:
        if earlier := own.get((binding.scope, binding.selector, binding.param)):
            parsed.problems.append(
                Problem(
                    f"the include in line {include.line} overrides {binding.key} again",
                    earlier,
                    "put the include above the lines that change what it says",
                )
            )


def _include(
    target: str, by: GinFile, place: Place, parsed: Parsed, stack: tuple[Path, ...]
) -> None:
    file = find(target, by)
    stack = (*stack, by.path.resolve())
    if file is None:
        parsed.fail(f"included file {target!r} does not exist", place, near(target, by))
    elif file.path.resolve() in stack:
        parsed.fail(f"{target!r} includes itself", place, "remove one of the includes")
    else:
        _read_file(file, parsed, stack)


def _statements(
    text: str, name: str, lines: list[str], level: Level, parsed: Parsed
) -> Iterator[Any]:
    """Statements of a text. After an error each statement is read alone, so that all are found."""
    try:
        yield from list(_Parser(_named(text, name), _Delegate()))
        return
    except (SyntaxError, tokenize.TokenError):
        parsed.complete = False
    for start, chunk in _chunks(lines):
        try:
            yield from _Parser(_named("\n" * start + chunk, name), _Delegate())
        except (SyntaxError, tokenize.TokenError) as error:
            what, line, hint = _explain(error, start + 1)
            parsed.fail(what, _place(line, name, lines, level), hint)


def _named(text: str, name: str) -> StringIO:
    stream = StringIO(text if text.endswith("\n") else text + "\n")
    stream.name = name
    return stream


def _chunks(lines: list[str]) -> Iterator[tuple[int, str]]:
    starts = [i for i, line in enumerate(lines) if STATEMENT.match(line)]
    first = next(
        (i for i, x in enumerate(lines) if x.strip() and not x.lstrip().startswith("#")), 0
    )
    starts = sorted({*starts, first})
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield start, "\n".join(lines[start:end])


def _explain(error: Exception, first_line: int) -> tuple[str, int, str]:
    """Message, line number and hint for an error of gin's parser or Python's tokenizer."""
    if isinstance(error, tokenize.TokenError):
        return "a bracket or a string is not closed", first_line, ""
    message = str(error.args[0]) if error.args else str(error)
    line = getattr(error, "lineno", None) or first_line
    if match := BARE_WORD.search(message):
        word = match[1]
        if word.lower() in WORDS:
            return f"{word} is not a value", line, f"write {WORDS[word.lower()]}"
        if word.isidentifier():
            hint = f"strings need quotes: {word!r}; components need an @: @{word}"
            return f"{word} is not a value", line, hint
        return f"{word!r} is not a value", line, ""
    message = message.splitlines()[0].strip().rstrip(".")
    return f"cannot read this line: {message[:1].lower()}{message[1:]}", line, ""


def _place(line: int, name: str, lines: list[str], level: Level) -> Place:
    text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    return Place(name, line, lines[0] if level == "bind" else text, level)


def _binding(statement: Any, place: Place) -> Binding:
    scope, selector, param = statement.scope, statement.selector, statement.arg_name
    if selector in ("macro", "gin.macro") and param == "value":  # gin's long way to write one
        scope, _, selector = scope.rpartition("/")
        param = ""
    return Binding(scope, selector, param, statement.value, place)


def _find_duplicates(parsed: Parsed) -> None:
    seen: dict[tuple[str, str], Place] = {}
    for binding in parsed.bindings:
        place = binding.place
        first = seen.setdefault((binding.key, place.file), place)
        if first is not place:
            where = "on the command line" if place.level == "bind" else f"in line {first.line}"
            what = f"{binding.key} is already bound {where}: {first.text}"
            if (first.file, first.line) == (place.file, place.line) and place.level != "bind":
                continue  # the same file, included by two others
            parsed.problems.append(Problem(what, place, "keep one of the two"))
