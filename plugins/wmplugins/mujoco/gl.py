"""One OpenGL context for each process and thread, shared by every model rendered there.

Why one: creating the first costs 0.2 s and each further model 30 ms; closing one of several
contexts makes OSMesa draw slightly wrong pictures in the others, and EGL print errors at exit.
"""

import atexit
import importlib
import os
import threading
from types import ModuleType
from typing import Any

from wmplatform.envs import MissingSimulator
from wmplatform.errors import PlatformError

__all__ = ["APT_LINE", "MissingGL", "RenderingMoved", "SharedGL", "import_mujoco", "shared_gl"]

APT_LINE = "apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri libgles2 libopengl0"
"""Installs software rendering on Debian and Ubuntu."""

_APT_OSMESA = "apt-get install -y libosmesa6"  # a package of its own, gone from newer releases

_BUFFER = (64, 64)
"""Size of the context's own buffer, which nothing draws into: MuJoCo brings a framebuffer."""


class MissingGL(MissingSimulator):
    """The OpenGL library that MuJoCo renders with cannot be used on this machine."""


class RenderingMoved(PlatformError):
    """A renderer is used in another process or thread than the one that it draws in."""


class SharedGL:
    """An OpenGL context, the thread it belongs to, and the model contexts that live in it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.thread = threading.get_ident()
        self._models: list[Any] = []
        self._context: Any = _new_context()
        atexit.register(self.close)  # after MuJoCo's own handler, so that it runs before it

    def make_current(self) -> None:
        """Direct OpenGL calls of this thread here.

        Raises:
            RenderingMoved: this is not the process and thread that made the context.
        """
        _refuse_fork(self.pid)
        if threading.get_ident() != self.thread:
            raise RenderingMoved(
                "a renderer made in one thread is used in another",
                hint="step, reset and close an environment in one thread",
            )
        self._context.make_current()

    def add(self, model: Any) -> Any:
        """Upload a `MjModel` and return its `MjrContext`; costs about 30 ms."""
        mujoco = import_mujoco()
        self.make_current()
        try:
            context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        except mujoco.FatalError as error:  # without a display glfw fails only here
            raise _no_backend(error) from error
        self._models.append(context)
        return context

    def free(self, model_context: Any) -> None:
        """Free one `MjrContext`; in another thread or process it is left to this one's end."""
        if not self._here() or model_context not in self._models:
            return
        self._context.make_current()
        model_context.free()
        self._models.remove(model_context)
        if not self._models and threading.current_thread() is not threading.main_thread():
            self.close()  # nobody does it when a worker thread has ended

    def close(self) -> None:
        """Free every model and the context itself."""
        if self._context is None or self.pid != os.getpid():
            return
        if self._here():
            self._context.make_current()
            for model_context in self._models:
                model_context.free()
        self._models.clear()
        context, self._context = self._context, None
        context.free()
        if getattr(_HERE, "gl", None) is self:
            del _HERE.gl
        atexit.unregister(self.close)

    def _here(self) -> bool:
        same_process = self.pid == os.getpid()
        return same_process and self.thread == threading.get_ident() and self._context is not None


_HERE = threading.local()
_first_pid: int | None = None
"""The process that made the first context; a child forked from it deadlocks when it renders."""


def shared_gl() -> SharedGL:
    """Return this thread's context; the first call creates it.

    Raises:
        MissingGL: there is no usable OpenGL here.
        RenderingMoved: this process was forked from one that had rendered already.
    """
    global _first_pid
    _refuse_fork(_first_pid)
    if not hasattr(_HERE, "gl"):
        _HERE.gl = SharedGL()
        _first_pid = os.getpid()
    gl: SharedGL = _HERE.gl
    return gl


def import_mujoco() -> ModuleType:
    """Import MuJoCo with a rendering backend that works without a display.

    `MUJOCO_GL` and `LP_NUM_THREADS` are respected where they are set. Their defaults are `egl`, and
    0 threads for software rendering: it costs the same and does not fight with other workers.

    Raises:
        MissingSimulator: MuJoCo is not installed.
        MissingGL: the library of its rendering backend is not installed.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import mujoco
    except ModuleNotFoundError as error:
        what = f"MuJoCo is not installed ({error})"
        hint = "pip install 'wmplatform[metaworld]'  # or wmplatform[dmcontrol]"
        raise MissingSimulator(what, hint=hint) from error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise _no_backend(error) from error
    module: ModuleType = mujoco
    return module


def _new_context() -> Any:
    context_type = _context_type(import_mujoco())
    if context_type is None:
        raise MissingGL("MuJoCo renders nothing because MUJOCO_GL is off", hint="unset MUJOCO_GL")
    # MuJoCo's contexts read this name when they are deleted, also where making them has failed.
    safe_type = type(context_type.__name__, (context_type,), {"_context": None})
    try:
        context = safe_type(*_BUFFER)
        context.make_current()
    # The backends raise whatever their C library led to: GLError, ImportError, FatalError, ...
    except Exception as error:
        raise _no_backend(error) from error
    return context


def _context_type(mujoco: ModuleType) -> Any:
    """Choose the backend by `MUJOCO_GL` as it is now, however MuJoCo was first imported."""
    backend = os.environ["MUJOCO_GL"].lower()
    if backend not in ("egl", "osmesa"):
        return getattr(mujoco, "GLContext", None)
    try:
        return importlib.import_module(f"mujoco.{backend}").GLContext
    except (ImportError, AttributeError, OSError) as error:
        raise _no_backend(error) from error


def _no_backend(error: BaseException) -> MissingGL:
    """Say which backend failed and what to install."""
    backend = os.environ.get("MUJOCO_GL", "")
    detail = (str(error).strip() or repr(error)).splitlines()[0]
    install = _APT_OSMESA if backend.lower() == "osmesa" else APT_LINE
    return MissingGL(
        f"MuJoCo cannot render with MUJOCO_GL={backend}: {type(error).__name__}: {detail}",
        hint=f"{install}\nor choose another backend: MUJOCO_GL=egl, osmesa or glfw (a display)",
    )


def _refuse_fork(pid: int | None) -> None:
    if pid is not None and pid != os.getpid():
        raise RenderingMoved(
            "this process was forked from one that had already rendered; rendering would deadlock",
            where=f"process {os.getpid()}, forked from {pid}",
            hint="start environment workers with the 'spawn' or 'forkserver' method",
        )
