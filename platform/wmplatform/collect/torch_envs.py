"""Streams of episodes as TorchRL environments.

A TensorDict holds, beside TorchRL's own keys: the observations, each signal float32 `[..., 1]`,
`is_init` bool `[..., 1]` and `stream` int64 `[..., 1]`. Everything lies on the CPU.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from numpy.typing import NDArray
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wmplatform.collect.stream_env import IS_INIT, Snapshot, StreamEnv, WorkerEnv
from wmplatform.interfaces.env_adapter import ArraySpec, EnvAdapter, EnvSpec
from wmplatform.torchrl_parts import Binary, Bounded, Composite, EnvBase, OneHot, Unbounded

__all__ = ["OneStream", "StartMethod", "VectorStreams"]

StartMethod = Literal["forkserver", "spawn"]
"""How environment processes start; never fork, which copies GL contexts and locked threads."""


class _Streams(EnvBase):  # type: ignore[misc]
    """What one and many streams have in common: specs, and arrays into TensorDicts."""

    def __init__(self, spec: EnvSpec, streams: Sequence[int], batch: list[int]) -> None:
        super().__init__(device=None, batch_size=torch.Size(batch))
        self._observations = tuple(spec.observations)
        self._signals = tuple(spec.signals)
        self._stream = torch.tensor(streams, dtype=torch.int64).view(*batch, 1)
        self.observation_spec = self._observation_spec(spec, batch)
        self.action_spec = _action_spec(spec, batch)
        self.reward_spec = Unbounded((*batch, 1), dtype=torch.float32)
        flags = ("done", "terminated", "truncated")
        self.full_done_spec = Composite(
            {key: Binary(1, shape=(*batch, 1), dtype=torch.bool) for key in flags}, shape=batch
        )

    def _observation_spec(self, spec: EnvSpec, batch: list[int]) -> Composite:
        scalar = (*batch, 1)
        specs: dict[str, Any] = {
            key: _array_spec(array, batch) for key, array in spec.observations.items()
        }
        specs |= {name: Unbounded(scalar, dtype=torch.float32) for name in spec.signals}
        specs[IS_INIT] = Binary(1, shape=scalar, dtype=torch.bool)
        specs["stream"] = Unbounded(scalar, dtype=torch.int64)
        return Composite(specs, shape=batch)

    def _pack(
        self, arrays: Mapping[str, NDArray[Any]], terminated: Any, truncated: Any, **more: Tensor
    ) -> TensorDict:
        ended, cut = _column(terminated, self.batch_size), _column(truncated, self.batch_size)
        values: dict[str, Any] = {
            key: torch.from_numpy(arrays[key]) for key in (*self._observations, *self._signals)
        }
        values |= {
            IS_INIT: torch.from_numpy(arrays[IS_INIT]).bool(),
            "stream": self._stream.clone(),
            "terminated": ended,
            "truncated": cut,
            "done": ended | cut,
            **more,
        }
        return TensorDict(values, self.batch_size)


class OneStream(_Streams):
    """One stream, played in this process.

    Args:
        adapter: makes the environment.
        run_seed: see `StreamEnv`.
        stream: number of the stream.
        first_episode: number of the first episode.
    """

    def __init__(
        self, adapter: EnvAdapter, run_seed: int = 0, stream: int = 0, first_episode: int = 0
    ) -> None:
        env = StreamEnv(adapter, run_seed, stream, first_episode)
        super().__init__(env.spec_of_env, [stream], [])
        self._env = env

    def snapshots(self) -> list[Snapshot]:
        """Describe where the stream stands, as a list of one."""
        return [self._env.snapshot()]

    def resume(self, snapshots: Sequence[Snapshot]) -> None:
        """Go on from there at the next reset."""
        self._env.resume = snapshots[0]

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the simulator."""
        super().close(raise_if_closed=raise_if_closed)
        self._env.close()

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        arrays, _ = self._env.reset()
        return self._pack(arrays, False, False)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = tensordict["action"].numpy()
        arrays, reward, terminated, truncated, _ = self._env.step(action)
        return self._pack(arrays, terminated, truncated, reward=torch.tensor([reward]))

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self._env.run_seed = seed


class VectorStreams(_Streams):
    """N streams, each in a process of its own, stepped together.

    Args:
        adapter: makes the environments; pickled.
        run_seed: see `StreamEnv`.
        num_envs: number of streams.
        start_method: of the processes.
    """

    def __init__(
        self,
        adapter: EnvAdapter,
        run_seed: int = 0,
        num_envs: int = 2,
        start_method: StartMethod = "forkserver",
    ) -> None:
        super().__init__(adapter.spec(), range(num_envs), [num_envs])
        self._vector = AsyncVectorEnv(
            [partial(WorkerEnv, adapter, run_seed, stream) for stream in range(num_envs)],
            shared_memory=True,
            copy=True,
            context=start_method,
            autoreset_mode=AutoresetMode.DISABLED,
        )

    def snapshots(self) -> list[Snapshot]:
        """Describe where each stream stands."""
        return list(self._vector.call("snapshot"))

    def resume(self, snapshots: Sequence[Snapshot]) -> None:
        """Go on from there at the next reset."""
        self._vector.set_attr("resume", list(snapshots))

    def close(self, *, raise_if_closed: bool = True) -> None:
        """End the processes."""
        super().close(raise_if_closed=raise_if_closed)
        self._vector.close()

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        wanted = None if tensordict is None else tensordict.get("_reset", None)
        count = self.batch_size[0]
        mask = np.ones(count, bool) if wanted is None else wanted.reshape(-1).numpy().copy()
        arrays, _ = self._vector.reset(options={"reset_mask": mask})
        never = np.zeros(count, bool)
        return self._pack(arrays, never, never)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = tensordict["action"].numpy()
        arrays, reward, terminated, truncated, _ = self._vector.step(action)
        column = torch.from_numpy(reward).float().unsqueeze(-1)
        return self._pack(arrays, terminated, truncated, reward=column)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self._vector.set_attr("run_seed", seed)


def _column(flags: Any, batch: torch.Size) -> Tensor:
    return torch.as_tensor(flags, dtype=torch.bool).reshape(*batch, 1)


def _action_spec(spec: EnvSpec, batch: list[int]) -> Any:
    shape = (*batch, spec.action.size)
    if spec.action.kind == "discrete":
        return OneHot(spec.action.size, shape=shape, dtype=torch.float32)
    return Bounded(-1.0, 1.0, shape=shape, dtype=torch.float32)


def _array_spec(array: ArraySpec, batch: list[int]) -> Any:
    shape = (*batch, *array.shape)
    dtype = getattr(torch, array.dtype)
    if array.dtype == "uint8":
        return Bounded(0, 255, shape=shape, dtype=dtype)
    return Unbounded(shape, dtype=dtype)
