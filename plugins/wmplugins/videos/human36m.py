"""Human3.6M (Ionescu et al. 2014) in the form that pose estimation uses (Pavlakos et al. 2017)."""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import CannotRead, open_regular, parse_json, read_regular
from wmplatform.forms import REAL, Many, Named, check_form
from wmplatform.interfaces.video_source import Video
from wmplatform.videos.errors import BadSource
from wmplugins.videos.arrays import BadArray, open_array
from wmplugins.videos.images import Box, Filter, fitted, open_image
from wmplugins.videos.places import existing_folder
from wmplugins.videos.sequences import ImageSequences, Sequence

__all__ = ["Human36M", "MissingH5", "subject_square"]

_NAME = re.compile(r"(?P<video>(?P<subject>S\d+)_(?P<action>[^.]+?)[ _]?\d?\.\d+)_(?P<number>\d+)")
_MARGIN = 200
_LARGEST = 1000
_MOST_LIST_BYTES = 1 << 29
_MOST_JOINTS_BYTES = 1 << 32
_MOST_JOINTS = 1000


class MissingH5(PlatformError):
    """A file of joints is HDF5 and h5py, which reads it, is not installed."""

    exit_code = ExitCode.ENVIRONMENT


class Human36M(ImageSequences):
    """Images `S1_Directions.54138969_000001.jpg`; the name without number and ending is a video.

    As ContextWM prepares it: only images named in the two lists, and a square around the subject of
    side min(max(w, h) + 200, 1000), where w x h is the box around its joints, shifted into the
    image and resized to 64 x 64. A video's label is its action.

    Each list of image names goes with a file of joints, one of
    - `.h5` with `part`, float `[N, J, 2]`: pixel positions of the joints, in the order of the
      list (needs h5py);
    - `.npz` with the same array `part`;
    - `.json`: `{image name: [left, top, right, bottom]}`, boxes around the joints.

    Args:
        root: folder of the lists.
        images: folder of the images, below `root`.
        lists: text files with one image name a line.
        joints: files of joints, one for each list.
        size: side of the frames in pixels.
        every: keep the images whose number is 1 + a multiple of it; 5 of 50 frames a second are
            all there are in the usual distribution.
        subjects: only these, such as `S1`; all if empty.
        resample: `bilinear` as published.
    """

    def __init__(
        self,
        *,
        root: str,
        images: str = "images",
        lists: tuple[str, ...] = ("annot/train_images.txt", "annot/valid_images.txt"),
        joints: tuple[str, ...] = ("annot/train.h5", "annot/valid.h5"),
        size: Annotated[int, Ge(1)] = 64,
        every: Annotated[int, Ge(1)] = 5,
        subjects: tuple[str, ...] = (),
        resample: Filter = "bilinear",
    ) -> None:
        if len(lists) != len(joints):
            raise BadSource(
                f"{len(lists)} lists of images have {len(joints)} files of joints",
                hint="give one file of joints for each list, in the same order",
            )
        self.root, self.images, self.lists, self.joints = root, images, lists, joints
        self.size, self.every, self.subjects, self.resample = size, every, subjects, resample

    def sequences(self) -> list[Sequence]:
        """Gather the listed images by video, in the order of their numbers.

        Raises:
            BadSource: a file is missing or the names are not as expected.
            MissingH5: h5py is needed.
        """
        folder = existing_folder(self.root) / self.images
        videos: dict[str, dict[int, Path]] = {}
        labels: dict[str, str] = {}
        for name in self._boxes:
            match = _NAME.match(name)
            if match is None:
                raise BadSource(f"{name!r} is no image name of Human3.6M")
            if self.subjects and match["subject"] not in self.subjects:
                continue
            if (int(match["number"]) - 1) % self.every == 0:
                videos.setdefault(match["video"], {})[int(match["number"])] = folder / name
                labels[match["video"]] = match["action"]
        if not videos:
            raise BadSource(
                "no image is left", hint=f"look at 'subjects' and 'every' ({self.root})"
            )
        return [
            Sequence(Video(key, labels[key]), tuple(path for _, path in sorted(found.items())))
            for key, found in sorted(videos.items())
        ]

    def image(self, key: str, path: Path) -> NDArray[np.uint8]:
        """Cut out the subject and resize it."""
        image = open_image(path, key)
        box = subject_square(self._boxes[path.name], image.size)
        return fitted(image, self.size, box, self.resample)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_boxes"}

    @cached_property
    def _boxes(self) -> dict[str, Box]:
        """Box around the joints by image name, in the order of the lists."""
        root = existing_folder(self.root)
        found: dict[str, Box] = {}
        for names_file, joints_file in zip(self.lists, self.joints, strict=True):
            listed = _content(_file(root, names_file), _MOST_LIST_BYTES).splitlines()
            names = [name.strip() for name in listed if name.strip()]
            found |= _boxes_of(names, _file(root, joints_file))
        return found

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Point to a tiny dataset of the same layout, made in a temporary folder."""
        from wmplugins.videos.samples import sample_human36m

        lists, joints = ("train_images.txt",), ("train.npz",)
        return {"root": sample_human36m(), "lists": lists, "joints": joints, "size": 16}


def subject_square(box: Box, image_size: tuple[int, int]) -> Box:
    """Return the square around a subject that ContextWM cuts out.

    Args:
        box: around its joints.
        image_size: width and height.
    """
    left, top, right, bottom = box
    side = min(max(right - left, bottom - top) + _MARGIN, _LARGEST, *image_size)
    corner = []
    for low, high, limit in ((left, right, image_size[0]), (top, bottom, image_size[1])):
        corner.append(min(max((low + high - side) / 2, 0.0), limit - side))
    return corner[0], corner[1], corner[0] + side, corner[1] + side


def _boxes_of(names: list[str], path: Path) -> dict[str, Box]:
    if path.suffix == ".json":
        return _listed_boxes(names, path)
    part_NJ2 = _joints(path, len(names))
    corners = np.concatenate([part_NJ2.min(axis=1), part_NJ2.max(axis=1)], axis=1).astype(float)
    return {name: _box(row) for name, row in zip(names, corners.tolist(), strict=True)}


def _listed_boxes(names: list[str], path: Path) -> dict[str, Box]:
    try:
        listed = parse_json(_content(path, _MOST_LIST_BYTES))
        check_form(listed, Named(Many(REAL, 4)))
    except ValueError as error:
        what = f"{path.name} does not give four numbers for each image: {error}"
        raise BadSource(what, where=str(path)) from None
    missing = [name for name in names if name not in listed]
    if missing:
        raise BadSource(f"{path.name} has no box for {missing[0]!r}", where=str(path))
    return {name: _box(listed[name]) for name in names}


def _box(values: list[float]) -> Box:
    left, top, right, bottom = map(float, values)
    return left, top, right, bottom


def _joints(path: Path, images: int) -> NDArray[Any]:
    """Read joints `[N, J, 2]` of so many images.

    Raises:
        BadSource: there are others, or the file is damaged.
        MissingH5: h5py is needed.
    """
    try:
        if path.suffix == ".npz":
            with open_array(path, "part", most_bytes=_MOST_JOINTS_BYTES) as part:
                _check_joints(path, part.shape, part.dtype, images)
                return np.stack(list(part.rows()))
        return _joints_of_h5(path, images)
    except CannotRead as error:
        raise BadSource(error.what, where=str(path)) from None
    # h5py raises KeyError and RuntimeError for damaged files, too.
    except (BadArray, OSError, KeyError, RuntimeError, ValueError) as error:
        raise BadSource(f"{path.name}: {error}", where=str(path)) from error


def _check_joints(path: Path, shape: tuple[int, ...], dtype: Any, images: int) -> None:
    if len(shape) != 3 or shape[::2] != (images, 2) or not 1 <= shape[1] <= _MOST_JOINTS:
        what = f"{path.name} has joints {list(shape)} for {images} images, not [{images}, J, 2]"
        raise BadSource(what, where=str(path), hint="list and joints must belong together")
    if dtype.kind not in "iuf":
        raise BadSource(f"{path.name} has joints of dtype {dtype}", where=str(path))


def _joints_of_h5(path: Path, images: int) -> NDArray[Any]:
    try:
        import h5py
    except ModuleNotFoundError:
        raise MissingH5(
            f"{path.name} is HDF5, and h5py is not installed",
            where=str(path),
            hint="pip install h5py\nor write its array 'part' to an .npz, and bind it as 'joints'",
        ) from None
    with open_regular(path, links=True) as regular, h5py.File(regular) as file:
        part = file["part"]
        if not isinstance(part, h5py.Dataset):
            raise BadSource(f"{path.name} has no array 'part'", where=str(path))
        _check_joints(path, part.shape, part.dtype, images)
        return np.asarray(part)


def _content(path: Path, at_most: int) -> str:
    """Read a list that belongs to the dataset.

    Raises:
        BadSource: it is no regular file, no text, or larger than any such list.
    """
    try:
        return read_regular(path, at_most=at_most, links=True).decode()
    except CannotRead as error:
        raise BadSource(error.what, where=str(path)) from None
    except UnicodeDecodeError as error:
        raise BadSource(f"{path.name} is no text: {error}", where=str(path)) from None


def _file(root: Path, name: str) -> Path:
    path = root / name
    if not path.is_file():
        raise BadSource(f"there is no {name}", where=str(root), hint="set 'lists' and 'joints'")
    return path
