"""What only an accelerator can show: replay there, bf16, captured updates, no waits."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from numpy.testing import assert_allclose
from tensordict import TensorDict
from torch import Tensor

from wmplatform.interfaces import Update
from wmplatform.logging.running_means import RunningMeans
from wmplatform.replay import Replay, Segments
from wmplatform.training.learner import Learner
from wmplugins.dreamer.decoders import ResNetDecoder
from wmplugins.dreamer.encoders import ResNetEncoder

from ..core.tiny_dreamer import DISCRETE, SPEC, learner_of, segments, tiny_agent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

DEVICE = torch.device("cuda")
RESNETS = {"encoder": partial(ResNetEncoder, depth=2), "decoder": partial(ResNetDecoder, depth=2)}
SETTINGS = {
    "plain": {},
    "resnet": {"model": RESNETS},
    "discrete": {"spec": DISCRETE, "discount": True},
}


@pytest.fixture(autouse=True)
def _exact_products() -> None:
    """No TF32, so that the two ways of computing may be compared."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def learner(name: str = "plain", *, seed: int = 0, **settings: object) -> Learner:
    """The same initial weights for the same seed, whatever the device."""
    torch.manual_seed(seed)
    return learner_of(tiny_agent(**SETTINGS[name]).to(DEVICE), **settings)


def batch_for(made: Learner, number: int = 0) -> TensorDict:
    return segments(number, spec=made.agent.spec).to(DEVICE)


def weights(made: Learner) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in made.agent.state_dict().items()}


def run(made: Learner, update: Callable[[TensorDict], object], updates: int = 3) -> None:
    """Updates on seeded batches with seeded noise."""
    for number in range(updates):
        torch.manual_seed(100 + number)
        update(batch_for(made, number))


def assert_same_weights(one: Learner, two: Learner, tolerance: float) -> None:
    for name, value in weights(two).items():
        mine = one.agent.state_dict()[name]
        assert_allclose(mine.cpu(), value.cpu(), rtol=tolerance, atol=tolerance, err_msg=name)


# Replay


def episodes(count: int = 6, steps: int = 20) -> TensorDict:
    """Whole episodes of random records in one stream."""
    found = []
    for number in range(count):
        records = segments(number, batch=1, length=steps + 1)[0]
        records["is_last"][-1] = True
        records["stream"] = torch.zeros(steps + 1, dtype=torch.int64)
        found.append(records)
    return torch.cat(found)


def test_replay_on_the_device_gives_the_batches_of_replay_in_memory() -> None:
    stores = [Replay(SPEC, 1, device, seed=3, capacity=500) for device in (DEVICE, "cpu")]
    for replay in stores:
        replay.extend(episodes())
    for _ in range(3):
        there, here = (Segments(batch=4, length=8).sample(replay) for replay in stores)
        assert there["pixels"].device.type == DEVICE.type
        for key in here.keys():  # noqa: SIM118
            assert torch.equal(there[key].cpu(), here[key]), key


def test_an_update_runs_on_a_batch_from_the_device() -> None:
    replay = Replay(SPEC, 1, DEVICE, seed=3, capacity=500)
    replay.extend(episodes())
    made = learner()
    metrics = made.update(Segments(batch=4, length=8).sample(replay))
    assert {value.device.type for value in metrics.values()} == {DEVICE.type}
    assert all(bool(value.isfinite()) for value in metrics.values())


# Precision


@pytest.mark.parametrize("name", SETTINGS)
def test_bf16_updates_are_finite_and_near_fp32(name: str) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        made = learner(name, precision=precision)
        torch.manual_seed(7)
        losses[precision] = made.update(batch_for(made))
        run(made, made.update, 5)
        assert float(made.bad_updates) == 0
        assert all(bool(p.isfinite().all()) for p in made.agent.parameters())
    for key in ("image_loss", "reward_loss", "critic_loss", "model_loss"):
        fp32, bf16 = (float(losses[precision][key]) for precision in ("fp32", "bf16"))
        assert_allclose(bf16, fp32, rtol=0.1, atol=0.05, err_msg=key)


def test_the_device_computes_what_the_cpu_computes() -> None:
    """Encoder, dynamics, decoder and head, in states that no random number enters."""
    torch.manual_seed(0)
    agent = tiny_agent()
    found = []
    for device in (torch.device("cpu"), DEVICE):
        agent, batch = agent.to(device), segments().to(device)
        model = agent.world_model
        with torch.no_grad():
            observed = model.dynamics.observe(
                model.embed(batch), batch["action"], batch["is_first"], deterministic=True
            )
            image = model.decode(observed.states)["pixels"].mean
            reward = model.predict("reward", observed.states).mean
        found.append([x.cpu() for x in (image, reward, observed.aux["post"])])
    for a, b in zip(*found, strict=True):
        assert_allclose(a, b, rtol=1e-3, atol=1e-4)


# Capture and compilation


def warmed_up(function: Callable[[], object]) -> None:
    """Run a few times on a side stream, as capture asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)


@pytest.mark.parametrize("name", SETTINGS)
def test_captured_gradients_equal_eager_ones(name: str) -> None:
    made = learner(name)
    batch = batch_for(made)

    def gradients() -> list[Tensor]:
        update = Update(batch)
        found = [made._gradients(phase.compute(update)) for phase in made.plan]
        return [g for groups in found for group in groups.values() for g in group]

    warmed_up(gradients)
    torch.manual_seed(5)
    eager = [g.clone() for g in gradients()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients()
    torch.manual_seed(5)
    graph.replay()
    for a, b in zip(captured, eager, strict=True):
        assert_allclose(a.cpu(), b.cpu(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SETTINGS)
def test_captured_updates_equal_eager_ones(name: str) -> None:
    """Eager warm-up, capture and replays; learning rates that change are seen by the graphs."""
    rate = {"lr": "linear(1e-2, 1e-3, 8)"}
    eager, captured = learner(name, **rate), learner(name, capture=True, **rate)
    run(eager, eager.update, updates=8)
    run(captured, captured.update, updates=8)
    assert_same_weights(captured, eager, 1e-3)
    assert captured.updates == eager.updates


@pytest.mark.parametrize("name", SETTINGS)
def test_a_captured_update_skips_what_is_not_finite(name: str) -> None:
    made = learner(name, capture=True)
    run(made, made.update, updates=5)
    before = weights(made)
    bad = batch_for(made)
    bad["reward"][0, 0] = float("nan")
    made.update(bad)
    assert float(made.bad_updates) == 1
    for name, value in weights(made).items():
        assert torch.equal(value, before[name]), name
    run(made, made.update, updates=1)
    assert float(made.bad_streak) == 0


def test_other_threads_may_allocate_during_a_capture() -> None:
    """As those do that draw batches ahead."""
    made, over = learner(capture=True), threading.Event()

    def draw() -> None:
        kept = []
        while not over.is_set():  # never from a cache
            kept.append(torch.zeros(2**20 + len(kept)).pin_memory().to(DEVICE, non_blocking=True))
            kept = kept[-64:]

    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(draw)
        try:
            run(made, made.update, updates=6)
        finally:
            over.set()
        drawing.result()
    assert float(made.bad_updates) == 0


def test_a_compiled_update_equals_the_eager_one() -> None:
    parts = ("world_model.encoder", "world_model.decoder")
    eager, compiled = learner(lr=1e-2), learner(lr=1e-2, compile_parts=parts)
    run(eager, eager.update)
    run(compiled, compiled.update)
    assert_same_weights(compiled, eager, 1e-3)


# Waiting


def test_updates_and_their_metrics_never_wait() -> None:
    """The driver itself is asked to refuse every synchronising call."""
    made, means = learner(), RunningMeans()
    batches = [batch_for(made, number) for number in range(3)]
    made.update(batches[0])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            means.add(made.update(batch))
        with pytest.raises(RuntimeError, match="synchroniz"):
            batches[0]["reward"].sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert means.take()["skipped_updates"] == 0
