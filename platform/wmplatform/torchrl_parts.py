"""All that the platform uses of TorchRL, imported without MuJoCo.

TorchRL looks for MuJoCo's JAX backend, and Python answers by importing MuJoCo, which loads the GL
library that MUJOCO_GL names. Where that is missing no run could start, whatever its environment.
So MuJoCo is hidden while TorchRL is imported, and found as ever after that.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast

__all__ = [
    "BaseCollector",
    "Binary",
    "Bounded",
    "Collector",
    "Composite",
    "EnvBase",
    "OneHot",
    "Sampler",
    "TensorDictReplayBuffer",
    "TensorStorage",
    "Unbounded",
    "Writer",
]


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let a module that is not imported yet look as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = cast(ModuleType, None)  # Python's own sign for it
    try:
        yield
    finally:
        del sys.modules[name]


with _hidden("mujoco"):
    from torchrl.collectors import BaseCollector, Collector
    from torchrl.data import (
        Binary,
        Bounded,
        Composite,
        OneHot,
        TensorDictReplayBuffer,
        TensorStorage,
        Unbounded,
        Writer,
    )
    from torchrl.data.replay_buffers import Sampler
    from torchrl.envs import EnvBase
