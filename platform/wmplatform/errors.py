"""Errors that are written for the person who reads them.

Each says what happened, where it came from and what to do, and carries the data as attributes.
The command line turns a `PlatformError` into one message and its exit code; anything else is a
bug and keeps its traceback.
"""

from enum import IntEnum

__all__ = ["ExitCode", "PlatformError"]


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    """A bug or an error without a better code; also a failed contract check."""
    BAD_INPUT = 2
    """The configuration, the command line or a named component is wrong; nothing was started."""
    BAD_RUN = 3
    """A run folder or checkpoint cannot be used."""
    ENVIRONMENT = 4
    """Something on this machine is missing: an extra, a GL library, a simulator, disk space. Also
    an environment that failed too often; the run was saved."""
    DIVERGED = 5
    """Too many updates in a row were not finite; the offending batch was saved."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM; the run was saved and the same command continues it."""


class PlatformError(Exception):
    """Base of every error that a user can cause or mend.

    Args:
        what: what happened, in one line.
        where: where it came from (a `file:line`, a component, a path), one entry a line.
        hint: what to do.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, what: str, *, where: str | list[str] | None = None, hint: str = "") -> None:
        self.what = what
        self.where = [where] if isinstance(where, str) else list(where or [])
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [f"{type(self).__name__}: {_printable(self.what)}"]
        lines += [f"  at   {_printable(place)}" for place in self.where]
        lines += [f"  fix  {_printable(line)}" for line in self.hint.splitlines()]
        return "\n".join(lines)


def _printable(text: str) -> str:
    """Escape what would not show or would steer a terminal: names come out of files, too."""
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() or x in "\n\t" else ascii(x)[1:-1] for x in text)
