"""Evaluation episodes whose environment fails: played again once, then left out."""

from typing import Any

import pytest

from wmplatform.collect import FaultReport
from wmplatform.evaluation import Evaluation, _seed_of

from .faulty_env import FaultyAdapter
from .moving_square import MovingSquare
from .tiny_dreamer import tiny_agent


def test_an_evaluation_plays_a_failed_episode_again() -> None:
    square = MovingSquare()
    agent = tiny_agent(square.spec())
    counters = {"agent_steps": 0}
    clean = Evaluation(episodes=3).run(square, agent, 0, counters)
    faults: dict[int, Any] = {_seed_of(0, 1): ("nan", 2)}
    told: list[FaultReport] = []

    def mend(report: FaultReport) -> None:
        told.append(report)
        faults.clear()

    result = Evaluation(episodes=3).run(
        FaultyAdapter(faults, square), agent, 0, counters, on_fault=mend
    )
    assert [episode.seed for episode in result.episodes] == [e.seed for e in clean.episodes]
    assert [episode.length for episode in result.episodes] == [6, 6, 6]
    assert result.failed == 0
    assert [report.place for report in told] == ["evaluation"]
    assert "reward after agent step 2 is nan" in told[0].what


def test_an_error_of_the_agent_is_no_fault_of_the_evaluation_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    square = MovingSquare()
    agent = tiny_agent(square.spec())

    def out_of_memory(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(agent, "act", out_of_memory)
    told: list[FaultReport] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        Evaluation(episodes=2).run(square, agent, 0, {"agent_steps": 0}, on_fault=told.append)
    assert not told


def test_an_evaluation_leaves_out_what_fails_twice() -> None:
    square = MovingSquare()
    agent = tiny_agent(square.spec())
    adapter = FaultyAdapter({_seed_of(0, 1): ("raise", 2)}, square)
    told: list[FaultReport] = []
    evaluation = Evaluation(episodes=3)
    result = evaluation.run(adapter, agent, 0, {"agent_steps": 0}, on_fault=told.append)
    assert len(result.episodes) == 2
    assert result.metrics()["eval/failed_episodes"] == 1.0
    assert len(told) == 2
    evaluation.close()
