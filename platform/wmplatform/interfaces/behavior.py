"""Behavior: a policy, how it learns, and the ordered plan of an update."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from wmplatform.types import Batch, Distribution, Features, FeatureSpec, Metrics

if TYPE_CHECKING:
    from wmplatform.agent import Agent

__all__ = ["Behavior", "Objective", "Phase", "Update"]


@dataclass
class Update:
    """What the phases of one update share."""

    batch: Batch
    """What replay gave, on the device; images still uint8."""
    updates: int = 0
    """Updates made before this one; the clock of target copies."""
    agent_steps: int = 0
    """Agent steps collected so far; the clock of schedules."""
    memory: dict[str, Any] = field(default_factory=dict)
    """From earlier phases to later ones. The world model's phase starts from `carry` where a
    behavior left one (latents that replay kept, say), and leaves the `observed` states."""
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """A scalar loss and what it trains.

    The learner differentiates `loss` with respect to the parameters below `trains` and to no
    others, so a loss can flow through a module without moving it.
    """

    name: str
    loss: Tensor
    trains: tuple[str, ...]
    """Prefixes of parameter names of the agent, e.g. `("world_model",)`. Every optimiser group
    lies either wholly below them or wholly outside."""


@dataclass(frozen=True)
class Phase:
    """One step of an update: compute objectives, differentiate all, then step their optimisers."""

    name: str
    compute: Callable[[Update], Sequence[Objective]]
    """Gives no objective in an update in which the phase is not due."""
    after: Callable[[Update], None] | None = None
    """Runs after the optimisers have stepped, e.g. a target copy. It moves buffers and parameters
    that nothing trains; where the update is skipped, they come back."""


class Behavior(nn.Module, ABC):
    """A policy and its learning rule.

    A subclass is built with `(views, action, *, its own settings)`: the specs of the dynamics'
    views by name and the action's spec.

    Laws:

    1. `policy` treats leading dims alike, rows do not mix, it draws nothing, and its distribution
       is over valid actions.
    2. The plan moves only the parameters its objectives name: everything else stays, bit for bit.
    3. The plan is deterministic given the random state, and never waits for the device.
    4. Everything that changes over time (targets, counters, normalisers) is a buffer or a
       parameter, so that it is checkpointed.
    5. Nothing counts that comes after an end. In transitions that is `next` where `discount` is 0;
       elsewhere it counts by the size of `discount`. In imagination it is all that lies more than
       one step after a state where `continue_head` says 0, and no other head that tells ends is
       read. (How a behavior adds imagined rewards and values up no law can see, for a loss is one
       number: test returns against some by hand.)
    6. In transitions reward, discount and `next` of a row count for the action of that row.
    7. A phase imagines in eval mode, and runs in train mode only what it trains (the model's own
       loss apart, which sees to that itself). After an update everything is in eval mode.
    8. An update that is skipped for NaN in its batch leaves no trace. The learner puts back all
       buffers of the agent, and the behavior's parameters that nothing trains; so shapes stay,
       modules are not replaced, and hooks move no trained parameter.
    """

    needs_imagination: bool = False
    """Refused on dynamics without `supports_imagination`."""
    needs_differentiable_rollout: bool = False
    horizon: int = 0
    """Longest imagined rollout; compared with the dynamics' `max_horizon`."""
    continue_head: str = ""
    """Head that ends what is imagined, where the model has it; empty where none does."""

    @abstractmethod
    def policy(self, features: Features) -> Distribution:
        """Return the distribution over actions `[*lead, A]` for the view `policy`."""

    @abstractmethod
    def plan(self, agent: "Agent") -> Sequence[Phase]:
        """List the phases of one update, in order.

        The world model's own phase is `agent.world_model.phase(agent.explorer)`; a behavior
        leaves it out (model-free), puts its own phases around it, or joins it.
        """

    @property
    def capturable(self) -> bool:
        """Whether the plan can run from a CUDA graph: no number in it changes with a clock."""
        return True

    def view_specs(self) -> Mapping[str, FeatureSpec]:
        """Views this behavior reads, for `describe`; none by default."""
        return {}
