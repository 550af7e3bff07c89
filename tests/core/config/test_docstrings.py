"""What the source says about arguments is found wherever the house style puts it."""

import sys
from pathlib import Path

import pytest

from wmplatform.config.docstrings import argument_docs, summary

SOURCE = '''
from dataclasses import dataclass
from explained_base import Root

class InClass:
    """A part
    of two lines.

    Args:
        depth: channels of
            the first layer.
        low, high (float): bounds: both included.

            A second paragraph.

    Raises:
        ValueError: depth is odd.
    """

    def __init__(self, *, depth=1, low=0.0, high=1.0): ...

class InInit:
    """A part."""

    key: str
    """Class attribute."""

    def __init__(self, wired, *, key="", width=1):
        """Build.

        Args:
            wired: supplied.
            **width: of a layer.

        Returns:
            nothing: at all.
        """
        self.key = key
        """Attribute of an object."""

@dataclass
class Fields:
    length: int = 1
    """Records."""
    bare: int = 2

class Child(Root):
    """A child.

    Args:
        own: of the child.
        both: of the child too.
    """

    def __init__(self, *, own=1, **kwargs): ...

def function(*, size=1):
    """Make one.

    Args:
        size: in pixels.
    """

class Silent: ...
'''
BASE = '''
class Root:
    """A root.

    Args:
        both: of the root.
        deep: of the root alone.
    """
'''


@pytest.fixture(scope="module", autouse=True)
def _explained(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("explained")
    (folder / "explained.py").write_text(SOURCE)
    (folder / "explained_base.py").write_text(BASE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


BOUNDS = "bounds: both included. A second paragraph."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("InClass", {"depth": "channels of the first layer.", "low": BOUNDS, "high": BOUNDS}),
        (
            "InInit",
            {"wired": "supplied.", "width": "of a layer.", "key": "Attribute of an object."},
        ),
        ("Fields", {"length": "Records."}),
        (
            "Child",
            {"own": "of the child.", "both": "of the child too.", "deep": "of the root alone."},
        ),
        ("function", {"size": "in pixels."}),
        ("Silent", {}),
        ("Missing", {}),
    ],
)
def test_arguments_are_explained(name: str, expected: dict[str, str]) -> None:
    found = argument_docs(f"explained:{name}")
    assert {key: found[key] for key in expected} == expected
    assert set(found) - set(expected) <= {"key"}
    assert "explained" not in sys.modules


def test_the_first_paragraph_sums_up(tmp_path: Path) -> None:
    assert summary("explained:InClass") == "A part of two lines."
    assert summary("explained:Silent") == summary("explained:Missing") == ""
