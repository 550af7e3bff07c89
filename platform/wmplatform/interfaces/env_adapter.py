"""EnvAdapter: how a simulator enters the platform.

This file imports no torch: environment workers stay small (36 MB instead of 217 MB).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import gymnasium
import numpy as np

from wmplatform.errors import ExitCode, PlatformError

__all__ = ["ActionSpec", "ArraySpec", "BadSpec", "Diagnosis", "EnvAdapter", "EnvSpec"]


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one array of a record, without leading dims."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    """NumPy name of the dtype; images are `uint8`."""


@dataclass(frozen=True)
class ActionSpec:
    """What an action is.

    Continuous actions lie in [-1, 1]^size; discrete ones are one-hot vectors of `size` entries.
    Both are stored as float32 `[size]`.
    """

    size: int
    kind: Literal["continuous", "discrete"] = "continuous"


class BadSpec(PlatformError):
    """An environment declares what the platform cannot take."""

    exit_code = ExitCode.BAD_INPUT


@dataclass(frozen=True)
class EnvSpec:
    """What the rest of the platform needs to know of an environment, known without starting it.

    Raises:
        BadSpec: a picture is declared as floats.
    """

    observations: Mapping[str, ArraySpec]
    """Observation keys; images are uint8 `[C, H, W]`. At least one, usually `pixels`."""
    action: ActionSpec
    action_repeat: int = 1
    """Environment frames for each agent step."""
    time_limit: int | None = None
    """Agent steps after which an episode is truncated; None where there is no limit."""
    signals: Mapping[str, Literal["max", "sum", "mean", "last"]] = field(default_factory=dict)
    """Extra float32 scalars in `info` at each step and reset (e.g. `success`), and how an episode
    sums them up."""
    deterministic: bool = True
    """The same seed and the same actions give the same episode, bit for bit."""
    still: tuple[str, ...] = ()
    """Pictures that stay the same throughout an episode, e.g. of its goal; any other that does is
    taken for a broken camera."""

    def __post_init__(self) -> None:
        for key, array in self.observations.items():
            if len(array.shape) == 3 and np.dtype(array.dtype).kind == "f":
                raise BadSpec(
                    f"{key} is declared as {array.dtype} {array.shape}; pictures are uint8 "
                    "[C, H, W], which replay stores and encoders turn into floats",
                    hint="declare uint8 and give (255 * picture).round().astype(numpy.uint8), "
                    "channels first; flatten what is no picture",
                )


@dataclass(frozen=True)
class Diagnosis:
    """One thing that `wmplatform doctor` looked at."""

    name: str
    """What was looked at, e.g. `rendering`."""
    ok: bool
    detail: str
    """What was found, in one line."""
    fix: str = ""
    """The command or setting that mends it; empty where nothing is broken."""


class EnvAdapter(ABC):
    """Makes environments of one simulator.

    An adapter is a small picklable value: its constructor takes the settings from gin and starts
    nothing. `make` may be called in another process. `wmplatform.envs.PlatformEnv` keeps laws 2 to
    4 and 8 for any simulator, so that an adapter need not.

    The environment that `make` returns is a `gymnasium.Env` with

    - observation space `Dict` of exactly `spec().observations`; images `Box` uint8 `[C, H, W]`;
    - action space `Box(-1, 1, (A,), float32)`, or `Discrete(n)`, which takes an int;
    - `info` holding every name of `spec().signals` as a float, at `reset` and at every `step`;
    - actions repeated inside, rewards summed, only the last frame rendered.

    Laws:

    1. The same seed gives the same episode: equal first observation and, under equal actions,
       equal everything after it (where `deterministic`); another seed gives another one.
       `reset(seed=s)` starts the episode of seed s, whatever was played before.
    2. Observations are contiguous arrays of their own memory that later steps do not change.
    3. Rewards are Python floats that are finite as float32. `terminated` and `truncated` are never
       both true; a time limit is a truncation and comes at exactly `time_limit` agent steps.
    4. A step after the end raises `EpisodeOver`; a non-finite or wrongly shaped action raises
       `BadAction`, which names the environment, the key and the agent step. Finite actions
       outside [-1, 1] are clipped.
    5. Repeat r equals r single steps: rewards summed, stopping at the episode's end.
    6. `close` may be called twice, and closing leaves no message behind.
    7. The frame shown after `reset` is that of the state that was reset to.
    8. Keys, shapes and dtypes, spaces and `info` are what `spec()` declares, gymnasium's
       `check_env` passes, and a pickled copy of the adapter makes the same environments.
    9. Pictures, which are arrays of three dimensions, are integers or booleans, and change within
       episodes unless `spec().still` names them.
    """

    @abstractmethod
    def spec(self) -> EnvSpec:
        """Describe the environment without rendering, and without a simulator where possible."""

    @abstractmethod
    def make(self, seed: int) -> gymnasium.Env[dict[str, np.ndarray], np.ndarray]:
        """Start one environment.

        Args:
            seed: seeds all of its randomness until `reset(seed=...)` gives another one.

        Raises:
            PlatformError: the simulator or a library it needs is missing; the message says what
                to install.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """Readable name with the task, e.g. `metaworld/reach`; for messages and logs."""

    def diagnose(self) -> list[Diagnosis]:
        """Try what this adapter needs of the machine, for `wmplatform doctor`; never raises.

        May start the simulator and render. The default has nothing to report.
        """
        return []

    @classmethod
    def diagnose_server(cls, address: str) -> list[Diagnosis]:
        """Look at a simulator's server, for `wmplatform doctor --NAME HOST:PORT`; never raises.

        NAME is the component's. Changes nothing on the server. The default knows of no servers.

        Args:
            address: as given, not yet checked.
        """
        fix = "leave the address out"
        return [Diagnosis(f"server {address}", False, f"{cls.__name__} uses none", fix)]
