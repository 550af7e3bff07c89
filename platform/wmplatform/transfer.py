"""Transfer: a new run's world model starts with modules that an earlier run has trained.

A module is loaded whole, buffers included, or not at all. What fits is decided by name: a stacked
dynamics keeps the action-free part that was pre-trained under the name it had there, so a
pre-training run's `dynamics.action_free` fits the `dynamics.action_free` of fine-tuning.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from wmplatform.agent import Agent
from wmplatform.checkpoint import Checkpoints
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import replace_file, to_json
from wmplatform.forms import TENSOR, Array, Holding, Maybe, Named, Whole

__all__ = ["DoesNotFit", "NothingToLoad", "Transferred", "transfer"]

_PARTED = ("dynamics", "heads")
"""Components of the world model whose children are components too."""
_SHOWN = 12
_LOOP = Holding({"counters": Holding({"updates": Maybe(Whole())})})
_T = TypeVar("_T")


class NothingToLoad(PlatformError):
    """Weights were asked for where there are none."""

    exit_code = ExitCode.BAD_RUN


class DoesNotFit(PlatformError):
    """Modules of a checkpoint do not fit the world model that should load them.

    Args:
        source: the checkpoint.
        problems: one line for each tensor or module that differs.
    """

    exit_code = ExitCode.BAD_RUN

    def __init__(self, source: Path, problems: Sequence[str]) -> None:
        self.source, self.problems = source, list(problems)
        more = len(self.problems) - _SHOWN
        shown = [*self.problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        super().__init__(
            f"the checkpoint does not fit this world model ({len(self.problems)} differ); "
            "nothing was loaded",
            where=[str(source), *shown],
            hint="use the sizes and components of the pre-training, or load fewer modules: "
            "Online.load_modules",
        )


@dataclass(frozen=True)
class Transferred:
    """What came of a transfer."""

    source: str
    """The checkpoint."""
    updates: int
    """That its run had made."""
    loaded: dict[str, int]
    """Parameters of each loaded module, by its name in the world model."""
    fresh: tuple[str, ...]
    """Modules that keep their initial weights."""
    unused: tuple[str, ...]
    """Modules of the checkpoint that were not loaded."""

    def __str__(self) -> str:
        loaded = ", ".join(f"{name} ({count:,})" for name, count in self.loaded.items())
        lines = [
            f"loaded from {self.source}, after {self.updates:,} updates: {loaded or 'nothing'}"
        ]
        lines.append(f"freshly initialised: {', '.join(self.fresh) or 'nothing'}")
        if self.unused:
            lines.append(f"not loaded from the checkpoint: {', '.join(self.unused)}")
        return "\n".join(lines)

    def record(self, folder: Path) -> None:
        """Write it into a run folder, as `transfer.json`."""
        replace_file(folder / "transfer.json", to_json(asdict(self)))


def transfer(
    agent: Agent,
    source: Path | str,
    modules: Sequence[str] | Mapping[str, str] | None = None,
) -> Transferred:
    """Load modules of a checkpoint's world model into an agent's, in place.

    Args:
        agent: as assembled.
        source: a run folder or its `checkpoints` (the newest generation), or one generation, e.g.
            `runs/pretrain/milestones/gen-000050000`.
        modules: names below the world model, e.g. `("encoder", "dynamics.action_free")`; where the
            checkpoint has another name, both: `{"encoder.frame": "encoder"}`. Unless given, every
            component of the checkpoint, which all have to fit.

    Raises:
        NothingToLoad: there is no checkpoint, or not such a module.
        DoesNotFit: names or shapes differ; nothing was loaded then.
        UnreadableCheckpoint: it is damaged.
    """
    checkpoints, generation = _find(Path(source))
    outline: dict[str, Array] = checkpoints.outline("world_model", generation, Named(TENSOR))
    counters = checkpoints.load_part("loop", generation, _LOOP)["counters"]
    model, path = agent.world_model, checkpoints.path(generation)
    mine, theirs = _components(model.state_dict()), _components(outline)
    chosen = _chosen(modules, [name for name in mine if name in theirs])
    if modules is not None:
        _check_names(path, chosen, model.state_dict(), outline)
    problems = [p for pair in chosen for p in _differences(*pair, model, outline)]
    if modules is None:
        problems += _strangers(outline, mine)
    if problems:
        raise DoesNotFit(path, problems)
    # Everything fits: only now is a tensor read.
    weights: dict[str, Tensor] = checkpoints.load_part("world_model", generation)
    for here, there in chosen:
        model.get_submodule(here).load_state_dict(_below(weights, there))
    return Transferred(
        source=str(path),
        updates=counters.get("updates", 0),
        loaded={here: _size(model.get_submodule(here)) for here, _ in chosen},
        fresh=(
            *_left(model.state_dict(), [here for here, _ in chosen]),
            *(n for n, part in agent.named_children() if n != "world_model" and part.state_dict()),
        ),
        unused=tuple(_left(weights, [there for _, there in chosen])),
    )


def _chosen(
    modules: Sequence[str] | Mapping[str, str] | None, common: Sequence[str]
) -> list[tuple[str, str]]:
    """Pairs of names: here, and in the checkpoint."""
    if isinstance(modules, Mapping):
        return list(modules.items())
    return [(name, name) for name in (common if modules is None else modules)]


def _find(source: Path) -> tuple[Checkpoints, int]:
    """Find the generation that a path means.

    Raises:
        NothingToLoad: none.
    """
    if (one := re.fullmatch("gen-([0-9]+)", source.resolve().name)) and source.is_dir():
        return Checkpoints(source.resolve().parent), int(one[1])
    for folder in (source / "checkpoints", source):
        newest = Checkpoints(folder).latest()
        if newest is not None:
            return Checkpoints(folder), newest
    raise NothingToLoad(
        "there is no checkpoint to load",
        where=str(source),
        hint="name a run folder that holds one, or one generation: <run>/checkpoints/gen-...",
    )


def _components(names: Collection[str]) -> list[str]:
    """Name the components that tensors belong to: `encoder`, `dynamics.action_free`, ..."""
    paths = [name.split(".") for name in names]
    whole = {path[0] for path in paths if len(path) == 2}  # has tensors of its own
    parted = set(_PARTED) - whole
    found = [".".join(path[: 2 if path[0] in parted else 1]) for path in paths]
    return list(dict.fromkeys(found))


def _check_names(
    path: Path,
    chosen: Sequence[tuple[str, str]],
    mine: Mapping[str, Tensor],
    theirs: Mapping[str, Array],
) -> None:
    """Check that the chosen modules exist on both sides.

    Raises:
        NothingToLoad: one does not, or it is chosen twice.
    """
    problems = [] if chosen else ["no module is named"]
    targets = [here for here, _ in chosen]
    for index, (here, there) in enumerate(chosen):
        if not _below(mine, here):
            problems.append(f"the world model has no module {here!r}")
        if not _below(theirs, there):
            problems.append(f"the checkpoint has no module {there!r}")
        if _covered(here, [*targets[:index], *targets[index + 1 :]]):
            problems.append(f"{here!r} is named twice")
    if problems:
        raise NothingToLoad(
            "; ".join(problems),
            where=str(path),
            hint=f"the checkpoint has {', '.join(_components(theirs))};\n"
            f"the world model has {', '.join(_components(mine))}",
        )


def _differences(
    name: str, there: str, model: nn.Module, outline: Mapping[str, Array]
) -> list[str]:
    """List the tensors of a module that are not the same on both sides."""
    mine = _below({key: Array.of(x) for key, x in model.state_dict().items()}, name)
    theirs = _below(outline, there)
    found = []
    for key in sorted({*mine, *theirs}):
        if key not in theirs:
            found.append(f"{name}.{key}: {mine[key]} is not in the checkpoint")
        elif key not in mine:
            found.append(f"{name}.{key}: {theirs[key]} is in the checkpoint only")
        elif mine[key] != theirs[key]:
            found.append(f"{name}.{key}: {mine[key]} here, {theirs[key]} in the checkpoint")
    return found


def _strangers(outline: Mapping[str, Array], mine: Collection[str]) -> list[str]:
    """List the tensors of the checkpoint's components that the world model does not have.

    Loading everything means everything: what has no place here must be left out by name.
    """
    return [
        f"{name}.{key}: {x} is in the checkpoint only"
        for name in _components(outline)
        if name not in mine
        for key, x in _below(outline, name).items()
    ]


def _below(weights: Mapping[str, _T], name: str) -> dict[str, _T]:
    """Tensors of a module, by their names within it."""
    prefix = f"{name}."
    return {key[len(prefix) :]: x for key, x in weights.items() if key.startswith(prefix)}


def _covered(name: str, chosen: Collection[str]) -> bool:
    """Whether a module is one of those chosen or lies in one."""
    return any(name == each or name.startswith(f"{each}.") for each in chosen)


def _left(tensors: Collection[str], chosen: Collection[str]) -> list[str]:
    """List the components that are not loaded, or not wholly."""
    found = []
    for name in _components(tensors):
        mine = [key for key in tensors if key.startswith(f"{name}.")]
        left = [key for key in mine if not _covered(key, chosen)]
        if left:
            found.append(name if len(left) == len(mine) else f"the rest of {name}")
    return found


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
