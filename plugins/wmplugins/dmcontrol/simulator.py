"""One running task of the DeepMind Control Suite."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmplatform.envs import Frame, MissingSimulator, Simulator, SimulatorFault, from_unit
from wmplugins.mujoco import RenderProfile, SceneRenderer, import_mujoco

__all__ = ["DMControlSimulator", "load_task"]

_UNLIMITED = 1e9
"""Actuators without limits are declared with bounds of 1e10."""

_WORD = 2**32

_DRAWS_KEY = 0xD3A75
"""Keeps draws of `before_episode` apart from other streams of the same seed."""


class DMControlSimulator(Simulator):
    """A `dm_control` environment whose pictures are drawn by the shared renderer.

    What is put right or decided here:

    - episodes are counted in frames; dm_control's own limit in seconds is expected to be off;
    - an action is mapped from [-1, 1] to the bounds of each actuator, and passes through where
      there are none (`lqr`), as `from_unit` does it;
    - dm_control never opens an OpenGL context of its own, which would disturb ours (`quadruped`
      does so in `escape`), so `physics.render` and `physics.contexts` are of no use;
    - entries of size zero among the observations vanish in `state`.

    A subclass may change the model at the start of each episode: see `before_episode`.

    Args:
        env: a `dm_control.rl.control.Environment` without a time limit, such as `load_task` makes.
        name: readable name for messages, e.g. `dmcontrol/walker-walk`.
        size: side of the picture in pixels.
        camera: name or number of a camera of the model.
        profile: how carefully to draw.
        frame_limit: environment frames after which an episode is truncated; None is never.
        state: whether `observe` gives `state`, all of the task's own observations in a row.
    """

    def __init__(
        self,
        env: Any,
        *,
        name: str,
        size: int,
        camera: str | int,
        profile: RenderProfile,
        frame_limit: int | None = None,
        state: bool = False,
    ) -> None:
        self.name = name
        self.env = env
        """The running `dm_control` environment."""
        self.frames = 0
        """Environment frames of this episode so far."""
        self._frame_limit = frame_limit
        self._with_state = state
        self._observation: Mapping[str, Any] = {}
        self._scaled = from_unit(*_bounds(env.action_spec()))
        self._draws = np.random.default_rng()
        _without_own_rendering(env.physics)
        self.renderer = SceneRenderer(self.model, size=size, camera=camera, profile=profile)
        with warnings.catch_warnings():
            # `quadruped` looks its sensors up once, with a function that NumPy has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            env.reset()

    @property
    def model(self) -> Any:
        """The `mujoco.MjModel` that is simulated and drawn."""
        return self.env.physics.model.ptr

    @property
    def data(self) -> Any:
        """The `mujoco.MjData` that is simulated and drawn."""
        return self.env.physics.data.ptr

    def reset(self, seed: int | None) -> Mapping[str, float]:
        """Draw a new initial state."""
        if seed is not None:
            self.env.task.random.seed(_words(seed))
            self._draws = np.random.default_rng([_DRAWS_KEY, seed])
        self.before_episode(self._draws)
        self.frames = 0
        self._observation = self.env.reset().observation
        for number in range(self.model.nhfield):  # `quadruped-escape` draws its terrain
            self.renderer.upload_height_field(number)
        return {}

    def before_episode(self, random: np.random.Generator) -> None:
        """Change the model before the episode's initial state is drawn; here nothing happens.

        Quantities that MuJoCo derives from the model are computed afterwards. What is drawn from
        `random` leaves the task's own draws as they are.

        Args:
            random: reseeded from the seed that `reset` was given, else it goes on.
        """

    def advance(self, action: Any) -> Frame:
        """Simulate one control period of the task.

        Raises:
            SimulatorFault: the simulation became unstable.
        """
        from dm_control.rl.control import PhysicsError

        try:
            moment = self.env.step(self._scaled(action))
        except PhysicsError as error:
            what = f"{self.name}: the simulation became unstable: {error}"
            raise SimulatorFault(what, env=self.name) from error
        self.frames += 1
        self._observation = moment.observation
        terminated = bool(moment.last() and moment.discount == 0)
        out_of_time = self._frame_limit is not None and self.frames >= self._frame_limit
        truncated = not terminated and (moment.last() or out_of_time)
        return Frame(moment.reward, terminated, truncated)

    def observe(self) -> Mapping[str, NDArray[Any]]:
        """Render the scene; `state` holds the task's own observations in a row."""
        pixels = self.renderer.render(self.data)
        return {"pixels": pixels, "state": self.state} if self._with_state else {"pixels": pixels}

    @property
    def state(self) -> NDArray[np.float32]:
        """All of the task's own observations in a row; nothing is rendered."""
        parts = [np.ravel(value) for value in self._observation.values()]
        return np.concatenate(parts).astype(np.float32)

    def close(self) -> None:
        """Free the renderer's resources."""
        self.renderer.close()
        self.env.close()


def load_task(domain: str, task: str) -> Any:
    """Load a task of the suite without a time limit; takes 0.05 s (`dog` 0.5 s).

    The system of `lqr` itself is drawn when it is loaded: it is always that of seed 0, so that
    episodes are a function of their seeds.

    Raises:
        MissingSimulator: dm_control or MuJoCo is not installed.
        MissingGL: the rendering library that dm_control imports cannot be used.
    """
    import_mujoco()  # chooses the rendering backend before dm_control does
    try:
        from dm_control import suite
    except ModuleNotFoundError as error:
        what = f"dm_control is not installed ({error})"
        raise MissingSimulator(what, hint="pip install 'wmplatform[dmcontrol]'") from error
    return suite.load(domain, task, task_kwargs={"random": 0, "time_limit": float("inf")})


def _bounds(spec: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds of actions, infinite where an action should pass through unchanged."""
    low, high = np.asarray(spec.minimum, np.float64), np.asarray(spec.maximum, np.float64)
    unit = (low == -1) & (high == 1)  # passes through, not even rounded
    low = np.where(unit | (low <= -_UNLIMITED), -np.inf, low)
    high = np.where(unit | (high >= _UNLIMITED), np.inf, high)
    return low, high


def _without_own_rendering(physics: Any) -> None:
    """Let a task find no OpenGL contexts, which it would otherwise open by asking for them."""
    kind = type(physics)
    physics.__class__ = type(kind.__name__, (kind,), {"contexts": None})


def _words(seed: int) -> int | list[int]:
    """Split a seed that is too large for NumPy's older generator."""
    return seed if seed < _WORD else [seed % _WORD, *np.atleast_1d(_words(seed // _WORD)).tolist()]
