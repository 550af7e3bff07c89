"""Pictures of a MuJoCo model, for Meta-World, DMControl and DMC Remastered alike.

Pixels equal those of `mujoco.Renderer` under equal settings. Shape letters: C H W image.
"""

import weakref
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wmplatform.errors import ExitCode, PlatformError
from wmplugins.mujoco.gl import import_mujoco, shared_gl

__all__ = [
    "ProfileName",
    "RenderProfile",
    "Rows",
    "SceneRenderer",
    "UnknownCamera",
    "UnknownProfile",
    "render_profile",
]

ProfileName: TypeAlias = Literal["reference", "fast"]

Rows: TypeAlias = Literal["top_first", "bottom_first"]

Image: TypeAlias = NDArray[np.uint8]

_MAX_GEOMS = 10_000


class UnknownCamera(PlatformError):
    """A model has no camera of that name."""

    exit_code = ExitCode.BAD_INPUT


class UnknownProfile(PlatformError):
    """There is no render profile of that name."""

    exit_code = ExitCode.BAD_INPUT


@dataclass(frozen=True)
class RenderProfile:
    """How carefully a picture is drawn. Pixels differ, so never mix profiles in one replay."""

    shadows: bool = True
    reflections: bool = True
    samples: int | None = None
    """Samples for each pixel (MSAA); None keeps the model's own number."""
    shadow_size: int | None = None
    """Side of the shadow map in texels; None keeps the model's own."""
    supersample: int = 1
    """Draw this many times larger and average boxes."""


def render_profile(
    name: ProfileName, *, supersample: int = 1, shadow_size: int | None = None
) -> RenderProfile:
    """Make a render profile by name.

    Args:
        name: `reference` draws what the model's XML asks for, as `mujoco.Renderer` does; `fast`
            draws without shadows, reflections and MSAA: 5 to 25 times cheaper in software.
        supersample: for `fast`: smooth edges by drawing larger. 2 suits Meta-World's fine meshes.
        shadow_size: for `fast`: draw shadows after all, with a map of this size (e.g. 1024).
    """
    if name == "reference":
        return RenderProfile()
    if name == "fast":
        return RenderProfile(
            shadows=shadow_size is not None,
            reflections=False,
            samples=0,
            shadow_size=shadow_size,
            supersample=supersample,
        )
    raise UnknownProfile(f"no render profile named {name!r}", hint="known: fast, reference")


class SceneRenderer:
    """Draws one model from one camera into a square picture.

    Nothing of OpenGL exists before the first `render`, which binds this renderer to its thread.

    Args:
        model: a `mujoco.MjModel`. Its visual settings are changed to the profile's; physics is not.
        size: side of the picture in pixels.
        camera: name or number of a camera of the model.
        profile: how carefully to draw.
        rows: `top_first` is an ordinary picture; `bottom_first` is OpenGL's order, a vertical flip
            of it, which the pictures of Meta-World come in.
    """

    def __init__(
        self,
        model: Any,
        *,
        size: int,
        camera: str | int,
        profile: RenderProfile,
        rows: Rows = "top_first",
    ) -> None:
        self._mujoco = import_mujoco()
        self._model = model
        self._profile = profile
        self._top_first = rows == "top_first"
        side = size * profile.supersample
        self._buffer = np.empty((side, side, 3), np.uint8)
        self._rectangle = self._mujoco.MjrRect(0, 0, side, side)
        self._camera = self._fixed_camera(camera)
        self._apply_profile(side)
        self._drawing: _Drawing | None = None
        self._finalizer: Any = None

    def render(self, data: Any) -> Image:
        """Draw a `mujoco.MjData` whose derived quantities are up to date; uint8 `[3, H, W]`.

        Raises:
            MissingGL: OpenGL cannot be used here.
            RenderingMoved: called in another thread or process than at first.
        """
        mujoco, drawing = self._mujoco, self._opened()
        drawing.gl.make_current()
        # The framebuffer is a property of the shared context: another model may have bound its own.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, drawing.context)
        category = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, data, drawing.options, None, self._camera, category, drawing.scene
        )
        mujoco.mjr_render(self._rectangle, drawing.scene, drawing.context)
        mujoco.mjr_readPixels(self._buffer, None, self._rectangle, drawing.context)
        return self._finish(self._buffer)

    def upload_texture(self, texture: int) -> None:
        """Show a texture whose `model.tex_data` was edited; before the first `render` a no-op."""
        if self._drawing is not None:
            self._drawing.gl.make_current()
            self._mujoco.mjr_uploadTexture(self._model, self._drawing.context, texture)

    def upload_height_field(self, number: int) -> None:
        """Show a height field whose `model.hfield_data` was edited, as `upload_texture` does."""
        if self._drawing is not None:
            self._drawing.gl.make_current()
            self._mujoco.mjr_uploadHField(self._model, self._drawing.context, number)

    def close(self) -> None:
        """Free the model's OpenGL resources; a later `render` would make them again."""
        if self._finalizer is not None:
            self._finalizer()
        self._drawing = self._finalizer = None

    def _opened(self) -> "_Drawing":
        if self._drawing is None:
            self._drawing = _Drawing(self._model, self._profile)
            self._finalizer = weakref.finalize(self, _Drawing.free, self._drawing)
            self._finalizer.atexit = False  # the shared context frees what is left, in order
        return self._drawing

    def _fixed_camera(self, camera: str | int) -> Any:
        view = self._mujoco.MjvCamera()
        view.type = self._mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = self._camera_number(camera)
        return view

    def _camera_number(self, camera: str | int) -> int:
        names = [self._model.camera(number).name for number in range(self._model.ncam)]
        if isinstance(camera, str) and camera in names:
            return names.index(camera)
        if isinstance(camera, int) and 0 <= camera < len(names):
            return camera
        known = ", ".join(f"{number} {name!r}" for number, name in enumerate(names))
        raise UnknownCamera(f"the model has no camera {camera!r}", hint=f"known: {known}")

    def _apply_profile(self, side: int) -> None:
        """Write what MuJoCo reads from the model when a context is made."""
        visual, profile = self._model.vis, self._profile
        visual.global_.offwidth = visual.global_.offheight = side
        if profile.samples is not None:
            visual.quality.offsamples = profile.samples
        if profile.shadow_size is not None:
            visual.quality.shadowsize = profile.shadow_size

    def _finish(self, picture_HWC: Image) -> Image:
        times = self._profile.supersample
        if times > 1:
            picture_HWC = box_average(picture_HWC, times)
        if self._top_first:
            picture_HWC = picture_HWC[::-1]
        # Always a copy in memory of its own: the buffer is reused.
        return np.array(picture_HWC.transpose(2, 0, 1), order="C", copy=True)


class _Drawing:
    """What exists of a model in OpenGL, and where."""

    def __init__(self, model: Any, profile: RenderProfile) -> None:
        mujoco = import_mujoco()
        self.gl = shared_gl()
        self.context = self.gl.add(model)
        self.options = mujoco.MjvOption()
        self.scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        flags = self.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] &= profile.shadows
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] &= profile.reflections

    def free(self) -> None:
        self.gl.free(self.context)


def box_average(picture_HWC: Image, times: int) -> Image:
    """Shrink a picture by an integer factor; each pixel is the rounded mean of a box."""
    total = np.zeros(
        (picture_HWC.shape[0] // times, picture_HWC.shape[1] // times, 3), dtype=np.uint16
    )
    for row in range(times):
        for column in range(times):
            total += picture_HWC[row::times, column::times]
    return ((total + times * times // 2) // (times * times)).astype(np.uint8)
