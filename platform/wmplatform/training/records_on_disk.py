"""Records on the disk: which files of replay the checkpoints of a run need."""

from pathlib import Path

from wmplatform.checkpoint import Checkpoints
from wmplatform.replay import Manifest, Replay, UnreadableReplay, prune
from wmplatform.replay.chunks import MANIFEST

__all__ = ["prune_records", "restore_records"]


def prune_records(checkpoints: Checkpoints, directory: Path) -> None:
    """Delete files of records that no checkpoint needs.

    Raises:
        UnreadableCheckpoint: a checkpoint does not say what it needs; nothing was deleted.
    """
    generations = checkpoints.generations()
    prune(directory, [checkpoints.load_part("replay", each, MANIFEST) for each in generations])


def restore_records(
    replay: Replay, checkpoints: Checkpoints, directory: Path, manifest: Manifest
) -> None:
    """Read records back.

    Args:
        replay: becomes the one that was saved.
        checkpoints: of the run.
        directory: of the files.
        manifest: that the chosen checkpoint keeps.

    Raises:
        UnreadableReplay: names the newest generation that does without the damaged file.
        ValueError: the manifest is another replay's.
    """
    try:
        replay.restore(directory, manifest)
    except UnreadableReplay as error:
        for older in reversed(checkpoints.generations()):
            chunks = checkpoints.load_part("replay", older, MANIFEST)["chunks"]
            if error.path.name not in {chunk["file"] for chunk in chunks}:
                raise UnreadableReplay(error.path, error.reason, older) from error
        raise
