"""World models of very different kinds: branches, stacked models, contexts, videos.

As in `test_assemblies.py`, their parts could be a third party's, and need no line of the core.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from wmplatform.agent import Agent
from wmplatform.contracts import run as contracts
from wmplatform.contracts.latent_dynamics import check_latent_dynamics
from wmplatform.contracts.reference import draw_records
from wmplatform.distributions import UnitNormal
from wmplatform.interfaces import ActionSpec, ArraySpec, Encoder
from wmplatform.types import tree_map
from wmplatform.world_model import IncompatibleParts, WorldModel
from wmplugins.dreamer.balancers import FixedScales

from .assemblies import branches, stacked, window
from .assemblies.kit import SPEC, imagines, learner, moved, play, records, snapshot, trainable


@pytest.mark.parametrize(
    ("dynamics", "embeds"),
    [
        (branches.Isolated, {"ctrl": ArraySpec((5,)), "free": ArraySpec((4,))}),
        (window.Ring, {"embed": ArraySpec((8,))}),
        (stacked.ActionFree, {"embed": ArraySpec((8,))}),
    ],
)
def test_the_laws_of_dynamics_hold_for_unusual_ones(dynamics: Any, embeds: Any) -> None:
    assert check_latent_dynamics(dynamics, embeds, ActionSpec(3)).violations == []


# Branches


def test_a_branched_agent_trains_every_parameter_once() -> None:
    agent = branches.build()
    trainer, before = learner(agent, branches.GROUPS), snapshot(agent)
    for seed in range(3):
        metrics = trainer.update(records(seed))
    assert trainable(agent) <= moved(agent, before)
    assert [n for n in before if n.endswith(("trunk.weight", "trunk.bias"))] == [
        "world_model.encoder.trunk.weight",
        "world_model.encoder.trunk.bias",
    ]
    assert {"kl_ctrl_loss", "kl_free_loss", "inverse_loss", "image_loss"} <= set(metrics)
    assert agent.open_loop(records(), 3)["model"].shape == (3, 6, 3, 8, 8)  # record 0 is used up
    play(agent)


def gradients(agent: Agent, loss: str) -> set[str]:
    """Parameters that a loss reaches."""
    total = agent.world_model.losses(records()).losses[loss]
    names, parameters = zip(*agent.world_model.named_parameters(), strict=True)
    grads = torch.autograd.grad(total, parameters, allow_unused=True)
    return {n for n, g in zip(names, grads, strict=True) if g is not None and g.any()}


def test_inverse_dynamics_shapes_the_embedding_it_reads_and_nothing_else() -> None:
    parts = {name.rsplit(".", 1)[0] for name in gradients(branches.build(), "inverse")}
    assert parts == {"encoder.trunk", "encoder.stages.ctrl", "heads.inverse.linear"}


def test_the_image_loss_reaches_the_shared_trunk_through_the_background() -> None:
    class Still(branches.Isolated):
        def features(self, state: Any, view: str) -> Any:
            return tree_map(lambda x: x.detach(), super().features(state, view))

    reached = gradients(branches.build(dynamics=Still), "image")
    assert {"encoder.trunk.weight", "context_encoder.stage.weight"} <= reached
    assert not any("stages" in name or "dynamics" in name for name in reached)


class Position(Encoder):
    """Hands on a vector observation."""

    def __init__(self, observations: Any) -> None:
        super().__init__()

    @property
    def embed_specs(self) -> dict[str, ArraySpec]:
        return {"embed": ArraySpec((2,)), "ctrl": ArraySpec((2,))}

    def forward(self, observations: Any) -> dict[str, Tensor]:
        return {"embed": observations["position"], "ctrl": observations["position"]}


class Exact(branches.InverseDynamics):
    """The change itself."""

    def forward(self, features: Any) -> UnitNormal:
        change = features["after"]["ctrl"] - features["before"]["ctrl"]
        return UnitNormal(change, event_dims=1)


def test_a_transition_is_paired_with_the_action_between_and_never_across_episodes() -> None:
    spec = replace(SPEC, observations={"position": ArraySpec((2,))})
    model = WorldModel(spec, encoder=Position, heads={"inverse": Exact})
    batch = draw_records(spec, 0, length=7)
    assert batch["is_first"][:, 1:].any()
    moves = torch.where(batch["is_first"][..., None], torch.randn(2) * 9, batch["action"])
    batch["position"] = moves.cumsum(1)
    assert model.losses(batch).losses["inverse"].item() == pytest.approx(0.0, abs=1e-9)
    batch["action"] = batch["action"].roll(1, 1)
    assert model.losses(batch).losses["inverse"].item() > 0.1


def test_a_head_of_embeddings_sees_a_record_that_the_dynamics_uses_up() -> None:
    model, batch = branches.build().world_model, records()
    batch["is_first"][:, 1:] = False
    before = model.losses(batch)
    assert before.observed.records == slice(1, None)
    batch["action"][:, 1] += 1.0  # led from record 0, which has no state, into record 1
    after = model.losses(batch)
    assert not torch.equal(before.losses["inverse"], after.losses["inverse"])


def test_heads_and_decoder_read_the_views_that_the_model_names() -> None:
    plain = branches.build().world_model
    assert plain.head("reward").mlp.trunk[0][0].in_features == 14
    other = branches.build(reads={"reward": "policy"}).world_model
    assert other.head("reward").mlp.trunk[0][0].in_features == 7
    assert torch.isfinite(other.losses(records()).losses["reward"])
    with pytest.raises(IncompatibleParts, match="no view 'decode_all'"):
        branches.build(reads={"decoder": "decode_all"})


def test_a_view_for_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(IncompatibleParts, match="names continue, but the model has decoder"):
        branches.build(reads={"continue": "policy"})


def test_the_laws_of_heads_hold_for_transitions() -> None:
    assert contracts.check("heads", branches.InverseDynamics).violations == []


def test_the_free_branch_does_not_react_to_actions() -> None:
    dynamics = branches.build().world_model.dynamics
    start = dynamics.initial(2)
    runs = [
        dynamics.imagine(start, start, torch.full((2, 3, 2), a), 3, deterministic=True).states
        for a in (-1.0, 1.0)
    ]
    assert torch.equal(runs[0]["free"]["deter"], runs[1]["free"]["deter"])
    assert not torch.equal(runs[0]["ctrl"]["deter"], runs[1]["ctrl"]["deter"])


def test_the_background_comes_from_the_first_frames_of_its_own_row() -> None:
    model, batch = branches.build().world_model, records()
    states = model.losses(batch).observed.states
    image = model.decode(states, model.context(batch))["pixels"].mean
    for row, t, same in [(1, 0, False), (1, 1, False), (1, 2, True), (0, 0, True)]:
        other = batch.clone()
        other["pixels"][row, t] = 255 - other["pixels"][row, t]
        again = model.decode(states, model.context(other))["pixels"].mean
        assert torch.equal(image[1], again[1]) == same


# An action-free model under an action-conditional one, and a context


def test_a_stacked_agent_freezes_what_was_pretrained_and_trains_the_rest() -> None:
    agent = stacked.build()
    trainer = learner(agent, stacked.GROUPS, enc_model={"frozen_updates": 2})
    before = snapshot(agent)
    frozen = {n for n in trainable(agent) if n.startswith(stacked.GROUPS["enc_model"])}
    for seed in range(2):
        metrics = trainer.update(records(seed))
    assert moved(agent, before) & frozen == set()
    assert trainable(agent) - frozen <= moved(agent, before)
    trainer.update(records(2))
    priors = {n for n in frozen if ".img_out." in n or ".img_dist." in n}
    assert frozen - priors <= moved(agent, before)
    assert not moved(agent, before) & priors  # its divergence is left out: nothing trains them
    assert torch.isinf(metrics["action_free_kl_loss"])
    assert torch.isfinite(metrics["model_loss"])
    assert metrics["skipped_updates"] == 0


def rewarded(last: float) -> Any:
    """Losses of a segment whose last four rewards are this, and the others zero."""
    agent, batch = stacked.build(), records()
    batch["reward"][:] = 0.0
    batch["reward"][:, -4:] = last
    torch.manual_seed(1)
    return agent.world_model.losses(batch, agent.explorer)


def test_the_bonus_is_part_of_one_reward_where_it_is_known_and_not_of_the_other() -> None:
    low, high = rewarded(0.0), rewarded(100.0)
    assert low.metrics["reward_target"] > 0.1
    assert low.metrics["plain_reward_target"] == 0.0
    assert torch.equal(low.losses["reward"], high.losses["reward"])
    assert high.losses["plain_reward"] > 1000 > low.losses["plain_reward"]


def test_a_stacked_agent_acts_and_predicts() -> None:
    agent = stacked.build()
    play(agent)
    imagines(agent)
    observed = agent.world_model.losses(records()).observed
    assert set(agent.world_model.dynamics.starts(observed).states) == {"s"}


def test_an_image_depends_on_the_context_of_its_own_row() -> None:
    model, batch = stacked.build().world_model, records()
    states, context = model.losses(batch).observed.states, model.context(batch)
    image = model.decode(states, context)["pixels"].mean
    other = {name: x.clone() for name, x in context.items()}
    for x in other.values():
        x[1] += 1
    again = model.decode(states, other)["pixels"].mean
    changed = (image != again).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


def test_prediction_sees_the_observed_records_only() -> None:
    agent, batch = stacked.build(), records()
    other = batch.clone()
    other["pixels"][:, 3:] = 255 - other["pixels"][:, 3:]
    found = []
    for each in (batch, other):
        torch.manual_seed(3)
        found.append(agent.open_loop(each, 3)["model"])
    assert torch.equal(*found)


def test_acting_and_imagination_need_no_context() -> None:
    agent = stacked.build()

    def refuse(*_: object) -> None:
        raise AssertionError("the context encoder ran")

    agent.world_model.context_encoder.register_forward_pre_hook(refuse)
    play(agent)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"context_encoder": None}, "has context required, but the model has no context encoder"),
        ({"decoder": stacked.Reluctant}, "has context refused, but the model has a context"),
    ],
)
def test_a_decoder_and_a_context_that_do_not_fit_are_refused(
    parts: dict[str, Any], words: str
) -> None:
    with pytest.raises(IncompatibleParts, match=words):
        stacked.build(**parts)


@pytest.mark.parametrize("context", [None, stacked.RandomFrame])
def test_an_optional_context_may_be_there_or_not(context: Any) -> None:
    agent = stacked.build(decoder=stacked.Paint, context_encoder=context)
    groups = dict(stacked.GROUPS)
    learner(agent, groups).update(records())
    imagines(agent)


def test_a_dynamics_that_needs_a_context_is_refused_without_one() -> None:
    class Needy(stacked.Stacked):
        capabilities = replace(stacked.Stacked.capabilities, needs_context=True)

    stacked.build(dynamics=Needy)
    with pytest.raises(IncompatibleParts, match="needs a context"):
        stacked.build(dynamics=Needy, context_encoder=None, decoder=stacked.Paint)


def test_every_loss_has_a_weight_or_is_refused() -> None:
    with pytest.raises(IncompatibleParts, match="scales"):
        stacked.build(balancer=partial(FixedScales, scales={"no_such_loss": 1.0}))


# Videos


def video(seed: int = 0) -> TensorDict:
    """A clip without actions and rewards."""
    full = records(seed)
    return full.select("pixels", "is_first")


def test_pre_training_needs_neither_actions_nor_anything_that_acts() -> None:
    agent = stacked.build_for_videos()
    assert [phase.name for phase in agent.plan()] == ["world_model"]
    trainer, before = learner(agent, {"model": ("world_model",)}), snapshot(agent)
    for seed in range(2):
        metrics = trainer.update(video(seed))
    assert trainable(agent) <= moved(agent, before)
    assert {"image_loss", "kl_loss"} <= set(metrics)
    found = agent.open_loop(video(), 3)
    assert found["model"].shape == (3, 7, 3, 8, 8)
    with pytest.raises(IncompatibleParts, match="cannot act"):
        play(agent)


def test_what_was_pre_trained_fits_into_the_stacked_agent() -> None:
    before, after = stacked.build_for_videos().world_model, stacked.build().world_model
    for part in ("encoder", "context_encoder", "decoder"):
        after.get_submodule(part).load_state_dict(before.get_submodule(part).state_dict())
    low = before.dynamics.action_free.state_dict()
    after.dynamics.action_free.load_state_dict(low)
