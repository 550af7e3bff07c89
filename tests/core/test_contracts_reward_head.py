"""The laws of Head on every registered head, and the checker on broken ones."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wmplatform.contracts import check
from wmplatform.contracts import reward_head as laws
from wmplatform.contracts.probes import shake
from wmplatform.interfaces import Head
from wmplatform.types import ArraySpec, Distribution, Features, FeatureSpec

from .mutants.heads import MUTANTS
from .reference_components import (
    InverseHead,
    LinearContinueHead,
    LinearRewardHead,
    TransitionHead,
)
from .subjects import Subject, holds, subjects


class DepartureHead(LinearRewardHead):
    """The state of record t predicts the reward of record t + 1."""

    timing = "departure"


class FrozenLatentHead(LinearRewardHead):
    """Reads the latent without shaping it."""

    sends_gradient = False


every_head = subjects(
    "heads", LinearRewardHead, LinearContinueHead, DepartureHead, FrozenLatentHead
)
seeds = st.integers(0, 2**16)


@every_head
@given(
    width=st.integers(2, 16),
    lead=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    length=st.integers(2, 6),
    data=st.data(),
    seed=seeds,
)
def test_laws_hold(
    subject: Subject,
    width: int,
    lead: tuple[int, ...],
    length: int,
    data: st.DataObject,
    seed: int,
) -> None:
    features = subject.wiring["features"]
    features = ArraySpec((width,)) if isinstance(features, ArraySpec) else features
    head = shake(subject.make(features), seed).eval()
    t = data.draw(st.integers(0, length - 1), label="record")
    holds(laws.law_1_scalars_for_any_leading_dims, head, features, lead=lead, seed=seed)
    holds(laws.law_2_loss_is_one_number_a_record, head, features, seed=seed)
    holds(laws.law_3_target_keeps_time, head, length=length, t=t, seed=seed)
    holds(laws.law_3_target_reads_its_row_only, head, row=seed % 3, seed=seed)
    holds(laws.law_5_gradients_reach_features_and_parameters, head, features, seed=seed)
    holds(laws.law_6_does_not_read_its_answer, head, features, seed=seed)
    holds(laws.law_7_rows_do_not_mix_in_training, head, features, row=seed % 4, seed=seed)
    holds(laws.law_8_the_class_says_what_is_read, head)
    holds(laws.law_9_state_is_checkpointed, subject.make, features, seed=seed)


@every_head
@settings(max_examples=2)
@given(length=st.integers(4, 6), seed=seeds)
def test_heads_learn(subject: Subject, length: int, seed: int) -> None:
    features = subject.wiring["features"]
    holds(laws.law_2_loss_is_minimal_at_the_target, subject.make, features, seed=seed)
    holds(laws.law_4_learns_the_counter, subject.make, features, length=length, seed=seed)


@every_head
def test_checker_passes(subject: Subject) -> None:
    assert check("heads", subject.component).ok


class BatchNormHead(LinearRewardHead):
    """Normalises over the batch in training, and says so."""

    batch_statistics = True

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__(features)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, features: Features) -> Distribution:
        assert isinstance(features, torch.Tensor)
        flat = features.reshape(-1, features.shape[-1])
        return super().forward(self.norm(flat).view_as(features))


class PriorHead(InverseHead):
    """The state before an action predicts it: a policy by another name."""

    view, timing = "policy", "departure"

    def change(self, features: Any) -> torch.Tensor:
        return super().change({"before": features, "after": features})

    def part(self, features: Any) -> Any:
        return features

    def __init__(self, features: FeatureSpec) -> None:
        super().__init__({"before": features, "action": ArraySpec((3,)), "after": features})


@pytest.mark.parametrize("head", [BatchNormHead, PriorHead])
def test_heads_may_declare_what_they_are(head: type[Head]) -> None:
    assert check("heads", head).ok


@pytest.mark.parametrize("head", [TransitionHead, InverseHead])
def test_heads_may_read_transitions(head: type[Head]) -> None:
    assert check("heads", head).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[Head]) -> None:
    report = check("heads", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report
