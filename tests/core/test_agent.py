"""Acting, open-loop prediction, and the checks when an agent is assembled."""

from functools import partial
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.interfaces import Behavior
from wmplatform.types import ActionSpec, ArraySpec, EnvSpec, tree_map
from wmplatform.world_model import IncompatibleParts, WorldModel
from wmplugins.dreamer.behavior import ImaginationActorCritic
from wmplugins.dreamer.encoders import CNNEncoder
from wmplugins.dreamer.explorers import Sampling

from .tiny_dreamer import DISCRETE, MLP, SPEC, model_parts, segments, tiny_agent

FIRST = torch.tensor([True, True, True])
LATER = torch.tensor([False, False, False])


def frames(seed: int = 0) -> dict[str, Tensor]:
    return {"pixels": segments(seed)["pixels"][:, 0]}


def act(agent: Agent, observations: Any, first: Tensor, memory: Any, **settings: Any) -> Any:
    settings = {"mode": "eval", "agent_steps": 0} | settings
    return agent.act(observations, first, memory, **settings)


def test_the_first_action_starts_from_the_zero_state() -> None:
    agent = tiny_agent()
    _, fresh = act(agent, frames(), FIRST, None)
    assert fresh["carry"]["stoch"].sum() == 3 * 4
    torch.manual_seed(1)
    one, _ = act(agent, frames(1), FIRST, None)
    torch.manual_seed(1)
    two, _ = act(agent, frames(1), FIRST, fresh)
    torch.manual_seed(1)
    three, _ = act(agent, frames(1), LATER, fresh)
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_a_reset_row_forgets_nan_and_spares_its_neighbours() -> None:
    agent = tiny_agent()
    _, memory = act(agent, frames(), FIRST, None)
    broken = tree_map(lambda x: x.clone().index_fill_(0, torch.tensor(1), torch.nan), memory)
    first = torch.tensor([False, True, False])
    torch.manual_seed(1)
    clean, _ = act(agent, frames(1), first, memory)
    torch.manual_seed(1)
    action, after = act(agent, frames(1), first, broken)
    assert torch.equal(action, clean)
    assert all(torch.isfinite(x).all() for x in after["carry"].values())


def test_acting_is_one_posterior_step_with_the_previous_action() -> None:
    agent = tiny_agent()
    _, memory = act(agent, frames(), FIRST, None)
    memory["action"] = torch.rand(3, 2)
    model = agent.world_model
    torch.manual_seed(1)
    with torch.no_grad():
        embeds = model.encoder(frames(1))
        state, _ = model.dynamics.observe_step(embeds, memory["action"], LATER, memory["carry"])
        expected = agent.behavior.policy(model.dynamics.features(state, "policy")).mode
    torch.manual_seed(1)
    action, after = act(agent, frames(1), LATER, memory)
    assert torch.equal(action, expected)
    assert torch.equal(after["action"], action)
    for name, value in state.items():
        assert torch.equal(after["carry"][name], value)


@pytest.mark.parametrize("spec", [SPEC, DISCRETE])
def test_actions_are_valid(spec: EnvSpec) -> None:
    agent = tiny_agent(spec)
    for settings in ({"mode": "train"}, {"mode": "eval"}, {"mode": "train", "warmup": True}):
        action, memory = act(agent, frames(), FIRST, None, **settings)
        assert action.shape == (3, spec.action.size)
        assert action.dtype == torch.float32
        assert (action.abs() <= 1).all()
        if spec.action.kind == "discrete":
            assert (action.sum(-1) == 1).all()
        assert torch.equal(memory["action"], action)


def test_acting_uses_running_statistics_and_builds_no_graph() -> None:
    agent = tiny_agent()
    action, memory = act(agent, frames(), FIRST, None, mode="train")
    assert not agent.training
    assert not action.requires_grad
    assert not memory["carry"]["deter"].requires_grad


def test_warm_up_does_not_run_the_model() -> None:
    agent = tiny_agent()

    def refuse(*_: object) -> None:
        raise AssertionError("the encoder ran")

    agent.world_model.encoder.register_forward_pre_hook(refuse)
    act(agent, frames(), FIRST, None, mode="train", warmup=True)


def test_stacked_frames_shift_in_and_start_filled() -> None:
    seen: list[Tensor] = []

    class Spy(CNNEncoder):
        def forward(self, observations: dict[str, Tensor]) -> dict[str, Tensor]:
            seen.append(observations["pixels"])
            return super().forward(observations)

    agent = Agent(
        SPEC,
        world_model=partial(WorldModel, **(model_parts() | {"encoder": partial(Spy, depth=2)})),
        behavior=partial(ImaginationActorCritic, **MLP),
        explorer=Sampling,
        frame_stack=3,
    )
    memory = None
    grey = [torch.full((3, 3, 64, 64), v, dtype=torch.uint8) for v in (10, 20, 30, 40)]
    firsts = [FIRST, LATER, torch.tensor([False, True, False]), LATER]
    for image, first in zip(grey, firsts, strict=True):
        _, memory = act(agent, {"pixels": image}, first, memory)

    def stacks(images: Tensor) -> list[list[int]]:
        raw = images if images.dtype == torch.uint8 else ((images + 0.5) * 255).round()
        return [[int(x) for x in row[::3]] for row in raw[:, :, 0, 0]]

    assert [stacks(x)[0] for x in seen] == [[10, 10, 10], [10, 10, 20], [10, 20, 30], [20, 30, 40]]
    assert stacks(seen[-1])[1] == [30, 30, 40]


# Open loop


def test_open_loop_starts_as_a_reconstruction_and_never_sees_the_future() -> None:
    agent, batch = tiny_agent(), segments()
    torch.manual_seed(1)
    one = agent.open_loop(batch, 2)
    changed = batch.clone()
    changed["pixels"][:, 2:] = 255 - changed["pixels"][:, 2:]
    torch.manual_seed(1)
    two = agent.open_loop(changed, 2)
    assert one["model"].shape == one["truth"].shape == (3, 5, 3, 64, 64)
    assert torch.equal(one["model"], two["model"])
    assert_allclose(one["truth"], batch["pixels"].float() / 255, atol=1e-6)
    changed["pixels"][:, 1] = 0
    torch.manual_seed(1)
    assert not torch.equal(agent.open_loop(changed, 2)["model"], one["model"])


def test_open_loop_follows_the_recorded_actions() -> None:
    """The action stored with record t leads into it, so it moves predictions from t on."""
    agent, batch = tiny_agent(), segments()
    torch.manual_seed(1)
    one = agent.open_loop(batch, 2)["model"]
    changed = batch.clone()
    changed["action"][:, 3] *= -1
    torch.manual_seed(1)
    two = agent.open_loop(changed, 2)["model"]
    assert torch.equal(one[:, :3], two[:, :3])
    assert not torch.equal(one[:, 3], two[:, 3])


# Assembly


class Planner(Behavior):
    """Asks for a longer rollout than the dynamics can give."""

    needs_imagination = True

    def policy(self, features: Tensor) -> Any:
        raise NotImplementedError

    def plan(self, agent: Agent) -> Any:
        raise NotImplementedError


def test_a_behavior_that_imagines_needs_dynamics_that_do() -> None:
    with pytest.raises(IncompatibleParts, match="imagination"):
        Agent(
            SPEC,
            world_model=partial(WorldModel, encoder=partial(CNNEncoder, depth=2)),
            behavior=lambda views, action: Planner(),
            explorer=Sampling,
        )


def test_a_behavior_needs_an_explorer() -> None:
    with pytest.raises(IncompatibleParts, match="explorer"):
        Agent(
            SPEC,
            world_model=partial(WorldModel, **model_parts()),
            behavior=partial(ImaginationActorCritic, **MLP),
        )


def test_without_a_behavior_only_the_world_model_learns() -> None:
    agent = Agent(SPEC, world_model=partial(WorldModel, **model_parts()))
    assert [phase.name for phase in agent.plan()] == ["world_model"]
    with pytest.raises(IncompatibleParts, match="behavior"):
        act(agent, frames(), FIRST, None)


def test_sizes_come_from_the_environment() -> None:
    spec = EnvSpec({"pixels": ArraySpec((1, 64, 64), "uint8")}, ActionSpec(7))
    agent = tiny_agent(spec)
    action, _ = act(
        agent, {"pixels": torch.zeros(2, 1, 64, 64, dtype=torch.uint8)}, FIRST[:2], None
    )
    assert action.shape == (2, 7)
