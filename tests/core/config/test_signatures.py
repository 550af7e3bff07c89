"""Signatures read from source say what the objects themselves would say, without an import."""

import sys
from pathlib import Path

import pytest

from wmplatform.config.signatures import Signature, read_signature
from wmplatform.config.source import Unreadable, ancestors

SHAPES = """
import dataclasses
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar
from shapes_base import Root, Settings as Inherited

class Starred:
    def __init__(self, a, b=1, *, c: int, d=2): ...

class Plain:
    def __init__(self, a, b: int = 1): ...

class Silent(Starred): ...

class Far(Root): ...

class Adds(Root):
    def __init__(self, a, *, own=1, **kwargs):
        super().__init__(a, fixed=2, **kwargs)

class Open:
    def __init__(self, *, own=1, **kwargs): ...

@dataclass
class Data:
    a: int
    b: list[int] = field(default_factory=list)
    c: ClassVar[int] = 1
    d: int = field(default=3, init=False)

@dataclasses.dataclass(eq=False)
class Derived(Data):
    e: int = 5

@dataclass
class Keyword:
    wired: int
    _: KW_ONLY
    a: int = 1

@dataclass(kw_only=True)
class AllKeyword(Inherited):
    b: int

def function(x, y=2, /, *args, z: "float" = 1.0): ...

Alias = Starred
Made = type("Made", (), {"__init__": lambda self, *, size=1: None})
"""
BASE = """
from dataclasses import dataclass

class Root:
    def __init__(self, a, *, deep: int = 1, fixed=0): ...

@dataclass
class Settings:
    a: int = 0
"""


@pytest.fixture(scope="module", autouse=True)
def _shapes(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "shapes.py").write_text(SHAPES)
    (folder / "shapes_base.py").write_text(BASE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    for name in ("shapes", "shapes_base"):
        sys.modules.pop(name, None)


def shown(signature: Signature) -> tuple[str, str]:
    """Settings and wiring, `!` where there is no default."""
    settings = (n + "!" * s.required for n, s in signature.settings.items())
    wiring = (n + "!" * s.required for n, s in signature.wiring.items())
    return " ".join(settings), " ".join(wiring) + " **" * signature.open


@pytest.mark.parametrize(
    ("name", "settings", "wiring"),
    [
        ("Starred", "c! d", "a! b"),
        ("Plain", "b", "a!"),
        ("Silent", "c! d", "a! b"),
        ("Far", "deep fixed", "a!"),
        ("Adds", "deep own", "a!"),
        ("Open", "own", " **"),
        ("Data", "a! b", ""),
        ("Derived", "a! b e", ""),
        ("Keyword", "a", "wired!"),
        ("AllKeyword", "b!", "a"),
        ("function", "z", "x! y"),
        ("Alias", "c! d", "a! b"),
    ],
)
def test_settings_and_wiring_are_told_apart(name: str, settings: str, wiring: str) -> None:
    assert shown(read_signature(f"shapes:{name}")) == (settings, wiring)
    assert "shapes" not in sys.modules


def test_what_the_source_does_not_say_is_asked_of_the_object() -> None:
    assert shown(read_signature("shapes:Made")) == ("size", "")
    assert sys.modules.pop("shapes")


def test_ancestors_are_followed_through_imports() -> None:
    assert ancestors("shapes:Adds") == ["shapes:Adds", "shapes_base:Root"]


def test_lazily_exported_interfaces_are_found_where_they_are_defined() -> None:
    assert ancestors("wmplatform.interfaces:RewardHead")[:2] == [
        "wmplatform.interfaces.reward_head:RewardHead",
        "wmplatform.interfaces.reward_head:Head",
    ]


def test_a_module_with_a_syntax_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "unreadable_shapes.py").write_text("def (:\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(Unreadable, match="SyntaxError"):
            read_signature("unreadable_shapes:X")
    finally:
        sys.path.remove(str(tmp_path))


def test_built_in_components_are_read_without_torch() -> None:
    from wmplatform import registry

    before = "torch" in sys.modules
    for component in registry.components():
        if component.distribution == "wmplatform" and not component.missing():
            signature = read_signature(component.value)
            assert not signature.open, component
            assert signature.kinds, component
    assert ("torch" in sys.modules) == before
