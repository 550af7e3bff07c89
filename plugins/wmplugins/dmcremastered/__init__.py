"""DMC Remastered (Grigsby and Qi 2020): tasks of the suite whose looks differ in every episode.

Importing this package imports neither dm_control nor MuJoCo.
"""

from typing import Annotated, Literal

from annotated_types import Ge, Le

from wmplatform.envs import PlatformEnv, UnknownTask
from wmplatform.errors import ExitCode, PlatformError
from wmplugins.dmcontrol import EPISODE_FRAMES, TASKS, DMControl
from wmplugins.dmcremastered.looks import DOMAINS, FACTORS

__all__ = ["DOMAINS", "FACTORS", "BadLooks", "DMCRemastered"]


class BadLooks(PlatformError):
    """Settings of looks that make no sense."""

    exit_code = ExitCode.BAD_INPUT


class DMCRemastered(DMControl):
    """A task of the suite that looks different in every episode, and is the same to the robot.

    Seven factors change, drawn from the episode's seed within the published ranges and applied to
    the running model at reset. States and rewards are those of the plain task, bit for bit.

    - `floor`: the texture of the floor.
    - `background`: a landscape on all sides of the sky.
    - `body`: colour of the robot, slightly transparent at times.
    - `target`: colour of targets, of which these domains have none to be seen.
    - `reflectance`: how much the floor mirrors; not seen in the profile `fast`.
    - `camera`: where camera 0 is; in hopper, how it is tilted as well.
    - `light`: colours of the light; in cheetah, where it comes from as well.

    Pictures are drawn by chance unless a folder of them is given; the published photographs have
    no stated licence and are not part of this. The published size of the shadow map, which cannot
    be seen at 64 pixels, is left alone.

    Args:
        task: a task of cheetah, hopper or walker. Published: `cheetah-run`, `hopper-stand` (without
            the factor `camera`) and `walker-run`.
        vary: the factors that change; the others look as in the suite.
        visual_seeds: first and last of the visual seeds that episodes draw from. Ranges that do
            not overlap share no look: `(1, 100)` to train on a hundred, `(500001, 1000000)` to
            evaluate on others.
        pictures: a folder with the subfolders `floors` and `skies`, such as DMC Remastered's own
            `assets`; None draws them by chance.
        texture_size: side of a picture in texels. 128 suits frames of 64 pixels.
        size: side of the frame in pixels.
        render_profile: as in `DMControl`.
        shadow_size: as in `DMControl`.
        supersample: as in `DMControl`.
        action_repeat: environment frames for each agent step.
        time_limit: agent steps of an episode, in place of the suite's 1000 environment frames.
        state: whether to give the task's own observations in a row as well: `state`, float32.
    """

    def __init__(
        self,
        *,
        task: str = "walker-run",
        vary: tuple[
            Literal["floor", "background", "body", "target", "reflectance", "camera", "light"], ...
        ] = FACTORS,
        visual_seeds: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] = (1, 1_000_000),
        pictures: str | None = None,
        texture_size: Annotated[int, Ge(16), Le(1024)] = 128,
        size: Annotated[int, Ge(1)] = 64,
        render_profile: Literal["reference", "fast"] = "reference",
        shadow_size: Annotated[int, Ge(1)] | None = None,
        supersample: Annotated[int, Ge(1)] = 1,
        action_repeat: Annotated[int, Ge(1)] = 2,
        time_limit: Annotated[int, Ge(1)] | None = None,
        state: bool = False,
    ) -> None:
        super().__init__(
            task=task,
            size=size,
            render_profile=render_profile,
            shadow_size=shadow_size,
            supersample=supersample,
            action_repeat=action_repeat,
            time_limit=time_limit,
            state=state,
        )
        if self.task.domain not in DOMAINS:
            known = ", ".join(name for name, task in TASKS.items() if task.domain in DOMAINS)
            raise UnknownTask(f"DMC Remastered has no task {task!r}", hint=f"known: {known}")
        if unknown := set(vary) - set(FACTORS):
            what = f"DMC Remastered varies no {min(unknown)!r}"
            raise BadLooks(what, hint=f"known: {', '.join(FACTORS)}")
        if not 1 <= visual_seeds[0] <= visual_seeds[1]:
            what = f"visual_seeds {tuple(visual_seeds)} is no range of numbers from 1"
            raise BadLooks(what, hint="give the first and the last, e.g. (1, 100)")
        self.vary = tuple(vary)
        self.visual_seeds = visual_seeds
        self.pictures = pictures
        self.texture_size = texture_size

    @property
    def name(self) -> str:
        """Name with the task, e.g. `dmcr/walker-run`."""
        return f"dmcr/{self.task.name}"

    def make(self, seed: int) -> PlatformEnv:
        """Start one environment; takes about 0.06 s and renders nothing yet."""
        from wmplugins.dmcremastered.pictures import DrawnPictures, FilePictures
        from wmplugins.dmcremastered.simulator import RemasteredSimulator, load_remastered

        side = self.texture_size
        files = self.pictures
        simulator = RemasteredSimulator(
            load_remastered(self.task, self.vary, side),
            self.task,
            vary=self.vary,
            visual_seeds=self.visual_seeds,
            pictures=DrawnPictures(side) if files is None else FilePictures(files, side, self.vary),
            name=self.name,
            size=self.size,
            camera=self.camera,
            profile=self.profile(),
            frame_limit=EPISODE_FRAMES if self.time_limit is None else None,
            state=self.state,
        )
        return PlatformEnv(simulator, self.spec(), name=self.name, seed=seed)
