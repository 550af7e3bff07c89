"""Every gin file in `experiments/` assembles, and its learner updates without waiting.

Gradients reach optimisers in the memory layout of their parameters.

Tensors are fake, so that full sizes cost neither memory nor arithmetic; no simulator is started.
"""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from wmplatform import assembly
from wmplatform.config import load
from wmplatform.interfaces import Optimizer, Request
from wmplatform.records import record_columns
from wmplatform.replay import Replay, Segments
from wmplatform.training.learner import Learner
from wmplatform.types import EnvSpec

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
FILES = sorted(
    f for place in ("", "ablations", "crossovers") for f in (FOLDER / place).glob("*.gin")
)
SAME = re.compile(r"_pretrain_(?!ssv2|concat)|_dmcr_(hopper|unseen)|_dmc_medium|_carla_authors")
"""Other videos, draws of looks and durations differ in nothing that an update could notice."""
RUN = [file for file in FILES if not SAME.search(file.stem)]
RUN_AS_PUBLISHED = {
    "contextwm_metaworld": "contextwm",
    "contextwm_pretrain_ssv2": "pretrain_contextwm",
    "dreamerv2_metaworld": "dreamerv2",
    "drqv2_dmc": "drqv2",
    "isodream_carla": "isodream",
    "isodream_dmc": "isodream",
}
"""With the parity file beside."""
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


def watch_layouts(learner: Learner) -> set[str]:
    """Check the gradients that optimisers get; returns the calls seen, filled by updates."""
    seen: set[str] = set()

    def checked(
        call: str, optimizer: Optimizer, real: Callable[..., Any], grads: list[Tensor], *rest: Any
    ) -> Any:
        seen.add(call)
        for p, grad in zip(optimizer.parameters, grads, strict=True):
            assert grad.stride() == p.stride(), f"{call} gets a gradient of {tuple(p.shape)}"
        return real(grads, *rest)

    for group, optimizer in learner.optimizers.items():
        for name in ("clip", "step"):
            call = partial(checked, f"{group}.{name}", optimizer, getattr(optimizer, name))
            setattr(optimizer, name, call)
    return seen


def test_fake_gradients_lie_as_real_ones() -> None:
    """A convolution's weight gradient lies as its input does, and not as the weight."""
    strides = []
    for mode in (nullcontext(), FakeTensorMode()):
        with mode:
            weight = torch.randn(4, 3, 3, 3, requires_grad=True)
            images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
            loss = torch.nn.functional.conv2d(images, weight).sum()
            strides.append(torch.autograd.grad(loss, weight)[0].stride())
    assert strides == [(27, 1, 9, 3)] * 2


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_experiment_fits_one_screen_and_is_checked(file: Path) -> None:
    config = load([file], [])
    assert assembly.root_of(config) in {"Online", "Pretrain"}
    assert len(file.read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    "files",
    [[file] for file in RUN]
    + [[FOLDER / f"{a}.gin", FOLDER / f"base/parity_{b}.gin"] for a, b in RUN_AS_PUBLISHED.items()],
    ids=lambda files: "+".join(file.stem for file in files),
)
def test_an_update_of_the_experiment_runs_and_never_waits(files: list[Path]) -> None:
    config = load(files, [])
    spec = assembly.build_spec(config)
    videos = assembly.root_of(config) == assembly.VIDEOS
    with FakeTensorMode() as fake:
        agent = assembly.build_agent(config, spec)
        learner = assembly.build_part(config, "learner", agent)
    calls = watch_layouts(learner)
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
    assert calls == {f"{group}.{name}" for group in learner.optimizers for name in ("clip", "step")}
