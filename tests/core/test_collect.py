"""Collection: what the collector yields, recurrence, episodes, several environments."""

from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from wmplatform.collect import (
    ActingPolicy,
    BadCollection,
    Collection,
    EnvFault,
    EpisodeTally,
    OneStream,
    VectorStreams,
    episode_seed,
)
from wmplatform.collect.acting import pack_tree, unpack_tree

from .counter_env import Counter, CounterAdapter, CountingAgent


def gather(collection: Collection, calls: int, *, warmup: bool = False) -> TensorDict:
    """Records of some calls."""
    return torch.cat([collection.collect(warmup=warmup).records for _ in range(calls)])


def of_stream(records: TensorDict, stream: int) -> TensorDict:
    return records[records["stream"] == stream]


@pytest.fixture
def collection() -> Any:
    made = Collection(CounterAdapter(), CountingAgent(), 3, agent_steps_per_collect=3)
    yield made
    made.close()


def test_specs_of_one_stream() -> None:
    env = OneStream(CounterAdapter())
    check_env_specs(env, break_when_any_done="both", seed=0)
    env.close()


def test_specs_of_discrete_actions() -> None:
    env = OneStream(CounterAdapter(discrete=True))
    check_env_specs(env, seed=0)
    env.close()


def test_closing_a_collection_closes_its_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    monkeypatch.setattr(Counter, "close", lambda self: closed.append(self))
    collection = Collection(CounterAdapter(), CountingAgent(), 3, agent_steps_per_collect=3)
    collection.collect()
    assert not closed
    collection.close()
    collection.close()
    assert len(closed) == 1


def test_records_pair_each_frame_with_what_led_into_it(collection: Collection) -> None:
    records = gather(collection, 10)
    tick = records["pixels"][:, 0, 0, 0].long()
    starts = records["is_first"].nonzero().flatten().tolist()
    assert starts == [0, 6, 12, 18, 24, 30]
    assert tick.tolist() == [0, 1, 2, 3, 4, 5] * 6  # 30 steps: 6 episodes of 5 + 1 records
    assert (records["reward"].long() == tick).all()
    assert (records["success"] == (tick == 2)).all()
    assert (records["is_last"] == (tick == 5)).all()
    assert not records["is_terminal"].any()
    assert (records["action"][starts] == 0).all()
    # The picture shows the sum of all actions up to this frame.
    total = torch.zeros(())
    for i, action in enumerate(records["action"]):
        total = torch.zeros(()) if records["is_first"][i] else total + action.double().sum()
        assert abs(int(records["pixels"][i, 2, 0, 0]) - int(total * 10) % 256) <= 1


def test_memory_is_carried_from_step_to_step_and_forgotten_at_a_reset(
    collection: Collection,
) -> None:
    records = gather(collection, 5)
    remembered = (records["action"][:, 0] * 100).round().long()
    tick = records["pixels"][:, 0, 0, 0].long()
    assert (remembered == tick).all()  # the action into frame t was chosen after t observations


def test_a_termination_is_terminal() -> None:
    collection = Collection(CounterAdapter(9, ends_after=2), CountingAgent(), 0)
    records = gather(collection, 1)
    assert records["is_terminal"].nonzero().flatten().tolist() == [2, 5]
    assert records["is_last"].nonzero().flatten().tolist() == [2, 5]
    collection.close()


def test_every_episode_has_a_seed_of_its_own(collection: Collection) -> None:
    records = gather(collection, 6)
    shown = records["pixels"][records["is_first"], 1, 0, 0].tolist()
    assert shown == [episode_seed(3, 0, episode) % 251 for episode in range(len(shown))]
    assert len(set(shown)) == len(shown)


def test_the_clock_counts_agent_steps(collection: Collection) -> None:
    gather(collection, 3)
    agent = collection.policy.agent
    assert agent.clocks == list(range(9))


def test_warmup_reaches_the_agent_and_ends(collection: Collection) -> None:
    assert (gather(collection, 2, warmup=True)["action"][:, 0] <= 0).all()
    assert (collection.collect().records["action"][:, 0] > 0).any()


def test_finished_episodes_are_summed_up(collection: Collection) -> None:
    found = [collection.collect() for _ in range(4)]
    episodes = [episode for each in found for episode in each.episodes]
    assert [(e.return_, e.length, dict(e.signals)) for e in episodes] == [
        (15.0, 5, {"success": 1.0})
    ] * 2
    assert [each.agent_steps for each in found] == [3] * 4


def test_signals_follow_their_rules_over_the_agent_steps() -> None:
    spec = CounterAdapter().spec()
    rules = {"a": "max", "b": "sum", "c": "mean", "d": "last"}
    tally = EpisodeTally(type(spec)(spec.observations, spec.action, signals=rules), 1)
    values = torch.tensor([9.0, -3.0, -1.0, -2.0])
    flags = torch.zeros(4, dtype=torch.bool)
    first, last = flags.clone(), flags.clone()
    first[0] = last[3] = True
    stream = torch.zeros(4, dtype=torch.long)
    columns = {"stream": stream, "is_first": first, "is_last": last, "reward": values}
    (episode,) = tally.add(TensorDict({**columns, **dict.fromkeys(rules, values)}, [4]))
    assert dict(episode.signals) == {"a": -1.0, "b": -6.0, "c": -2.0, "d": -2.0}
    assert (episode.return_, episode.length) == (-6.0, 3)


def test_discrete_actions_are_one_hot_records() -> None:
    class OneHot(CountingAgent):
        def act(self, *args: Any, **kwargs: Any) -> Any:
            action, memory = super().act(*args, **kwargs)
            return torch.nn.functional.one_hot(torch.ones(len(action)).long(), 2).float(), memory

    collection = Collection(CounterAdapter(discrete=True), OneHot(), 0)
    records = gather(collection, 1)
    assert records["action"].tolist() == [[0, 0]] + [[0, 1]] * 5
    assert records["pixels"][:, 2, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]  # the env got index 1
    collection.close()


def test_vector_streams_fit_their_specs_and_reset_each_by_itself() -> None:
    env = VectorStreams(CounterAdapter(limit=3), num_envs=2)
    check_env_specs(env, seed=0)
    env.close()


def test_several_environments_give_the_records_that_each_gives_alone() -> None:
    adapter, quiet = CounterAdapter(limit=4), {"noise": False}
    many = Collection(adapter, CountingAgent(**quiet), 7, num_envs=2, agent_steps_per_collect=6)
    records = gather(many, 4)
    many.close()
    alone = Collection(adapter, CountingAgent(**quiet), 7, agent_steps_per_collect=12)
    expected = gather(alone, 1)
    alone.close()
    first, second = of_stream(records, 0), of_stream(records, 1)
    assert (first == expected).all()
    ignoring = ("stream", "pixels")
    assert (second.exclude(*ignoring) == expected.exclude(*ignoring)).all()
    assert (second["pixels"][:, 0] == expected["pixels"][:, 0]).all()
    assert second["pixels"][0, 1, 0, 0] == episode_seed(7, 1, 0) % 251


class BrokenAdapter(CounterAdapter):
    def make(self, seed: int) -> Any:
        from wmplatform.errors import ExitCode, PlatformError

        error = PlatformError("the simulator is not here", hint="install it")
        error.exit_code = ExitCode.ENVIRONMENT
        raise error


@pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")
def test_an_error_in_an_environment_process_keeps_its_message_and_exit_code() -> None:
    import sys

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    collection = Collection(
        BrokenAdapter(), CountingAgent(), 0, num_envs=2, agent_steps_per_collect=2
    )
    try:
        with pytest.raises(EnvFault, match="the simulator is not here") as caught:
            collection.collect()
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert caught.value.exit_code == 4
    collection.close()


@pytest.mark.slow
def test_process_collectors_yield_whole_streams_and_take_new_weights() -> None:
    agent = CountingAgent(noise=False)
    collection = Collection(
        CounterAdapter(limit=3),
        agent,
        0,
        processes=2,
        agent_steps_per_collect=6,
        collects_per_sync=1,
    )
    records = gather(collection, 6)
    for stream in records["stream"].unique().tolist():
        tick = of_stream(records, stream)["pixels"][:, 0, 0, 0].tolist()
        assert tick == ([0, 1, 2, 3] * len(tick))[: len(tick)]
    with torch.no_grad():
        agent.scale.fill_(0.05)
    later = gather(collection, 8)
    collection.close()
    assert later["action"][-1, 0].item() in [pytest.approx(0.05 * seen) for seen in (1, 2, 3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 2, "processes": 2}, "both set"),
        ({"num_envs": 4, "agent_steps_per_collect": 5}, "not a multiple"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, int], message: str
) -> None:
    with pytest.raises(BadCollection, match=message) as caught:
        Collection(CounterAdapter(), CountingAgent(), 0, **settings)
    assert caught.value.exit_code == 2


def test_nothing_starts_before_the_first_collect() -> None:
    collection = Collection(BrokenAdapter(), CountingAgent(), 0)
    collection.close()


def test_memory_keeps_its_shape_on_the_way_through_a_checkpoint() -> None:
    tree = {"carry": (torch.ones(1), [torch.zeros(1), None]), "action": torch.ones(2)}
    again = unpack_tree(pack_tree(tree))
    assert type(again["carry"]) is tuple
    assert type(again["carry"][1]) is list
    assert torch.utils._pytree.tree_structure(again) == torch.utils._pytree.tree_structure(tree)
    with pytest.raises(TypeError, match="set"):
        pack_tree({1, 2})


def test_an_unused_memory_and_holes_in_one_are_kept() -> None:
    policy = ActingPolicy(CountingAgent(), CounterAdapter().spec())
    for memory in (None, {"carry": (torch.ones(1), None)}):
        policy.memory = memory
        policy.load_memory(policy.memory_state())
        assert policy.memory == memory


def test_workers_import_no_torch(repo_root: Path) -> None:
    import subprocess
    import sys

    code = "import sys, wmplatform.collect.stream_env; sys.exit('torch' in sys.modules)"
    path = str(repo_root / "platform")
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})


def test_policy_object_serves_batches_without_a_collector() -> None:
    policy = ActingPolicy(CountingAgent(), CounterAdapter().spec(), "eval")
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    for seen in (1, 2):
        step = TensorDict({"pixels": pixels, "is_init": torch.tensor([[seen == 1], [True]])}, [2])
        action = policy(step)["action"]
        assert (action[:, 0] * 100).round().tolist() == [seen, 1]
