"""Every gin file in `experiments/` assembles, and its learner updates without waiting.

Tensors are fake, so that full sizes cost neither memory nor arithmetic; no simulator is started.
"""

import re
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch._subclasses.fake_tensor import FakeTensorMode

from wmplatform import assembly
from wmplatform.config import load
from wmplatform.types import EnvSpec

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
FILES = sorted([*FOLDER.glob("*.gin"), *FOLDER.glob("ablations/*.gin")])
SAME = re.compile(r"_pretrain_(?!ssv2|concat)|_dmcr_(hopper|unseen)")
"""Other videos, and other draws of looks, differ in nothing that an update could notice."""
RUN = [file for file in FILES if not SAME.search(file.stem)]
SHORT = "Segments.length = 8"
"""Operators are dispatched one by one, so time is cut; the batch is not."""


def segments(spec: EnvSpec, batch: int, length: int) -> TensorDict:
    lead = (batch, length)
    columns = {
        key: torch.zeros(*lead, *array.shape, dtype=getattr(torch, array.dtype))
        for key, array in spec.observations.items()
    }
    columns |= {"action": torch.zeros(*lead, spec.action.size), "reward": torch.zeros(lead)}
    flags = ("is_first", "is_last", "is_terminal")
    columns |= {name: torch.zeros(lead, dtype=torch.bool) for name in flags}
    return TensorDict(columns, batch_size=lead)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_experiment_fits_one_screen_and_is_checked(file: Path) -> None:
    config = load([file], [])
    assert assembly.root_of(config) in {"Online", "Pretrain"}
    assert len(file.read_text().splitlines()) <= 40


@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_an_update_of_the_experiment_runs_and_never_waits(file: Path) -> None:
    config = load([file], [SHORT])
    spec = assembly.build_spec(config)
    videos = assembly.root_of(config) == assembly.VIDEOS
    with FakeTensorMode():
        agent = assembly.build_agent(config, spec)
        learner = assembly.build_part(config, "learner", agent)
        if videos:
            batch = segments(spec, config.parameter("Clips.batch"), learner.data.length)
            batch = batch.select("pixels", "is_first")
        else:
            batch = segments(spec, learner.data.batch, learner.data.length)
        metrics = learner.update(batch)
    expected = {"model_loss"} if videos else {"model_loss", "actor_loss", "critic_loss"}
    assert expected <= set(metrics)
    assert all(value.shape == () for value in metrics.values())
