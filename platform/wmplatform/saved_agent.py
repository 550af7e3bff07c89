"""Agents and checkpoints: one part for each of an agent's components, read back on its own.

Shape letters: N environments, A action.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from wmplatform import assembly
from wmplatform.agent import Agent
from wmplatform.checkpoint import Checkpoints
from wmplatform.collect.faults import make_env
from wmplatform.config import Config, load
from wmplatform.edge import described, rounds_or_widens
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.forms import ANY, Holding, Named, OtherForm, Whole, check_form, form_of
from wmplatform.interfaces.env_adapter import EnvAdapter
from wmplatform.playing import Player, env_action
from wmplatform.run_folder import NotARunFolder, config_of
from wmplatform.training.launch import choose_device
from wmplatform.types import EnvSpec, Mode
from wmplatform.world_model import WorldModel

__all__ = [
    "OtherAgent",
    "SavedAgent",
    "UnfitObservation",
    "load_agent_state",
    "open_saved",
    "read_agent",
]


LARGEST_SEED = 2**64 - 1
_LOOP = Holding({"counters": Named(Whole(), words=True), "seed": Whole(most=LARGEST_SEED)})


class OtherAgent(PlatformError):
    """The weights of a checkpoint do not fit the agent of the configuration."""

    exit_code = ExitCode.BAD_RUN


class UnfitObservation(PlatformError):
    """What the agent was given to see is not what it learned from."""

    exit_code = ExitCode.BAD_INPUT


@dataclass
class SavedAgent:
    """An agent as a run left it, which acts, on the device of its parameters.

    Laws:

    1. `act` with `is_first` is as if nothing had been seen before, of those environments alone.
    2. N environments in one call act as each would by itself, as far as nothing is drawn at random.
    3. What is drawn comes from torch's global generator: after `torch.manual_seed` the same calls
       give the same actions.
    4. Nothing here changes the agent, the checkpoint or the run folder.
    """

    run_dir: Path
    agent: Agent
    adapter: EnvAdapter | None
    """Of the evaluation's environment; None where the run was one of pre-training."""
    config: Config
    generation: int
    """Number of the checkpoint."""
    counters: dict[str, int]
    """`env_frames`, `agent_steps` and `updates` of the checkpoint."""
    seed: int
    """Of the run."""
    _player: Player = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._player = Player(self.agent, self.counters.get("agent_steps", 0))

    @property
    def spec(self) -> EnvSpec:
        """What the agent sees and does."""
        return self.agent.spec

    @property
    def world_model(self) -> WorldModel:
        """Encoder, dynamics, decoder and heads."""
        return self.agent.world_model

    def act(
        self,
        observation: Mapping[str, ArrayLike],
        is_first: bool | NDArray[np.bool_] = False,
        *,
        mode: Mode = "eval",
    ) -> Any:
        """Choose the next action in one environment, or in N.

        What is remembered of their episodes is kept here from call to call.

        Args:
            observation: arrays as `spec.observations` declares them, or `[N, ...]` of them; what
                else there is, is not read.
            is_first: whether an episode begins, of all environments, or bool `[N]`. The first call
                begins one in any case.
            mode: `eval` takes the policy's mode; `train` explores as the run did then.

        Returns:
            What `step` takes: float32 `[A]` in [-1, 1], or an int where actions are discrete; for N
            environments float32 `[N, A]`, or int64 `[N]`.

        Raises:
            UnfitObservation: an array is missing or is not as declared, or the episodes of another
                number of environments are still going on.
            IncompatibleParts: the agent has no behavior.
        """
        arrays, single = self._arrays(observation)
        rows, before = len(next(iter(arrays.values()))), self._player.rows
        first = np.asarray(is_first, bool) | (before is None)
        if first.shape not in ((), (rows,)):
            raise UnfitObservation(f"is_first has shape {first.shape} for {rows} environments")
        if before not in (None, rows) and not first.all():
            raise UnfitObservation(
                f"{rows} environments, and the last call had {before}",
                hint="begin new episodes: is_first=True",
            )
        action = self._player.act(arrays, np.broadcast_to(first, rows).copy(), mode)
        return env_action(action[0] if single else action, self.spec.action)

    def _arrays(self, observation: Mapping[str, ArrayLike]) -> tuple[dict[str, NDArray[Any]], bool]:
        """Copy what the agent sees, as arrays `[N, ...]`; also says whether it was of one alone."""
        found: dict[str, NDArray[Any]] = {}
        leads: set[tuple[int, ...]] = set()
        for key, declared in self.spec.observations.items():
            dtype, dims = np.dtype(declared.dtype), len(declared.shape)
            given = np.asarray(observation.get(key))
            lead = given.shape[: max(given.ndim - dims, 0)]
            fits = len(lead) <= 1 and given.shape == (*lead, *declared.shape)
            if fits and rounds_or_widens(given.dtype, dtype):
                with np.errstate(over="ignore"):  # what is infinite then is refused
                    found[key] = np.array(given if lead else given[np.newaxis], dtype, order="C")
            if key not in found or (dtype.kind == "f" and not np.isfinite(found[key]).all()):
                what = described(given) if key in observation else "missing"
                raise UnfitObservation(
                    f"{key} is {what}, and the agent sees {dtype} {declared.shape}",
                    hint="give finite arrays as `spec.observations` declares them, "
                    "or `[N, ...]` of them for N environments",
                )
            leads.add(lead)
        if len(leads) > 1:
            raise UnfitObservation(f"arrays of different numbers of environments: {sorted(leads)}")
        return found, leads == {()}

    def environment(self) -> EnvAdapter:
        """The adapter of the evaluation's environment.

        Raises:
            NothingToRun: the run pre-trained on videos.
        """
        if self.adapter is None:
            raise assembly.NothingToRun(
                "there is no environment to play in: the run pre-trains on videos",
                where=str(self.run_dir),
                hint="its metrics hold the errors on held-out videos: validation/...",
            )
        return self.adapter

    def make_env(self, seed: int = 0) -> gymnasium.Env[Any, Any]:
        """Start an environment as the run's evaluation does; the caller closes it.

        Args:
            seed: of its episodes, until `reset(seed=...)` gives another one.

        Raises:
            NothingToRun: the run pre-trained on videos.
            PlatformError: the environment does not start; the message says what is missing.
        """
        return make_env(self.environment(), seed)


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
    agent.to(choose_device(device))
    return SavedAgent(run_dir, agent, adapter, config, found, loop["counters"], loop["seed"])
