"""The laws of Request on every registered request, and the checker on broken ones."""

from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from wmplatform.contracts import check
from wmplatform.contracts import request as laws
from wmplatform.interfaces import Request
from wmplatform.replay import Replay, Segments, Transitions

from .assemblies import model_free
from .assemblies.kit import learner
from .mutants.requests import MUTANTS, Rows
from .subjects import Subject, holds, subjects


@dataclass(frozen=True, kw_only=True)
class Mixed(Request):
    """Transitions with the segments that they may be compared with: no kind of the core."""

    batch: int = 4
    gamma: float = 0.9

    @property
    def records(self) -> int:
        return 6

    @property
    def stack(self) -> int:
        return 3

    def sample(self, replay: Replay) -> TensorDict:
        batch = replay.transitions(self.batch, 2, self.gamma, self.stack)
        return batch.set("past", replay.segments(self.batch, 5).select("action", "reward"))


@dataclass(frozen=True, kw_only=True)
class Resumed(Segments):
    """Segments that go on from states of before, so that the stored flags stay."""

    length: int = 4

    @property
    def resumes(self) -> bool:
        return True

    def sample(self, replay: Replay) -> TensorDict:
        rows = replay.sampler.segments(self.batch, self.length)
        columns = {key: replay._take(key, rows) for key in replay.columns}
        return TensorDict(columns, [self.batch, self.length])


every_request = subjects("requests", Mixed, Resumed, Rows)


@every_request
@settings(max_examples=3)
@given(seed=st.integers(0, 2**16))
def test_laws_hold(subject: Subject, seed: int) -> None:
    holds(laws.law_1_equal_replays_give_equal_batches, subject.make(), seed=seed)
    holds(laws.law_2_one_episode_suffices, subject.make(), seed=seed)
    holds(laws.law_3_images_are_stacked_bytes, subject.make(), seed=seed)
    holds(laws.law_4_segments_follow_their_episode, subject.make(), seed=seed)
    holds(laws.law_5_transitions_add_up, subject.make(), seed=seed)
    holds(laws.law_6_every_record_is_drawn, subject.make(), seed=seed)


@every_request
def test_checker_passes(subject: Subject) -> None:
    assert check("requests", subject.component).ok


@pytest.mark.parametrize(
    "request_",
    [
        partial(Segments, batch=2, length=3),
        partial(Transitions, batch=3, n=1, stack=1),
        partial(Transitions, batch=3, n=4, stack=3, short_ends=False, by_length=False),
    ],
)
def test_the_cores_requests_keep_the_laws_with_other_settings(request_: type[Request]) -> None:
    assert laws.check_request(request_).ok


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_checker_catches(mutant: type[Request]) -> None:
    report = check("requests", mutant, collect=True)
    assert MUTANTS[mutant] in {f.name for f in report.findings if f.outcome == "broken"}, report


def test_a_learner_takes_any_request() -> None:
    trainer = learner(model_free.build(), model_free.GROUPS, data=Mixed)
    batch = trainer.data.sample(laws._store((20,), 0).replay)
    assert batch["past", "reward"].shape == (4, 5)
