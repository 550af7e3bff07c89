"""The laws of `EnvAdapter` as a runnable check, for any adapter.

This file imports no torch.
"""

import contextlib
import gc
import io
import os
import pickle  # noqa: TID251 - spawned workers pickle adapters; no file is read
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from wmplatform.contracts.env_player import Moment, Player, require
from wmplatform.contracts.violation import ContractViolation
from wmplatform.envs import (
    BadAction,
    EpisodeOver,
    action_space,
    observation_space,
)
from wmplatform.interfaces.env_adapter import BadSpec, EnvAdapter, EnvSpec
from wmplatform.sums import plain_sum

__all__ = ["check_env_adapter"]


def check_env_adapter(
    adapter: EnvAdapter,
    *,
    steps: int = 30,
    seeds: tuple[int, int] = (0, 1),
    single: EnvAdapter | None = None,
    shorter: EnvAdapter | None = None,
) -> None:
    """Check the numbered laws of `EnvAdapter` on real environments.

    Some laws need help to be seen. The end of an episode (laws 3 and 4) is reached only if
    `time_limit` is at most `steps`: give the adapter a short one. A repeat (law 5) is compared with
    `single`, and a time limit that is called a termination (law 3) shows beside `shorter`. A frame
    that is stale in the same way at every reset (law 7) looks like any other: compare it with the
    simulator's own state in a test of your own.

    Args:
        adapter: what to check; several of its environments are started, one after another or two
            at a time.
        steps: longest episode that is played, in agent steps.
        seeds: two seeds of different episodes.
        single: the same adapter with `action_repeat` 1 and no shorter an episode in environment
            frames.
        shorter: the same adapter with a shorter `time_limit`.

    Raises:
        ContractViolation: a law does not hold; `law` is its number.
    """
    spec = _declared(adapter)
    copy = _check_copy(adapter, spec)
    plan = _actions(spec, steps)
    episode = _check_same_seed(adapter, copy, plan, seeds[0])
    other = _check_other_seed(adapter, plan, seeds, episode)
    _check_time_limit(spec, [episode, other])
    _check_pictures(spec, [episode, other])
    if shorter is not None:
        _check_shorter(spec, shorter, plan, seeds, [episode, other])
    _check_refusals(adapter, seeds[0])
    _check_clipping(adapter, plan, seeds[0])
    if single is not None and spec.deterministic:
        _check_repeat(adapter, single, plan, seeds[0])
    _check_close(adapter, seeds[0])
    _check_gymnasium(adapter, seeds[0])


def _declared(adapter: EnvAdapter) -> EnvSpec:
    try:
        return adapter.spec()
    except BadSpec as bad:
        raise ContractViolation("EnvAdapter", 9, bad.what) from bad


def _actions(spec: EnvSpec, count: int) -> list[Any]:
    random = np.random.default_rng(0)
    if spec.action.kind == "discrete":
        return [int(index) for index in random.integers(spec.action.size, size=count)]
    return list(random.uniform(-1, 1, (count, spec.action.size)).astype(np.float32))


def _check_copy(adapter: EnvAdapter, spec: EnvSpec) -> EnvAdapter:
    """Law 8: the adapter pickles, and its copy describes itself equally."""
    try:
        copy = pickle.loads(pickle.dumps(adapter))  # noqa: S301 - our own bytes
    except Exception as error:  # noqa: BLE001 - classes choose what to raise
        raise ContractViolation("EnvAdapter", 8, f"it does not pickle: {error}") from error
    assert isinstance(copy, EnvAdapter)
    require(copy.spec() == spec, 8, "a pickled copy has another spec()")
    return copy


def _check_same_seed(
    adapter: EnvAdapter, copy: EnvAdapter, plan: list[Any], seed: int
) -> list[Moment]:
    """Law 1: two environments of one seed agree, even when stepped in turns."""
    deterministic = adapter.spec().deterministic
    with Player(adapter, seed) as first, Player(copy, seed) as second:
        _check_spaces(first.env, adapter.spec())
        first.reset()
        second.reset()
        for number, action in enumerate([None, *plan]):
            if number > 0:
                first.step(action)
                second.step(action)
            differing = first.episode[-1].difference(second.episode[-1])
            what = f"{differing} differs at agent step {number} between environments of one seed"
            require(not (differing and deterministic), 1, what)
            if first.episode[-1].over or second.episode[-1].over:
                break
        first.check_memory()
        _check_end(first)
        episode = list(first.episode)
        first.reset()
        first.check_memory()
    return episode


def _check_spaces(env: gymnasium.Env[Any, Any], spec: EnvSpec) -> None:
    for name, wanted in (
        ("observation_space", observation_space(spec)),
        ("action_space", action_space(spec.action)),
    ):
        seen = getattr(env, name)
        require(seen == wanted, 8, f"{name} is {seen}, spec() declares {wanted}")


def _check_end(player: Player) -> None:
    """Law 4: a step after the end raises `EpisodeOver`."""
    if not player.episode[-1].over:
        return
    action = player.env.action_space.sample()
    seen = _raised(player, action)
    require(isinstance(seen, EpisodeOver), 4, f"a step after the end gave {_label(seen)}")


def _check_other_seed(
    adapter: EnvAdapter, plan: list[Any], seeds: tuple[int, int], expected: list[Moment]
) -> list[Moment]:
    """Laws 1 and 7: another seed differs; after it, `reset(seed)` starts the first one again."""
    with Player(adapter, seeds[1]) as player:
        player.reset()
        other = list(player.play(plan))
        if not adapter.spec().deterministic:
            return other
        differing = any(a.difference(b) for a, b in zip(expected, other, strict=False))
        differing = differing or len(expected) != len(other)
        require(differing, 1, f"seeds {seeds[0]} and {seeds[1]} give the same episode")
        player.reset(seed=seeds[0])
        again = player.play(plan)
    _compare_replay(expected, again)
    return other


def _compare_replay(expected: list[Moment], again: list[Moment]) -> None:
    later = [a.difference(b) for a, b in zip(expected[1:], again[1:], strict=False)]
    first = expected[0].difference(again[0])
    if first and not any(later) and len(expected) == len(again):
        what = f"{first} after reset(seed) depends on what was played before, later ones do not"
        raise ContractViolation("EnvAdapter", 7, what)
    same = not first and not any(later) and len(expected) == len(again)
    what = "reset(seed) after another episode does not give the episode of that seed"
    require(same, 1, f"{what}: {first or next(filter(None, later), 'its length')} differs")


def _check_time_limit(spec: EnvSpec, episodes: list[list[Moment]]) -> None:
    """Law 3: the limit comes at exactly `time_limit` agent steps."""
    limit = spec.time_limit
    if limit is None:
        return
    lengths = [len(episode) - 1 for episode in episodes]
    for episode, length in zip(episodes, lengths, strict=True):
        late = length > limit or (length == limit and not episode[-1].over)
        require(not late, 3, f"an episode goes on after its time limit of {limit} agent steps")
    # A simulator may give one episode up early; the same number twice is a limit.
    early = all(episode[-1].truncated for episode in episodes) and len(set(lengths)) == 1
    what = f"episodes are truncated after {lengths[0]} agent steps, spec() declares {limit}"
    require(not early or lengths[0] == limit, 3, what)


def _check_shorter(
    spec: EnvSpec,
    shorter: EnvAdapter,
    plan: list[Any],
    seeds: tuple[int, int],
    episodes: list[list[Moment]],
) -> None:
    """Law 3: what ends every episode at the time limit, whatever that is, is no termination."""
    limit, other = spec.time_limit, shorter.spec().time_limit
    if limit is None or other is None or other >= limit:
        raise ValueError(f"shorter has the time limit {other}, which is not below {limit}")
    short = []
    with Player(shorter, seeds[0]) as player:
        for seed in seeds:
            player.reset(seed=seed)
            short.append(list(player.play(plan)))
    _check_time_limit(shorter.spec(), short)
    ends = [(len(episode) - 1, episode[-1].terminated) for episode in (*episodes, *short)]
    told = ends != [(limit, True)] * 2 + [(other, True)] * 2
    require(told, 3, f"all episodes terminate after {limit} agent steps, or {other}: time limits")


def _check_pictures(spec: EnvSpec, episodes: list[list[Moment]]) -> None:
    """Law 9: a picture changes in one of the episodes."""
    for key, declared in spec.observations.items():
        if len(declared.shape) != 3 or key in spec.still:
            continue
        seen = [[moment.observation[key] for moment in episode] for episode in episodes]
        moving = any(not np.array_equal(each, shown[0]) for shown in seen for each in shown)
        what = f"{key} stays the same throughout episodes; spec().still names pictures that may"
        require(moving, 9, what)


def _check_refusals(adapter: EnvAdapter, seed: int) -> None:
    """Law 4: bad actions raise `BadAction` with the environment, the key and the step."""
    size, kind = adapter.spec().action.size, adapter.spec().action.kind
    bad: list[Any] = [np.full(size + 1, 0.5, np.float32), np.full(size, np.nan, np.float32), None]
    bad += [size, -1] if kind == "discrete" else [np.full(size, np.inf, np.float32)]
    with Player(adapter, seed) as player:
        player.reset()
        for action in bad:
            seen = _raised(player, action)
            what = f"action {action!r} gave {_label(seen)} instead of BadAction"
            require(isinstance(seen, BadAction), 4, what)
            assert isinstance(seen, BadAction)
            told = (seen.env, seen.key, seen.agent_step)
            wanted = (adapter.name, "action", 1)
            require(told == wanted, 4, f"BadAction names {told} instead of {wanted}")


def _raised(player: Player, action: Any) -> Exception | None:
    try:
        player.env.step(action)
    except Exception as error:  # noqa: BLE001 - any error but the right one is the finding
        return error
    return None


def _label(error: Exception | None) -> str:
    return "no error" if error is None else f"{type(error).__name__}: {error}"


def _check_clipping(adapter: EnvAdapter, plan: list[Any], seed: int) -> None:
    """Law 4: finite actions outside [-1, 1] act like clipped ones."""
    spec = adapter.spec()
    if spec.action.kind == "discrete" or not spec.deterministic:
        return
    with Player(adapter, seed) as wild, Player(adapter, seed) as tame:
        wild.reset()
        tame.reset()
        far = [3 * action for action in plan]
        pairs = zip(wild.play(far), tame.play([a.clip(-1, 1) for a in far]), strict=False)
        differing = [name for a, b in pairs if (name := a.difference(b))]
        require(not differing, 4, "an action outside [-1, 1] does not act like a clipped one")


def _check_repeat(adapter: EnvAdapter, single: EnvAdapter, plan: list[Any], seed: int) -> None:
    """Law 5: one step of the adapter is `action_repeat` steps of `single`."""
    repeat = adapter.spec().action_repeat
    if single.spec().action_repeat != 1:
        raise ValueError(f"single must have action_repeat 1, not {single.spec().action_repeat}")
    with Player(adapter, seed) as big, Player(single, seed) as small:
        big.reset()
        small.reset()
        for action in plan:
            start = len(small.episode)
            small.play([action] * repeat)
            big.step(action)
            moment, end = big.episode[-1], small.episode[-1]
            total = plain_sum(frame.reward for frame in small.episode[start:])
            what = f"reward of {repeat} repeats is {moment.reward}, single steps sum to {total}"
            require(bool(np.isclose(moment.reward, total)), 5, what)
            same_end = moment.terminated == end.terminated
            require(same_end, 5, "repeats and single steps do not terminate together")
            for key, value in moment.observation.items():
                same = np.array_equal(value, end.observation[key])
                require(same, 5, f"{key} after {repeat} repeats differs from single steps")
            if moment.over or end.over:
                break


def _check_close(adapter: EnvAdapter, seed: int) -> None:
    """Law 6: closing twice is quiet, and so is what is collected afterwards."""
    env: Any = adapter.make(seed)
    env.reset()
    with _messages() as said:
        try:
            env.close()
            env.close()
        except Exception as error:
            what = f"closing twice raised {_label(error)}"
            raise ContractViolation("EnvAdapter", 6, what) from error
        del env
        gc.collect()
    require(not said, 6, f"closing left a message: {' '.join(said)[:300]}")


@contextlib.contextmanager
def _messages() -> Iterator[list[str]]:
    """Collect what is written to standard error, by C libraries too, and lost exceptions."""
    said: list[str] = []
    text, descriptor, hook = io.StringIO(), os.dup(2), sys.unraisablehook
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        sys.unraisablehook = lambda lost: said.append(repr(lost.exc_value))
        try:
            with contextlib.redirect_stderr(text):
                yield said
        finally:
            sys.unraisablehook = hook
            os.dup2(descriptor, 2)
            os.close(descriptor)
            file.seek(0)
            written = text.getvalue() + file.read().decode(errors="replace")
            said.extend(line for line in written.splitlines() if line.strip())


def _check_gymnasium(adapter: EnvAdapter, seed: int) -> None:
    """Law 8: gymnasium's own checker passes; its advice (warnings) is not ours to enforce."""
    if not adapter.spec().deterministic:
        return  # it assumes determinism
    env = adapter.make(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_env(env, skip_render_check=True)
    except (AssertionError, gymnasium.error.Error) as error:
        raise ContractViolation("EnvAdapter", 8, f"gymnasium's check_env: {error}") from error
    finally:
        env.close()
