"""From a checked configuration to a running loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from wmplatform.config import Config
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.registry import provenance
from wmplatform.run_folder import RunFolder
from wmplatform.training.host_memory import keep_freed_memory
from wmplatform.training.processes import Processes, joined

__all__ = ["NoSuchDevice", "OneProcessOnly", "choose_device", "launch"]


class NoSuchDevice(PlatformError):
    """The device that was asked for is not there."""

    exit_code = ExitCode.ENVIRONMENT


class OneProcessOnly(PlatformError):
    """A loop that cannot be shared was started by `torchrun` with several processes."""

    exit_code = ExitCode.BAD_INPUT


def choose_device(name: str | None) -> str:
    """Take the named device, or the accelerator if there is one, or the CPU.

    Raises:
        NoSuchDevice: torch cannot use it.
    """
    if name is None or name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()  # `meta` makes tensors, but they hold nothing
    except (RuntimeError, AssertionError) as error:
        raise NoSuchDevice(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}",
            hint="--device cpu runs anywhere; `wmplatform doctor` says what torch sees",
        ) from error
    return name


def launch(
    config: Config,
    run_dir: Path,
    *,
    root: str = "Online",
    seed: int = 0,
    device: str | None = None,
    resume_from: int | None = None,
    allow_config_change: bool = False,
) -> ExitCode:
    """Run the loop `root` of a configuration in a run folder, new or to be resumed.

    Under `torchrun` all processes run it together.

    Args:
        config: checked.
        run_dir: the run folder.
        root: name of the loop, e.g. `Online`.
        seed: of everything random.
        device: for agent and learner; None takes the accelerator if there is one.
        resume_from: an older generation to go on from.
        allow_config_change: resume even though the configuration differs.

    Raises:
        PlatformError: as the parts say.
    """
    keep_freed_memory()
    with joined(device) as (processes, own_device):
        chosen = choose_device(own_device)
        config.activate()
        loop = config.build(root)
        if processes.size > 1 and not loop.several_processes:
            raise OneProcessOnly(
                f"{root} runs in one process, and torchrun started {processes.size}",
                hint="start it without torchrun",
            )
        origin = {
            "gin": {file.name: str(file.path.resolve()) for file in config.files},
            "components": provenance(config.components_used()),
            "device": chosen,
            "processes": processes.size,
            "seed": seed,
            "root": root,
        }
        with _open_folder(
            processes,
            run_dir,
            config_text=config.text,
            provenance=origin,
            allow_config_change=allow_config_change,
        ) as folder:
            folder.operative = config.operative
            try:
                code: ExitCode = loop.run(
                    folder,
                    seed=seed,
                    device=chosen,
                    resume_from=resume_from,
                    processes=processes,
                )
            except BaseException:
                folder.take_back()
                raise
            if processes.leads:
                folder.write_operative()
    return code


@contextmanager
def _open_folder(processes: Processes, path: Path, **settings: Any) -> Iterator[RunFolder]:
    """Open a run folder in the first process, and let the others use it."""
    opened: list[RunFolder] = []
    processes.first(lambda: opened.append(RunFolder.open(path, **settings)))
    with opened[0] if opened else RunFolder.shared(path) as folder:
        yield folder
