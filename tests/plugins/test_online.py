"""The online loop end to end: a tiny DreamerV2 on the pixels of Pendulum."""

import json
import random
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from wmplatform.checkpoint import Checkpoints
from wmplatform.config import load
from wmplatform.errors import ExitCode
from wmplatform.json_lines import read_json_lines
from wmplatform.replay import Replay
from wmplatform.run_folder import RunFolder
from wmplatform.saved_agent import open_saved
from wmplatform.training.online import Diverged, Online, OnlineRun, OtherEvalEnv, train
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec

from .. import warm

TINY = {
    "encoders.cnn.depth": "2",
    "decoders.cnn.depth": "2",
    "dynamics.rssm.deter": "8",
    "dynamics.rssm.hidden": "8",
    "dynamics.rssm.groups": "4",
    "dynamics.rssm.classes": "4",
    "heads.reward.units": "8",
    "behaviors.imagination.units": "8",
    "behaviors.imagination.horizon": "3",
    "envs.gym.time_limit": "15",
    "Segments.batch": "2",
    "Segments.length": "6",
    "Replay.capacity": "60",
    "Online.total_agent_steps": "100",
    "Online.prefill_agent_steps": "20",
    "Online.pretrain_updates": "2",
    "Online.updates_every": "10",
    "Online.eval_every": "40",
    "Online.log_every": "10",
    "Online.save_every": "35",
    "Evaluation.episodes": "1",
    "Evaluation.prediction_records": "8",
    "Evaluation.prediction_clips": "2",
}


# A learning rate near fp32's end makes every weight infinite at the first update.
WILD = {
    "model/Adam.lr": "1e38",
    "Learner.max_bad_updates": "3",
    "Online.pretrain_updates": "10",
}


def bindings(extra: Mapping[str, str] | None = None) -> list[str]:
    return [f"{name} = {value}" for name, value in {**TINY, **(extra or {})}.items()]


class StopAfter:
    """A stop request that comes when the run has taken so many agent steps."""

    def __init__(self, agent_steps: int = 10**9) -> None:
        self.agent_steps = agent_steps
        self.run: OnlineRun | None = None

    @property
    def requested(self) -> bool:
        assert self.run is not None
        return self.run.agent_steps >= self.agent_steps


def play(
    path: Path, repo_root: Path, *, stop: StopAfter | None = None, bind: Any = ()
) -> OnlineRun:
    """Run (or resume) the tiny experiment in a folder; returns the closed run."""
    config = load([repo_root / "experiments" / "dreamerv2_pendulum.gin"], bindings(bind))
    config.activate()
    online: Online = config.build("Online")
    stop = stop or StopAfter()
    with RunFolder.open(path, config_text=config.text) as folder:
        run = stop.run = OnlineRun(online, folder, seed=3, device="cpu")
        try:
            run.resume()
            train(run, stop)  # type: ignore[arg-type]
        finally:
            run.close()
    return run


def weights(run: OnlineRun) -> dict[str, Tensor]:
    return dict(run.agent.state_dict())


def lines(path: Path) -> list[dict[str, Any]]:
    """Metrics without what depends on the clock."""
    return [
        {k: v for k, v in line.items() if "speed/" not in k and k != "time_s"}
        for line in read_json_lines(path / "metrics.jsonl")
    ]


def assert_same(a: OnlineRun, b: OnlineRun) -> None:
    """Weights, moments, replay and counters are equal bit for bit."""
    for key, value in weights(a).items():
        assert torch.equal(value, weights(b)[key]), key
    for group, optimizer in a.learner.optimizers.items():
        for one, other in zip(optimizer.first, b.learner.optimizers[group].first, strict=True):
            assert torch.equal(one, other), group
    assert len(a.replay) == len(b.replay)
    assert torch.equal(
        a.replay.sampler.generator.get_state(), b.replay.sampler.generator.get_state()
    )
    for key in a.replay.columns:
        assert torch.equal(a.replay.storage.column(key), b.replay.storage.column(key)), key
    assert a.counters == b.counters


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnlineRun, Path]:
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return play(path, Path(__file__).parents[2]), path


def test_counters_keep_the_schedule(whole: tuple[OnlineRun, Path]) -> None:
    run, path = whole
    assert run.counters["agent_steps"] == 100
    assert run.counters["env_frames"] == 200  # action repeat 2
    assert run.counters["updates"] == 2 + (100 - 20) // 10
    evaluations = [line for line in lines(path) if "eval/return" in line]
    assert [line["agent_steps"] for line in evaluations] == [20, 60, 100]


def test_a_learner_ahead_of_a_changed_schedule_waits(whole: tuple[OnlineRun, Path]) -> None:
    run, _ = whole
    run.learner.updates += 3  # as if the run had been resumed with fewer updates
    try:
        assert run.updates_due() == 0
        assert run.finished
    finally:
        run.learner.updates -= 3


def test_run_folder_holds_what_people_look_at(whole: tuple[OnlineRun, Path]) -> None:
    _, path = whole
    assert list(path.glob("videos/policy-*.mp4"))
    assert list(path.glob("pictures/open-loop-*.png"))
    assert list(path.glob("tensorboard/events*"))
    assert any("model_kl" in line for line in lines(path))
    assert any("train/return" in line for line in lines(path))


def test_same_seed_gives_the_same_run(
    whole: tuple[OnlineRun, Path], tmp_path: Path, repo_root: Path
) -> None:
    run, path = whole
    again = play(tmp_path / "again", repo_root)
    assert lines(path) == lines(tmp_path / "again")
    assert_same(run, again)


@pytest.mark.parametrize("cut", [10, 55])
def test_resumed_run_equals_the_uninterrupted_one(
    cut: int, whole: tuple[OnlineRun, Path], tmp_path: Path, repo_root: Path
) -> None:
    """N = k + resume + N - k, bit for bit: weights, moments, replay, metrics."""
    one, path = whole
    play(tmp_path / "two", repo_root, stop=StopAfter(cut))
    two = play(tmp_path / "two", repo_root)
    assert_same(one, two)
    # Stopping writes one more line of means; apart from those nothing differs.
    kept = [line for line in lines(path) if "eval/return" in line]
    assert kept == [line for line in lines(tmp_path / "two") if "eval/return" in line]


def test_prefetching_resumes_exactly_too(tmp_path: Path, repo_root: Path) -> None:
    ahead = {"Online.prefetch": "True", "Online.total_agent_steps": "60"}
    one = play(tmp_path / "one", repo_root, bind=ahead)
    play(tmp_path / "two", repo_root, bind=ahead, stop=StopAfter(45))
    assert_same(one, play(tmp_path / "two", repo_root, bind=ahead))


def test_too_many_bad_updates_stop_the_run_and_save_the_batch(
    tmp_path: Path, repo_root: Path
) -> None:
    with pytest.raises(Diverged) as caught:
        play(tmp_path / "bad", repo_root, bind=WILD)
    assert caught.value.exit_code == ExitCode.DIVERGED
    assert "3 updates in a row" in str(caught.value)
    assert len(list((tmp_path / "bad").glob("bad-batch-*.safetensors"))) == 1


def start(path: Path, repo_root: Path, bind: Mapping[str, str]) -> warm.Child:
    gin = repo_root / "experiments" / "dreamerv2_pendulum.gin"
    words = ["--gin", gin, "--run-dir", path, "--seed", "3", "--device", "cpu"]
    words += [word for line in bindings(bind) for word in ("--bind", line)]
    return warm.start(warm.CLI, *words, SDL_VIDEODRIVER="dummy")


def test_sigterm_before_the_first_checkpoint_saves(tmp_path: Path, repo_root: Path) -> None:
    run = {"Online.total_agent_steps": "100000", "Online.save_every": "100000"}
    process = start(tmp_path / "run", repo_root, run)
    process.wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
    process.send_signal(signal.SIGTERM)
    done = process.finish()
    assert done.returncode == ExitCode.INTERRUPTED, done.stderr
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest() is not None


def kill_and_check(path: Path, repo_root: Path, kills: int, seed: int) -> None:
    """Kill a run at random moments; after each, the newest checkpoint must be whole."""
    rng = random.Random(seed)
    bind = {
        "Online.total_agent_steps": "100000",
        "Online.save_every": "10",
        "Online.eval_every": "50",
        "Replay.capacity": "5000",
    }
    seen = 0
    for _ in range(kills):
        process = start(path, repo_root, bind)
        before = newest(path)
        process.wait_for(lambda: newest(path) > before)  # noqa: B023
        time.sleep(rng.uniform(0.0, 2.0))
        process.send_signal(signal.SIGKILL)
        process.finish()
        seen = check_folder(path, seen)


def newest(path: Path) -> int:
    return Checkpoints(path / "checkpoints").latest() or 0


def check_folder(path: Path, seen: int) -> int:
    """Read the newest generation: nothing torn, nothing twice; returns its agent steps."""
    state = Checkpoints(path / "checkpoints").load()
    steps = state["loop"]["counters"]["agent_steps"]
    assert steps >= seen
    raw = (path / "metrics.jsonl").read_bytes()[: state["logger"]["offset"]]
    parsed = [json.loads(line) for line in raw.splitlines()]
    assert raw.endswith(b"\n")
    assert [line["agent_steps"] for line in parsed] == sorted(
        line["agent_steps"] for line in parsed
    )
    texts = [json.dumps({k: v for k, v in line.items() if k != "time_s"}) for line in parsed]
    assert len(set(texts)) == len(texts)
    check_records(path, state, steps)
    return int(steps)


def check_records(path: Path, state: dict[str, Any], steps: int) -> None:
    """Every step is one record, every episode one more: none lost, none twice."""
    spec = EnvSpec({"pixels": ArraySpec((3, 64, 64), "uint8")}, ActionSpec(1))
    replay = Replay(spec, capacity=10**4)
    replay.restore(path / "replay", state["replay"])
    written = sum(state["replay"]["heads"])
    firsts = int(replay.storage.column("is_first")[: len(replay)].sum())
    if written == len(replay):  # nothing overwritten yet
        assert written == steps + firsts


def test_killed_run_goes_on_from_a_whole_checkpoint(tmp_path: Path, repo_root: Path) -> None:
    kill_and_check(tmp_path / "run", repo_root, kills=2, seed=0)


@pytest.mark.slow
def test_thirty_kills_lose_nothing(tmp_path: Path, repo_root: Path) -> None:
    kill_and_check(tmp_path / "run", repo_root, kills=30, seed=1)


def test_a_run_starts_from_modules_of_another_and_resumes_without_it(
    whole: tuple[OnlineRun, Path], tmp_path: Path, repo_root: Path
) -> None:
    source = shutil.copytree(whole[1], tmp_path / "source")
    bind = {
        "Online.load_from": f"'{source}'",
        "Online.load_modules": "('encoder', 'decoder')",
        "Online.pretrain_updates": "0",
    }
    run = play(tmp_path / "run", repo_root, bind=bind, stop=StopAfter(5))
    loaded = json.loads((tmp_path / "run" / "transfer.json").read_text())
    assert list(loaded["loaded"]) == ["encoder", "decoder"]
    assert loaded["fresh"] == ["dynamics.cell", "heads.reward", "behavior"]
    ours, theirs = weights(run), weights(whole[0])  # no update has been made yet
    for name in ours:
        same = torch.equal(ours[name], theirs[name])
        if name.startswith(("world_model.encoder.", "world_model.decoder.")):
            assert same, name
        elif "cell" in name and name.endswith("weight") and ours[name].dim() == 2:
            assert not same, name
    shutil.rmtree(source)
    assert play(tmp_path / "run", repo_root, bind=bind).finished


def test_evaluation_may_have_an_environment_of_its_own(tmp_path: Path, repo_root: Path) -> None:
    bind = {"Online.eval_env": "@eval/envs.gym", "eval/envs.gym.time_limit": "7"}
    run = play(tmp_path / "run", repo_root, bind=bind, stop=StopAfter(25))
    assert (run.adapter.spec().time_limit, run.eval_adapter.spec().time_limit) == (15, 7)
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["eval/length"] for line in lines if "eval/length" in line] == [7.0]
    saved = open_saved(tmp_path / "run")
    assert saved.adapter is not None
    assert saved.adapter.spec().time_limit == 7


def test_an_evaluation_with_other_records_is_refused(tmp_path: Path, repo_root: Path) -> None:
    bind = {"Online.eval_env": "@eval/envs.gym", "eval/envs.gym.size": "32"}
    with pytest.raises(OtherEvalEnv, match=r"observations of Online.eval_env differ"):
        play(tmp_path / "run", repo_root, bind=bind)
