"""The command line: parse, call, and turn errors into one message and an exit code.

Nothing heavy is imported before a command needs it: `--help` and `list` never import torch.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from wmplatform import __version__
from wmplatform.errors import ExitCode, PlatformError

__all__ = ["main"]

_SERVER = "server of "
"""Prefix of what the parser keeps an environment's address under."""

_EPILOG = """\
exit codes:
  0  done                     4  something on this machine is missing
  1  a bug, a broken contract 5  the run diverged; the batch was saved
  2  wrong input              130  interrupted; the run was saved
  3  an unusable run folder or checkpoint
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: without the program's name; those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(_environments() if words[:1] == ["doctor"] else ())
    if not words:
        parser.print_help()
        return ExitCode.BAD_INPUT
    if words[0].startswith("--") and words[0] not in ("--help", "--version"):
        words.insert(0, "run")  # `python -m platform.run --gin FILE`
    options = parser.parse_args(words)
    errors = Console(stderr=True, emoji=False)
    try:
        code: int = options.command(options)
    except PlatformError as error:
        errors.print(_message(error), markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        errors.print("interrupted", highlight=False)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # e.g. `wmplatform list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    return code


def _message(error: PlatformError) -> str:
    """Give an error's text, without what gin adds to it on its way out of a component."""
    if "gin" not in sys.modules:
        return str(error)
    from wmplatform.config import without_gin

    return str(without_gin(error))


def _environments() -> list[str]:
    """Names of the installed environments; none is imported."""
    from wmplatform.registry import components

    return [component.name for component in components("envs")]


def _parser(environments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wmplatform",
        description="A plug-in research platform for visual world models.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wmplatform {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_prepare(commands)
    _add_list(commands)
    _add_describe(commands)
    _add_check(commands)
    _add_doctor(commands, environments)
    _add_evaluate(commands)
    _add_analyse(commands)
    return parser


_Commands = argparse._SubParsersAction  # the one name argparse has for what add_subparsers returns


def _add_run(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "train what a gin file describes; the same command on the same folder resumes"
    parser = commands.add_parser("run", help=text, description=text)
    _add_config(parser)
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="run folder (runs/<name of the gin file>)"
    )
    parser.add_argument("--seed", type=_natural, metavar="N", help="of everything random (0)")
    _add_device(parser)
    parser.add_argument(
        "--resume-from",
        type=_natural,
        metavar="GEN",
        help="go on from this checkpoint; newer ones are set aside",
    )
    parser.add_argument(
        "--allow-config-change",
        action="store_true",
        help="resume although the configuration differs from the run's",
    )
    parser.set_defaults(command=_run)


def _add_prepare(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "decode videos once into shards to pre-train from; the same command again goes on"
    parser = commands.add_parser("prepare", help=text, description=text)
    parser.add_argument("source", nargs="?", help="a video source, e.g. folder; or use --gin")
    _add_config(parser, required=False)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where the shards are written"
    )
    parser.add_argument(
        "--processes", type=_natural, metavar="N", help="workers (as many as there are cores)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read all shards again and compare their checksums"
    )
    parser.set_defaults(command=_prepare)


def _add_list(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "list what installed packages provide: components, experiments, settings of one part"
    parser = commands.add_parser("list", help=text, description=text)
    parser.add_argument(
        "name",
        nargs="?",
        help="a group, e.g. encoders; `experiments`, the gin files that packages ship; or a part "
        "whose settings are listed: encoders.cnn, Learner",
    )
    parser.add_argument("--load", action="store_true", help="import each one, to see if it works")
    _add_json(parser)
    parser.set_defaults(command=_list)


def _add_describe(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "show what a gin file assembles: components, parameters, shapes; starts no simulator"
    parser = commands.add_parser("describe", help=text, description=text)
    _add_config(parser)
    _add_json(parser)
    parser.set_defaults(command=_describe)


def _add_check(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "check that a component keeps the laws of its interface"
    parser = commands.add_parser("check", help=text, description=text)
    parser.add_argument("group", help="e.g. encoder, or the whole name: encoders.cnn")
    parser.add_argument("name", nargs="?", help="the component's name in that group, e.g. cnn")
    _add_bind(parser)
    parser.set_defaults(command=_check)


def _add_doctor(
    commands: "_Commands[argparse.ArgumentParser]", environments: Sequence[str]
) -> None:
    text = "look for what is missing on this machine, and say what mends it"
    more = (
        "; --NAME HOST:PORT looks at the server of the environment NAME as well, "
        "e.g. --carla localhost:2000"
    )
    parser = commands.add_parser("doctor", help=text, description=text + more)
    parser.add_argument("--run-dir", type=Path, default=Path("runs"), metavar="DIR", help="runs")
    _add_json(parser)
    for name in environments:
        with contextlib.suppress(argparse.ArgumentError):  # one that is named like a flag above
            parser.add_argument(f"--{name}", dest=_SERVER + name, help=argparse.SUPPRESS)
    parser.set_defaults(command=_doctor)


def _add_evaluate(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "play episodes with the agent of a run"
    parser = commands.add_parser("evaluate", help=text, description=text)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a run folder")
    parser.add_argument("--episodes", type=_positive, metavar="N", help="as the run's gin says")
    parser.add_argument("--seed", type=_natural, metavar="N", help="as the run's")
    parser.add_argument("--video", action="store_true", help="film the first episode")
    parser.add_argument("--checkpoint", type=_natural, metavar="GEN", help="the newest by default")
    _add_device(parser)
    _add_json(parser)
    parser.set_defaults(command=_evaluate)


def _add_analyse(commands: "_Commands[argparse.ArgumentParser]") -> None:
    text = "show what a trained world model predicts, attends to and keeps apart"
    parser = commands.add_parser("analyse", help=text, description=text)
    add = parser.add_argument
    add("kind", choices=("predict", "attention", "tsne", "compose"), help="which analysis")
    add("run_dir", type=Path, metavar="RUN_DIR", help="a run folder, of videos or an environment")
    add(
        "--data",
        type=Path,
        nargs="+",
        default=[],
        metavar="SHARDS",
        help="prepared videos; else the run's held-out ones, or evaluation episodes",
    )
    add("--replay", action="store_true", help="clips of what the run collected; plays nothing")
    add("--out", type=Path, metavar="DIR", help="where files go (RUN_DIR/analyses)")
    add("--clips", type=_positive, metavar="N", help="clips (6); of each label for tsne (100)")
    add("--observed", type=_positive, default=15, metavar="N", help="frames that are seen (15)")
    add("--predicted", type=_natural, default=10, metavar="N", help="frames after these (10)")
    add("--seed", type=_natural, default=0, metavar="N", help="of the choice of clips (0)")
    add("--fps", type=_positive, default=10, metavar="N", help="frames per second of the mp4 (10)")
    add(
        "--at",
        type=_place,
        default=(8, 8),
        metavar="X,Y",
        help="attention: column and row of the patch at the finest scale, 16 x 16 (8,8)",
    )
    add("--patch", type=_positive, default=3, metavar="N", help="attention: positions across (3)")
    add("--labels", nargs="+", default=[], metavar="LABEL", help="tsne: at least two labels")
    add("--view", default="policy", help="tsne: view of the latents, e.g. intrinsic (policy)")
    add("--checkpoint", type=_natural, metavar="GEN", help="the newest by default")
    _add_device(parser)
    _add_json(parser)
    parser.set_defaults(command=_analyse)


def _add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "--gin",
        action="append",
        default=None if required else [],
        required=required,
        metavar="FILE",
        help="an experiment: a file, or PACKAGE:FILE that a package ships (`list experiments`); "
        "given several times, later files override earlier ones",
    )
    _add_bind(parser)


def _add_bind(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bind",
        action="append",
        default=[],
        metavar='"Name.param = value"',
        help="override one setting; may be repeated",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="D", help="cpu, cuda, ...: an accelerator if there is")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _natural(text: str) -> int:
    """Parse a whole number from 0 on."""
    return _whole(text, least=0)


def _positive(text: str) -> int:
    """Parse a whole number from 1 on."""
    return _whole(text, least=1)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return int(text)


def _place(text: str) -> tuple[int, int]:
    """Parse a column and a row, `X,Y`."""
    column, _, row = text.partition(",")
    return _natural(column), _natural(row)


def _run(options: argparse.Namespace) -> int:
    from wmplatform.commands import run

    return run(
        options.gin,
        options.bind,
        run_dir=options.run_dir,
        seed=options.seed,
        device=options.device,
        resume_from=options.resume_from,
        allow_config_change=options.allow_config_change,
    )


def _prepare(options: argparse.Namespace) -> int:
    from wmplatform.videos.command import prepare

    return prepare(
        options.source,
        options.gin,
        options.bind,
        options.out,
        processes=options.processes,
        verify=options.verify,
    )


def _list(options: argparse.Namespace) -> int:
    from wmplatform.configurables import CONFIGURABLES

    if options.name and ("." in options.name or options.name in CONFIGURABLES):
        from wmplatform.settings import list_settings

        return list_settings(options.name, as_json=options.json)
    from wmplatform.commands import list_components, list_experiments

    if options.name == "experiments":
        return list_experiments(as_json=options.json)
    return list_components(options.name, load=options.load, as_json=options.json)


def _describe(options: argparse.Namespace) -> int:
    from wmplatform.config import load

    config = load(options.gin, options.bind)  # before torch is imported: its errors come at once
    from wmplatform.describe import describe, render

    described = describe(config)
    if options.json:
        print(json.dumps(described, indent=2))
    else:
        Console().print(render(described))
    return ExitCode.OK


def _check(options: argparse.Namespace) -> int:
    from wmplatform.commands import check

    return check(options.group, options.name, options.bind)


def _doctor(options: argparse.Namespace) -> int:
    from wmplatform.commands import doctor

    given = {
        name.removeprefix(_SERVER): address
        for name, address in vars(options).items()
        if name.startswith(_SERVER) and address is not None
    }
    return doctor(options.run_dir, servers=given, as_json=options.json)


def _evaluate(options: argparse.Namespace) -> int:
    from wmplatform.commands import evaluate

    return evaluate(
        options.run_dir,
        episodes=options.episodes,
        seed=options.seed,
        film=options.video,
        generation=options.checkpoint,
        device=options.device,
        as_json=options.json,
    )


def _analyse(options: argparse.Namespace) -> int:
    from wmplatform.analysis.command import Request, analyse
    from wmplatform.commands import print_pairs

    request = Request(
        kind=options.kind,
        run_dir=options.run_dir,
        data=options.data,
        replay=options.replay,
        out=options.out,
        clips=options.clips or (100 if options.kind == "tsne" else 6),
        observed=options.observed,
        predicted=options.predicted,
        seed=options.seed,
        fps=options.fps,
        at=options.at,
        patch=options.patch,
        labels=options.labels,
        view=options.view,
        generation=options.checkpoint,
        device=options.device,
    )
    print_pairs(analyse(request), as_json=options.json)
    return ExitCode.OK
