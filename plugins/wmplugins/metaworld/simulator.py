"""One running Meta-World task: the fixes that make it reproducible and its pictures true."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmplatform.envs import Frame, MissingSimulator, Simulator
from wmplugins.mujoco import RenderProfile, Rows, SceneRenderer, import_mujoco

__all__ = ["MetaWorldSimulator"]

_NO_LIMIT = 2**31 - 1


class MetaWorldSimulator(Simulator):
    """The goal-observable class of a task, with a new placement at every reset.

    Meta-World 3.1.1 differs from what the contract asks for, and is put right here:

    - `reset(seed=...)` is ignored, and a constructor's seed freezes one placement;
    - after a reset, object bodies and sites are moved without a forward pass, so that pictures and
      object positions are those of the placement drawn before;
    - goal sites that a task keeps elsewhere than its model are overwritten in every forward pass;
    - step 501 raises, whatever the time limit of the experiment.
    """

    def __init__(
        self, task: str, *, size: int, camera: str, profile: RenderProfile, state: bool
    ) -> None:
        self._mujoco = import_mujoco()
        self._env = _task_class(task)(seed=0)  # with a seed the global generator is left alone
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        self._env.max_path_length = _NO_LIMIT
        self._with_state = state
        self._state = np.empty(0)
        # The cameras named `corner...` are mounted upside down. With OpenGL's bottom row first the
        # scene stands upright and is mirrored left to right: what published agents see.
        rows: Rows = "bottom_first" if camera.startswith("corner") else "top_first"
        self.renderer = SceneRenderer(
            self._env.model, size=size, camera=camera, profile=profile, rows=rows
        )

    def reset(self, seed: int | None) -> Mapping[str, float]:
        """Draw a new placement."""
        if seed is not None:
            self._env.seed(seed)
        self._env.reset()
        self._mujoco.mj_forward(self._env.model, self._env.data)
        self._place_goal_sites()
        self._state = self._state_after_reset()
        return {"success": 0.0}

    def advance(self, action: Any) -> Frame:
        """Simulate one control period of 12.5 ms; no task terminates."""
        self._state, reward, _, _, info = self._env.step(action)
        return Frame(reward, signals={"success": float(info["success"])})

    def observe(self) -> Mapping[str, NDArray[Any]]:
        """Render the scene; `state` is Meta-World's own vector of 39 numbers."""
        self._place_goal_sites()
        pixels = self.renderer.render(self._env.data)
        return {"pixels": pixels, "state": self._state} if self._with_state else {"pixels": pixels}

    @property
    def state(self) -> NDArray[np.float64]:
        """Meta-World's own vector of 39 numbers, the goal included; nothing is rendered."""
        return self._state

    def close(self) -> None:
        """Free the renderer's resources."""
        self.renderer.close()
        self._env.close()

    def _place_goal_sites(self) -> None:
        for name, position in self._env._target_site_config:
            self._env._set_pos_site(name, position)

    def _state_after_reset(self) -> NDArray[np.float64]:
        """Build the state vector anew: the one that `reset` returned holds stale positions."""
        env = self._env
        env._prev_obs = env._get_curr_obs_combined_no_goal()
        space = env.sawyer_observation_space
        return np.asarray(np.clip(env._get_obs(), space.low, space.high))


def _task_class(task: str) -> Any:
    classes = _import_metaworld().ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    return classes[f"{task}-v3-goal-observable"]


def _import_metaworld() -> ModuleType:
    try:
        import metaworld
    except ModuleNotFoundError as error:
        what = f"Meta-World is not installed ({error})"
        raise MissingSimulator(what, hint="pip install 'wmplatform[metaworld]'") from error
    module: ModuleType = metaworld
    return module
