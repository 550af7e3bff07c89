"""What `wmplatform prepare` does. This file imports no torch."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wmplatform.config import load
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.registry import find
from wmplatform.videos.prepare import Prepare

__all__ = ["NothingToPrepare", "prepare"]


class NothingToPrepare(PlatformError):
    """Neither a source nor a file is given."""

    exit_code = ExitCode.BAD_INPUT


def prepare(
    source: str | None,
    gin: Sequence[str],
    bindings: Sequence[str],
    out: Path,
    *,
    processes: int | None = None,
    verify: bool = False,
) -> int:
    """Decode videos into shards, and say how many there are and what was wrong with the others.

    Args:
        source: name of a video source; what `Prepare.source` of the files says unless given.
        gin: files that bind `Prepare`.
        bindings: `Name.param = value` each; with `source`, also `param = value` of it.
        out: folder of the shards.
        processes: workers; as many as there are cores unless given.
        verify: read all shards again and compare their checksums.
    """
    if source is None and not gin:
        what = "nothing says what to prepare"
        raise NothingToPrepare(what, hint="name a video source, or give --gin FILE")
    lines = list(bindings)
    if source is not None:
        selector = find("videos", source).selector
        lines = [f"Prepare.source = @{selector}"]
        lines += [each if _has_owner(each) else f"{selector}.{each}" for each in bindings]
    job: Prepare = load(gin, lines, roots=["Prepare"]).build("Prepare")
    job.processes = job.processes if processes is None else processes
    shards = job.run(out)
    counts = shards.manifest["videos"]
    rows = {"folder": str(out), "videos": counts["count"], "frames": counts["frames"]}
    rows["quarantined"] = counts["quarantined"]
    for reason, count in Counter(shards.quarantined().values()).most_common():
        rows[f"  {reason}"] = count
    if verify:
        rows["verified"] = f"{shards.verify() / 1e6:.1f} MB"
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console().print(table)
    return ExitCode.OK


def _has_owner(binding: str) -> bool:
    """Tell `Name.param = value` from `param = value`."""
    return "." in binding.partition("=")[0]
