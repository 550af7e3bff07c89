"""A small application and a third party's distribution, on the path but not installed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wmplatform.config import Config, ConfigErrors, load

CORE = {
    "Loop": "acme_app:Loop",
    "Learner": "acme_app:Learner",
    "Adam": "acme_app:Adam",
    "warmup": "acme_app:warmup",
    "Clock": "acme_app:Clock",
    "Sundial": "acme_app:Sundial",
}

APP = """
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Len

from wmplatform.factory import Factory
from wmplatform.interfaces.env_adapter import EnvAdapter

Speed = Literal["fast", "reference"]
SMALLEST = 1


class Base:
    pass


class Clock:
    def __init__(self, *, hz: Annotated[float, Gt(0)] = 1.0) -> None:
        self.hz = hz


class Sundial(Clock):
    pass


class Loop:
    def __init__(self, run_dir="", *, env: Factory[EnvAdapter], learner: "Factory[Learner]",
                 envs: Mapping[str, Factory[EnvAdapter]] | None = None,
                 agent_steps: Annotated[int, Ge(SMALLEST)] = 10, speed: Speed = "fast",
                 rate: float = 1.0, flag: bool = False, name: str = "",
                 size: tuple[int, int] = (1, 2),
                 layers: Annotated[Sequence[int], Len(1, 3)] = (1,), limit: int | None = None,
                 folder: Path = Path("."),
                 anything: Any = None, clock: Factory[Clock] = Clock,
                 either: int | str = 0) -> None:
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})


class Learner(Base):
    def __init__(self, *, optimizer: Factory["Adam"],
                 schedule: "Factory[Base] | None" = None) -> None:
        self.optimizer = optimizer


@dataclass
class Adam:
    lr: Annotated[float, Gt(0)] = 1e-3
    eps: float = 1e-8


def warmup(updates, *, length: Annotated[int, Ge(0)] = 0) -> Base: ...
"""

PLUGIN = """
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from wmplatform.errors import PlatformError
from wmplatform.interfaces.env_adapter import EnvAdapter


@dataclass(frozen=True)
class Grid(EnvAdapter):
    size: Annotated[int, Ge(2), Le(64)] = 8
    task: str = "reach"

    def spec(self): ...
    def make(self, seed): ...
    @property
    def name(self): return f"grid/{self.task}"


class Needy(Grid):
    def __init__(self, *, host: str, **kwargs) -> None:
        super().__init__(**kwargs)


class Refuses(Grid):
    def __init__(self, *, why: str = "no") -> None:
        raise PlatformError("this adapter refuses", where="acme", hint="ask another")
"""

ENTRY_POINTS = """
[wmplatform.envs]
grid = acme_wm.envs:Grid
needy = acme_wm.envs:Needy
refuses = acme_wm.envs:Refuses
broken = acme_wm.broken:Broken
gone = acme_wm.nowhere:Gone
odd = acme wm, perhaps
extra = acme_wm.envs:Grid [fancy]
twice = acme_wm.envs:Grid
wrong = acme_wm.envs:PlatformError

[wmplatform.encoders]
vit = acme_wm.encoders:ViT
"""

ENCODERS = """
import torch
from wmplatform.interfaces import Encoder

class ViT(Encoder):
    def __init__(self, observations, *, depth: int = 2) -> None: ...
"""

BROKEN = """
import surely_not_installed
from acme_wm.envs import Grid

class Broken(Grid):
    pass
"""


def distribution(folder: Path, name: str, version: str, entry_points: str) -> None:
    """Write the metadata that an installed distribution has."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: fancy\n"
        'Requires-Dist: surely-not-installed>=1; extra == "fancy"\n'
    )
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="session")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with the application and the distribution, on `sys.path` during the tests here."""
    folder = tmp_path_factory.mktemp("acme")
    (folder / "acme_app.py").write_text(APP)
    package = folder / "acme_wm"
    package.mkdir()
    for name, text in {
        "__init__": "",
        "envs": PLUGIN,
        "encoders": ENCODERS,
        "broken": BROKEN,
    }.items():
        (package / f"{name}.py").write_text(text)
    distribution(folder, "acme-wm", "0.2", ENTRY_POINTS)
    distribution(folder, "rival-wm", "3.1", "[wmplatform.envs]\ntwice = acme_wm.envs:Grid\n")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [n for n in sys.modules if n.startswith("acme_")]:
        del sys.modules[name]


VALID = """Loop.env = @envs.grid
Loop.learner = @Learner
Learner.optimizer = @Adam
"""


class Workspace:
    """A folder of gin files. `load(text)` checks `x.gin`, which holds the text."""

    VALID = VALID
    CORE = CORE

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def load(self, text: str, *binds: str, **more: object) -> Config:
        path = self.write("x.gin", text)
        options = {"configurables": CORE, "roots": ["Loop"], **more}
        return load([path], binds, **options)  # type: ignore[arg-type]

    def errors(self, text: str, *binds: str, **more: object) -> ConfigErrors:
        with pytest.raises(ConfigErrors) as caught:
            self.load(text, *binds, **more)
        return caught.value

    def only(self, line: str, *binds: str) -> str:
        """The one problem of a valid file with `line` added, after its place was checked."""
        error = self.errors(VALID + line, *binds)
        assert len(error.problems) == 1, str(error)
        problem = error.problems[0]
        assert problem.place is not None
        expected = 1 if problem.place.level == "bind" else VALID.count("\n") + 1
        assert problem.place.line == expected
        return str(error)


@pytest.fixture
def gin_files(acme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Where a test writes its gin files; also the current folder."""
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)
