"""One running gymnasium environment."""

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from wmplatform.envs import (
    CannotStart,
    Frame,
    MissingSimulator,
    Simulator,
    UnknownTask,
    from_unit,
    integers_from_unit,
)
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.interfaces.env_adapter import ActionSpec

__all__ = ["GymSimulator", "UnsupportedEnvironment"]

_UNLIMITED = -1
"""gymnasium's word for `without the registered time limit`."""

_MOST_INTEGERS = 2**16
"""See `integers_from_unit`."""


class UnsupportedEnvironment(PlatformError):
    """A gymnasium environment has actions or pictures that the adapter cannot take."""

    exit_code = ExitCode.BAD_INPUT


class GymSimulator(Simulator):
    """A registered environment rendering `rgb_array`.

    Args:
        name: registered name.
        size: side of the picture in pixels.
        crop: (left, top, right, bottom) of the rendered picture; None is all of it.
        limited: whether the registered time limit ends episodes.
    """

    def __init__(
        self, name: str, *, size: int, crop: tuple[int, int, int, int] | None, limited: bool
    ) -> None:
        self._env = _make(name, None if limited else _UNLIMITED)
        self._name = name
        self._size = size
        self._crop = crop
        registered = self._env.spec
        self.limit = registered.max_episode_steps if registered is not None else None
        """Environment frames after which the registered limit truncates; None without one."""
        self.random = registered is not None and registered.nondeterministic
        """Whether it is registered as different at every run."""
        try:
            self.action = _action_spec(name, self._env.action_space)
        except UnsupportedEnvironment:
            self._env.close()
            raise
        self._native = _to_native(self._env.action_space)

    def reset(self, seed: int | None) -> Mapping[str, float]:
        """Start an episode."""
        self._env.reset(seed=seed)
        return {}

    def advance(self, action: Any) -> Frame:
        """Take one step of the environment."""
        reward: Any  # whatever it is; what is no number is refused by its name
        _, reward, terminated, truncated, _ = self._env.step(self._native(action))
        return Frame(reward, bool(terminated), bool(truncated))

    def observe(self) -> Mapping[str, NDArray[Any]]:
        """Render, crop and shrink."""
        picture = np.asarray(self._env.render())
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            what = f"{self._name} renders {picture.dtype} {picture.shape}, not uint8 (H, W, 3)"
            raise UnsupportedEnvironment(what)
        return {"pixels": self._shrunk(picture).transpose(2, 0, 1)}

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _shrunk(self, picture_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        image = Image.fromarray(picture_HWC)
        side = (self._size, self._size)
        return np.asarray(image.resize(side, Image.Resampling.BOX, box=self._crop))


def _make(name: str, limit: int | None) -> gymnasium.Env[Any, Any]:
    # Without a display, and without pygame's greeting on standard output.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        return gymnasium.make(
            name, render_mode="rgb_array", max_episode_steps=limit, disable_env_checker=True
        )
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingSimulator(f"{name} needs a library: {error}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        near = get_close_matches(name, gymnasium.registry, n=3)
        hint = f"near: {', '.join(near)}" if near else "name an id that gymnasium.registry holds"
        raise UnknownTask(f"gymnasium cannot make {name!r}: {error}", hint=hint) from error
    except Exception as error:
        raise CannotStart(f"gym/{name}", f"{type(error).__name__}: {error}") from error


def _action_spec(name: str, space: spaces.Space[Any]) -> ActionSpec:
    if isinstance(space, spaces.Discrete):
        return ActionSpec(int(space.n), "discrete")
    if not isinstance(space, spaces.Box):
        what, instead = f"{name} has actions {space}; Box and Discrete are supported", "of these"
    elif space.dtype.kind != "f" and _integers(space) > _MOST_INTEGERS:
        what = f"{name} has actions {space}: too many integers to tell apart, or no bounds"
        instead = f"of floats, or at most {_MOST_INTEGERS} integers"
    else:
        return ActionSpec(int(np.prod(space.shape)))
    hint = f"register a gymnasium.ActionWrapper of it whose action_space is one {instead}"
    raise UnsupportedEnvironment(what, hint=hint)


def _to_native(space: Any) -> Callable[[Any], Any]:
    """Make the function that translates an action into a space that `_action_spec` takes."""
    if isinstance(space, spaces.Discrete):
        return lambda index: space.start + index
    kind = from_unit if space.dtype.kind == "f" else integers_from_unit
    scaled: Callable[[Any], NDArray[Any]] = kind(space.low.ravel(), space.high.ravel())
    return lambda action: scaled(action).reshape(space.shape).astype(space.dtype)


def _integers(space: spaces.Box) -> int:
    """The most values that an entry may have."""
    bounds = zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)
    return max((int(high) - int(low) + 1 for low, high in bounds), default=0)
