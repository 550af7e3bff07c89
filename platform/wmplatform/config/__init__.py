"""Configuration: gin behind a front end that checks everything before anything is imported.

config = load([Path("experiments/dreamerv2_metaworld.gin")], ["Online.seed = 1"])
online = config.build("Online", run_dir)
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from wmplatform import configurables as core
from wmplatform.config.building import Config, without_gin
from wmplatform.config.catalogue import Catalogue
from wmplatform.config.checking import check
from wmplatform.config.parsing import Ref, parse
from wmplatform.config.problems import ConfigErrors, Place, Problem

__all__ = [
    "ALLOWED_IMPORTS",
    "Config",
    "ConfigErrors",
    "Place",
    "Problem",
    "Ref",
    "load",
    "without_gin",
]

ALLOWED_IMPORTS: frozenset[str] = frozenset()
"""Top-level packages whose `import` lines a gin file may hold: none, components need none."""


def load(
    files: Sequence[Path | str],
    bindings: Sequence[str] = (),
    *,
    roots: Sequence[str] | None = None,
    configurables: Mapping[str, str] | None = None,
    allowed_imports: Collection[str] = ALLOWED_IMPORTS,
) -> Config:
    """Read and check a configuration; imports neither torch nor any plug-in.

    Args:
        files: paths, or names as `--gin` takes them (`wmplatform:base/apv.gin`); a later file
            overrides an earlier one.
        bindings: `Name.param = value` strings, which override all files.
        roots: names of `configurables` that will be built; what they do not lead to is unused.
            By default those of `wmplatform.configurables.ROOTS` that the configuration binds.
        configurables: the core's names, `wmplatform.configurables.CONFIGURABLES` by default.
        allowed_imports: packages that `import` lines may name.

    Raises:
        ConfigErrors: everything that is wrong, each with file and line.
    """
    parsed = parse(files, bindings)
    catalogue = Catalogue(core.CONFIGURABLES if configurables is None else configurables)
    if roots is None:
        bound = {binding.selector for binding in parsed.bindings}
        roots = [root for root in core.ROOTS if root in bound] or core.ROOTS
    checked = check(parsed, catalogue, roots, allowed_imports)
    if checked.problems:
        raise ConfigErrors(checked.problems)
    imports = tuple(dict.fromkeys(text.split()[1] for text, _ in parsed.imports))
    return Config(
        files=tuple(parsed.files),
        unused=tuple(checked.unused),
        bound=checked.bound,
        targets=checked.targets,
        imports=imports,
    )
