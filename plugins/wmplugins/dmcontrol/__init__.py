"""The DeepMind Control Suite from pixels (Tassa et al. 2018; dm_control 1.0).

Importing this package imports neither dm_control nor MuJoCo.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from wmplatform.envs import PlatformEnv
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, Diagnosis, EnvAdapter, EnvSpec
from wmplugins.dmcontrol.tasks import EPISODE_FRAMES, TASKS, SuiteTask, suite_task

if TYPE_CHECKING:
    from wmplugins.mujoco import RenderProfile

__all__ = ["EPISODE_FRAMES", "TASKS", "DMControl", "SuiteTask", "suite_task"]


class DMControl(EnvAdapter):
    """A task of the suite: pictures of one camera, rewards 0..1 for each environment frame.

    The setting of PlaNet and the Dreamers: 64 x 64 pixels of camera 0 (2 for quadrupeds), actions
    repeated twice, 1000 frames, which are 500 agent steps. Time ends an episode as a truncation; of
    all tasks, only those of `lqr` terminate.

    Args:
        task: domain and task: `walker-walk`, `walker_walk`, `ball_in_cup-catch`, `cup_catch`.
        size: side of the picture in pixels.
        render_profile: `reference` draws as `physics.render` does (15 to 20 CPU ms a frame in
            software); `fast` draws without shadows, reflections and MSAA (1 CPU ms). Pixels
            differ, so keep to one within an experiment.
        shadow_size: for `fast`: draw shadows after all, with a map of this many texels a side
            (e.g. 1024: 6 to 9 CPU ms).
        supersample: for `fast`: draw this many times larger and average, which smooths edges as
            MSAA does. Thin things need it: at 1 the rail of `cartpole` is gone and its pole broken.
        camera: name or number of a camera of the scene; None is the published one.
        action_repeat: environment frames for each agent step.
        time_limit: agent steps of an episode, in place of the suite's 1000 environment frames.
        state: whether to give the task's own observations in a row as well: `state`, float32.
    """

    def __init__(
        self,
        *,
        task: str = "cartpole-swingup",
        size: Annotated[int, Ge(1)] = 64,
        render_profile: Literal["reference", "fast"] = "reference",
        shadow_size: Annotated[int, Ge(1)] | None = None,
        supersample: Annotated[int, Ge(1)] = 1,
        camera: str | int | None = None,
        action_repeat: Annotated[int, Ge(1)] = 2,
        time_limit: Annotated[int, Ge(1)] | None = None,
        state: bool = False,
    ) -> None:
        self.task = suite_task(task)
        self.size = size
        self.render_profile = render_profile
        self.shadow_size = shadow_size
        self.supersample = supersample
        self.camera = self.task.camera if camera is None else camera
        self.action_repeat = action_repeat
        self.time_limit = time_limit
        self.state = state

    @property
    def name(self) -> str:
        """Name with the task, e.g. `dmcontrol/walker-walk`."""
        return f"dmcontrol/{self.task.name}"

    def spec(self) -> EnvSpec:
        """Describe the environment; known without dm_control."""
        observations = {"pixels": ArraySpec((3, self.size, self.size), "uint8")}
        if self.state:
            observations["state"] = ArraySpec((self.task.state,), "float32")
        limit = self.time_limit
        if limit is None:
            limit = -(-EPISODE_FRAMES // self.action_repeat)  # the last step may be cut short
        return EnvSpec(
            observations=observations,
            action=ActionSpec(self.task.action),
            action_repeat=self.action_repeat,
            time_limit=limit,
        )

    def make(self, seed: int) -> PlatformEnv:
        """Start one environment; takes about 0.05 s (`dog` 0.5 s) and renders nothing yet."""
        from wmplugins.dmcontrol.simulator import DMControlSimulator, load_task

        simulator = DMControlSimulator(
            load_task(self.task.domain, self.task.task),
            name=self.name,
            size=self.size,
            camera=self.camera,
            profile=self.profile(),
            frame_limit=EPISODE_FRAMES if self.time_limit is None else None,
            state=self.state,
        )
        return PlatformEnv(simulator, self.spec(), name=self.name, seed=seed)

    def profile(self) -> "RenderProfile":
        """How the simulator is to draw."""
        from wmplugins.mujoco import render_profile

        return render_profile(
            self.render_profile, supersample=self.supersample, shadow_size=self.shadow_size
        )

    def diagnose(self) -> list[Diagnosis]:
        """Render a few frames of the task."""
        from wmplugins.mujoco import diagnose_rendering

        name = f"{self.name}, {self.render_profile} profile"
        return [diagnose_rendering(name, lambda: self.make(seed=0))]
