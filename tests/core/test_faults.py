"""Environments that fail: the episode ends as truncated, another one begins, the run goes on."""

import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from wmplatform.checkpoint import Checkpoints
from wmplatform.collect import (
    Collected,
    Collection,
    CollectorLost,
    EnvFault,
    EpisodeLost,
    FaultBudgetSpent,
    IsolatedEnv,
    Isolation,
    OneStream,
    episode_seed,
)
from wmplatform.envs import BadAction, CannotStart, EnvironmentLost, SimulatorFault
from wmplatform.errors import ExitCode
from wmplatform.replay import Replay

from .counter_env import CounterAdapter, CountingAgent
from .faulty_env import MAKE, RESET, Faults, FaultyAdapter, expected, plan

RUN, LIMIT = 11, 5


def make(faults: Faults, agent: Any = None, **settings: Any) -> Collection:
    more = {"agent_steps_per_collect": 2, **settings}
    return Collection(FaultyAdapter(faults), agent or CountingAgent(), RUN, **more)


def gather(faults: Faults, calls: int, **settings: Any) -> list[Collected]:
    torch.manual_seed(5)
    collection = make(faults, **settings)
    found = up_to(calls, collection)
    collection.close()
    return found


def up_to(calls: int, collection: Collection) -> list[Collected]:
    """Collect so often, or until the budget of faults is spent."""
    found: list[Collected] = []
    while len(found) < calls and not (found and found[-1].spent):
        found.append(collection.collect())
    return found


def records_of(found: list[Collected]) -> TensorDict:
    return torch.cat([each.records for each in found])


def pieces(
    faults: Faults, calls: list[int], folder: Path | None = None, **settings: Any
) -> list[Collected]:
    """Collect in pieces, each by a new collection; through files where there is a folder."""
    torch.manual_seed(5)
    found: list[Collected] = []
    state, random = None, torch.get_rng_state()
    for generation, count in enumerate(calls, start=1):
        collection = make(faults, **settings)
        if state is not None:
            collection.load_state_dict(state)
        torch.set_rng_state(random)
        found += up_to(count, collection)
        state, random = collection.state_dict(), torch.get_rng_state()
        collection.close()
        if folder is not None:
            Checkpoints(folder).save(generation, {"collection": state})
            state = Checkpoints(folder).load()["collection"]
    return found


def assert_as_planned(faults: Faults, found: list[Collected], stream: int = 0) -> None:
    """A stream's records are those of its episodes up to their faults, in order."""
    records = records_of(found)
    records = records[records["stream"] == stream]
    seen = [(int(p[1, 0, 0]), int(p[0, 0, 0])) for p in records["pixels"]]
    wanted = expected(faults, RUN, stream, LIMIT, len(records))
    assert seen == [(seed % 251, tick) for seed, tick in wanted]
    assert len(seen) > 0
    assert records["is_first"].tolist() == [tick == 0 for _, tick in wanted]
    assert not records["is_terminal"].any()
    assert torch.equal(records["reward"], torch.tensor([float(tick) for _, tick in wanted]))


def assert_same(one: list[Collected], other: list[Collected]) -> None:
    """Records, episodes, faults and counts are equal, bit for bit."""
    a, b = records_of(one), records_of(other)
    assert a.shape == b.shape
    assert all(torch.equal(a[key], b[key]) for key in a.keys())  # noqa: SIM118
    for name in ("episodes", "agent_steps", "faults"):
        assert [getattr(each, name) for each in one] == [getattr(each, name) for each in other]


KINDS = ["raise", "lost", "nan", "inf", "shape", "dtype", "no key", "no signal", "clinging"]


@pytest.mark.parametrize("at", [RESET, 1, 3])
@pytest.mark.parametrize("kind", [*KINDS, "no reward"])
def test_a_fault_ends_the_episode_and_the_next_seed_begins(kind: str, at: int) -> None:
    if (kind, at) in [("no reward", RESET), ("nan", RESET), ("inf", RESET)]:
        return  # a reset gives no reward
    faults = plan(RUN, {(0, 1): (kind, at)})
    found = gather(faults, 10)
    assert_as_planned(faults, found)
    (report,) = [report for each in found for report in each.faults]
    assert report.name == "counter/faulty"
    assert report.place == "stream 0"
    assert report.seed == episode_seed(RUN, 0, 1)
    assert report.agent_step == max(0, at - 1)
    assert not any(each.spent for each in found)


def test_a_report_says_what_was_raised_and_where() -> None:
    reports = [
        str(gather(plan(RUN, {(0, 0): (kind, 2)}), 1)[0].faults[0])
        for kind in ("raise", "shape", "lost")
    ]
    assert "RuntimeError: the belt came off (" in reports[0]
    assert "faulty_env.py:" in reports[0]
    assert "pixels after agent step 2 is uint8 (3, 2, 4)" in reports[1]
    assert reports[2] == (
        "counter/faulty, stream 0: the episode of seed "
        f"{episode_seed(RUN, 0, 0)} was given up after agent step 1: EnvironmentLost: nobody "
        "answers at port 2000"
    )


def test_steps_without_a_record_are_not_counted() -> None:
    faults = plan(RUN, {(0, 0): ("raise", 1), (0, 1): ("nan", 4), (0, 2): ("raise", RESET)})
    found = gather(faults, 8)
    records = records_of(found)
    taken = sum(each.agent_steps for each in found)
    assert taken == len(records) - int(records["is_first"].sum()) == 16 - 2


def test_a_cut_episode_is_not_reported_as_finished() -> None:
    found = gather(plan(RUN, {(0, 1): ("raise", 4)}), 9)
    episodes = [episode for each in found for episode in each.episodes]
    assert [(episode.length, episode.return_) for episode in episodes] == [(5, 15.0)] * 2


def test_replay_holds_whole_episodes_after_faults() -> None:
    where = {0: ("nan", 3), 2: ("raise", 1), 3: ("raise", RESET), 4: ("inf", 5)}
    faults = plan(RUN, {(0, episode): fault for episode, fault in where.items()})
    replay = Replay(CounterAdapter().spec(), capacity=100, only_finished=True)
    for each in gather(faults, 20, agent_steps_per_collect=1):
        if len(each.records):
            replay.extend(each.records)
    replay.close_stream(0)
    flags = {key: replay.storage.column(key)[: len(replay)] for key in ("is_first", "is_last")}
    starts = flags["is_first"].nonzero().flatten().tolist()
    ends = flags["is_last"].nonzero().flatten().tolist()
    lengths = [end - start + 1 for start, end in zip(starts, ends, strict=True)]
    assert lengths == [3, 6, 1, 5, 6, len(replay) - 21]
    assert starts[1:] == [end + 1 for end in ends[:-1]]
    assert not replay.storage.column("is_terminal")[: len(replay)].any()
    assert torch.isfinite(replay.storage.column("reward")[: len(replay)]).all()
    assert replay.episodes == len(lengths)
    drawn = replay.segments(50, 3)["pixels"][..., 0, 0]
    assert (drawn[:, :, 1] == drawn[:, :1, 1]).all()  # one episode each
    assert (drawn[:, :, 0].int().diff(dim=1) == 1).all()


def test_an_environment_that_cannot_be_made_again_is_tried_again() -> None:
    faults = plan(RUN, {(0, 0): ("raise", 2), (0, 1): ("raise", MAKE), (0, 2): ("lost", MAKE)})
    found = gather(faults, 6)
    assert_as_planned(faults, found)
    assert [len(each.faults) for each in found] == [3, 0, 0, 0, 0, 0]


def test_an_environment_that_never_could_be_made_is_a_mistake() -> None:
    with pytest.raises(CannotStart, match="cannot be made: RuntimeError: the belt") as caught:
        gather(plan(RUN, {(0, 0): ("raise", MAKE)}), 1)
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_an_environment_whose_first_reset_failed_is_closed_with_the_collection() -> None:
    closed = []

    class Refusing(gymnasium.Wrapper[Any, Any, Any, Any]):
        def reset(self, **kwargs: Any) -> Any:
            raise BadAction("another environment would refuse it too")

        def close(self) -> None:
            closed.append(self)

    class Adapter(FaultyAdapter):
        def make(self, seed: int) -> Any:
            return Refusing(self.inner.make(seed))

    collection = Collection(Adapter(), CountingAgent(), RUN)
    with pytest.raises(BadAction):
        collection.collect()
    collection.close()
    collection.close()
    assert len(closed) == 1


def test_a_server_that_does_not_answer_at_first_is_tried_again() -> None:
    faults = plan(RUN, {(0, 0): ("lost", MAKE)})
    assert_as_planned(faults, gather(faults, 4))


def test_an_action_that_is_not_finite_is_no_fault_of_the_environment() -> None:
    class Diverged(CountingAgent):
        def act(self, *args: Any, **kwargs: Any) -> Any:
            action, memory = super().act(*args, **kwargs)
            return action * float("nan"), memory

    with pytest.raises(BadAction, match="not finite"):
        gather({}, 1, agent=Diverged())


def test_without_a_budget_errors_are_raised() -> None:
    env = OneStream(FaultyAdapter(plan(RUN, {(0, 0): ("nan", 1)})), RUN)
    with pytest.raises(SimulatorFault, match="reward after agent step 1 is nan"):
        env.rollout(3)
    env.close()


# ---- resuming


FAULTS = st.dictionaries(
    st.tuples(st.just(0), st.integers(0, 5)),
    st.tuples(st.sampled_from(["raise", "no signal"]), st.integers(RESET, 6)),
    max_size=4,
)


@settings(max_examples=10)
@given(where=FAULTS, calls=st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_pieces_equal_the_whole_across_faults(where: Any, calls: list[int]) -> None:
    faults = plan(RUN, where)
    calls = [*calls, 3]
    whole = gather(faults, sum(calls))
    assert_as_planned(faults, whole)
    assert_same(whole, pieces(faults, calls))


def test_pieces_through_files_equal_the_whole_across_faults(tmp_path: Path) -> None:
    faults = plan(RUN, {(0, 0): ("raise", 3), (0, 1): ("raise", RESET), (0, 3): ("nan", 2)})
    assert_same(gather(faults, 9), pieces(faults, [1, 1, 2, 0, 5], tmp_path))


def test_a_fault_while_an_episode_is_played_again_ends_it() -> None:
    faults: dict[int, Any] = {}
    first = make(faults)
    first.collect()
    state = first.state_dict()
    first.close()
    faults |= plan(RUN, {(0, 0): ("raise", 2)})
    again = make(faults)
    again.load_state_dict(state)
    with pytest.warns(EpisodeLost):
        found = again.collect()
    again.close()
    assert len(found.faults) == 1
    assert found.records["is_first"].tolist() == [True, False, False]
    assert int(found.records["pixels"][0, 1, 0, 0]) == episode_seed(RUN, 0, 1) % 251


# ---- the budget


@pytest.mark.parametrize(("window", "stops"), [(1000, True), (13, True), (12, False)])
def test_only_recent_faults_count_also_those_before_a_resume(window: int, stops: bool) -> None:
    # The faults come after 5 + 2 and 7 + 10 + 2 steps.
    faults = plan(RUN, {(0, 1): ("raise", 3), (0, 4): ("raise", 3)})
    budget = {"fault_budget": 1, "fault_window": window}
    for found in (gather(faults, 11, **budget), pieces(faults, [5, 6], **budget)):
        assert any(each.spent for each in found) == stops


def test_a_spent_budget_leaves_whole_records_and_goes_on_when_it_is_mended() -> None:
    faults = plan(RUN, {(0, 1): ("raise", 2), (0, 2): ("raise", RESET), (0, 3): ("nan", 4)})
    collection = make(faults, fault_budget=1)
    found = up_to(100, collection)
    assert_as_planned(faults, found)
    assert isinstance(found[-1].spent, FaultBudgetSpent)
    assert found[-1].spent.exit_code is ExitCode.ENVIRONMENT
    assert "more than 1 times within 10000 agent steps" in str(found[-1].spent)
    assert "the belt came off" in str(found[-1].spent)
    with pytest.raises(FaultBudgetSpent, match="the belt came off"):
        collection.collect()  # by a caller that did not look
    steps = [each.agent_steps for each in found]
    assert sum(steps) == len(records_of(found)) - 2  # nothing is counted that was not played
    state = collection.state_dict()
    collection.close()
    again = make({}, fault_budget=1)
    again.load_state_dict(state)
    later = again.collect()
    assert later.records["is_first"].tolist() == [True, False, False]
    assert int(later.records["pixels"][0, 1, 0, 0]) == episode_seed(RUN, 0, 3) % 251
    assert again.state_dict()["streams"][0]["faults"] == []
    again.close()


def test_an_environment_that_never_resets_spends_the_budget() -> None:
    every = plan(RUN, {(0, episode): ("lost", RESET) for episode in range(20)})
    (found,) = gather(every, 1, fault_budget=3)
    assert found.spent is not None
    assert len(found.faults) == 4
    assert (len(found.records), found.agent_steps, found.episodes) == (0, 0, [])


# ---- processes

ISOLATION = Isolation(step_timeout_s=3.0, reset_timeout_s=6.0)


def test_what_goes_wrong_in_a_process_arrives_here() -> None:
    kinds = {
        "raise": "the belt came off",
        "lost": "nobody answers",
        "shape": "instead of",
        "dtype": "float32",
        "no key": "pixels",
        "no signal": "success",
    }
    faults: dict[int, Any] = {
        10 * number + at: (kind, at) for number, kind in enumerate(kinds) for at in (RESET, 1)
    }
    env = IsolatedEnv(FaultyAdapter({**faults, 77: ("kill", 1)}), 99, ISOLATION)
    for seed, (kind, at) in faults.items():
        if at == 1:
            env.reset(seed=seed)
        with pytest.raises(EnvFault, match=kinds[kind]) as caught:
            env.reset(seed=seed) if at == RESET else env.step(np.zeros(2, np.float32))
        assert caught.value.restart_helps == (True if kind == "lost" else None)
        misdeclared = kind in ("shape", "dtype", "no key")
        assert (caught.value.exit_code == ExitCode.BAD_INPUT) == misdeclared
    # The process outlived all of that; now it is killed.
    env.reset(seed=77)
    with pytest.raises(EnvironmentLost, match=r"the process of counter/faulty died \(exit code -9"):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(EnvironmentLost, match="is closed"):
        env.reset(seed=0)
    env.close()
    env.close()


@pytest.mark.parametrize("discrete", [False, True])
def test_an_isolated_environment_is_the_same_environment(discrete: bool) -> None:
    adapter = CounterAdapter(limit=2, discrete=discrete)
    action: Any = 1 if discrete else np.array([0.3, -0.4], np.float32)
    here, there = adapter.make(0), IsolatedEnv(adapter, 0, ISOLATION)
    assert (there.observation_space, there.action_space) == (
        here.observation_space,
        here.action_space,
    )
    pairs = [(here.reset(seed=5), there.reset(seed=5))]
    pairs += [(here.step(action), there.step(action)) for _ in range(2)]
    there.close()
    for one, other in pairs:
        assert np.array_equal(one[0]["pixels"], other[0]["pixels"])
        assert one[1:] == other[1:]


def test_environment_processes_do_not_share_a_global_random_state() -> None:
    class Telling(FaultyAdapter):
        def make(self, seed: int) -> Any:
            raise RuntimeError(f"drew {np.random.random()}")  # noqa: NPY002 - as simulators may

    drawn = set()
    for seed in (1, 2):
        with pytest.raises(EnvFault, match="drew") as caught:
            IsolatedEnv(Telling(), seed, ISOLATION)
        drawn.add(caught.value.what)
    assert len(drawn) == 2


def test_an_error_keeps_what_it_says_on_the_way_between_processes() -> None:
    error = EnvFault(BadAction("it is not finite", env="a", key="action", agent_step=3))
    same = copy.copy(error)  # as pickle does it
    assert (same.what, same.line) == (error.what, error.line)
    assert same.restart_helps is False
    assert same.exit_code is error.exit_code


def test_several_processes_go_on_and_resume_exactly_across_faults() -> None:
    settings = {"num_envs": 2, "agent_steps_per_collect": 4}
    faults = plan(RUN, {(0, 0): ("exit", 2), (1, 1): ("shape", RESET)})
    whole = gather(faults, 5, **settings)
    for stream in (0, 1):
        assert_as_planned(faults, whole, stream)
    told = sorted(str(report) for each in whole for report in each.faults)
    assert len(told) == 2
    assert "stream 0" in told[0]
    assert "died (exit code 7)" in told[0]
    assert_same(whole, pieces(faults, [2, 3], **settings))


def test_one_environment_may_be_isolated_too() -> None:
    settings = {"isolate": True, "step_timeout_s": 1.4, "reset_timeout_s": 1.6}
    faults = plan(RUN, {(0, 0): ("hang", 3), (0, 1): ("hang", RESET), (0, 2): ("exit", MAKE)})
    found = gather(faults, 4, **settings)
    assert_as_planned(faults, found)
    told = [report.what for each in found for report in each.faults]
    ends = ["it was given 1.4 s", "it was given 1.6 s", "died (exit code 7)"]
    assert all(end in what for what, end in zip(told, ends, strict=True))


@pytest.mark.slow
def test_collectors_in_processes_go_on_and_stop_too(capfd: pytest.CaptureFixture[str]) -> None:
    faults = plan(RUN, {(0, 1): ("raise", 2), (0, 2): ("raise", RESET), (0, 4): ("nan", 1)})
    found = gather(faults, 6, processes=1, fault_budget=2, agent_steps_per_collect=6)
    assert_as_planned(faults, found)
    assert sum(len(each.faults) for each in found) == 3
    assert found[-1].spent is not None
    assert "the belt came off" in capfd.readouterr().err


@pytest.mark.slow
def test_a_collector_that_died_stops_the_collection_clearly() -> None:
    collection = make(plan(RUN, {(0, 1): ("exit", 2)}), processes=1, agent_steps_per_collect=6)
    with pytest.raises(CollectorLost, match=r"isolate = True") as caught:
        _ = [collection.collect() for _ in range(6)]
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert collection.state_dict()["started"][0] >= 1
    collection.close()
