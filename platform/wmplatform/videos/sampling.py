"""Which clips a batch is made of.

Every row of every batch has a random stream of its own, seeded by (seed, batch, row): a batch is a
function of its number. So a stream of batches resumes from a counter, batches may be made ahead or
by several threads, and each of several processes makes its rows only.

First a stratum is drawn by weight (a dataset, or a group of a mixture), then a video uniformly, not
by length, then a place in it uniformly. This file imports no torch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wmplatform.sums import plain_sum
from wmplatform.videos.datasets import Cut, Dataset
from wmplatform.videos.errors import BadSource, NoClips

__all__ = ["Drawer", "HeldOut", "Selection", "Stratum", "held_out", "strata_of"]

HeldOut: TypeAlias = Literal["video", "label"]


@dataclass(frozen=True)
class Selection:
    """Which videos of a dataset count.

    Attributes:
        labels: only these, if there are any.
        share: share of videos that is held out.
        by: hold out single videos, or all videos of a label.
        part: the videos that are not held out, or those that are.
    """

    labels: tuple[str, ...] = ()
    share: float = 0.0
    by: HeldOut = "video"
    part: Literal["train", "held_out"] = "train"


@dataclass(frozen=True)
class Stratum:
    """Videos that are drawn uniformly."""

    dataset: int
    group: str
    weight: float
    """Share of clips, all strata together making 1."""
    videos: NDArray[np.int64]
    """Their numbers in the dataset."""


def held_out(names: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Choose a share of names, rounded, at least one; by their hashes, so that it is for good.

    Args:
        names: may repeat; equal names are chosen together.
        share: of the different names.
    """
    order = sorted(set(names), key=_hash)
    count = max(1, round(share * len(order))) if share > 0 else 0
    chosen = set(order[:count])
    return np.array([name in chosen for name in names], bool)


def _hash(name: str) -> bytes:
    # Names of files may hold bytes that are no text.
    return hashlib.sha256(name.encode(errors="surrogatepass")).digest()


def strata_of(
    datasets: Sequence[Dataset],
    weights: Sequence[float] | None,
    cut: Cut,
    selection: Selection,
) -> list[Stratum]:
    """Sort videos into strata, without those that are too short or not selected.

    Args:
        datasets: by number.
        weights: how often each is drawn, relative to the others; equally often unless given.
        cut: how long videos must be.
        selection: which videos count.

    Raises:
        NoClips: a dataset has no video left.
        BadSource: weights do not fit the datasets, or selected labels do not exist.
    """
    weights = [1.0] * len(datasets) if weights is None else weights
    if len(weights) != len(datasets) or not all(0 < w < np.inf for w in weights):
        raise BadSource(
            f"{len(datasets)} datasets have the weights {list(weights)}",
            hint="give each one a finite weight above 0: Clips.weights = (1.0, 2.0)",
        )
    _check_labels(datasets, selection)
    found = []
    for number, (dataset, weight) in enumerate(zip(datasets, weights, strict=True)):
        own = _strata_of_one(number, dataset, cut, selection)
        share = weight / plain_sum(weights) / plain_sum(stratum.weight for stratum in own)
        found += [Stratum(s.dataset, s.group, s.weight * share, s.videos) for s in own]
    return found


def _strata_of_one(number: int, dataset: Dataset, cut: Cut, selection: Selection) -> list[Stratum]:
    groups = np.array(dataset.groups)
    long_enough = np.ones(len(groups), bool)
    if dataset.lengths is not None:
        long_enough = dataset.lengths >= cut.need
    found = []
    for group in dict.fromkeys(dataset.groups):
        inside = np.flatnonzero(groups == group)
        wanted = inside[_selected(dataset, inside, selection)]
        usable = wanted[long_enough[wanted]]
        if len(usable):
            found.append(Stratum(number, group, dataset.group_weights[group], usable))
        elif not selection.labels:  # a mixture must not lose a part in silence
            _refuse(dataset, group, wanted, cut)
    if not found:
        _refuse(dataset, "", np.arange(len(groups)), cut)
    return found


def _refuse(dataset: Dataset, group: str, videos: NDArray[np.int64], cut: Cut) -> None:
    longest = 0
    if dataset.lengths is not None:
        longest = int(dataset.lengths[videos].max(initial=0))
    place = f"{dataset.name}, group {group!r}" if group else dataset.name
    raise NoClips(place, cut.need, len(videos), longest)


def _selected(
    dataset: Dataset, inside: NDArray[np.int64], selection: Selection
) -> NDArray[np.bool_]:
    """Select among the videos of one group `inside`, whose lengths do not matter here."""
    labels = [dataset.labels[i] or "" for i in inside]
    names = labels if selection.by == "label" else [dataset.keys[i] for i in inside]
    out = held_out(names, selection.share)
    chosen = out if selection.part == "held_out" else ~out
    if selection.labels:
        chosen &= np.isin(labels, selection.labels)
    return chosen


def _check_labels(datasets: Sequence[Dataset], selection: Selection) -> None:
    known = {label for dataset in datasets for label in dataset.labels if label}
    if unknown := sorted(set(selection.labels) - known):
        shown = ", ".join(sorted(known)[:20])
        raise BadSource(f"no video has the label {', '.join(unknown)}", hint=f"known: {shown}")


class Drawer:
    """Draws a video and a place in it, again and again for one row.

    Args:
        strata: their weights make 1.
        seed: of the stream.
    """

    def __init__(self, strata: Sequence[Stratum], seed: int) -> None:
        self.strata, self.seed = list(strata), seed
        self._bounds = np.cumsum([stratum.weight for stratum in strata])

    def row(self, batch: int, row: int) -> np.random.Generator:
        """Make the random stream of a row of a batch."""
        return np.random.default_rng([self.seed, batch, row])

    def draw(self, generator: np.random.Generator) -> tuple[int, int, float]:
        """Draw the numbers of a dataset and of a video in it, and a place in 0 .. 1."""
        chosen = int(np.searchsorted(self._bounds, generator.random(), side="right"))
        stratum = self.strata[min(chosen, len(self.strata) - 1)]
        video = stratum.videos[generator.integers(len(stratum.videos))]
        return stratum.dataset, int(video), float(generator.random())
