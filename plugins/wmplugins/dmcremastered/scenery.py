"""Changes the looks of a live MuJoCo model, and nothing else of it."""

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from wmplugins.dmcremastered.drawing import Picture
from wmplugins.dmcremastered.looks import Domain, Factor, Look
from wmplugins.dmcremastered.pictures import Pictures
from wmplugins.mujoco import import_mujoco

__all__ = ["Scenery", "with_small_textures"]

_CAMERA = 0
_LIGHT = 0
_FACES = 6
_TILES = "3 3"
"""How often a floor's picture is repeated; the suite's checker is repeated once."""

_SKY_FILE = "./common/skybox.xml"
_FLOOR_FILE = "./common/materials.xml"

_STATISTICS = ("extent", "center", "meansize", "meanmass", "meaninertia")


class Scenery:
    """Gives a model of the suite one look after another.

    Only what is varied is ever written. What MuJoCo derives from positions of cameras and lights
    is derived again; physics is the same bit for bit.

    Args:
        model: a `mujoco.MjModel` with the suite's materials.
        domain: what is peculiar to its domain.
        vary: the factors that change.
        pictures: of the floor and the background.
    """

    def __init__(
        self, model: Any, domain: Domain, vary: Collection[Factor], pictures: Pictures
    ) -> None:
        self._mujoco = import_mujoco()
        self._model, self._domain = model, domain
        self._vary, self._pictures = frozenset(vary), pictures
        self._scratch = self._mujoco.MjData(model)
        self._materials = {model.material(i).name: i for i in range(model.nmat)}
        self._textures = {model.texture(i).name: i for i in range(model.ntex)}

    def show(self, look: Look) -> list[int]:
        """Change the model to a look; returns the textures that must be uploaded."""
        self._colour(look)
        self._light(look)
        self._place(look)
        return self._texture(look)

    def _colour(self, look: Look) -> None:
        rgba, grid = self._model.mat_rgba, self._materials["grid"]
        if "body" in self._vary:
            rgba[self._materials["self"]] = look.body
            rgba[self._materials["effector"]] = look.effector
        if "target" in self._vary:
            rgba[self._materials["target"]] = look.target
        if "reflectance" in self._vary:
            self._model.mat_reflectance[grid] = look.reflectance

    def _light(self, look: Look) -> None:
        if "light" in self._vary:
            headlight = self._model.vis.headlight
            headlight.ambient = look.ambient
            headlight.diffuse = look.diffuse
            headlight.specular = look.specular

    def _place(self, look: Look) -> None:
        """Move camera and light; both follow the body, by offsets that MuJoCo derives."""
        model = self._model
        light = look.light if "light" in self._vary else None
        if light is not None:
            model.light_pos[_LIGHT] = light
        if "camera" in self._vary:
            model.cam_pos[_CAMERA] = look.camera
            if look.tilt is not None:
                angles = np.deg2rad(look.tilt)
                self._mujoco.mju_euler2Quat(model.cam_quat[_CAMERA], angles, "xyz")
        if light is not None or "camera" in self._vary:
            with _statistics_kept(model):
                self._mujoco.mj_setConst(model, self._scratch)

    def _texture(self, look: Look) -> list[int]:
        changed = []
        if "background" in self._vary:
            sky = self._pictures.picture("background", look.visual_seed)
            changed.append(self._write("skybox", np.tile(sky, (_FACES, 1, 1))))
        if "floor" in self._vary:
            changed.append(self._write("grid", self._pictures.picture("floor", look.visual_seed)))
        return changed

    def _write(self, name: str, texels: Picture) -> int:
        number = self._textures[name]
        start = self._model.tex_adr[number]
        self._model.tex_data[start : start + texels.size] = texels.ravel()
        return number


@contextmanager
def _statistics_kept(model: Any) -> Iterator[None]:
    """Keep `model.stat` over `mj_setConst`, which measures anew what the XML had laid down.

    The near plane of the view is a multiple of its extent: a wide floor makes the robot vanish.
    """
    before = {name: np.array(getattr(model.stat, name)) for name in _STATISTICS}
    yield
    for name, value in before.items():
        setattr(model.stat, name, value)


def with_small_textures(
    files: tuple[bytes, Mapping[str, bytes]], size: int, domain: Domain, vary: Collection[Factor]
) -> tuple[bytes, dict[str, bytes]]:
    """Edit a model of the suite so that the textures that change have `size` texels a side.

    The sizes of textures are fixed when a model is compiled, and the suite's own sky takes 20 ms to
    upload. A texture that is not varied stays as it is.

    Args:
        files: the model's own file, and those that it includes.
        size: side of a picture in texels.
        domain: what is peculiar to its domain.
        vary: the factors that change.
    """
    xml, assets = files
    edited = dict(assets)
    if "background" in vary:
        sky = _parsed(assets[_SKY_FILE])
        _find(sky, "texture", "skybox").attrib |= {"width": str(size), "height": str(size)}
        edited[_SKY_FILE] = ET.tostring(sky)
    if "floor" in vary:
        materials = _parsed(assets[_FLOOR_FILE])
        _find(materials, "texture", "grid").attrib |= {"width": str(size), "height": str(size)}
        _find(materials, "material", "grid").set("texrepeat", _TILES)
        edited[_FLOOR_FILE] = ET.tostring(materials)
    return _with_floor(xml, domain), edited


def _with_floor(xml: bytes, domain: Domain) -> bytes:
    if domain.floor is None:
        return xml
    root = _parsed(xml)
    floor = next(geom for geom in root.iter("geom") if geom.get("material") == "grid")
    spacing = floor.attrib["size"].split()[2]
    floor.set("size", f"{domain.floor[0]} {domain.floor[1]} {spacing}")
    return ET.tostring(root)


def _parsed(xml: bytes) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314 - files of the installed suite


def _find(root: ET.Element, kind: str, name: str) -> ET.Element:
    return next(element for element in root.iter(kind) if element.get("name") == name)
