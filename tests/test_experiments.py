"""Every gin file in `experiments/` assembles, and its learner updates without waiting.

Tensors are fake, so that full sizes cost neither memory nor arithmetic; no simulator is started.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch._subclasses.fake_tensor import FakeTensorMode

from wmplatform import assembly
from wmplatform.config import load
from wmplatform.interfaces import Request
from wmplatform.records import record_columns
from wmplatform.replay import Replay, Segments
from wmplatform.types import EnvSpec

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
FILES = sorted(
    f for place in ("", "ablations", "crossovers") for f in (FOLDER / place).glob("*.gin")
)
SAME = re.compile(r"_pretrain_(?!ssv2|concat)|_dmcr_(hopper|unseen)|_dmc_medium|_carla_authors")
"""Other videos, draws of looks and durations differ in nothing that an update could notice."""
RUN = [file for file in FILES if not SAME.search(file.stem)]
SHORT = 8
"""Operators are dispatched one by one, so time is cut; the batch is not."""


def batch_of(spec: EnvSpec, request: Request) -> TensorDict:
    """What a request draws from an episode of zeros."""
    count = request.records + request.stack
    columns = {
        key: torch.zeros(count, *array.shape, dtype=getattr(torch, array.dtype))
        for key, array in record_columns(spec).items()
    }
    columns["is_first"][0] = columns["is_last"][-1] = True
    columns["stream"] = torch.zeros(count, dtype=torch.int64)
    replay = Replay(spec, capacity=max(count, 1 + (spec.time_limit or 0)))
    replay.extend(TensorDict(columns, [count]))
    return request.sample(replay)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_experiment_fits_one_screen_and_is_checked(file: Path) -> None:
    config = load([file], [])
    assert assembly.root_of(config) in {"Online", "Pretrain"}
    assert len(file.read_text().splitlines()) <= 40


@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_an_update_of_the_experiment_runs_and_never_waits(file: Path) -> None:
    config = load([file], [])
    spec = assembly.build_spec(config)
    videos = assembly.root_of(config) == assembly.VIDEOS
    with FakeTensorMode() as fake:
        agent = assembly.build_agent(config, spec)
        learner = assembly.build_part(config, "learner", agent)
    request = learner.data
    if isinstance(request, Segments):
        clips = {"batch": config.parameter("Clips.batch")} if videos else {}
        request = replace(request, length=SHORT, **clips)
    batch = batch_of(spec, request)
    if videos:
        batch = batch.select("pixels", "is_first")
    with fake:
        metrics = learner.update(batch.apply(fake.from_tensor))
    expected = {"model_loss"} if agent.world_model.loss_names else set()
    expected |= set() if videos else {"actor_loss", "critic_loss"}
    assert expected <= set(metrics)
    assert all(value.shape == () for value in metrics.values())
