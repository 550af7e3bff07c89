"""Agent: world model + behavior + explorer -> act, update plan, open-loop prediction.

Shape letters: N environments, B batch, T time, A action.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from wmplatform.factory import Factory
from wmplatform.images import is_image
from wmplatform.interfaces.behavior import Behavior, Phase
from wmplatform.interfaces.explorer import Explorer
from wmplatform.types import ArraySpec, Batch, EnvSpec, Mode, select_where, tree_map
from wmplatform.world_model import IncompatibleParts, WorldModel

__all__ = ["ActMemory", "Agent"]

ActMemory: TypeAlias = dict[str, Any]
"""What acting carries from step to step: `carry`, the previous `action`, stacked frames."""


class Agent(nn.Module):
    """What acts and learns. Behavior and explorer are absent where there is nothing to control."""

    def __init__(
        self,
        spec: EnvSpec,
        *,
        world_model: Factory[WorldModel] = WorldModel,
        behavior: Factory[Behavior] | None = None,
        explorer: Factory[Explorer] | None = None,
        frame_stack: int = 1,
    ) -> None:
        """Assemble the parts.

        Args:
            spec: of the environment.
            world_model: encoder, dynamics, decoder and heads.
            behavior: policy and learning rule.
            explorer: warm-up, action noise and intrinsic reward.
            frame_stack: images the encoder sees at once, the last ones of the episode.

        Raises:
            IncompatibleParts: two components do not fit.
        """
        super().__init__()
        self.spec, self.frame_stack = spec, frame_stack
        self.world_model = world_model(_stacked(spec, frame_stack))
        views = self.world_model.view_specs()
        self.behavior = behavior(views, spec.action) if behavior else None
        self.explorer = explorer(spec.action, views) if explorer else None
        self._check()
        self.eval()

    def _check(self) -> None:
        """Compare what the behavior needs with what the dynamics can do."""
        if self.behavior is None:
            return
        can, behavior = self.world_model.dynamics.capabilities, self.behavior
        problem = ""
        if behavior.needs_imagination and not can.supports_imagination:
            problem = "learns in imagination, which this dynamics does not support"
        elif behavior.needs_differentiable_rollout and not can.differentiable_rollout:
            problem = "needs gradients through rollouts, which this dynamics does not give"
        elif can.max_horizon is not None and behavior.horizon > can.max_horizon:
            problem = f"imagines {behavior.horizon} steps, the dynamics at most {can.max_horizon}"
        elif self.explorer is None:
            problem = "acts, so it needs an explorer"
        if problem:
            names = f"{type(behavior).__name__} with {type(self.world_model.dynamics).__name__}"
            raise IncompatibleParts(f"{names}: the behavior {problem}", where="Agent")

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def plan(self) -> Sequence[Phase]:
        """Phases of one update: the behavior's plan, or the world model's phase alone."""
        if self.behavior is None:
            return [self.world_model.phase(self.explorer)]
        return self.behavior.plan(self)

    def initial_memory(self, batch: int) -> ActMemory:
        """Memory before the first observation, for `batch` environments."""
        memory: ActMemory = {
            "carry": self.world_model.dynamics.initial(batch, self.device),
            "action": torch.zeros(batch, self.spec.action.size, device=self.device),
        }
        if self.frame_stack > 1:
            memory["frames"] = {
                key: torch.zeros(
                    batch, self.frame_stack, *spec.shape, dtype=torch.uint8, device=self.device
                )
                for key, spec in _images(self.spec).items()
            }
        return memory

    @torch.no_grad()
    def act(
        self,
        observations: Mapping[str, Tensor],
        is_first: Tensor,
        memory: ActMemory | None,
        *,
        mode: Mode,
        agent_steps: int,
        warmup: bool = False,
    ) -> tuple[Tensor, ActMemory]:
        """Choose actions for N environments.

        Args:
            observations: by key, `[N, ...]`, images uint8.
            is_first: bool `[N]`; the memory of those rows is forgotten.
            memory: from the previous call, or None.
            mode: `eval` takes the policy's mode and draws nothing for the action.
            agent_steps: the explorer's clock.
            warmup: act at random; the model is not run.

        Returns:
            Actions float32 `[N, A]` in [-1, 1] or one-hot, and the memory for the next call.

        Raises:
            IncompatibleParts: the agent has no behavior.
        """
        if self.behavior is None or self.explorer is None:
            raise IncompatibleParts("this agent has no behavior, so it cannot act")
        start = self.initial_memory(len(is_first))
        memory = select_where(is_first, start, memory) if memory else start
        memory = self._push_frames(memory, observations, is_first)
        if warmup:
            action = self.explorer.warmup(len(is_first), self.device)
            return action, {**memory, "action": action}
        model = self.world_model
        seen = {**observations, **_flat_frames(memory)}
        state, carry = model.dynamics.observe_step(
            model.embed(seen), memory["action"], is_first, memory["carry"]
        )
        policy = self.behavior.policy(model.dynamics.features(state, "policy"))
        action = self.explorer.act(policy, mode, agent_steps)
        return action, {**memory, "carry": carry, "action": action}

    def _push_frames(
        self, memory: ActMemory, observations: Mapping[str, Tensor], is_first: Tensor
    ) -> ActMemory:
        """Shift the newest frame in; an episode's first frame fills the whole stack."""
        if self.frame_stack == 1:
            return memory
        frames = {}
        for key, old in memory["frames"].items():
            new = observations[key].unsqueeze(1)
            shifted = torch.cat([old[:, 1:], new], 1)
            frames[key] = select_where(is_first, new.expand_as(shifted), shifted)
        return {**memory, "frames": frames}

    @torch.no_grad()
    def open_loop(self, batch: Batch, observed: int) -> dict[str, Tensor]:
        """Predict a segment from its beginning.

        The posterior sees the first `observed` records, the prior rolls out the rest under the
        recorded actions, if there are any. The context, if there is one, comes from the observed
        records only.

        Args:
            batch: records `[B, T, ...]`.
            observed: at least 1 and less than T.

        Returns:
            `truth` and `model`, float `[B, T, C, H, W]` in 0..1 (the model's may stick out).
        """
        model = self.world_model
        embeds = model.embed({k: batch[k][:, :observed] for k in self.spec.observations})
        context = model.context(batch, observed)
        first = batch["is_first"]
        known, following = None, first.new_zeros(*first[:, observed:].shape, 0).float()
        if "action" in batch.keys():  # noqa: SIM118  a TensorDict needs it
            known, following = batch["action"][:, :observed], batch["action"][:, observed:]
        seen = model.dynamics.observe(embeds, known, first[:, :observed], context=context)
        last = tree_map(lambda x: x[:, -1], seen.states)
        future = model.dynamics.imagine(
            last, seen.carry, following, following.shape[1], context=context
        )
        # Imagined states may hold less than observed ones, so they meet as images.
        key, *_ = model.decoder.keys if model.decoder else ("pixels",)
        parts = (model.decode(states, context)[key].mode for states in (seen.states, future.states))
        image, truth = torch.cat(list(parts), 1), model.observations(batch)[key]
        return {"truth": truth[:, -image.shape[1] :] + 0.5, "model": image + 0.5}


def _images(spec: EnvSpec) -> dict[str, ArraySpec]:
    return {key: each for key, each in spec.observations.items() if is_image(each)}


def _stacked(spec: EnvSpec, frames: int) -> EnvSpec:
    """The specs as the encoder sees them: images stacked on the channel axis."""
    if frames == 1:
        return spec
    stacked = {
        key: ArraySpec((frames * image.shape[0], *image.shape[1:]), image.dtype)
        for key, image in _images(spec).items()
    }
    return replace(spec, observations={**spec.observations, **stacked})


def _flat_frames(memory: ActMemory) -> dict[str, Tensor]:
    """Stacked frames `[N, K, C, H, W]` as images `[N, K * C, H, W]`, oldest first."""
    return {key: value.flatten(1, 2) for key, value in memory.get("frames", {}).items()}
