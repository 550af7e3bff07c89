"""RewardHead and every other head: features to a distribution over a scalar or a small vector."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from wmplatform.types import Batch, Distribution, Features, Target

__all__ = ["Head", "RewardHead"]


class Head(nn.Module, ABC):
    """Predicts a scalar of each record from the latent, or a vector such as an action.

    A subclass is built with `(features, *, its own settings)`, the spec of what it reads: of the
    view, or for the timing `transition` of `before`, `action` and `after`.

    Laws:

    1. `forward` maps `[*lead, F]` to a distribution over scalars `[*lead]`, or over events of the
       target's shape; its mean is fp32. In eval mode it draws nothing and rows do not mix.
    2. `loss` is fp32 `[*lead]`, finite, and minimal where the prediction equals the target; it
       never waits for the device.
    3. `target` reads records only and keeps their time: value t belongs to record t, no matter
       what `timing` is. The platform pairs it with the state that `timing` names. It does not
       depend on `is_last`, of which no state knows, and leaves the records as they are.
    4. On a counter environment (reward = index of the record) a head learns the counter, not its
       neighbour.
    5. Gradients reach the features iff `sends_gradient`, and every trainable parameter. Of an array
       of the features every entry counts, or none does. (Which arrays of several a head needs only
       the head knows: that it leaves one out breaks no law.)
    6. It does not read its answer: not the `action` of a transition where it predicts actions, nor
       a state that the action led into, nor the targets made before.
    7. Rows do not mix in train mode either, unless it declares `batch_statistics`.
    8. `timing` and `view` are those of the class: the features are chosen by them before the head
       is built.
    9. Everything that changes over time is a buffer or a parameter, so that it is checkpointed.
    """

    view: str = "reward"
    """The view of the latent that is read, unless `WorldModel.reads` names another one. `embeds` is
    what the encoder gives, all of it by name and of every record, those that the dynamics uses up
    too; a head that reads it trains the encoder, and cannot predict in imagination."""
    timing: Literal["arrival", "departure", "transition"] = "arrival"
    """`arrival`: the state of record t predicts the scalar of record t. `departure`: the state of
    record t predicts the scalar of record t + 1. `transition`: `before` (the view of record t),
    `action` (which led from it) and `after` (the view of record t + 1) together predict the
    scalar of record t + 1; a head uses of them what it needs."""
    sends_gradient: bool = True
    """Whether this loss shapes the latent (the paper's grad heads)."""
    batch_statistics: bool = False
    """In train mode rows see each other, as under batch normalisation."""

    @abstractmethod
    def forward(self, features: Features) -> Distribution:
        """Predict; any leading dims."""

    @abstractmethod
    def target(self, batch: Batch) -> Target:
        """Compute what should be predicted from the records of a segment `[B, T]`."""

    def loss(self, features: Features, target: Tensor) -> Tensor:
        """Loss of each record `[*lead]`: the negative log-likelihood unless overridden."""
        return -self(features).log_prob(target)


class RewardHead(Head):
    """A head whose target is a reward; imagination reads its mean as the reward."""
