"""The standard library's `platform`, plus the launcher `python -m platform.run`.

This folder is a source root, and its name is the first word of the launch command. Started from
the repository root, Python therefore finds this package before the standard library's module of
that name. So the package runs that module's own code in its own namespace and adds nothing: its
names, docstring and private helpers included, `import platform` gives what it always gave. No code
of ours is imported from here; ours is called `wmplatform`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    def __getattr__(name: str) -> Any: ...


def _run_standard_module(namespace: "dict[str, Any]") -> None:
    """Execute the standard library's `platform` in `namespace`.

    Raises:
        ImportError: the standard library holds no readable `platform`.
    """
    import os
    from importlib.machinery import PathFinder

    library = os.path.dirname(os.__file__)
    spec = PathFinder.find_spec("platform", [library])
    code = getattr(spec and spec.loader, "get_code", lambda _: None)("platform")
    if code is None:
        raise ImportError(f"no standard module 'platform' in {library}", name="platform")
    for name in ("TYPE_CHECKING", "_run_standard_module"):  # leave no name of ours behind
        namespace.pop(name, None)
    exec(code, namespace)  # noqa: S102 - the whole point of this file


_run_standard_module(globals())
