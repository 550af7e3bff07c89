"""Something-Something-v2 (Goyal et al. 2017), as its publishers lay it out."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from wmplatform.files import CannotRead, parse_json, read_regular
from wmplatform.forms import ANY, TEXT, Form, Holding, Many, Maybe, Named, OtherForm, check_form
from wmplatform.interfaces.video_source import Video
from wmplatform.registry import nearest
from wmplatform.videos.errors import BadSource
from wmplugins.videos.decoding import Fit, Resample
from wmplugins.videos.folder import VideoFiles
from wmplugins.videos.places import existing_folder

__all__ = ["SomethingSomething"]

_PREFIX = "something-something-v2-"
_MOST_LIST_BYTES = 1 << 29


class _Id(Form):
    def check(self, saved: Any, path: tuple[str | int, ...]) -> None:
        """Accept what names a file, and none in another folder."""
        if type(saved) not in (str, int) or not re.fullmatch(r"\w[\w.-]*", str(saved)):
            raise OtherForm(path, f"is {saved!r:.40}, which names no file")


_ENTRIES = Many(Holding({"id": _Id(), "template": Maybe(TEXT)}))


class SomethingSomething(VideoFiles):
    """Files `<id>.webm` and lists of their classes; a video's label is its class.

    APV and ContextWM squash every frame, at the native 12 frames per second, to 64 x 64 with
    FFmpeg's bicubic filter, and drop videos of fewer than 25 frames (that is `Clips`'s part).

    Lists are looked for in `labels` under either of their names, `train.json` or
    `something-something-v2-train.json`: each entry has an `id` and, except in the test list, a
    `template` whose words without brackets are a class of `labels.json`.

    Args:
        root: folder of the webm files.
        labels: folder of the lists.
        split: which lists.
        classes: only these classes, such as `Pushing something from left to right`; all if empty.
        size: side of the frames in pixels.
        fit: `squash` as published.
        resample: `bicubic` as published.
        every: keep every n-th frame.
    """

    def __init__(
        self,
        *,
        root: str,
        labels: str,
        split: Literal["train", "validation", "train+validation", "test"] = "train",
        classes: tuple[str, ...] = (),
        size: Annotated[int, Ge(1)] = 64,
        fit: Fit = "squash",
        resample: Resample = "bicubic",
        every: Annotated[int, Ge(1)] = 1,
    ) -> None:
        super().__init__(root=root, size=size, fit=fit, resample=resample, every=every)
        self.labels, self.split, self.classes = labels, split, classes

    def videos(self) -> list[Video]:
        """List the videos of the split; files that are missing show when they are decoded.

        Raises:
            BadSource: a folder or list is missing, or a class is unknown.
        """
        existing_folder(self.root)
        self._check_classes()
        found = {video.key: video for name in self.split.split("+") for video in self._listed(name)}
        return [found[key] for key in sorted(found, key=_by_number)]

    def settings(self) -> dict[str, Any]:
        """Leave out where the lists lie as well."""
        settings = super().settings()
        del settings["labels"]
        return settings

    def _listed(self, name: str) -> Iterator[Video]:
        for entry in self._read(name, _ENTRIES):
            label = _class_of(entry)
            if not self.classes or label in self.classes:
                yield Video(f"{entry['id']}.webm", label)

    def _check_classes(self) -> None:
        if not self.classes:
            return
        if self.split == "test":
            raise BadSource(
                "the test list has no classes", hint="leave out 'classes', or take another split"
            )
        known = list(self._read("labels", Named(ANY)))
        for name in self.classes:
            if name not in known:
                raise BadSource(f"there is no class {name!r}", hint=nearest(name, known))

    def _read(self, name: str, form: Any) -> Any:
        folder = existing_folder(self.labels)
        places = [folder / f"{name}.json", folder / f"{_PREFIX}{name}.json"]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            names = " or ".join(place.name for place in places)
            raise BadSource(f"there is no {names} in {self.labels}", hint="set 'labels'")
        try:
            listed = parse_json(read_regular(path, at_most=_MOST_LIST_BYTES, links=True))
            check_form(listed, form)
        except CannotRead as error:
            raise BadSource(error.what, where=str(path)) from None
        except OtherForm as error:
            raise BadSource(f"{path.name} is no such list: {error}", where=str(path)) from None
        except ValueError as error:
            raise BadSource(f"{path.name} is not JSON: {error}", where=str(path)) from error
        return listed

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Point to a tiny dataset of the same layout, made in a temporary folder."""
        from wmplugins.videos.samples import sample_ssv2

        root = Path(sample_ssv2())
        return {"root": str(root / "videos"), "labels": str(root / "labels"), "size": 16}


def _class_of(entry: dict[str, Any]) -> str | None:
    """Give the class: its template without the brackets around what was acted on."""
    template = entry.get("template")
    return None if template is None else template.replace("[", "").replace("]", "")


def _by_number(key: str) -> tuple[int, str]:
    stem = key.rpartition(".")[0]
    return (int(stem) if stem.isdecimal() else 0, key)
