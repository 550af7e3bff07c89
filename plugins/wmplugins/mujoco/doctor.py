"""What `wmplatform doctor` can say about rendering."""

import os
import time
from collections.abc import Callable

from wmplatform.envs import PlatformEnv
from wmplatform.errors import PlatformError
from wmplatform.interfaces.env_adapter import Diagnosis
from wmplugins.mujoco.gl import shared_gl

__all__ = ["diagnose_rendering", "renderer_name"]

_FRAMES = 5


def renderer_name() -> str:
    """Name what OpenGL draws with, e.g. `llvmpipe (LLVM 15.0.6, 256 bits)` for software."""
    shared_gl().make_current()
    from OpenGL import GL

    return bytes(GL.glGetString(GL.GL_RENDERER)).decode(errors="replace")


def diagnose_rendering(name: str, make: Callable[[], PlatformEnv]) -> Diagnosis:
    """Draw a few frames and report the backend, what it draws with and the cost of a frame.

    Args:
        name: name of the diagnosis, e.g. `metaworld/reach rendering`.
        make: starts an environment; errors of the platform become a diagnosis with its fix.
    """
    try:
        env = make()
    except PlatformError as error:
        return Diagnosis(name, False, error.what, error.hint)
    try:
        env.reset()
        start_s = time.process_time()
        for _ in range(_FRAMES):
            env.reset()
        frame_ms = (time.process_time() - start_s) / _FRAMES * 1000
        backend, device = os.environ.get("MUJOCO_GL", ""), renderer_name()
    except PlatformError as error:
        return Diagnosis(name, False, error.what, error.hint)
    finally:
        env.close()
    detail = f"MUJOCO_GL={backend}, {device}, {frame_ms:.1f} CPU ms for each frame"
    return Diagnosis(name, True, detail)
