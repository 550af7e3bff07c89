"""What a configuration assembles, without running it: its root, its environment, its agent.

This file imports no torch; building does.
"""

from typing import TYPE_CHECKING, Any

from wmplatform.clip_source import video_spec
from wmplatform.config import Config
from wmplatform.config.parsing import Ref
from wmplatform.configurables import ROOTS
from wmplatform.errors import ExitCode, PlatformError
from wmplatform.interfaces.env_adapter import EnvAdapter, EnvSpec

if TYPE_CHECKING:
    from wmplatform.agent import Agent

__all__ = [
    "VIDEOS",
    "NothingToRun",
    "build_adapter",
    "build_agent",
    "build_eval_adapter",
    "build_part",
    "build_spec",
    "root_of",
]

VIDEOS = "Pretrain"
"""The loop whose agent sees videos, and no environment."""
_LOOPS = ("Online", VIDEOS)


class NothingToRun(PlatformError):
    """A configuration names no loop, or lacks a part that a command needs."""

    exit_code = ExitCode.BAD_INPUT


def root_of(config: Config) -> str:
    """Name the loop that a configuration is about: the one of `Online`, `Pretrain` it binds.

    Raises:
        NothingToRun: it binds neither, or both.
    """
    loops = [name for name in _LOOPS if name in ROOTS]
    bound = [name for name in loops if any(key[1] == name for key in config.bound)]
    if len(bound) == 1:
        return bound[0]
    what = f"the configuration sets up {' and '.join(bound) or 'no training loop'}"
    raise NothingToRun(
        what,
        where=[str(file) for file in config.files],
        hint=f"bind the settings of exactly one of {', '.join(loops)}",
    )


def build_adapter(config: Config) -> EnvAdapter:
    """Build the environment adapter that the loop is given; starts no simulator.

    Raises:
        NothingToRun: the loop has no environment.
        ConfigErrors: the plug-in cannot be imported.
    """
    adapter: EnvAdapter = build_part(config, "env")
    return adapter


def build_eval_adapter(config: Config) -> EnvAdapter:
    """Build the adapter of the evaluation's environment: `eval_env`, or where it is None `env`.

    Raises:
        NothingToRun: the loop has no environment.
        ConfigErrors: a plug-in cannot be imported.
    """
    own = config.parameter(f"{root_of(config)}.eval_env") is not None
    adapter: EnvAdapter = build_part(config, "eval_env" if own else "env")
    return adapter


def build_spec(config: Config) -> EnvSpec:
    """Describe what the loop's agent sees: an environment's records, or clips of videos.

    Raises:
        NothingToRun: the loop has no environment.
        ConfigErrors: the plug-in cannot be imported.
    """
    if root_of(config) == VIDEOS:
        size = config.parameter(f"{VIDEOS}.image_size")
        return video_spec(config.parameter(f"{VIDEOS}.channels"), size)
    return build_adapter(config).spec()


def build_agent(config: Config, spec: EnvSpec) -> "Agent":
    """Build the agent for an environment; imports torch.

    Raises:
        NothingToRun: the loop has no agent.
        PlatformError: its components do not fit.
    """
    agent: Agent = build_part(config, "agent", spec)
    return agent


def build_part(config: Config, name: str, *wiring: Any) -> Any:
    """Build what the loop's setting `name` refers to.

    Args:
        config: checked.
        name: a setting of the loop, e.g. `evaluation`; where it is not bound, the core's
            configurable of that name is built.
        wiring: arguments of the factory.

    Raises:
        NothingToRun: there is neither.
    """
    root = root_of(config)
    try:
        reference = config.parameter(f"{root}.{name}")
    except KeyError:
        reference = None
    if isinstance(reference, Ref):
        scope = f"{reference.scope}/" if reference.scope else ""
        return config.build(f"{scope}{reference.selector}", *wiring)
    default = name.capitalize()
    if default not in config.targets:
        raise NothingToRun(
            f"{root}.{name} is not set", hint=f"bind it: {root}.{name} = @<group>.<name>"
        )
    return config.build(default, *wiring)
