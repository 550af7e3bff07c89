"""What two gin configurations say differently. This file imports no torch and no gin."""

import io
import re
import tokenize
from dataclasses import dataclass

__all__ = ["Difference", "bindings", "compare"]

_BINDING = re.compile(r"([\w./]+)\s*=\s*(.*)", re.DOTALL)

_SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass(frozen=True)
class Difference:
    """One binding that two configurations do not share."""

    name: str
    """What is bound, e.g. `Replay.capacity`."""
    old: str | None
    """None where it was not bound."""
    new: str | None

    def __str__(self) -> str:
        old = "(not bound)" if self.old is None else self.old
        new = "(not bound)" if self.new is None else self.new
        return f"{self.name}: was {old}, now {new}"


def compare(old: str, new: str) -> list[Difference]:
    """List the bindings that differ, by name; order, spaces and comments do not count."""
    before, after = bindings(old), bindings(new)
    return [
        Difference(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def bindings(text: str) -> dict[str, str]:
    """Read `name = value` statements; any other statement stands for itself.

    Args:
        text: a configuration without blocks (`scope/name:`), as gin's `config_str` writes it.
    """
    found = {}
    for statement in _statements(text):
        match = _BINDING.fullmatch(statement)
        name, value = (match[1], match[2]) if match else (statement, "")
        found[name] = value
    return found


def _statements(text: str) -> list[str]:
    """Split into statements: brackets and backslashes join lines, comments are dropped."""
    text = re.sub(r"\\\n", " ", text)
    statements: list[str] = []
    words: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NEWLINE:
                statements.append(_joined(words))
                words = []
            elif token.type not in _SILENT:
                words.append(token.string)
    except (tokenize.TokenError, IndentationError):
        # Damaged by hand: compare it line by line, so that the difference is at least shown.
        return [line.strip() for line in text.splitlines() if line.strip()]
    return [statement for statement in statements if statement]


def _joined(words: list[str]) -> str:
    """Write tokens without spaces, except after commas and between words."""
    text = ""
    for word in filter(None, words):
        if text and (text[-1] == "," or (text[-1].isalnum() and word[0].isalnum())):
            text += " "
        text += word
    return text
