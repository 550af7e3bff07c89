"""An update never waits for the device, shown without one.

Fake tensors have no values: whatever asks for one (`.item()`, `if tensor:`, a boolean mask,
argument checks of distributions) raises. Meta tensors share that, and refuse to be mixed with
tensors of another device, as those of an accelerator do.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from wmplatform.logging.running_means import RunningMeans
from wmplatform.types import EnvSpec
from wmplugins.dreamer.decoders import ResNetDecoder
from wmplugins.dreamer.encoders import ResNetEncoder
from wmplugins.dreamer.heads import DiscountMLP, RewardMLP

from .tiny_dreamer import DISCRETE, MLP, SPEC, learner_of, segments, tiny_agent

SYNCS = (DataDependentOutputException, DynamicOutputShapeException)
RESNETS = {"encoder": partial(ResNetEncoder, depth=2), "decoder": partial(ResNetDecoder, depth=2)}


@pytest.fixture
def fake() -> Iterator[None]:
    """Tensors without values."""
    with FakeTensorMode():
        yield


def three_updates(spec: EnvSpec = SPEC, precision: str = "fp32", **settings: Any) -> None:
    """World model, behavior, optimisers, target copy and the accumulation of metrics."""
    learner = learner_of(tiny_agent(spec, **settings), precision=precision)
    means = RunningMeans()
    for number in range(3):
        means.add(learner.update(segments(number, spec=spec), agent_steps=number))


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_updates_do_not_wait(precision: str) -> None:
    three_updates(precision=precision)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    "settings",
    [
        {"spec": DISCRETE, "discount": True},
        {"model": RESNETS},
        {"gradient": "both", "mix": "linear(0, 1, 10)", "slow_target_every": 2},
        {"entropy_in_critic_target": True},
    ],
    ids=["discrete", "resnet", "both", "leak"],
)
def test_updates_do_not_wait_in_other_assemblies(settings: dict[str, Any]) -> None:
    three_updates(**settings)


@pytest.mark.usefixtures("fake")
def test_acting_does_not_wait() -> None:
    agent = tiny_agent()
    memory, first = None, torch.ones(3, dtype=torch.bool)
    for mode in ("train", "eval", "train"):
        pixels = segments()["pixels"][:, 0]
        _, memory = agent.act({"pixels": pixels}, first, memory, mode=mode, agent_steps=0)


def if_tensor(loss: Tensor) -> None:
    if loss > 0:
        pass


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda loss: loss.item(),
    "float": float,
    "if": if_tensor,
    "tolist": lambda loss: loss.reshape(1).tolist(),
    "mask": lambda loss: loss.reshape(1)[loss.reshape(1) > 0],
    "nonzero": lambda loss: loss.reshape(1).nonzero(),
    "validation": lambda loss: torch.distributions.Normal(loss, loss.exp(), validate_args=True),
    "clip": lambda loss: torch.nn.utils.clip_grad_norm_([loss], 1.0, error_if_nonfinite=True),
}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("wait", WAITS)
def test_an_update_that_waits_is_caught(wait: str) -> None:
    agent = tiny_agent()
    learner = learner_of(agent)
    compute = agent.world_model.losses

    def waiting(*args: Any) -> Any:
        found = compute(*args)
        loss = found.losses["image"].detach()
        loss.grad = torch.ones_like(loss)
        WAITS[wait](loss)
        return found

    agent.world_model.losses = waiting
    with pytest.raises(SYNCS):
        learner.update(segments())


class OneDevice(TorchDispatchMode):
    """Refuses every operator that makes a tensor elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in torch.utils._pytree.tree_leaves(found):
            if isinstance(each, Tensor):
                assert each.device.type == "meta", f"{func} made a tensor on {each.device}"
        return found


def update_on_meta(**settings: Any) -> None:
    heads = {
        "reward": partial(RewardMLP, fp32=False, **MLP),  # there is no autocast for this device
        "continue": partial(DiscountMLP, fp32=False, **MLP),
    }
    with torch.device("meta"):
        agent = tiny_agent(model={"heads": heads}, fp32=False, **settings)
    learner, batch = learner_of(agent), segments(spec=agent.spec).to("meta")
    with OneDevice():
        for _ in range(2):
            learner.update(batch)


@pytest.mark.parametrize("spec", [SPEC, DISCRETE])
def test_updates_make_no_tensor_on_another_device(spec: EnvSpec) -> None:
    update_on_meta(spec=spec)


def test_a_tensor_on_another_device_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = RewardMLP.target

    def elsewhere(self: RewardMLP, batch: Any) -> Any:
        target = real(self, batch)
        torch.zeros(1)
        return target

    monkeypatch.setattr(RewardMLP, "target", elsewhere)
    with pytest.raises(AssertionError, match="made a tensor on cpu"):
        update_on_meta()
