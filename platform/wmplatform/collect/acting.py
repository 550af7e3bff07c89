"""The agent as a policy that TorchRL's collectors can call."""

from typing import Any, Protocol

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from wmplatform.collect.stream_env import IS_INIT
from wmplatform.types import EnvSpec, Mode, TensorTree, tree_map

__all__ = ["ActingPolicy", "Actor", "pack_tree", "unpack_tree"]


class Actor(Protocol):
    """What collection needs of an agent."""

    def act(
        self,
        observations: dict[str, Tensor],
        is_first: Tensor,
        memory: TensorTree,
        *,
        mode: Mode,
        agent_steps: int,
        warmup: bool = False,
    ) -> tuple[Tensor, TensorTree]:
        """Choose actions.

        Args:
            observations: `[N, ...]` each; images uint8.
            is_first: bool `[N]`; where true, the memory of that row is not used.
            memory: what the last call returned; None at first.
            mode: `train` explores, `eval` does not.
            agent_steps: the clock of schedules: steps taken in the run before this one.
            warmup: act without the policy.

        Returns:
            Actions float32 `[N, A]`, and the memory: a pytree of tensors `[N, ...]`.
        """
        ...


class ActingPolicy(TensorDictModuleBase):  # type: ignore[misc]
    """Calls `agent.act` for each step of a collector and keeps the recurrent memory in between.

    The memory of a stream is dropped by the agent where `is_init` says so. It belongs to this
    object: evaluation makes one of its own.

    Args:
        agent: acts, on the device of its parameters, while environments give and take tensors on
            the CPU; a `nn.Module` becomes a child, so weights reach collectors in processes.
        spec: of the environment.
        mode: `train` or `eval`.
    """

    clock: Tensor
    warming: Tensor

    def __init__(self, agent: Actor, spec: EnvSpec, mode: Mode = "train") -> None:
        super().__init__()
        self.in_keys = [*spec.observations, IS_INIT]
        self.out_keys = ["action"]
        self.agent = agent
        self.mode: Mode = mode
        self.memory: TensorTree = None
        self._observations = tuple(spec.observations)
        # Buffers, because collectors in processes receive parameters and buffers.
        self.register_buffer("clock", torch.zeros((), dtype=torch.int64))
        self.register_buffer("warming", torch.zeros((), dtype=torch.bool))

    @property
    def _device(self) -> torch.device:
        weights = self.agent.parameters() if isinstance(self.agent, torch.nn.Module) else iter(())
        first = next(weights, None)
        return torch.device("cpu") if first is None else first.device

    def set_clock(self, agent_steps: int, *, warmup: bool) -> None:
        """Tell how many agent steps the run has taken, and whether the policy is used."""
        self.clock.fill_(agent_steps)
        self.warming.fill_(warmup)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add `action` to observations `[]` or `[N]`, and move the clock on."""
        lead = tensordict.batch_size
        single = len(lead) == 0
        device = self._device
        seen = {key: tensordict[key].to(device) for key in self._observations}
        if single:
            seen = {key: value.unsqueeze(0) for key, value in seen.items()}
        is_first = tensordict[IS_INIT].reshape(-1).to(device)
        action, self.memory = self.agent.act(
            seen,
            is_first,
            self.memory,
            mode=self.mode,
            agent_steps=int(self.clock),
            warmup=bool(self.warming),
        )
        self.clock += len(is_first)
        action = action.detach().to("cpu", torch.float32)
        return tensordict.set("action", action[0] if single else action)

    def memory_state(self) -> Any:
        """Return the memory as plain dicts and lists of CPU tensors."""
        return pack_tree(tree_map(lambda leaf: leaf.detach().cpu(), self.memory))

    def load_memory(self, state: Any) -> None:
        """Take over what `memory_state` returned."""
        self.memory = tree_map(lambda leaf: leaf.to(self._device), unpack_tree(state))


def pack_tree(tree: TensorTree) -> Any:
    """Turn dicts, lists, tuples and None with tensors as leaves into dicts, lists and tensors.

    A checkpoint knows no tuples; without this a memory that holds one would come back as another
    pytree.

    Raises:
        TypeError: for any other kind of node.
    """
    if tree is None or isinstance(tree, Tensor):
        return tree
    if isinstance(tree, dict):
        return {"dict": {key: pack_tree(value) for key, value in tree.items()}}
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [pack_tree(value) for value in tree]}
    raise TypeError(f"acting memory holds a {type(tree).__name__}; use dicts, lists and tuples")


def unpack_tree(state: Any) -> TensorTree:
    """Undo `pack_tree`."""
    if state is None or isinstance(state, Tensor):
        return state
    ((kind, value),) = state.items()
    if kind == "dict":
        return {key: unpack_tree(item) for key, item in value.items()}
    items = [unpack_tree(item) for item in value]
    return tuple(items) if kind == "tuple" else items
