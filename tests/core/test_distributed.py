"""Two processes that train together: one gradient, one decision, one writer."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from wmplatform.checkpoint import Checkpoints
from wmplatform.errors import ExitCode
from wmplatform.json_lines import read_json_lines
from wmplatform.run_folder import RunFolder
from wmplatform.training.learner import BadGroups
from wmplatform.training.pretrain import Pretrain, PretrainRun, pretrain
from wmplatform.training.processes import LeaderFailed, Processes, joined
from wmplatform.world_model import IncompatibleParts

from .toy_clips import ToyClips, video_agent, video_learner

UPDATES = 6
PATIENCE_S = 600.0
"""A busy machine may take long to import torch twice."""


def settings(**changes: Any) -> Pretrain:
    """Without samples and batch normalisation, so that sharing a batch changes nothing."""
    given: dict[str, Any] = {
        "agent": video_agent(),
        "learner": video_learner(),
        "clips": partial(ToyClips, batch=4),
        "validation": partial(ToyClips, batch=2),
        "total_updates": UPDATES,
        "log_every": 2,
        "video_every": 3,
        "validate_every": 3,
        "validation_batches": 1,
        "save_every": 2,
        "milestone_every": 3,
        "observed_frames": 3,
    }
    return Pretrain(**(given | changes))


class StopAfter:
    def __init__(self, updates: int) -> None:
        self.updates, self.run = updates, None

    @property
    def requested(self) -> bool:
        return self.run is not None and self.run.updates >= self.updates


def opened(path: Path, processes: Processes) -> RunFolder:
    """Open a run folder in the first process, and let the others use it."""
    found: list[RunFolder] = []
    processes.first(lambda: found.append(RunFolder.open(path, config_text="")))
    return found[0] if found else RunFolder.shared(path)


def share(path: Path, processes: Processes, stop: Any, **changes: Any) -> PretrainRun:
    """Train as one of several processes in a folder."""
    with opened(path, processes) as folder:
        run = PretrainRun(settings(**changes), folder, seed=3, device="cpu", processes=processes)
        stop.run = run
        try:
            run.resume()
            pretrain(run, stop)
        finally:
            run.close()
    return run


# What the two processes do; starting them takes most of the time, so they do it all in one life.


def everything(path: Path, processes: Processes) -> None:
    messages(path, processes)
    gradients(path, processes)
    diverging(path, processes)
    whole(path, processes)
    signalled(path, processes)


def gradients(path: Path, processes: Processes) -> None:
    """Average the gradients of one batch, in fp64; the first process saves them."""
    run = settings()
    torch.manual_seed(0)
    agent = run.agent(run.spec).double()
    agent.world_model.encoder.register_forward_pre_hook(
        lambda _, args: ({key: image.double() for key, image in args[0].items()},)
    )
    learner = run.learner(agent, processes)
    seen: dict[str, Tensor] = {}
    keep_gradients(learner, seen)
    clips = ToyClips(5, processes.rank, processes.size, batch=4)
    learner.update(clips.sample())
    if processes.leads:
        safetensors.torch.save_file(seen, path / "gradients.safetensors")


def messages(path: Path, processes: Processes) -> None:
    """Exchange everything that can be exchanged."""
    mine = {"rank": processes.rank, "x": torch.full((2 + processes.rank,), 1.0 * processes.rank)}
    found = processes.gather(mine)
    assert [each["rank"] for each in found] == [0, 1]
    assert found[1]["x"].tolist() == [1.0, 1.0, 1.0]
    images = torch.arange(48.0).view(2, 3, 2, 4) + processes.rank
    images = images.contiguous(memory_format=torch.channels_last)
    for rank, each in enumerate(processes.gather({"images": images})):
        assert torch.equal(each["images"], images - processes.rank + rank)
    grads = [images.clone(), images[..., ::2].clone(), images[:, :1]]
    expected = [grad - processes.rank + 0.5 for grad in grads]
    processes.average(grads)
    assert all(map(torch.equal, grads, expected))
    assert processes.any(processes.rank == 1)
    assert not processes.any(False)
    assert processes.first(lambda: {"answer": 42}) == {"answer": 42}
    model = torch.nn.BatchNorm2d(3)
    model.weight.data.fill_(processes.rank + 5.0)
    processes.align(model)
    assert model.weight.tolist() == [5.0] * 3
    with pytest.raises(ZeroDivisionError if processes.leads else LeaderFailed):
        processes.first(fail)
    (path / f"messages-{processes.rank}").touch()


def fail() -> None:
    raise ZeroDivisionError


def whole(path: Path, processes: Processes) -> None:
    """Train, are interrupted in the second process only, and go on."""
    noisy = {"agent": video_agent(noise=0.1)}
    share(path / "one", processes, StopAfter(10**9), **noisy)
    stop = StopAfter(3 if processes.rank == 1 else 10**9)
    cut = share(path / "two", processes, stop, **noisy)
    assert cut.updates == 3
    share(path / "two", processes, StopAfter(10**9), **noisy)
    plain = share(path / "plain", processes, StopAfter(10**9))
    digest = [float(p.double().sum()) for p in plain.agent.parameters()]
    assert processes.gather(digest)[0] == processes.gather(digest)[1]


def signalled(path: Path, processes: Processes) -> None:
    """Train until the second process is asked to stop."""
    endless = settings(total_updates=10**6, log_every=1, save_every=10**5, milestone_every=0)
    with opened(path / "signalled", processes) as folder:
        code = endless.run(folder, seed=3, processes=processes)
    (path / f"code-{processes.rank}").write_text(str(int(code)))


def diverging(path: Path, processes: Processes) -> None:
    """Both skip the same updates, though only one has seen infinity."""
    run = settings()
    torch.manual_seed(0)
    agent = run.agent(run.spec)
    before = [p.clone() for p in agent.parameters()]
    learner = run.learner(agent, processes)
    if processes.rank == 1:
        poison(learner)
    for _ in range(2):
        learner.update(ToyClips(5, processes.rank, 2, batch=4).sample())
    assert int(learner.bad_streak) == 2
    assert all(map(torch.equal, before, agent.parameters()))
    (path / f"skipped-{processes.rank}").touch()


def poison(learner: Any) -> None:
    """Make this process' gradients infinite before they are shared."""
    real = learner._gradients

    def broken(objectives: Any) -> Any:
        found = real(objectives)
        found["model"][0].fill_(float("inf"))
        return found

    learner._gradients = broken


def keep_gradients(learner: Any, seen: dict[str, Tensor]) -> None:
    """Note the gradients as they are clipped, after the exchange."""
    optimizer = learner.optimizers["model"]
    real = optimizer.clip

    def clip(grads: Sequence[Tensor]) -> Tensor:
        seen.update({f"{i:03d}": grad.clone() for i, grad in enumerate(grads)})
        return real(grads)

    optimizer.clip = clip


_COMMAND = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.core import test_distributed
from wmplatform.training.processes import joined
with joined("cpu") as (processes, device):
    getattr(test_distributed, sys.argv[1])(Path(sys.argv[2]), processes)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(name: str, path: Path, repo_root: Path) -> list[subprocess.Popen[bytes]]:
    """Start two processes as `torchrun` does."""
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(repo_root), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", _COMMAND, name, str(path)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    try:
        outputs = [process.communicate(timeout=PATIENCE_S)[0].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "".join(outputs)


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have left behind."""
    path = tmp_path_factory.mktemp("shared")
    processes = start("everything", path, Path(__file__).resolve().parents[2])
    metrics, end = path / "signalled" / "metrics.jsonl", time.monotonic() + PATIENCE_S
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < end:
        time.sleep(0.05)
        if any(process.poll() is not None for process in processes):
            break
    processes[1].send_signal(signal.SIGTERM)
    finish(processes)
    return path


def test_averaged_gradient_is_that_of_the_joined_batch(shared_runs: Path, tmp_path: Path) -> None:
    shared = safetensors.torch.load_file(shared_runs / "gradients.safetensors")
    gradients(tmp_path, Processes())
    alone = safetensors.torch.load_file(tmp_path / "gradients.safetensors")
    assert len(alone) > 10
    for name, grad in alone.items():
        torch.testing.assert_close(shared[name], grad, rtol=1e-6, atol=1e-6)
        assert float(grad.abs().max()) > 1e-5, name


def test_messages_reach_every_process_and_failures_too(shared_runs: Path) -> None:
    assert len(list(shared_runs.glob("messages-*"))) == 2


def test_an_infinite_gradient_in_one_process_is_skipped_by_all(shared_runs: Path) -> None:
    assert len(list(shared_runs.glob("skipped-*"))) == 2


def loaded(path: Path) -> dict[str, Any]:
    return Checkpoints(path / "checkpoints").load()


def test_two_processes_resume_exactly(shared_runs: Path) -> None:
    one, two = loaded(shared_runs / "one"), loaded(shared_runs / "two")
    assert one["loop"]["counters"] == {"updates": UPDATES, "frames_seen": UPDATES * 4 * 5}
    assert two["loop"]["counters"] == one["loop"]["counters"]
    for name, value in one["world_model"].items():
        assert torch.equal(value, two["world_model"][name]), name
    assert len(one["processes"]) == 2
    states = [each["torch"] for each in one["processes"]]
    assert not torch.equal(*states)  # each process draws its own samples
    for mine, theirs in zip(one["processes"], two["processes"], strict=True):
        assert torch.equal(mine["torch"], theirs["torch"])


def test_one_process_writes(shared_runs: Path) -> None:
    lines = list(read_json_lines(shared_runs / "one" / "metrics.jsonl"))
    assert [line["updates"] for line in lines if "image_loss" in line] == [2, 4, 6]
    assert [line["updates"] for line in lines if "validation/model_loss" in line] == [3, 6]
    assert len(list((shared_runs / "one").glob("videos/open-loop-*"))) == 2
    starts = json.loads((shared_runs / "two" / "provenance.json").read_text())["starts"]
    assert len(starts) == 2


def test_two_processes_train_what_one_trains(shared_runs: Path, tmp_path: Path) -> None:
    """Six updates on halves of the batches end where six updates on whole ones do."""
    alone = share(tmp_path / "alone", Processes(), StopAfter(10**9))
    shared = loaded(shared_runs / "plain")["world_model"]
    for name, value in alone.agent.world_model.state_dict().items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=2e-5)


def test_a_run_of_two_processes_can_go_on_with_one(shared_runs: Path) -> None:
    run = share(shared_runs / "plain", Processes(), StopAfter(10**9), total_updates=UPDATES + 2)
    assert run.updates == UPDATES + 2


def test_a_signal_to_one_process_stops_both_after_a_save(shared_runs: Path) -> None:
    codes = [(shared_runs / f"code-{rank}").read_text() for rank in range(2)]
    assert codes == [str(int(ExitCode.INTERRUPTED))] * 2
    assert loaded(shared_runs / "signalled")["loop"]["counters"]["updates"] > 0


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as (alone, device):
        assert (alone.rank, alone.size, device) == (0, 1, "cpu")
        tree = {"x": torch.ones(2)}
        assert alone.gather(tree)[0] is tree
        grads = [torch.ones(3)]
        alone.average(grads)
        assert grads[0].tolist() == [1.0] * 3


def test_joined_statistics_take_an_accelerator(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", config_text="") as folder:
        with pytest.raises(IncompatibleParts, match="take accelerators"):
            PretrainRun(
                settings(batch_statistics="joined"),
                folder,
                seed=0,
                device="cpu",
                processes=Processes(0, 2),
            )


@pytest.mark.gpu
def test_shared_updates_are_not_captured() -> None:
    run = settings(learner=partial(video_learner(), capture=True))
    with pytest.raises(BadGroups, match="several processes"):
        run.learner(run.agent(run.spec).to("cuda"), Processes(0, 2))
