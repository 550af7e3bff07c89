"""wmplatform: a plug-in research platform for visual world models.

Importing this package imports nothing heavy; every public name but `load` lives in a submodule.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wmplatform.saved_agent import SavedAgent

if __name__ != "wmplatform":
    raise ImportError(
        f"wmplatform was imported as {__name__!r}, which would make a second copy of it; "
        "import it as 'wmplatform'"
    )

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(
    run_dir: Path | str, checkpoint: int | None = None, *, device: str = "cpu"
) -> "SavedAgent":
    """Load the agent of a run, to act with it or to look into it; imports torch.

    Args:
        run_dir: a run folder; it may be in use.
        checkpoint: its number; the newest unless given.
        device: where the agent is put: `cpu`, `cuda`, ..., or `auto` for an accelerator if there is
            one.

    Raises:
        NotARunFolder: there is no run.
        UnreadableCheckpoint: the checkpoint is missing or damaged.
        OtherAgent: its weights do not fit the run's configuration.
        NoSuchDevice: torch cannot use it.
        ConfigErrors: a plug-in is missing, or does not know a setting any more.
    """
    from wmplatform.saved_agent import open_saved

    return open_saved(Path(run_dir), checkpoint, device)
