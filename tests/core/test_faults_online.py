"""Runs whose environments fail: they go on, resume exactly, or stop with a checkpoint."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from wmplatform.checkpoint import Checkpoints
from wmplatform.collect import Collection, CollectionStopped, FaultBudgetSpent
from wmplatform.errors import ExitCode
from wmplatform.evaluation import Evaluation, _seed_of
from wmplatform.json_lines import read_json_lines
from wmplatform.replay import Replay, Segments
from wmplatform.run_folder import RunFolder
from wmplatform.training.learner import Learner
from wmplatform.training.online import Online, OnlineRun, train
from wmplatform.training.optim import Adam

from .faulty_env import RESET, Faults, FaultyAdapter, plan
from .moving_square import MovingSquare
from .tiny_dreamer import tiny_agent

RUN = 3


class StopAfter:
    """A stop request that comes when the run has taken so many agent steps."""

    def __init__(self, agent_steps: int = 10**9) -> None:
        self.agent_steps = agent_steps
        self.run: OnlineRun | None = None

    @property
    def requested(self) -> bool:
        assert self.run is not None
        return self.run.agent_steps >= self.agent_steps


def learner(agent: Any) -> Learner:
    prefixes = {"model": "world_model", "actor": "behavior.actor", "critic": "behavior.critic"}
    return Learner(
        agent,
        groups={name: (prefix,) for name, prefix in prefixes.items()},
        optimizers=dict.fromkeys(prefixes, partial(Adam, lr=1e-3)),
        data=partial(Segments, batch=2, length=4),
    )


def play(path: Path, faults: Faults, stop: StopAfter | None = None, **collection: Any) -> OnlineRun:
    """Run or resume 48 agent steps with a tiny DreamerV2; returns the closed run."""
    online = Online(
        env=lambda: FaultyAdapter(faults, MovingSquare()),
        agent=tiny_agent,
        learner=learner,
        replay=partial(Replay, capacity=200),
        collection=partial(Collection, agent_steps_per_collect=4, **collection),
        evaluation=partial(Evaluation, episodes=2, prediction_records=5, observed_records=2),
        total_agent_steps=48,
        prefill_agent_steps=16,
        pretrain_updates=1,
        updates_every=8,
        eval_every=20,
        log_every=16,
        save_every=1000,
    )
    stop = stop or StopAfter()
    with RunFolder.open(path, config_text="") as folder:
        run = stop.run = OnlineRun(online, folder, seed=RUN, device="cpu")
        try:
            run.resume()
            train(run, stop)  # type: ignore[arg-type]
        finally:
            run.close()
    return run


def episodes_and_faults(path: Path) -> list[dict[str, Any]]:
    """Metrics of episodes, evaluations and faults, without what depends on the clock."""
    return [
        {k: v for k, v in line.items() if k != "time_s"}
        for line in read_json_lines(path / "metrics.jsonl")
        if any(k.endswith("/return") or k.startswith("faults/") for k in line)
    ]


FAULTS = plan(RUN, {(0, 1): ("nan", 2), (0, 3): ("raise", RESET), (0, 5): ("shape", 6)})


def test_a_resumed_run_equals_the_uninterrupted_one_across_faults(tmp_path: Path) -> None:
    whole = play(tmp_path / "whole", FAULTS)
    resumed = None
    for stop in (24, 10**9):
        resumed = play(tmp_path / "pieces", FAULTS, StopAfter(stop))
    assert resumed is not None
    assert resumed.faults.counts == whole.faults.counts == {"collect": 3, "eval": 0}
    assert resumed.counters == whole.counters
    assert whole.counters["agent_steps"] == whole.counters["env_frames"] >= 48
    for key, value in whole.agent.state_dict().items():
        assert torch.equal(value, resumed.agent.state_dict()[key]), key
    told = episodes_and_faults(tmp_path / "whole")
    assert episodes_and_faults(tmp_path / "pieces") == told
    assert [line["faults/collect"] for line in told if "faults/collect" in line] == [1, 2, 3]
    for key in whole.replay.columns:
        held = [run.replay.storage.column(key)[: len(run.replay)] for run in (whole, resumed)]
        assert torch.equal(held[0], held[1]), key


def test_a_spent_budget_stops_with_a_checkpoint_and_the_run_goes_on_when_mended(
    tmp_path: Path,
) -> None:
    broken = plan(RUN, {(0, episode): ("raise", 3) for episode in range(3, 30)})
    with pytest.raises(FaultBudgetSpent, match="the belt came off") as caught:
        play(tmp_path / "run", broken, fault_budget=2)
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    saved = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert saved["loop"]["counters"]["agent_steps"] == 18 + 3 * 2  # whole episodes, and parts
    assert sum(saved["replay"]["heads"]) == 18 + 3 * 2 + 6
    run = play(tmp_path / "run", {}, fault_budget=2)
    assert run.finished
    assert run.faults.counts == {"collect": 3, "eval": 0}
    firsts, lasts = (
        run.replay.storage.column(key)[: len(run.replay)].nonzero().flatten()
        for key in ("is_first", "is_last")
    )
    assert (firsts[1:] == lasts[: len(firsts) - 1] + 1).all()


def test_faults_in_evaluation_stop_the_run_with_a_checkpoint_too(tmp_path: Path) -> None:
    always = {_seed_of(RUN, index): ("raise", 2) for index in range(2)}
    with pytest.raises(CollectionStopped, match="evaluation"):
        play(tmp_path / "run", always, fault_budget=3)
    saved = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert saved["loop"]["evaluations"] == 0
    run = play(tmp_path / "run", {}, fault_budget=3)
    assert run.finished
    assert run.faults.counts == {"collect": 0, "eval": 4}


def test_an_evaluation_leaves_a_failing_episode_out_and_the_run_goes_on(tmp_path: Path) -> None:
    run = play(tmp_path / "run", {_seed_of(RUN, 1): ("nan", 2)})
    assert run.finished
    seen = [line for line in episodes_and_faults(tmp_path / "run") if "eval/return" in line]
    assert [(line["eval/episodes"], line["eval/failed_episodes"]) for line in seen] == [(1, 1)] * 2
    assert run.faults.counts == {"collect": 0, "eval": 4}
