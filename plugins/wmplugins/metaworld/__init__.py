"""Meta-World tasks from pixels (Yu et al. 2019; the version 3 environments of metaworld 3.1).

Importing this package imports neither Meta-World nor MuJoCo.
"""

from typing import Annotated, Literal

from annotated_types import Ge

from wmplatform.envs import PlatformEnv
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, Diagnosis, EnvAdapter, EnvSpec
from wmplugins.metaworld.tasks import TASKS, task_name

__all__ = ["TASKS", "MetaWorld"]


class MetaWorld(EnvAdapter):
    """A Meta-World task: upright, mirrored pictures of camera `corner`, 4 actions, rewards 0..10.

    The setting of APV and ContextWM: no crop, no repeat, 500 steps, success does not end an
    episode, and an episode succeeds if any of its steps does. They used the version 2 tasks under
    MuJoCo 2.0; version 3 has a reflective wall around the table and other gripper pads, so compare
    with published curves with care.

    Args:
        task: `lever-pull`, `lever_pull` or `lever-pull-v3`.
        size: side of the picture in pixels.
        render_profile: `reference` draws as Meta-World itself does (90 CPU ms a frame in
            software); `fast` draws without shadows, reflections and MSAA, twice as large, and
            averages (8 CPU ms). Pixels differ, so keep to one within an experiment.
        camera: camera of the scene; the published one is `corner`.
        action_repeat: environment frames (12.5 ms each) for each agent step.
        time_limit: agent steps of an episode.
        state: whether to give Meta-World's state vector as well: `state`, float32 `[39]`.
    """

    def __init__(
        self,
        *,
        task: str = "reach",
        size: Annotated[int, Ge(1)] = 64,
        render_profile: Literal["reference", "fast"] = "reference",
        camera: Literal[
            "corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV"
        ] = "corner",
        action_repeat: Annotated[int, Ge(1)] = 1,
        time_limit: Annotated[int, Ge(1)] = 500,
        state: bool = False,
    ) -> None:
        self.task = task_name(task)
        self.size = size
        self.render_profile = render_profile
        self.camera = camera
        self.action_repeat = action_repeat
        self.time_limit = time_limit
        self.state = state

    @property
    def name(self) -> str:
        """Name with the task, e.g. `metaworld/reach`."""
        return f"metaworld/{self.task}"

    def spec(self) -> EnvSpec:
        """Describe the environment; known without Meta-World."""
        observations = {"pixels": ArraySpec((3, self.size, self.size), "uint8")}
        if self.state:
            observations["state"] = ArraySpec((39,), "float32")
        return EnvSpec(
            observations=observations,
            action=ActionSpec(4),
            action_repeat=self.action_repeat,
            time_limit=self.time_limit,
            signals={"success": "max"},
        )

    def make(self, seed: int) -> PlatformEnv:
        """Start one environment; takes about 0.3 s and renders nothing yet."""
        from wmplugins.metaworld.simulator import MetaWorldSimulator
        from wmplugins.mujoco import render_profile

        # Meta-World's arm has fine meshes: without supersampling its edges flicker.
        profile = render_profile(self.render_profile, supersample=2)
        simulator = MetaWorldSimulator(
            self.task, size=self.size, camera=self.camera, profile=profile, state=self.state
        )
        return PlatformEnv(simulator, self.spec(), name=self.name, seed=seed)

    def diagnose(self) -> list[Diagnosis]:
        """Render a few frames of the task."""
        from wmplugins.mujoco import diagnose_rendering

        name = f"{self.name}, {self.render_profile} profile"
        return [diagnose_rendering(name, lambda: self.make(seed=0))]
