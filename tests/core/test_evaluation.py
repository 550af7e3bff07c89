"""Evaluation: repeatable, unnoticed by training, and clear when an environment fails."""

import random
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from wmplatform.evaluation import Episode, Evaluation, EvaluationFailed, EvaluationResult
from wmplatform.json_lines import read_json_lines
from wmplatform.logging import RunLogger

from .moving_square import MovingSquare
from .tiny_dreamer import tiny_agent

COUNTERS = {"env_frames": 40, "agent_steps": 20, "updates": 4}


@pytest.fixture
def agent() -> Any:
    return tiny_agent(MovingSquare().spec())


def test_episodes_are_whole_and_signals_follow_their_rules(agent: Any) -> None:
    evaluation = Evaluation(episodes=3, video_episodes=1)
    result = evaluation.run(MovingSquare(), agent, 0, COUNTERS)
    evaluation.close()
    assert [episode.length for episode in result.episodes] == [6, 6, 6]
    first = result.episodes[0]
    assert first.records["pixels"].shape == (7, 3, 64, 64)
    assert first.records["is_first"].tolist() == [True] + [False] * 6
    assert (first.records["action"][0] == 0).all()
    assert result.episodes[1].records == {}
    found = result.metrics()
    assert found["eval/return"] == pytest.approx(np.mean([e.return_ for e in result.episodes]))
    assert found["eval/distance"] == pytest.approx(
        np.mean([e.signals["distance"] for e in result.episodes])
    )
    assert 0 <= found["eval/success"] <= 1


def test_recorded_actions_led_into_their_records(agent: Any) -> None:
    result = Evaluation(episodes=1).run(MovingSquare(), agent, 0, COUNTERS)
    (episode,) = result.episodes
    env = MovingSquare().make(0)
    observation, _ = env.reset(seed=episode.seed)
    for time in range(1, 7):
        assert (observation["pixels"] == episode.records["pixels"][time - 1]).all()
        observation = env.step(episode.records["action"][time])[0]
    assert (observation["pixels"] == episode.records["pixels"][6]).all()


def test_the_same_evaluation_twice_is_the_same(agent: Any) -> None:
    adapter, evaluation = MovingSquare(), Evaluation(episodes=2)
    first = evaluation.run(adapter, agent, 0, COUNTERS)
    torch.rand(3)
    second = evaluation.run(adapter, agent, 0, COUNTERS)
    assert [e.return_ for e in first.episodes] == [e.return_ for e in second.episodes]
    assert adapter.made == 1  # kept open
    other = evaluation.run(adapter, agent, 1, COUNTERS)
    assert other.episodes[0].seed != first.episodes[0].seed


def legacy_state() -> list[int]:
    return list(np.random.get_state()[1])  # noqa: NPY002 - simulators use it


def test_training_does_not_notice(agent: Any) -> None:
    agent.world_model.train()
    modes = [module.training for module in agent.modules()]
    before = torch.get_rng_state(), random.getstate(), legacy_state()
    Evaluation(episodes=1).run(MovingSquare(), agent, 0, COUNTERS)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] == legacy_state()
    assert modes == [module.training for module in agent.modules()]


def test_discrete_actions_reach_the_environment_as_an_index() -> None:
    adapter = MovingSquare(discrete=True)
    result = Evaluation(episodes=1).run(adapter, tiny_agent(adapter.spec()), 0, COUNTERS)
    actions = result.episodes[0].records["action"][1:]
    assert actions.shape == (6, 3)
    assert (actions.sum(-1) == 1).all()


def test_an_episode_without_end_is_left(agent: Any) -> None:
    evaluation = Evaluation(episodes=1, longest_episode=9)
    result = evaluation.run(MovingSquare(time_limit=None), agent, 0, COUNTERS)
    assert result.episodes[0].length == 9


def test_an_error_of_the_environment_is_explained(agent: Any) -> None:
    adapter, evaluation = MovingSquare(breaks_at=3), Evaluation(episodes=1)
    with pytest.raises(EvaluationFailed, match="the square fell over") as caught:
        evaluation.run(adapter, agent, 0, COUNTERS)
    assert "moving_square, episode of seed" in str(caught.value)
    assert "after agent step 2" in str(caught.value)
    with pytest.raises(EvaluationFailed):
        evaluation.run(adapter, agent, 0, COUNTERS)
    assert adapter.made == 2  # the broken one was closed


def result_of(lengths: list[int]) -> EvaluationResult:
    return EvaluationResult(
        [
            Episode(
                seed=0,
                records={
                    "pixels": np.full((length, 3, 4, 4), number, np.uint8),
                    "is_first": np.arange(length) == 0,
                    "time": np.arange(length),
                },
            )
            for number, length in enumerate(lengths)
        ]
    )


def test_segments_are_spread_over_episodes_and_time() -> None:
    segments = result_of([30, 40]).segments(10, 4)
    assert segments
    assert segments["pixels"].shape == (4, 10, 3, 4, 4)
    assert segments["time"][:, 0].tolist() == [0, 0, 20, 30]
    assert segments["pixels"][:, 0, 0, 0, 0].tolist() == [0, 1, 0, 1]
    assert segments["is_first"].tolist() == [[True] + [False] * 9] * 4  # as replay cuts them
    short = result_of([30, 4]).segments(10, 4)
    assert short
    assert short["time"][:, 0].tolist() == [0, 0, 26]  # the short episode holds one segment only
    assert short["pixels"].shape[1] == 4
    assert EvaluationResult([Episode(0)]).segments(10, 2) is None


def test_a_report_holds_numbers_film_and_prediction(agent: Any, tmp_path: Path) -> None:
    evaluation = Evaluation(
        episodes=2, video_scale=2, prediction_records=6, observed_records=2, prediction_clips=3
    )
    result = evaluation.run(MovingSquare(), agent, 0, COUNTERS)
    state = torch.get_rng_state()
    with RunLogger(tmp_path, tensorboard=False) as logger:
        evaluation.report(result, agent, logger, COUNTERS)
    assert torch.equal(state, torch.get_rng_state())
    (numbers,) = read_json_lines(tmp_path / "metrics.jsonl")
    assert numbers["eval/return"] == result.metrics()["eval/return"]
    assert numbers["eval/open_loop_mse"] > 0
    with av.open(str(tmp_path / "videos" / "policy-000000040.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 7
    with av.open(str(tmp_path / "videos" / "open-loop-000000040.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    with Image.open(tmp_path / "pictures" / "open-loop-000000040.png") as picture:
        assert picture.size[1] == 2 * (3 * 64 + 2)


def test_without_a_film_a_report_holds_numbers_only(agent: Any, tmp_path: Path) -> None:
    evaluation = Evaluation(episodes=1, video_episodes=0)
    result = evaluation.run(MovingSquare(), agent, 0, COUNTERS)
    with RunLogger(tmp_path, tensorboard=False) as logger:
        evaluation.report(result, agent, logger, COUNTERS)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
