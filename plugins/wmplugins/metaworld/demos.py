"""Videos of Meta-World's scripted policies: action-free demonstrations made on this machine.

They are simulated and in-domain, and should be reported so; leave the tasks out that are evaluated
later, or say that they are in. Importing this file imports neither Meta-World nor MuJoCo.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from wmplatform.interfaces.video_source import Video, VideoSource
from wmplatform.videos.errors import BadSource, UnreadableVideo
from wmplugins.metaworld.tasks import TASKS, task_name

__all__ = ["MetaWorldDemos"]

_HERE = threading.local()
"""Keeps this thread's last simulator: its pictures may be drawn in no other thread."""

Camera = Literal["corner", "corner2", "corner3", "corner4", "topview", "behindGripper"]


class MetaWorldDemos(VideoSource):
    """Scripted policies at work, one video for each task, episode and camera.

    An episode is a function of (seed, task, episode): the placement, a start offset (the hand is
    first moved by one random action for a random while, unseen), and the strength of the noise on
    the policy's actions. Cameras show the same episode. A video ends `after_success` frames after
    the task is solved, or after `max_frames`; the scripts do not always succeed.

    Pictures are turned as in the environment: cameras named `corner...` show the scene upright and
    mirrored, others as it is. A video's label is its task.

    Args:
        tasks: names of tasks; all 50 if empty.
        without: tasks to leave out, such as those that are evaluated later.
        episodes: of each task.
        cameras: views of each episode.
        size: side of the frames in pixels.
        render_profile: that of the environment: pixels differ between `fast` and `reference`.
        noise: largest standard deviation of the noise on actions; each episode draws its own.
        offset_steps: most steps that the hand is moved before the video begins.
        after_success: frames that are shown of a solved task.
        max_frames: of a video.
        seed: of everything random.
    """

    def __init__(
        self,
        *,
        tasks: tuple[str, ...] = (),
        without: tuple[str, ...] = (),
        episodes: Annotated[int, Ge(1)] = 20,
        cameras: tuple[Camera, ...] = ("corner",),
        size: Annotated[int, Ge(1)] = 64,
        render_profile: Literal["reference", "fast"] = "fast",
        noise: Annotated[float, Ge(0), Le(1)] = 0.3,
        offset_steps: Annotated[int, Ge(0)] = 20,
        after_success: Annotated[int, Ge(0)] = 10,
        max_frames: Annotated[int, Ge(1)] = 200,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        left_out = set(map(task_name, without))
        chosen = dict.fromkeys(map(task_name, tasks or TASKS))
        self.tasks = [task for task in chosen if task not in left_out]
        if not self.tasks or not cameras:
            raise BadSource("no task or no camera is left", hint="look at 'tasks' and 'without'")
        self.episodes, self.cameras = episodes, list(dict.fromkeys(cameras))
        self.size, self.render_profile = size, render_profile
        self.noise, self.offset_steps = noise, offset_steps
        self.after_success, self.max_frames, self.seed = after_success, max_frames, seed

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """`(3, size, size)`."""
        return 3, self.size, self.size

    def videos(self) -> list[Video]:
        """List what will be simulated; keys are `task/camera/episode`."""
        # Episodes last: one simulator serves all of a task and camera.
        return [
            Video(f"{task}/{camera}/{episode:04d}", task)
            for task in self.tasks
            for camera in self.cameras
            for episode in range(self.episodes)
        ]

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        """Simulate and render an episode.

        Raises:
            UnreadableVideo: it is none of these videos.
            MissingSimulator: Meta-World or OpenGL is not installed.
        """
        task, camera, episode = self._parts(video)
        rng = np.random.default_rng([self.seed, TASKS.index(task), episode])
        with _simulator(task, camera, self.size, self.render_profile) as simulator:
            yield from self._episode(simulator, _policy(task), rng)

    def _episode(
        self, simulator: Any, policy: Any, rng: np.random.Generator
    ) -> Iterator[NDArray[np.uint8]]:
        sigma = rng.uniform(0, self.noise)
        simulator.reset(int(rng.integers(2**31)))
        _move_hand(simulator, rng, self.offset_steps)
        left = self.max_frames
        while left > 0:
            yield simulator.observe()["pixels"]
            action = _noisy(_intended(policy, simulator.state), sigma, rng)
            solved = simulator.advance(action).signals["success"] > 0
            left = min(left - 1, self.after_success) if solved else left - 1

    def settings(self) -> dict[str, Any]:
        """Add the versions of the simulators to the settings."""
        from importlib.metadata import version

        made_by = " ".join(f"{name} {version(name)}" for name in ("metaworld", "mujoco"))
        return super().settings() | {"simulator": made_by}

    def _parts(self, video: Video) -> tuple[str, str, int]:
        task, _, rest = video.key.partition("/")
        camera, _, episode = rest.partition("/")
        known = task in self.tasks and camera in self.cameras and episode.isdecimal()
        if not known or int(episode) >= self.episodes:
            raise UnreadableVideo(video.key, "there is no such video")
        return task, camera, int(episode)

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Make two short videos of one task."""
        return {"tasks": ("reach",), "episodes": 2, "max_frames": 3, "size": 16}


def _move_hand(simulator: Any, rng: np.random.Generator, most: int) -> None:
    """Do one random action for a random while; open or closed, the gripper may be anything."""
    action = rng.uniform(-1, 1, 4).astype(np.float32)
    for _ in range(int(rng.integers(most + 1))):
        simulator.advance(action)


def _intended(policy: Any, state: NDArray[np.float64]) -> Any:
    with warnings.catch_warnings():
        # The scripts ask for more than 1 now and then and say so; the action is clipped.
        warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
        return policy.get_action(state)


def _noisy(action: Any, sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    noisy = np.asarray(action, np.float64) + sigma * rng.standard_normal(4)
    return np.clip(noisy, -1, 1).astype(np.float32)


@contextmanager
def _simulator(task: str, camera: str, size: int, profile: Any) -> Iterator[Any]:
    """Lend a simulator: the one that this thread used last if it fits, or a new one.

    One that is reset draws the same as a new one. Two videos that are read in turns get one each.
    """
    from wmplugins.metaworld.simulator import MetaWorldSimulator
    from wmplugins.mujoco import render_profile

    wanted = task, camera, size, profile
    kept, _HERE.kept = getattr(_HERE, "kept", None), None
    if kept is not None and kept[0] != wanted:
        kept[1].close()
        kept = None
    if kept is None:
        drawn = render_profile(profile, supersample=2)  # as the environment draws
        made = MetaWorldSimulator(task, size=size, camera=camera, profile=drawn, state=False)
        kept = wanted, made
    thread = threading.get_ident()
    try:
        yield kept[1]
    finally:
        if thread != threading.get_ident() or getattr(_HERE, "kept", None) is not None:
            kept[1].close()
        else:
            _HERE.kept = kept


def _policy(task: str) -> Any:
    from metaworld.policies import ENV_POLICY_MAP

    policy: Any = ENV_POLICY_MAP[f"{task}-v3"]
    return policy()
