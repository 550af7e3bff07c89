"""Ten updates of a tiny DreamerV2 from fixed seeds: repeatable, and equal to stored numbers.

A change that is not meant to alter numbers leaves them alone. After one that is, write them anew:

    REFERENCE_RUN=write python -m pytest tests/core/test_reference_run.py

Bitwise equality is asked within a process only; other machines and versions of torch add up in
another order, hence the tolerance on stored numbers.
"""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose

from wmplugins.dreamer.decoders import ResNetDecoder
from wmplugins.dreamer.encoders import ResNetEncoder

from .tiny_dreamer import DISCRETE, SPEC, learner_of, segments, tiny_agent

STORED = Path(__file__).with_name("reference_run.json")
UPDATES = 10
RESNETS = {"encoder": partial(ResNetEncoder, depth=2), "decoder": partial(ResNetDecoder, depth=2)}
RUNS = {
    "plain": {"spec": SPEC, "slow_target_every": 4},
    "resnet": {"spec": SPEC, "model": RESNETS, "entropy_scale": "linear(0.1, 0, 100)"},
    "discrete": {"spec": DISCRETE, "discount": True},
}


def run(name: str) -> dict[str, list[float]]:
    """Losses and gradient norms of each update."""
    settings = dict(RUNS[name])
    torch.manual_seed(0)
    learner = learner_of(tiny_agent(settings.pop("spec"), **settings))
    curves: dict[str, list[float]] = {}
    for number in range(UPDATES):
        batch = segments(number, spec=learner.agent.spec)
        metrics = learner.update(batch, agent_steps=5 * number)
        for key, value in metrics.items():
            if key.endswith(("_loss", "_norm")):
                curves.setdefault(key, []).append(value.item())
    return curves


@pytest.mark.parametrize("name", RUNS)
def test_the_same_seed_gives_the_same_run_bit_for_bit(name: str) -> None:
    assert run(name) == run(name)


def test_another_seed_gives_another_run() -> None:
    curves = run("plain")
    torch.manual_seed(1)
    learner = learner_of(tiny_agent())
    assert learner.update(segments(0))["image_loss"].item() != curves["image_loss"][0]


@pytest.mark.parametrize("name", RUNS)
def test_the_run_equals_the_stored_one(name: str) -> None:
    curves = run(name)
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    if os.environ.get("REFERENCE_RUN") == "write":
        STORED.write_text(json.dumps(stored | {name: curves}, indent=1, sort_keys=True) + "\n")
        return
    assert set(curves) == set(stored[name])
    for key, values in stored[name].items():
        rtol = 1e-2 if key.endswith("_norm") else 1e-4  # sums of squares drift first
        assert_allclose(curves[key], values, rtol=rtol, atol=1e-4, err_msg=f"{name}: {key}")
