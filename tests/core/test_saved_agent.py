"""Agents of run folders: they act as they are evaluated, remember by rows, and refuse the unfit."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import wmplatform
from wmplatform import assembly
from wmplatform.checkpoint import Checkpoints, UnreadableCheckpoint
from wmplatform.config import load
from wmplatform.errors import ExitCode
from wmplatform.evaluation import Evaluation, own_randomness
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec
from wmplatform.playing import env_action
from wmplatform.run_folder import NotARunFolder, RunFolder
from wmplatform.saved_agent import OtherAgent, SavedAgent, UnfitObservation
from wmplatform.training.launch import NoSuchDevice
from wmplatform.world_model import IncompatibleParts, WorldModel

TINY = Path(__file__).resolve().parents[1] / "tiny.gin"
DRQ = (
    "Agent.frame_stack = 3",
    "Transitions.stack = 3",
    "encoders.drq.width = 2",
    "behaviors.drq.features = 4",
    "behaviors.drq.units = 8",
    "envs.gym.time_limit = 6",
    "explorers.scheduled_noise.std = 'linear(1.0, 0.25, 20)'",
)
COUNTERS = {"env_frames": 40, "agent_steps": 20, "updates": 4}


def saved_run(folder: Path, gin: str | Path, *bindings: str, generations: int = 1) -> Path:
    """A run folder with checkpoints of fresh agents, no two alike."""
    config = load([gin], bindings)
    RunFolder.open(folder, config_text=config.text, provenance={"seed": 5}).close()
    checkpoints = Checkpoints(folder / "checkpoints", keep=generations)
    for generation in range(1, generations + 1):
        torch.manual_seed(generation)
        agent = assembly.build_agent(config, assembly.build_spec(config))
        state: dict[str, Any] = {name: part.state_dict() for name, part in agent.named_children()}
        checkpoints.save(generation, {**state, "loop": {"counters": COUNTERS, "seed": 5}})
    return folder


@pytest.fixture(scope="module")
def dreamer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a world model, whose states are drawn while acting."""
    return saved_run(tmp_path_factory.mktemp("dreamer") / "run", TINY, generations=2)


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an agent that remembers frames and draws nothing in evaluation."""
    gin = "wmplatform:drqv2_pendulum_small.gin"
    return saved_run(tmp_path_factory.mktemp("stacked") / "run", gin, *DRQ)


def frames(agent: SavedAgent, *lead: int, seed: int = 0) -> dict[str, np.ndarray]:
    shape = (*lead, *agent.spec.observations["pixels"].shape)
    return {"pixels": np.random.default_rng(seed).integers(0, 256, shape, np.uint8)}


def play(agent: SavedAgent, env: gymnasium.Env[Any, Any], seed: int) -> tuple[float, list[Any]]:
    """One episode as the documentation plays it: its return and its actions."""
    observation, _ = env.reset(seed=seed)
    total, actions, is_first, over = 0.0, [], True, False
    while not over:
        actions.append(agent.act(observation, is_first))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        total, is_first, over = total + float(reward), False, terminated or truncated
    return total, actions


def test_a_loaded_agent_plays_the_episodes_of_the_evaluation(dreamer: Path) -> None:
    agent = wmplatform.load(dreamer)
    evaluation = Evaluation(episodes=1)
    (expected,) = evaluation.run(agent.environment(), agent.agent, 5, COUNTERS).episodes
    evaluation.close()
    drawn_from = np.random.SeedSequence([5, int.from_bytes(b"eval", "big"), 0])
    env = agent.make_env()
    with own_randomness(int(drawn_from.generate_state(1)[0] >> 1)):
        total, actions = play(agent, env, expected.seed)
    env.close()
    assert len(actions) == expected.length == 12
    assert np.array_equal(np.stack(actions), expected.records["action"][1:])
    assert total == expected.return_


def test_an_episode_is_forgotten_where_the_next_one_begins(stacked: Path) -> None:
    agent, env = wmplatform.load(stacked), wmplatform.load(stacked).make_env()
    once, again = play(agent, env, 3), play(agent, env, 3)
    env.close()
    assert once[0] == again[0]
    assert np.array_equal(once[1], again[1])


def test_what_was_seen_before_counts_until_an_episode_begins(stacked: Path) -> None:
    agent = wmplatform.load(stacked)
    one, two = frames(agent, seed=1), frames(agent, seed=2)
    fresh = agent.act(two)
    agent.act(one, is_first=True)
    assert not np.allclose(agent.act(two), fresh)
    assert np.array_equal(agent.act(two, is_first=True), fresh)


def test_environments_in_one_call_act_as_each_by_itself(stacked: Path) -> None:
    agent, alone = wmplatform.load(stacked), [wmplatform.load(stacked) for _ in range(3)]
    first = np.array([[True] * 3, [False] * 3, [False, True, False], [False] * 3])
    for t in range(4):
        batch = frames(agent, 3, seed=t)
        together = agent.act(batch, first[t])
        assert together.shape == (3, 1)
        assert together.dtype == np.float32
        for row, each in enumerate(alone):
            action = each.act({"pixels": batch["pixels"][row]}, bool(first[t, row]))
            np.testing.assert_allclose(together[row], action, atol=1e-6)


def test_the_first_call_begins_episodes_and_other_numbers_have_to(stacked: Path) -> None:
    agent = wmplatform.load(stacked)
    seen = frames(agent, 2)
    assert np.array_equal(agent.act(seen), agent.act(seen, is_first=True))
    with pytest.raises(UnfitObservation, match="3 environments, and the last call had 2") as error:
        agent.act(frames(agent, 3))
    assert "is_first=True" in str(error.value)
    assert agent.act(frames(agent, 3), np.ones(3, bool)).shape == (3, 1)
    assert agent.act(frames(agent), is_first=True).shape == (1,)


def test_a_seed_repeats_what_is_drawn_and_training_explores(dreamer: Path, stacked: Path) -> None:
    agent = wmplatform.load(dreamer)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append([agent.act(frames(agent, seed=t), is_first=t == 0) for t in range(5)])
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    # The noise of the schedule at the checkpoint's 20 agent steps.
    agent = wmplatform.load(stacked)
    seen = {"pixels": np.zeros((600, *agent.spec.observations["pixels"].shape), np.uint8)}
    quiet, noisy = agent.act(seen), agent.act(seen, is_first=True, mode="train")
    assert np.ptp(quiet) < 1e-6
    assert np.std(noisy - quiet) == pytest.approx(0.25, abs=0.03)


WRONG = {
    "missing": ({}, "pixels is missing"),
    "floats": ({"pixels": np.full((3, 64, 64), 0.5)}, "float64 (3, 64, 64) with values from 0.5"),
    "channels last": ({"pixels": np.zeros((64, 64, 3), np.uint8)}, "uint8 (64, 64, 3)"),
    "another size": ({"pixels": np.zeros((2, 3, 32, 32), np.uint8)}, "uint8 (2, 3, 32, 32)"),
    "two leading dims": ({"pixels": np.zeros((2, 2, 3, 64, 64), np.uint8)}, "(2, 2, 3, 64, 64)"),
    "wider integers": ({"pixels": np.zeros((3, 64, 64), np.int64)}, "int64 (3, 64, 64)"),
}


@pytest.mark.parametrize(("observation", "said"), WRONG.values(), ids=list(WRONG))
def test_an_observation_that_is_not_as_declared_is_refused(
    dreamer: Path, observation: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(UnfitObservation) as caught:
        wmplatform.load(dreamer).act(observation)
    assert said in str(caught.value)
    assert "and the agent sees uint8 (3, 64, 64)" in str(caught.value)
    assert caught.value.exit_code == ExitCode.BAD_INPUT


class Sums:
    """An agent that sees floats and answers with their sum."""

    spec = EnvSpec({"state": ArraySpec((2,)), "more": ArraySpec(())}, ActionSpec(1))
    device = torch.device("cpu")

    def act(self, seen: dict[str, torch.Tensor], *_: object, **__: object) -> Any:
        action = (seen["state"].sum(-1) + seen["more"])[:, None]
        return action, {"action": action}


def test_floats_are_rounded_and_have_to_be_finite_then() -> None:
    agent = SavedAgent(Path(), Sums(), None, load([TINY]), 1, COUNTERS, 0)  # type: ignore[arg-type]
    assert agent.act({"state": np.array([0.1, 0.2]), "more": 0.5}) == np.float32(0.8)
    assert agent.act({"state": np.ones((3, 2)), "more": np.zeros(3)}, True).tolist() == [[2.0]] * 3
    for bad in (float("nan"), float("inf"), 1e300):
        with pytest.raises(UnfitObservation, match=r"state is float64 .* sees float32"):
            agent.act({"state": np.array([0.0, bad]), "more": 0.0}, True)
    with pytest.raises(UnfitObservation, match="different numbers of environments"):
        agent.act({"state": np.ones((3, 2)), "more": np.zeros(2)}, True)


def test_is_first_has_to_be_one_or_one_of_each(stacked: Path) -> None:
    agent = wmplatform.load(stacked)
    with pytest.raises(UnfitObservation, match=r"is_first has shape \(3,\) for 2 environments"):
        agent.act(frames(agent, 2), np.ones(3, bool))


def test_arrays_that_the_agent_does_not_see_are_not_read_and_none_is_changed(stacked: Path) -> None:
    agent = wmplatform.load(stacked)
    seen = frames(agent)
    before = seen["pixels"].copy()
    seen["pixels"].flags.writeable = False
    action = agent.act(seen)
    assert np.array_equal(agent.act({**seen, "depth": "none"}, is_first=True), action)
    assert np.array_equal(seen["pixels"], before)


def test_checkpoints_are_chosen_by_number_and_the_newest_by_default(dreamer: Path) -> None:
    weights = [
        wmplatform.load(str(dreamer), *which).world_model.state_dict()["encoder.layers.0.weight"]
        for which in ((), (2,), (1,))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    with pytest.raises(UnreadableCheckpoint):
        wmplatform.load(dreamer, 7)


def test_what_the_agent_is_and_knows_can_be_asked(dreamer: Path) -> None:
    agent = wmplatform.load(dreamer)
    assert isinstance(agent.world_model, WorldModel)
    assert agent.agent.device.type == "cpu"
    assert agent.spec.action == ActionSpec(1)
    assert agent.config.parameter("encoders.cnn.depth") == 2
    assert (agent.generation, agent.seed, agent.counters) == (2, 5, COUNTERS)
    with pytest.raises(NoSuchDevice):
        wmplatform.load(dreamer, device="nonsense")


def test_agents_of_different_configurations_live_side_by_side(dreamer: Path, stacked: Path) -> None:
    agents = [wmplatform.load(each) for each in (dreamer, stacked)]
    envs = [agent.make_env(1) for agent in agents]
    lengths = [len(play(agent, env, 1)[1]) for agent, env in zip(agents, envs, strict=True)]
    for env in envs:
        env.close()
    assert lengths == [12, 6]


def test_no_run_and_other_weights_are_refused(dreamer: Path, tmp_path: Path) -> None:
    with pytest.raises(NotARunFolder):
        wmplatform.load(tmp_path)
    run = saved_run(tmp_path / "run", TINY)
    text = (run / "config.gin").read_text()
    (run / "config.gin").write_text(
        text.replace("encoders.cnn.depth = 2", "encoders.cnn.depth = 3")
    )
    with pytest.raises(OtherAgent):
        wmplatform.load(run)


def test_a_run_of_videos_has_a_model_and_nothing_to_play(tmp_path: Path) -> None:
    gin = "wmplatform:contextwm_pretrain_small.gin"
    agent = wmplatform.load(saved_run(tmp_path / "run", gin))
    assert agent.world_model.decoder is not None
    with pytest.raises(assembly.NothingToRun, match="no environment to play in"):
        agent.make_env()
    with pytest.raises(IncompatibleParts, match="no behavior"):
        agent.act(frames(agent))


def test_discrete_actions_are_indices() -> None:
    spec = ActionSpec(3, "discrete")
    hot = np.eye(3, dtype=np.float32)
    assert env_action(hot[2], spec) == 2
    assert type(env_action(hot[2], spec)) is int
    assert env_action(hot[[1, 0]], spec).tolist() == [1, 0]


def test_an_agent_of_discrete_actions_steps_its_environment(tmp_path: Path) -> None:
    cart = ("envs.gym.id = 'CartPole-v1'", "envs.gym.time_limit = 3")
    agent = wmplatform.load(saved_run(tmp_path / "run", TINY, *cart))
    env = agent.make_env()
    _, actions = play(agent, env, 0)
    env.close()
    assert all(type(action) is int for action in actions)
    assert agent.act(frames(agent, 4), np.ones(4, bool)).dtype == np.int64
