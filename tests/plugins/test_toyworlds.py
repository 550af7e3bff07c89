"""Two movers: who moves what, and the true masks."""

from itertools import pairwise

import numpy as np

from wmplatform.contracts.env_adapter import check_env_adapter
from wmplatform.envs import PlatformEnv
from wmplugins.toyworlds import TwoMovers
from wmplugins.toyworlds.movers import DISC, SQUARE


def objects(env: PlatformEnv, *actions: list[float], seed: int = 3) -> list[np.ndarray]:
    """True masks at the reset and after each action."""
    seen = [env.reset(seed=seed)[0]]
    seen += [env.step(np.array(action, np.float32))[0] for action in actions]
    return [each["objects"].astype(bool) for each in seen]


def centre(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0)


def test_laws_hold() -> None:
    check_env_adapter(TwoMovers(size=16, time_limit=6, backgrounds=2), steps=8)


def test_actions_move_the_square_and_not_the_disc() -> None:
    env = TwoMovers(objects=True).make(0)
    rest = objects(env, [0, 0], [0, 0])
    moved = objects(env, [0.5, 0], [0, -1])
    step = [centre(b[0]) - centre(a[0]) for a, b in pairwise(moved)]
    assert np.allclose(step, [[2, 0], [0, -4]], atol=0.6)  # row and column, in pixels
    assert np.array_equal(rest[0][0], rest[2][0])
    # What is seen of the disc in both is the same.
    assert np.array_equal(rest[2][1] & ~moved[2][0], moved[2][1] & ~rest[2][0])


def test_the_disc_moves_by_itself_and_differently_in_another_episode() -> None:
    env = TwoMovers(objects=True).make(0)
    first = objects(env, *[[0.0, 0.0]] * 10)
    again = objects(env, *[[0.0, 0.0]] * 10)
    other = objects(env, *[[0.0, 0.0]] * 10, seed=4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.abs(centre(first[0][1]) - centre(first[-1][1])).max() > 1


def test_masks_are_where_the_colours_are() -> None:
    env = TwoMovers(objects=True).make(0)
    for seed in range(5):
        seen, _ = env.reset(seed=seed)
        picture = seen["pixels"].transpose(1, 2, 0)
        for mask, colour in zip(seen["objects"], (SQUARE, DISC), strict=True):
            assert np.array_equal((picture == colour).all(-1), mask.astype(bool))


def test_the_reward_grows_as_the_square_comes_near() -> None:
    env = TwoMovers(objects=True).make(0)
    masks = objects(env)[0]
    towards = np.sign(centre(masks[1]) - centre(masks[0])).astype(np.float32)
    env.reset(seed=3)
    near = env.step(towards)[1]
    env.reset(seed=3)
    assert env.step(-towards)[1] < near <= 1


def test_what_stands_still_is_one_of_few_backgrounds() -> None:
    env = TwoMovers(size=16, backgrounds=3, objects=True).make(0)
    corners = set()
    for seed in range(40):
        seen, _ = env.reset(seed=seed)
        if not seen["objects"][:, 0, 0].any():
            corners.add(tuple(seen["pixels"][:, 0, 0].tolist()))
    assert len(corners) == 3
