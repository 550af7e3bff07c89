"""Pixels of registered gymnasium environments."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wmplatform.contracts.env_adapter import check_env_adapter
from wmplatform.envs import CannotStart, Misdeclared, PlatformEnv, UnknownTask
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


def test_actions_reach_their_bounds_or_span_2_from_one() -> None:
    low = np.array([[-2.0, 0.0], [-np.inf, 3.0]], np.float32)
    high = np.array([[2.0, 10.0], [7.0, np.inf]], np.float32)
    box = gymnasium.spaces.Box(low, high)
    adapter = GymPixels(id=painted(action_space=box))
    assert adapter.spec().action == ActionSpec(4)
    env = adapter.make(0)
    env.reset()
    env.step(np.array([1.0, 0.0, 0.25, -0.5]))
    (action,) = inside(env).actions
    assert action.tolist() == [[2.0, 5.0], [6.25, 3.5]]
    assert action.dtype == box.dtype


BOUNDS = {
    "both": (-3.0, 7.0),
    "below": (0.0, np.inf),
    "above": (-np.inf, 1.0),
    "neither": (-np.inf, np.inf),
}


@st.composite
def boxes(draw: st.DrawFn) -> gymnasium.spaces.Box:
    """Boxes of any dtype and shape, with any bounds that are supported."""
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    size = int(np.prod(shape))
    dtype = draw(st.sampled_from(["float32", "float64", "uint8", "int8", "int32", "int64"]))
    if np.dtype(dtype).kind == "f":
        pairs = [BOUNDS[draw(st.sampled_from(sorted(BOUNDS)))] for _ in range(size)]
    else:
        span = st.tuples(*[st.integers(0, 127)] * 2).map(sorted)
        pairs = [draw(span) for _ in range(size)]
    low, high = (np.array(each, dtype).reshape(shape) for each in zip(*pairs, strict=True))
    return gymnasium.spaces.Box(low, high, shape, np.dtype(dtype).type)


@given(box=boxes(), between=st.floats(-1, 1))
def test_any_action_comes_as_the_box_has_it(box: gymnasium.spaces.Box, between: float) -> None:
    env = GymPixels(id=painted(action_space=box)).make(0)
    env.reset()
    for value in (-1.0, between, 1.0):
        env.step(np.full(int(np.prod(box.shape)), value, np.float32))
    assert len(inside(env).actions) == 3
    assert all(taken in box for taken in inside(env).actions)


def test_integers_of_a_box_are_equally_likely() -> None:
    box = gymnasium.spaces.Box(0, 2, (1,), np.int64)
    env = GymPixels(id=painted(action_space=box), time_limit=1000).make(0)
    env.reset()
    for action in np.linspace(-0.999, 0.999, 999, dtype=np.float32):
        env.step(action[None])
    taken, counts = np.unique(np.concatenate(inside(env).actions), return_counts=True)
    assert taken.tolist() == [0, 1, 2]
    assert np.abs(counts - 333).max() <= 1


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (gymnasium.spaces.MultiDiscrete([2, 2]), "Box and Discrete are supported"),
        (gymnasium.spaces.MultiBinary(3), "Box and Discrete are supported"),
        (gymnasium.spaces.Text(3), "Box and Discrete are supported"),
        (gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2)), "Box and Discrete are supported"),
        (gymnasium.spaces.Tuple([gymnasium.spaces.Box(0, 1)]), "Box and Discrete are supported"),
        (gymnasium.spaces.Box(0, np.inf, (1,), np.int32), "too many integers"),
        (gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.int64), "too many integers"),
        (gymnasium.spaces.Box(0, 2**16, (1,), np.int64), "too many integers"),
    ],
    ids=str,
)
def test_other_actions_are_one_clear_refusal(space: Any, said: str) -> None:
    closed: list[Any] = []

    class Closing(Painted):
        def close(self) -> None:
            closed.append(self)

    name = f"Closing-v{len(gymnasium.registry)}"
    gymnasium.register(name, Closing, kwargs={"action_space": space})
    with pytest.raises(UnsupportedEnvironment, match=said) as caught:
        GymPixels(id=name).spec()
    assert name in caught.value.what
    assert "gymnasium.ActionWrapper" in caught.value.hint
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert len(closed) == 1


def test_an_environment_that_cannot_be_made_is_one_clear_message() -> None:
    with pytest.raises(CannotStart, match=r"cannot be made: TypeError: .*'no_such'") as caught:
        GymPixels(id=painted(no_such=1)).spec()
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize("reward", [None, True, np.ones(1)])
def test_rewards_that_are_no_numbers_are_refused(
    reward: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Painted, "step", lambda *_: (0, reward, False, False, {}))
    env = GymPixels(id=painted(action_space=gymnasium.spaces.Discrete(2))).make(0)
    env.reset()
    with pytest.raises(Misdeclared, match=r"reward after agent step 1 is .*number"):
        env.step(0)


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


def test_unsupported_pictures_are_refused() -> None:
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
