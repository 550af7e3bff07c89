"""A run that is interrupted anywhere collects the same records as one that is not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from wmplatform.checkpoint import Checkpoints
from wmplatform.collect import BadCollection, Collection, EpisodeLost

from .counter_env import CounterAdapter, CountingAgent


def make(adapter: CounterAdapter, **settings: Any) -> Collection:
    return Collection(adapter, CountingAgent(), 11, **{"agent_steps_per_collect": 2, **settings})


def gather(collection: Collection, calls: int) -> tuple[TensorDict, list[Any]]:
    found = [collection.collect() for _ in range(calls)]
    episodes = [episode for each in found for episode in each.episodes]
    return torch.cat([each.records for each in found]), episodes


def straight(adapter: CounterAdapter, calls: int, **settings: Any) -> tuple[TensorDict, list[Any]]:
    torch.manual_seed(5)
    collection = make(adapter, **settings)
    found = gather(collection, calls)
    collection.close()
    return found


def interrupted(
    adapter: CounterAdapter, calls: list[int], folder: Path | None = None, **settings: Any
) -> tuple[TensorDict, list[Any]]:
    """Collect in pieces, each by a new collection and from a checkpoint."""
    torch.manual_seed(5)
    records, episodes, state, random = [], [], None, torch.get_rng_state()
    for generation, count in enumerate(calls):
        torch.manual_seed(99)
        collection = make(adapter, **settings)
        if state is not None:
            collection.load_state_dict(state)
        torch.set_rng_state(random)
        if count:
            more = gather(collection, count)
            records.append(more[0])
            episodes += more[1]
        state, random = collection.state_dict(), torch.get_rng_state()
        collection.close()
        if folder is not None:
            Checkpoints(folder).save(generation + 1, {"collection": state})
            state = Checkpoints(folder).load()["collection"]
    return torch.cat(records), episodes


def same(a: TensorDict, b: TensorDict) -> bool:
    return a.shape == b.shape and all(torch.equal(a[key], b[key]) for key in a.keys())  # noqa: SIM118


def test_the_same_seed_gives_the_same_records() -> None:
    first, second = straight(CounterAdapter(), 9), straight(CounterAdapter(), 9)
    assert same(first[0], second[0])
    assert first[1] == second[1]


@given(limit=st.integers(1, 7), calls=st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_collecting_in_pieces_equals_collecting_at_once(limit: int, calls: list[int]) -> None:
    calls = [*calls, 3]
    whole = straight(CounterAdapter(limit), sum(calls))
    pieces = interrupted(CounterAdapter(limit), calls)
    assert same(whole[0], pieces[0])
    assert whole[1] == pieces[1]


def test_collecting_in_pieces_through_files(tmp_path: Path) -> None:
    whole = straight(CounterAdapter(), 8)
    pieces = interrupted(CounterAdapter(), [1, 3, 0, 4], tmp_path)
    assert same(whole[0], pieces[0])
    assert whole[1] == pieces[1]


def test_collecting_in_pieces_with_several_environments() -> None:
    settings = {"num_envs": 2, "agent_steps_per_collect": 4}
    whole = straight(CounterAdapter(), 5, **settings)
    pieces = interrupted(CounterAdapter(), [2, 3], **settings)
    assert same(whole[0], pieces[0])
    assert whole[1] == pieces[1]


def test_state_is_plain_values_and_tensors() -> None:
    collection = make(CounterAdapter())
    gather(collection, 2)

    def plain(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: plain(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [plain(value) for value in tree]
        return "tensor" if isinstance(tree, torch.Tensor) else tree

    json.dumps(plain(collection.state_dict()), allow_nan=False)
    collection.close()


@pytest.mark.parametrize(
    "adapter", [CounterAdapter(deterministic=False), CounterAdapter(drift=True)]
)
def test_an_episode_that_cannot_be_repeated_ends_and_another_begins(
    adapter: CounterAdapter,
) -> None:
    collection = make(adapter)
    before, _ = gather(collection, 1)
    state = collection.state_dict()
    state["streams"][0]["observation"]["pixels"] = state["streams"][0]["observation"]["pixels"] + 1
    collection.close()
    again = make(adapter)
    again.load_state_dict(state)
    with pytest.warns(EpisodeLost, match="counter/count: the running episode of stream 0"):
        after = again.collect().records
    more = [again.collect() for _ in range(2)]
    again.close()
    assert before["is_first"].tolist() == [True, False, False]
    assert after["is_first"].tolist() == [True, False, False]
    assert not torch.equal(before["pixels"][0, 1], after["pixels"][0, 1])
    (episode,) = [episode for each in more for episode in each.episodes]
    assert episode.length == 5  # the lost episode's steps are not counted in


def test_state_of_another_number_of_streams_is_refused() -> None:
    collection = make(CounterAdapter())
    collection.collect()
    state = collection.state_dict()
    collection.close()
    with pytest.raises(BadCollection, match="1 streams"):
        make(CounterAdapter(), num_envs=2).load_state_dict(state)


def test_loading_comes_before_collecting() -> None:
    collection = make(CounterAdapter())
    state = collection.state_dict()
    collection.collect()
    with pytest.raises(RuntimeError, match="before the first collect"):
        collection.load_state_dict(state)
    collection.close()


@pytest.mark.slow
def test_process_collectors_are_saved_and_begin_new_episodes() -> None:
    settings = {"processes": 2, "agent_steps_per_collect": 6}
    collection = make(CounterAdapter(), **settings)
    before, _ = gather(collection, 4)
    state = collection.state_dict()
    collection.close()
    again = make(CounterAdapter(), **settings)
    again.load_state_dict(state)
    with pytest.warns(EpisodeLost):
        after, episodes = gather(again, 4)
    again.close()
    assert {episode.length for episode in episodes} == {5}
    for stream in after["stream"].unique().tolist():
        own = [each[each["stream"] == stream] for each in (before, after)]
        assert own[1]["is_first"][0]
        seeds = [set(each["pixels"][:, 1, 0, 0].tolist()) for each in own]
        assert not seeds[0] & seeds[1]
