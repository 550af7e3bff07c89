"""Any gymnasium environment that renders RGB pictures.

Importing this package starts no simulator and opens no window.
"""

from typing import Annotated

from annotated_types import Ge

from wmplatform.envs import PlatformEnv
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvAdapter, EnvSpec

__all__ = ["GymPixels"]


class GymPixels(EnvAdapter):
    """Pictures of a registered gymnasium environment; its own observations are not used.

    Continuous actions are mapped from [-1, 1] to the environment's bounds. An entry without bounds
    passes through, and one with a single bound spans 2 from it on: [0, 2] for positive values. A
    box of integers gives each of them an equal part of [-1, 1]. Discrete actions are indices. Other
    actions, and integers without bounds, are refused.

    Args:
        id: registered name, e.g. `Pendulum-v1`; `module:Name-v0` imports `module` first.
        size: side of the picture in pixels; the rendered one is shrunk by averaging areas.
        action_repeat: environment frames for each agent step.
        time_limit: agent steps of an episode, in place of the registered limit (which is in
            environment frames).
        crop: part of the rendered picture to use, as (left, top, right, bottom) in its pixels.
    """

    def __init__(
        self,
        *,
        id: str = "Pendulum-v1",  # noqa: A002 - gymnasium's word
        size: Annotated[int, Ge(1)] = 64,
        action_repeat: Annotated[int, Ge(1)] = 1,
        time_limit: Annotated[int, Ge(1)] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> None:
        self.id = id
        self.size = size
        self.action_repeat = action_repeat
        self.time_limit = time_limit
        self.crop = crop
        self._spec: EnvSpec | None = None

    @property
    def name(self) -> str:
        """Name with the registered one, e.g. `gym/Pendulum-v1`."""
        return f"gym/{self.id}"

    def spec(self) -> EnvSpec:
        """Describe the environment; the first call constructs it once to ask for its actions."""
        if self._spec is None:
            from wmplugins.gym.simulator import GymSimulator

            simulator = GymSimulator(self.id, size=self.size, crop=self.crop, limited=True)
            try:
                self._spec = self._described(simulator.action, simulator.limit, simulator.random)
            finally:
                simulator.close()
        return self._spec

    def make(self, seed: int) -> PlatformEnv:
        """Start one environment."""
        from wmplugins.gym.simulator import GymSimulator

        spec = self.spec()
        limited = self.time_limit is None
        simulator = GymSimulator(self.id, size=self.size, crop=self.crop, limited=limited)
        return PlatformEnv(simulator, spec, name=self.name, seed=seed)

    def _described(self, action: ActionSpec, limit: int | None, random: bool) -> EnvSpec:
        time_limit = self.time_limit
        if time_limit is None and limit is not None:
            time_limit = -(-limit // self.action_repeat)  # a last step may be cut short
        return EnvSpec(
            observations={"pixels": ArraySpec((3, self.size, self.size), "uint8")},
            action=action,
            action_repeat=self.action_repeat,
            time_limit=time_limit,
            deterministic=not random,
        )
