"""Where datasets lie."""

from pathlib import Path

from wmplatform.videos.errors import BadSource

__all__ = ["existing_folder", "size_of"]


def existing_folder(root: str) -> Path:
    """Return a folder of a dataset.

    Raises:
        BadSource: it is not there.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise BadSource(
            f"there is no folder {root!r}",
            where=f"looked from {Path.cwd()}",
            hint="set the source's 'root' to where the videos lie",
        )
    return folder


def size_of(path: Path) -> str:
    """Return the size of a file in bytes; `none` for a dangling link, as decoding will say."""
    try:
        return str(path.stat().st_size)
    except OSError:
        return "none"
