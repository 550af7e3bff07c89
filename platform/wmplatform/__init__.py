"""wmplatform: a plug-in research platform for visual world models.

Importing this package imports nothing heavy; every public name lives in a submodule.
"""

if __name__ != "wmplatform":
    raise ImportError(
        f"wmplatform was imported as {__name__!r}, which would make a second copy of it; "
        "import it as 'wmplatform'"
    )

__all__ = ["__version__"]

__version__ = "0.1.0"
