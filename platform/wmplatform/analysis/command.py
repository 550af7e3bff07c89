"""What `wmplatform analyse` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from wmplatform.analysis import attention, compose, open_loop, tsne
from wmplatform.analysis.clips import clips_of, labelled_clips
from wmplatform.analysis.results import CannotAnalyse, Results
from wmplatform.evaluation import eval_mode, own_randomness
from wmplatform.saved_agent import SavedAgent, open_saved

__all__ = ["Kind", "Request", "analyse"]

Kind: TypeAlias = Literal["predict", "attention", "tsne", "compose"]


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    kind: Kind
    run_dir: Path
    data: Sequence[Path] = ()
    """Folders of prepared videos."""
    replay: bool = False
    """Take clips from what the run collected rather than play evaluation episodes."""
    out: Path | None = None
    """`analyses` in the run folder unless given."""
    clips: int = 6
    """How many; pairs when composing, of each label for t-SNE."""
    observed: int = 15
    predicted: int = 10
    seed: int = 0
    fps: int = 10
    at: tuple[int, int] = (8, 8)
    """Column and row of the patch."""
    patch: int = 3
    labels: Sequence[str] = ()
    view: str = "policy"
    generation: int | None = None
    device: str | None = None

    @property
    def length(self) -> int:
        """Frames of a clip."""
        return self.observed + self.predicted


def analyse(request: Request) -> dict[str, Any]:
    """Analyse the agent of a run, and say what was written and the main numbers.

    Training does not notice: only the checkpoint is read.

    Raises:
        CannotAnalyse: the model, the videos and the analysis do not go together.
        PlatformError: as `open_saved` and the videos say.
    """
    saved = open_saved(request.run_dir, request.generation, request.device)
    folder = request.out or request.run_dir / "analyses"
    results = Results(folder, f"{request.kind}-{saved.generation:09d}")
    write = {"predict": _predict, "attention": _attention, "tsne": _tsne, "compose": _compose}
    with own_randomness(request.seed), eval_mode(saved.agent):
        values = write[request.kind](request, saved, results)
    return {"checkpoint": saved.generation, **values, **results.written}


def _predict(request: Request, saved: SavedAgent, results: Results) -> dict[str, float]:
    batch = _clips(request, saved, request.clips)
    prediction = open_loop.open_loop(saved.agent, batch, request.observed)
    return open_loop.write(results, prediction, request.fps)


def _attention(request: Request, saved: SavedAgent, results: Results) -> dict[str, float]:
    batch = _clips(request, saved, request.clips)
    maps = attention.attend(saved.agent, batch, request.observed, request.at, request.patch)
    return attention.write(results, maps, request.fps)


def _compose(request: Request, saved: SavedAgent, results: Results) -> dict[str, float]:
    batch = _clips(request, saved, 2 * request.clips)
    pairs = len(batch["is_first"]) // 2
    if not pairs:
        raise CannotAnalyse("composing takes two clips at least", hint="name more --data")
    a = {key: value[:pairs] for key, value in batch.items()}
    b = {key: value[pairs : 2 * pairs] for key, value in batch.items()}
    found = compose.compose(saved.agent, a, b, request.observed)
    return compose.write(results, found, request.fps)


def _tsne(request: Request, saved: SavedAgent, results: Results) -> dict[str, float]:
    if len(set(request.labels)) < 2:
        raise CannotAnalyse("t-SNE compares two labels or more", hint="--labels 93 94")
    groups = labelled_clips(
        saved,
        request.data,
        list(dict.fromkeys(request.labels)),
        clips=request.clips,
        length=request.length,
        seed=request.seed,
    )
    means = {
        label: tsne.time_mean(saved.agent, batch, request.view) for label, batch in groups.items()
    }
    return tsne.write(results, means, request.view, request.seed)


def _clips(request: Request, saved: SavedAgent, clips: int) -> dict[str, Any]:
    return clips_of(
        saved,
        request.data,
        clips=clips,
        length=request.length,
        seed=request.seed,
        replay=request.run_dir if request.replay else None,
    )
