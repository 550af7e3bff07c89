"""Agents and checkpoints: one part for each of an agent's components, read back on its own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wmplatform import assembly
from wmplatform.agent import Agent
from wmplatform.checkpoint import Checkpoints
from wmplatform.config import Config, load
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.forms import ANY, Holding, Named, OtherForm, Whole, check_form, form_of
from wmplatform.interfaces.env_adapter import EnvAdapter
from wmplatform.run_folder import NotARunFolder, config_of
from wmplatform.training.launch import choose_device

__all__ = [
    "OtherAgent",
    "SavedAgent",
    "load_agent_state",
    "open_saved",
    "read_agent",
]


LARGEST_SEED = 2**64 - 1
_LOOP = Holding({"counters": Named(Whole(), words=True), "seed": Whole(most=LARGEST_SEED)})


class OtherAgent(PlatformError):
    """The weights of a checkpoint do not fit the agent of the configuration."""

    exit_code = ExitCode.BAD_RUN


@dataclass
class SavedAgent:
    """An agent as a run left it."""

    agent: Agent
    adapter: EnvAdapter | None
    """Of the evaluation's environment; None where the run was one of pre-training."""
    config: Config
    generation: int
    counters: dict[str, int]
    seed: int
    """Of the run."""


def load_agent_state(agent: Agent, state: Mapping[str, Any]) -> None:
    """Give each component of an agent its state.

    Args:
        agent: as assembled.
        state: states by the names of the agent's children (`world_model`, `behavior`, ...), as
            a checkpoint has them; further entries are ignored.

    Raises:
        OtherAgent: a component or a tensor is missing, is too much, or has another shape or dtype.
    """
    refuse_other_weights(agent, state)
    for name, child in agent.named_children():
        child.load_state_dict(state[name])


def read_agent(agent: Agent, checkpoints: Checkpoints, generation: int) -> None:
    """Give an agent its weights from a checkpoint, whose headers are compared first.

    Raises:
        UnreadableCheckpoint: the generation is missing or damaged.
        OtherAgent: as `load_agent_state` says; no tensor was read then.
    """
    own = [name for name, _ in agent.named_children()]
    saved = [name for name in own if name in checkpoints.parts(generation)]
    refuse_other_weights(agent, {name: checkpoints.outline(name, generation) for name in saved})
    load_agent_state(agent, {name: checkpoints.load_part(name, generation) for name in saved})


def refuse_other_weights(agent: Agent, state: Mapping[str, Any]) -> None:
    """Compare states of an agent's components, or outlines of them, with the agent's own.

    Raises:
        OtherAgent: names up to five tensors that differ.
    """
    for name, child in agent.named_children():
        if name not in state:
            raise OtherAgent(f"the checkpoint has no weights of {name!r}", where=name)
        if problems := _differences(state[name], child.state_dict()):
            raise OtherAgent(
                f"the weights of {name!r} are of another agent",
                where=problems[:5],
                hint="use the configuration that the checkpoint was saved with",
            )


def _differences(saved: Any, own: Mapping[str, Any]) -> list[str]:
    """List the tensors that are not the same on both sides."""
    if not isinstance(saved, dict):
        return ["it is no dict of tensors"]
    found = [f"{key!r} is in the checkpoint only" for key in saved if key not in own]
    for key, value in own.items():
        if key not in saved:
            found.append(f"{key} is missing")
            continue
        try:  # what is no tensor, a module's extra state, the module checks
            check_form(saved[key], form_of(value) if isinstance(value, Tensor) else ANY, (key,))
        except OtherForm as error:
            found.append(str(error))
    return found


def open_saved(
    run_dir: Path, generation: int | None = None, device: str | None = None
) -> SavedAgent:
    """Rebuild a run's agent and load its weights; neither replay nor optimisers are read.

    Args:
        run_dir: a run folder; it may be in use.
        generation: which checkpoint; the newest unless given.
        device: where the agent is put; an accelerator, if there is one, unless given.

    Raises:
        NotARunFolder: there is no run.
        CannotRead: its configuration is a link or no regular file.
        UnreadableCheckpoint: the generation is missing or damaged.
        OtherAgent: its weights do not fit.
    """
    if not os.path.lexists(run_dir / "config.gin"):
        raise NotARunFolder(
            "there is no run in this folder",
            where=str(run_dir),
            hint="name the folder that a run was given with --run-dir; it holds a config.gin",
        )
    config_of(run_dir)
    checkpoints = Checkpoints(run_dir / "checkpoints")
    loop = checkpoints.load_part("loop", generation, _LOOP)  # before anything is built
    found = generation if generation is not None else checkpoints.generations()[-1]
    config = load([run_dir / "config.gin"])
    videos = assembly.root_of(config) == assembly.VIDEOS
    adapter = None if videos else assembly.build_eval_adapter(config)
    agent = assembly.build_agent(config, assembly.build_spec(config))
    read_agent(agent, checkpoints, found)
    return SavedAgent(
        agent.to(choose_device(device)), adapter, config, found, loop["counters"], loop["seed"]
    )
