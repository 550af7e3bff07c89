"""What the command line's commands do. Each returns an exit code and raises `PlatformError`s.

This file imports no torch; some commands do.
"""

import ast
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.files import CannotRead
from wmplatform.registry import GROUPS, BrokenPlugin, Component, components, find, nearest

__all__ = ["BadSetting", "check", "doctor", "evaluate", "list_components", "print_pairs", "run"]


class BadSetting(PlatformError):
    """A word on the command line of a check that cannot be read."""

    exit_code = ExitCode.BAD_INPUT


def run(
    gin: Sequence[str],
    bindings: Sequence[str],
    *,
    run_dir: Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    resume_from: int | None = None,
    allow_config_change: bool = False,
) -> int:
    """Start or resume a run, and say at its end where its results lie.

    Args:
        gin: files of the experiment, the last one gives the run folder its default name.
        bindings: `Name.param = value` each.
        run_dir: the run folder; `runs/<stem of the last file>` unless given.
        seed: unless given, that of the run that is resumed, or 0.
        device: unless given, an accelerator if there is one.
        resume_from: generation to go on from.
        allow_config_change: resume although the configuration differs.
    """
    from wmplatform.assembly import root_of
    from wmplatform.config import gin_files, load
    from wmplatform.run_folder import RunFolder

    leads = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    console = Console(stderr=True, quiet=not leads, emoji=False)
    config = load(gin, bindings)  # before torch is imported: its errors come at once
    root = root_of(config)
    for name in gin:
        file = gin_files.find(name)
        if file and file.package and not name.startswith(f"{file.package}:"):
            note = f"note: no {name} in the current folder; reading {file.name}"
            console.print(note, markup=False, highlight=False, soft_wrap=True)
    folder = run_dir or Path("runs") / Path(gin[-1].rpartition(":")[2]).stem
    if seed is None:
        seed = RunFolder.seed_of(folder) or 0
    from wmplatform.training.launch import launch

    code = launch(
        config,
        folder,
        root=root,
        seed=seed,
        device=device,
        resume_from=resume_from,
        allow_config_change=allow_config_change,
    )
    if code == ExitCode.INTERRUPTED:
        console.print("stopped and saved; the same command goes on from here", highlight=False)
    if leads:
        _show_results(folder, console)
    return code


def list_components(group: str | None = None, *, load: bool = False, as_json: bool = False) -> int:
    """Print the components of one group, or of all.

    Args:
        group: name of a group.
        load: import each one; the status says what came of it.
        as_json: print a JSON list instead of a table.
    """
    chosen = components(None if group is None else _group_named(group))
    found = [{**_origin(each), "status": _status(each, load=load)} for each in chosen]
    if as_json:
        print(json.dumps(found, indent=2))
        return ExitCode.OK
    if not found:
        print("no installed distribution declares one")
        return ExitCode.OK
    columns = ("group", "name", "distribution", "version", "status")
    # One line a component, and whole: a status ends with the command that mends it.
    table = Table(*columns[:-1], Column(columns[-1], overflow="fold"))
    for entry in found:
        table.add_row(*(Text(entry[column]) for column in columns))
    Console().print(table)
    if not load:
        print("`wmplatform list --load` imports each one, to see if it works")
    return ExitCode.OK


def list_experiments(*, as_json: bool = False) -> int:
    """Print the gin files that installed packages ship, by the names that `--gin` takes.

    Args:
        as_json: print a JSON list instead of a table.
    """
    from wmplatform.config import gin_files

    names = [f"{pack}:{file}" for pack in gin_files.shipping() for file in gin_files.shipped(pack)]
    files = filter(None, map(gin_files.find, names))
    found = [{"name": file.name, "summary": gin_files.summary(file)} for file in files]
    if as_json:
        print(json.dumps(found, indent=2))
        return ExitCode.OK
    table = Table(Column("name", overflow="fold"), "summary")
    for entry in found:
        table.add_row(*map(Text, entry.values()))
    Console().print(table)
    return ExitCode.OK


def check(group: str, name: str | None, bindings: Sequence[str]) -> int:
    """Check a component against the laws of its interface and print the report.

    Args:
        group: name of a group, in the singular too; with the component's name after a dot, where
            no `name` is given.
        name: of the component.
        bindings: settings for the check, `param = value` each.

    Raises:
        UnknownComponent: nothing is named so.
        BadSetting: a binding cannot be read, or no component is named.
    """
    if name is None:
        group, _, name = group.partition(".")
    group = _group_named(group)
    if not name:
        known = nearest("", (each.name for each in components(group)))
        raise BadSetting(f"which component of {group!r} is to be checked?", hint=known)
    component = find(group, name)
    settings = dict(map(_setting, bindings))
    made = component.load()
    from wmplatform.contracts import check as check_laws

    report = check_laws(component.group, made, collect=True, **settings)
    Console(emoji=False).print(str(report), markup=False, highlight=False, soft_wrap=True)
    return ExitCode.OK if report.ok else ExitCode.FAILED


def doctor(folder: Path, *, servers: Mapping[str, str] | None = None, as_json: bool = False) -> int:
    """Examine this machine, print each finding and, for what is broken, its fix.

    Args:
        folder: where runs will be written.
        servers: addresses of simulators' servers by the names of their environments.
        as_json: print a JSON list at the end instead of lines.
    """
    from wmplatform.doctor import examine

    console = Console(emoji=False)  # a host and its port may read like one: `:x:`
    found = []
    for diagnosis in examine(folder, servers):
        found.append(diagnosis)
        if as_json:
            continue
        mark = "[green]ok [/]" if diagnosis.ok else "[red]BAD[/]"
        console.print(mark, end=" ")
        console.print(f"{diagnosis.name}: {diagnosis.detail}", markup=False, soft_wrap=True)
        if not diagnosis.ok and diagnosis.fix:
            for line in diagnosis.fix.splitlines():
                console.print(f"      fix  {line}", markup=False, soft_wrap=True)
    broken = sum(not each.ok for each in found)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    elif broken:
        console.print(f"{broken} of {len(found)} are BAD; what mends each stands below it")
    else:
        console.print("nothing is missing")
    return ExitCode.ENVIRONMENT if broken else ExitCode.OK


def evaluate(
    run_dir: Path,
    *,
    episodes: int | None = None,
    seed: int | None = None,
    film: bool = False,
    generation: int | None = None,
    device: str | None = None,
    as_json: bool = False,
) -> int:
    """Play episodes with the agent of a run and print the averages.

    Args:
        run_dir: a run folder.
        episodes: how many; as the configuration says unless given.
        seed: the episodes' seeds come from it; the run's unless given.
        film: write a video of the first episode.
        generation: which checkpoint; the newest unless given.
        device: where the agent is put.
        as_json: print JSON instead of a table.
    """
    from wmplatform.assembly import build_part
    from wmplatform.evaluation import Evaluation
    from wmplatform.pictures import enlarge, write_video
    from wmplatform.saved_agent import open_saved

    saved = open_saved(run_dir, generation, device)
    adapter = saved.environment()
    evaluation: Evaluation = build_part(saved.config, "evaluation")
    evaluation.episodes = evaluation.episodes if episodes is None else episodes
    evaluation.video_episodes = int(film)
    try:
        result = evaluation.run(
            adapter, saved.agent, saved.seed if seed is None else seed, saved.counters
        )
    finally:
        evaluation.close()
    found: dict[str, Any] = {"checkpoint": saved.generation, **saved.counters, **result.metrics()}
    frames = result.film()
    if frames is not None:
        target = run_dir / "videos" / f"evaluate-{saved.generation:09d}.mp4"
        frames = enlarge(frames, evaluation.video_scale)
        found["video"] = str(write_video(target, frames, evaluation.fps))
    print_pairs(found, as_json=as_json)
    return ExitCode.OK


def _group_named(text: str) -> str:
    """Take a group's name in the singular as well, or its interface's (`encoder`, `reward_head`).

    What is unknown stays as it is.
    """
    for name, group in GROUPS.items():
        interface = group.interface.partition(":")[0].rpartition(".")[2]
        if text in (name, name.removesuffix("s"), interface, group.kind):
            return name
    return text


def _setting(binding: str) -> tuple[str, Any]:
    """Read `param = value`, or `group.name.param = value` as in a gin file.

    Raises:
        BadSetting: it is neither.
    """
    name, _, value = binding.partition("=")
    try:
        return name.strip().rpartition(".")[2], ast.literal_eval(value.strip())
    except (SyntaxError, ValueError):
        raise BadSetting(
            f"not a setting: {binding!r}", hint="write 'param = value'; strings need quotes"
        ) from None


def _origin(component: Component) -> dict[str, str]:
    return {
        "group": component.group,
        "name": component.name,
        "distribution": component.distribution,
        "version": component.version,
        "value": component.value,
    }


def _status(component: Component, *, load: bool) -> str:
    """Say how a component stands; with `load`, by importing it."""
    if load and not component.missing():
        try:
            component.load()
        except BrokenPlugin as error:
            return f"failed: {error.cause}"
        return "loaded" if component.status() == "installed" else component.status()
    return component.status()


def print_pairs(values: dict[str, Any], *, as_json: bool) -> None:
    """Print names and values as a table, or as JSON."""
    if as_json:
        print(json.dumps(values, indent=2))
        return
    table = Table(Column(), Column(overflow="fold"), show_header=False)  # paths stay whole
    for name, value in values.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)


def _show_results(folder: Path, console: Console) -> None:
    """Draw the learning curve and print where it and the newest pictures lie."""
    from wmplatform.pictures import error_curve, learning_curve

    curves = folder / "metrics.jsonl", folder / "pictures" / "curve.png"
    curve: Path | str | None
    try:
        curve = learning_curve(*curves) or error_curve(*curves)
    except CannotRead as error:  # the run has ended well
        curve = f"not drawn: {error.what}"
    lines = {
        "curve": curve or f"{folder / 'metrics.jsonl'} (install 'wmplatform[eval]' for a picture)",
        "policy video": _newest(folder / "videos", "policy-*"),
        "open-loop prediction": _newest(folder / "pictures", "open-loop-*"),
        "open-loop video": _newest(folder / "videos", "open-loop-*"),
        "all numbers": f"{folder / 'metrics.jsonl'}, tensorboard --logdir {folder / 'tensorboard'}",
    }
    for name, place in lines.items():
        if place is not None:
            console.print(f"{name:21} {place}", markup=False, highlight=False, soft_wrap=True)


def _newest(folder: Path, pattern: str) -> Path | None:
    """Return the last file by name, which holds the moment it was made at."""
    return max(folder.glob(pattern), default=None)
