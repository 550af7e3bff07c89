"""t-SNE of clips: neighbours, coordinates, what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wmplatform.analysis import tsne
from wmplatform.analysis.results import MissingPackage, Results


def two_groups() -> dict[str, torch.Tensor]:
    noise = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    return {"left": noise[:12], "right": noise[12:] + 20.0}


def test_purity_counts_nearest_neighbours_of_the_same_label() -> None:
    points = np.array([[0.0, 0], [1, 0], [5, 0], [5.5, 0], [9, 0]])
    assert tsne.neighbour_purity(points, ["a", "a", "b", "b", "a"]) == pytest.approx(0.8)
    assert tsne.neighbour_purity(points, ["a", "b", "a", "b", "a"]) == 0.0


def test_groups_that_lie_apart_stay_apart_in_the_plane(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    results = Results(tmp_path / "new", "tsne")
    found = tsne.write(results, two_groups(), "policy", seed=0)
    assert found == {"purity": 1.0, "purity_2d": 1.0}
    numbers = json.loads(Path(results.written["numbers"]).read_text())
    assert numbers["labels"] == ["left"] * 12 + ["right"] * 12
    assert np.array(numbers["points"]).shape == (24, 2)
    assert Path(results.written["picture"]).stat().st_size > 1000


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsne, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="scikit-learn") as found:
        tsne.embed(np.zeros((4, 2)), seed=0)
    assert "wmplatform[eval]" in found.value.hint
