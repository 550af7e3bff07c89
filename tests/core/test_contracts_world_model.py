"""The pairing and the other laws of an assembled world model, and their checks on broken ones."""

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmplatform.agent import Agent
from wmplatform.contracts import ContractViolation, check_world_model
from wmplatform.contracts import world_model as laws
from wmplatform.contracts.reference import draw_records, env_spec
from wmplatform.interfaces import Explorer
from wmplatform.types import ActionSpec
from wmplatform.world_model import WorldModel

from .assemblies import branches, joint, stacked
from .mutants import world_models as mutants
from .mutants.heads import ReadsStatesThatKnowTheAnswer
from .reference_behaviors import ActorCritic
from .reference_components import (
    BonusExplorer,
    InverseHead,
    LinearContinueHead,
    LinearEncoder,
    LinearRewardHead,
    PlainDecoder,
    RandomFrame,
    TransitionHead,
    WeighedBalancer,
)
from .reference_dynamics import BranchedDynamics, RecurrentDynamics, WindowDynamics
from .subjects import holds

SPEC = env_spec(ActionSpec(2))


class DepartureHead(LinearRewardHead):
    timing = "departure"


class QuietHead(LinearRewardHead):
    sends_gradient = False


class TwoEmbeddings(LinearEncoder):
    """The embedding under two names."""

    @property
    def embed_specs(self) -> Any:
        return dict.fromkeys(("ctrl", "free"), super().embed_specs["embed"])

    def forward(self, observations: Any) -> Any:
        return dict.fromkeys(("ctrl", "free"), super().forward(observations)["embed"])


HEADS: dict[str, Any] = {
    "reward": LinearRewardHead,
    "continue": LinearContinueHead,
    "next_reward": DepartureHead,
    "quiet": QuietHead,
}
TRANSITIONS: dict[str, Any] = {
    "whole": TransitionHead,
    "ahead": joint.NextReward,
    "inverse": InverseHead,
}
WITHOUT_CONTINUE = {name: head for name, head in HEADS.items() if name != "continue"}

ASSEMBLIES: dict[str, Any] = {
    "recurrent": partial(
        WorldModel, encoder=LinearEncoder, dynamics=RecurrentDynamics, heads=HEADS
    ),
    "decoded": partial(
        WorldModel,
        encoder=LinearEncoder,
        dynamics=RecurrentDynamics,
        decoder=PlainDecoder,
        heads=HEADS,
        balancer=WeighedBalancer,
    ),
    "window": partial(
        WorldModel, encoder=LinearEncoder, dynamics=WindowDynamics, heads=WITHOUT_CONTINUE
    ),
    "first record used up": partial(
        WorldModel, encoder=TwoEmbeddings, dynamics=BranchedDynamics, heads=WITHOUT_CONTINUE
    ),
    "model-free": partial(WorldModel, encoder=LinearEncoder, heads=HEADS),
    "transitions": partial(
        WorldModel, encoder=LinearEncoder, dynamics=RecurrentDynamics, heads=TRANSITIONS
    ),
    "branches": lambda _: branches.build().world_model,
    "stacked": lambda _: stacked.build().world_model,
}


@pytest.mark.parametrize("name", ASSEMBLIES)
def test_checker_passes(name: str) -> None:
    report = check_world_model(ASSEMBLIES[name](SPEC))
    assert report.ok


@settings(max_examples=10)
@given(
    name=st.sampled_from(sorted(ASSEMBLIES)),
    length=st.integers(3, 7),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_each_state_is_paired_with_its_own_reward(
    name: str, length: int, seed: int, data: st.DataObject
) -> None:
    model = ASSEMBLIES[name](SPEC)
    batch = draw_records(SPEC, seed, length=length)
    head = data.draw(st.sampled_from(sorted(model.heads)), label="head")
    t = data.draw(st.integers(0, length - 1), label="record")
    row = data.draw(st.integers(0, 2), label="row")
    holds(laws.law_1_pairs_state_and_scalar, model, batch, head, row=row, t=t)


@pytest.mark.parametrize(
    ("mutant", "heads", "law"),
    [
        (mutants.PairsTheNextReward, {"reward": LinearRewardHead}, "law_1"),
        (mutants.PairsTheLastReward, {"reward": LinearRewardHead}, "law_1"),
        (mutants.PairsTheNextRow, {"reward": LinearRewardHead}, "law_1"),
        (mutants.CrossesEpisodes, {"reward": DepartureHead}, "law_1"),
        (mutants.ForgetsALoss, {"reward": LinearRewardHead}, "law_2"),
        (mutants.SendsEveryGradient, {"reward": QuietHead}, "law_3"),
        (mutants.MixesRows, {"reward": LinearRewardHead}, "law_4"),
        (mutants.DecodesTheNextImage, {}, "law_1"),
        (mutants.DecodesAnotherRow, {}, "law_1"),
        (mutants.LeavesOutTheLastImage, {}, "law_1"),
        (mutants.PairsTheActionBefore, {"next": TransitionHead}, "law_1"),
        (WorldModel, {"inverse": ReadsStatesThatKnowTheAnswer}, "law_6"),
        (mutants.StaysInTrainMode, {}, "law_7"),
        (mutants.LearnsInEvalMode, {}, "law_7"),
        (mutants.ForgetsTheCarry, {}, "law_8"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_checker_catches(mutant: type[WorldModel], heads: dict[str, Any], law: str) -> None:
    parts: dict[str, Any] = {"encoder": LinearEncoder, "decoder": PlainDecoder}
    model = mutant(SPEC, dynamics=RecurrentDynamics, heads=heads, **parts)
    report = check_world_model(model, collect=True)
    broken = {f.name[:5]: f.detail for f in report.findings if f.outcome == "broken"}
    assert "the component raised" not in broken[law], report


def agent(kind: type[Agent], explorer: type[Explorer] = BonusExplorer) -> Agent:
    """An agent with a context encoder, which nothing but its decoder may need."""
    model = partial(
        WorldModel,
        encoder=LinearEncoder,
        dynamics=RecurrentDynamics,
        heads={"reward": LinearRewardHead},
        context_encoder=RandomFrame,
    )
    return kind(SPEC, world_model=model, behavior=ActorCritic, explorer=explorer)


def test_acting_needs_no_context() -> None:
    laws.law_5_acting_needs_no_context(agent(Agent), seed=0)


def test_acting_on_a_context_is_caught() -> None:
    with pytest.raises(ContractViolation, match="depends on the context encoder"):
        laws.law_5_acting_needs_no_context(agent(mutants.ActsOnTheContext), seed=0)
