"""Pixels of registered gymnasium environments."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

from wmplatform.contracts.env_adapter import check_env_adapter
from wmplatform.envs import PlatformEnv, UnknownTask
from wmplatform.errors import ExitCode
from wmplatform.interfaces.env_adapter import ActionSpec
from wmplugins.gym import GymPixels
from wmplugins.gym.simulator import UnsupportedEnvironment


class Painted(gymnasium.Env[Any, Any]):
    """Paints its last action; actions and pictures are chosen at registration."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gymnasium.spaces.Discrete(1)

    def __init__(self, action_space: Any, picture: Any = None, render_mode: str = "") -> None:
        self.action_space = action_space
        self.picture = np.zeros((40, 60, 3), np.uint8) if picture is None else picture
        self.render_mode = render_mode
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        return 0, 1.0, False, False, {}

    def render(self) -> Any:
        return self.picture


def painted(**settings: Any) -> str:
    name = f"Painted-v{len(gymnasium.registry)}"
    gymnasium.register(name, Painted, kwargs=settings, max_episode_steps=7)
    return name


@pytest.fixture(autouse=True)
def _registry_as_before() -> Iterator[None]:
    before = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def inside(env: PlatformEnv) -> Any:
    simulator: Any = env._simulator
    return simulator._env.unwrapped


@pytest.mark.parametrize(
    "adapter",
    [
        GymPixels(),
        GymPixels(time_limit=9, size=32),
        GymPixels(id="CartPole-v1", crop=(100, 0, 500, 400)),
        GymPixels(id="MountainCarContinuous-v0", action_repeat=2, time_limit=6),
        GymPixels(id="Acrobot-v1", time_limit=5),
    ],
    ids=lambda adapter: adapter.name,
)
def test_laws_hold(adapter: GymPixels) -> None:
    check_env_adapter(adapter, steps=12)


def test_law_5_holds() -> None:
    repeated = GymPixels(action_repeat=4, time_limit=6)
    check_env_adapter(repeated, steps=8, single=GymPixels())


@pytest.mark.parametrize(("repeat", "agent_steps"), [(1, 7), (3, 3), (7, 1), (8, 1)])
def test_registered_limit_counts_environment_frames(repeat: int, agent_steps: int) -> None:
    name = painted(action_space=gymnasium.spaces.Box(-1, 1, (1,)))
    adapter = GymPixels(id=name, action_repeat=repeat)
    assert adapter.spec().time_limit == agent_steps
    env = adapter.make(0)
    env.reset()
    steps = [env.step(np.zeros(1)) for _ in range(agent_steps)]
    assert [step[3] for step in steps] == [False] * (agent_steps - 1) + [True]
    assert sum(step[1] for step in steps) == 7.0


def test_time_limit_replaces_the_registered_one() -> None:
    name = painted(action_space=gymnasium.spaces.Box(-1, 1, (1,)))
    env = GymPixels(id=name, time_limit=9).make(0)
    env.reset()
    assert [env.step(np.zeros(1))[3] for _ in range(9)] == [False] * 8 + [True]


def test_actions_reach_their_bounds_and_unbounded_ones_pass() -> None:
    low = np.array([[-2.0, 0.0], [-np.inf, -1.0]], np.float32)
    high = np.array([[2.0, 10.0], [1.0, np.inf]], np.float32)
    box = gymnasium.spaces.Box(low, high)
    adapter = GymPixels(id=painted(action_space=box))
    assert adapter.spec().action == ActionSpec(4)
    env = adapter.make(0)
    env.reset()
    env.step(np.array([1.0, 0.0, 0.25, -0.5]))
    (action,) = inside(env).actions
    assert action.tolist() == [[2.0, 5.0], [0.25, -0.5]]
    assert action.dtype == box.dtype


def test_discrete_actions_start_where_the_space_does() -> None:
    adapter = GymPixels(id=painted(action_space=gymnasium.spaces.Discrete(3, start=5)))
    assert adapter.spec().action == ActionSpec(3, "discrete")
    env = adapter.make(0)
    env.reset()
    env.step(2)
    assert inside(env).actions == [7]


def test_pictures_are_shrunk_by_averaging_areas() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    name = painted(action_space=gymnasium.spaces.Discrete(2), picture=picture)
    pixels = GymPixels(id=name, size=20, crop=(10, 0, 50, 40)).make(0).reset()[0]["pixels"]
    boxes = picture[:, 10:50].reshape(20, 2, 20, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(pixels - boxes).max() <= 1


def test_pendulum_stands_in_the_picture() -> None:
    env = GymPixels().make(3)
    pixels = env.reset()[0]["pixels"].transpose(1, 2, 0)
    expected = Image.fromarray(inside(env).render()).resize((64, 64), Image.Resampling.BOX)
    env.close()
    assert np.array_equal(pixels, np.asarray(expected))
    rod = (pixels[..., 0] > 150) & (pixels[..., 1] < 130)
    assert 30 < rod.sum() < 1000


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
def test_closing_one_environment_leaves_another_alone(name: str) -> None:
    adapter = GymPixels(id=name)
    kept, closed = adapter.make(0), adapter.make(0)
    first = kept.reset()[0]["pixels"]
    closed.reset()
    closed.close()
    assert np.array_equal(kept.reset(seed=0)[0]["pixels"], first)
    kept.close()


@pytest.mark.parametrize("name", ["Pendulun-v1", "no_such_module:Env-v0", "Pendulum-v99"])
def test_unknown_id_is_one_clear_message(name: str) -> None:
    with pytest.raises(UnknownTask, match="gymnasium cannot make") as caught:
        GymPixels(id=name).spec()
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_unsupported_actions_and_pictures_are_refused() -> None:
    several = painted(action_space=gymnasium.spaces.MultiDiscrete([2, 2]))
    with pytest.raises(UnsupportedEnvironment, match="Box and Discrete"):
        GymPixels(id=several).spec()
    grey = painted(action_space=gymnasium.spaces.Discrete(2), picture=np.zeros((4, 4)))
    with pytest.raises(UnsupportedEnvironment, match=r"float64 \(4, 4\)"):
        GymPixels(id=grey).make(0).reset()


@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
def test_an_environment_registered_as_random_is_declared_so() -> None:
    gymnasium.register(
        "Wild-v0",
        Painted,
        kwargs={"action_space": gymnasium.spaces.Discrete(2)},
        nondeterministic=True,
    )
    spec = GymPixels(id="Wild-v0").spec()
    assert not spec.deterministic
    assert spec.time_limit is None
