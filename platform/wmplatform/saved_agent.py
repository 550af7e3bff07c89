"""Agents and checkpoints: one part for each of an agent's components, read back on its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmplatform import assembly
from wmplatform.agent import Agent
from wmplatform.checkpoint import Checkpoints
from wmplatform.config import Config, load
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.interfaces.env_adapter import EnvAdapter
from wmplatform.run_folder import NotARunFolder
from wmplatform.training.launch import choose_device

__all__ = [
    "OtherAgent",
    "SavedAgent",
    "load_agent_state",
    "open_saved",
]


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
        OtherAgent: a component or a tensor is missing, is too much, or has another shape.
    """
    for name, child in agent.named_children():
        if name not in state:
            raise OtherAgent(f"the checkpoint has no weights of {name!r}", where=name)
        try:
            child.load_state_dict(state[name])
        except RuntimeError as error:
            raise OtherAgent(
                f"the weights of {name!r} are of another agent",
                where=[line.strip() for line in str(error).splitlines()[1:6]],
                hint="use the configuration that the checkpoint was saved with",
            ) from error


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
        UnreadableCheckpoint: the generation is missing or damaged.
        OtherAgent: its weights do not fit.
    """
    if not (run_dir / "config.gin").exists():
        raise NotARunFolder(
            "there is no run in this folder",
            where=str(run_dir),
            hint="name the folder that a run was given with --run-dir; it holds a config.gin",
        )
    checkpoints = Checkpoints(run_dir / "checkpoints")
    parts = checkpoints.parts(generation)  # before anything is built: it may be missing
    found = generation if generation is not None else checkpoints.generations()[-1]
    config = load([run_dir / "config.gin"])
    videos = assembly.root_of(config) == assembly.VIDEOS
    adapter = None if videos else assembly.build_eval_adapter(config)
    agent = assembly.build_agent(config, assembly.build_spec(config))
    names = [name for name, _ in agent.named_children() if name in parts]
    load_agent_state(agent, {name: checkpoints.load_part(name, found) for name in names})
    loop = checkpoints.load_part("loop", found)
    return SavedAgent(
        agent.to(choose_device(device)), adapter, config, found, loop["counters"], loop["seed"]
    )
