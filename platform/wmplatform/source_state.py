"""Which commit the running code comes from. This file imports no torch."""

import subprocess
from pathlib import Path

__all__ = ["git_state"]


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """Name the commit of a checkout, and whether files in it were changed.

    Args:
        folder: any folder of the checkout.

    Returns:
        `{"commit": ..., "changed": ...}`, or None where there is no checkout or no git.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": changed != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
