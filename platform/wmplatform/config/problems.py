"""What can be wrong with a configuration, and where it says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wmplatform.errors import ExitCode, PlatformError

__all__ = ["ConfigErrors", "Level", "Place", "Problem"]

Level = Literal["file", "bind"]
"""Where a line stands: in a file, or on the command line."""


@dataclass(frozen=True)
class Place:
    """A line of a configuration."""

    file: str
    """Path as it was given; `--bind` for the command line."""
    line: int
    text: str
    """The line itself."""
    level: Level = "file"

    def __str__(self) -> str:
        if self.level == "bind":
            return f'--bind "{self.text}"'
        start = f"{self.file}:{self.line}" if self.line else self.file
        return f"{start}   {self.text}".rstrip()

    @property
    def short(self) -> str:
        """`file:line`, or the whole `--bind`."""
        return str(self) if self.level == "bind" else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing to mend."""

    what: str
    place: Place | None = None
    hint: str = ""
    code: ExitCode = ExitCode.BAD_INPUT

    def __str__(self) -> str:
        lines = [self.what]
        if self.place:
            lines.append(f"  at   {self.place}")
        lines += [f"  fix  {line}" for line in self.hint.splitlines()]
        return "\n".join(lines)


class ConfigErrors(PlatformError):
    """Everything that is wrong with a configuration, found before anything was started.

    Attributes:
        problems: one entry a mistake, in the order of the files.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        codes = {problem.code for problem in problems}
        if codes == {ExitCode.ENVIRONMENT}:  # the files are right; the machine lacks something
            self.exit_code = ExitCode.ENVIRONMENT
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        super().__init__(f"{count} in the configuration; nothing was started")

    def __str__(self) -> str:
        parts = [f"{type(self).__name__}: {self.what}"]
        return "\n\n".join(parts + [str(problem) for problem in self.problems])
