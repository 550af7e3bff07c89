"""Rendering shared by every adapter whose simulator is MuJoCo.

Importing this package imports neither MuJoCo nor OpenGL.
"""

from wmplugins.mujoco.doctor import diagnose_rendering
from wmplugins.mujoco.gl import MissingGL, RenderingMoved, import_mujoco
from wmplugins.mujoco.renderer import (
    RenderProfile,
    Rows,
    SceneRenderer,
    UnknownCamera,
    render_profile,
)

__all__ = [
    "MissingGL",
    "RenderProfile",
    "RenderingMoved",
    "Rows",
    "SceneRenderer",
    "UnknownCamera",
    "diagnose_rendering",
    "import_mujoco",
    "render_profile",
]
