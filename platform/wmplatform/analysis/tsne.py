"""t-SNE of clips: do groups of motions lie apart in the latent space?

Shape letters: N clips, T time, F features.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from wmplatform.agent import Agent
from wmplatform.analysis.results import MissingPackage, Results
from wmplatform.pictures import scatter
from wmplatform.types import Batch

__all__ = ["embed", "neighbour_purity", "time_mean"]

_PERPLEXITY = 30.0
"""Scikit-learn's default; fewer clips take a third of their number."""


@torch.no_grad()
def time_mean(agent: Agent, batch: Batch, view: str) -> Tensor:
    """Average a view of the most likely states over the frames of each clip, `[B, F]`.

    Args:
        agent: in eval mode.
        batch: records `[B, T, ...]`.
        view: of the dynamics, such as `policy` or `intrinsic`.

    Raises:
        IncompatibleParts: the dynamics has no such view.
    """
    model = agent.world_model
    model.view_spec(view)
    context = None
    if model.dynamics.capabilities.needs_context:
        context = model.context(batch, batch["is_first"].shape[1])
    actions = batch.get("action")
    seen = model.dynamics.observe(
        model.embed(batch), actions, batch["is_first"], context=context, deterministic=True
    )
    parts: list[Tensor] = pytree.tree_leaves(model.dynamics.features(seen.states, view))
    return torch.cat([part.flatten(2).float().mean(1) for part in parts], -1).cpu()


def embed(features_NF: NDArray[Any], seed: int, *, iterations: int = 1000) -> NDArray[np.float32]:
    """Place features in the plane by t-SNE, `[N, 2]`.

    Raises:
        MissingPackage: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise MissingPackage(
            "t-SNE takes scikit-learn, which is not installed",
            hint="pip install -c constraints.txt 'wmplatform[eval]'",
        )
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, max(1.0, (len(features_NF) - 1) / 3))
    made = TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=iterations)
    placed: NDArray[np.float32] = made.fit_transform(np.asarray(features_NF, np.float32))
    return placed


def neighbour_purity(points_NF: NDArray[Any], labels: list[str]) -> float:
    """Share of points whose nearest other point (Euclidean) has the same label."""
    points = np.asarray(points_NF, np.float64)
    squares = (points**2).sum(1)
    distance = squares[:, None] + squares - 2 * points @ points.T
    np.fill_diagonal(distance, np.inf)
    names = np.array(labels)
    return float((names[distance.argmin(1)] == names).mean())


def write(
    results: Results, features: Mapping[str, Tensor], view: str, seed: int
) -> dict[str, float]:
    """Place clips in the plane; write a picture coloured by label, and the coordinates.

    Args:
        results: where to.
        features: `[n, F]` by label.
        view: that they are of.
        seed: of t-SNE.

    Raises:
        MissingPackage: scikit-learn is not installed.
    """
    joined = torch.cat(list(features.values())).numpy()
    labels = [label for label, each in features.items() for _ in each]
    placed = embed(joined, seed)
    purity = {
        "purity": neighbour_purity(joined, labels),
        "purity_2d": neighbour_purity(placed, labels),
    }
    names = np.array(labels)
    picture = scatter({label: placed[names == label] for label in features}, results.target(".png"))
    if picture is not None:
        results.written["picture"] = str(picture)
    results.numbers({"view": view, **purity, "labels": labels, "points": placed.tolist()})
    return purity
