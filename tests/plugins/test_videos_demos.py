"""Demonstrations of Meta-World's scripted policies: deterministic, whole, and the right way up."""

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wmplatform.envs import UnknownTask
from wmplatform.interfaces import Video
from wmplatform.videos import BadSource
from wmplatform.videos.errors import UnreadableVideo
from wmplugins.metaworld import TASKS, MetaWorld
from wmplugins.metaworld.demos import MetaWorldDemos

pytest.importorskip("metaworld")


def demos(**settings: Any) -> MetaWorldDemos:
    few = {"tasks": ("reach",), "episodes": 2, "max_frames": 3, "size": 32}
    return MetaWorldDemos(**{**few, **settings})


def frames(source: MetaWorldDemos, key: str) -> NDArray[np.uint8]:
    return np.stack(list(source.frames(Video(key))))


def test_an_episode_depends_on_seed_task_episode_and_camera_only() -> None:
    first = frames(demos(), "reach/corner/0001")
    more = demos(tasks=("push", "reach"), episodes=5, cameras=("corner2", "corner"))
    list(more.frames(Video("push/corner/0000")))
    assert np.array_equal(frames(more, "reach/corner/0001"), first)
    assert not np.array_equal(frames(more, "reach/corner2/0001"), first)
    assert not np.array_equal(frames(more, "reach/corner/0000"), first)
    assert not np.array_equal(frames(demos(seed=1), "reach/corner/0001"), first)


def test_videos_read_in_turns_do_not_disturb_each_other() -> None:
    source = demos()
    alone = [frames(source, f"reach/corner/000{number}") for number in range(2)]
    turns = [source.frames(Video(f"reach/corner/000{number}")) for number in range(2)]
    together = list(zip(*turns, strict=True))
    for number in range(2):
        assert np.array_equal([pair[number] for pair in together], alone[number])


def test_another_thread_draws_the_same() -> None:
    source, found = demos(), []
    thread = threading.Thread(target=lambda: found.append(frames(source, "reach/corner/0000")))
    thread.start()
    thread.join()
    assert np.array_equal(found[0], frames(source, "reach/corner/0000"))


def test_keys_name_task_camera_and_episode() -> None:
    source = demos(tasks=("drawer_open", "reach"), cameras=("corner", "topview"), episodes=1)
    assert [(v.key, v.label) for v in source.videos()] == [
        ("drawer-open/corner/0000", "drawer-open"),
        ("drawer-open/topview/0000", "drawer-open"),
        ("reach/corner/0000", "reach"),
        ("reach/topview/0000", "reach"),
    ]
    for wrong in ("push/corner/0000", "reach/corner3/0000", "reach/corner/0001", "reach"):
        with pytest.raises(UnreadableVideo, match="no such video"):
            next(source.frames(Video(wrong)))


def test_tasks_are_all_but_those_left_out() -> None:
    without = ("lever-pull", "drawer_open")
    assert set(MetaWorldDemos(without=without).tasks) == set(TASKS) - {"lever-pull", "drawer-open"}
    with pytest.raises(UnknownTask):
        MetaWorldDemos(tasks=("juggle",))
    with pytest.raises(BadSource, match="no task"):
        MetaWorldDemos(tasks=("reach",), without=("reach",))


def test_a_solved_task_is_shown_for_a_few_frames_more() -> None:
    """Drawer-open is solved within 200 frames; the end is counted from then on."""
    settings = {"tasks": ("drawer-open",), "max_frames": 200, "size": 8, "noise": 0.0}
    lengths = [
        len(frames(demos(**settings, after_success=after), "drawer-open/corner/0000"))
        for after in (0, 7)
    ]
    assert lengths[1] == lengths[0] + 7
    assert 20 < lengths[0] < 190


def test_pictures_are_turned_as_in_the_environment() -> None:
    """The red arm is left in `corner`, which is mirrored, as agents see it."""
    settings = {"task": "reach", "size": 64, "render_profile": "fast"}
    env = MetaWorld(**settings).make(0)
    theirs = env.reset()[0]["pixels"]
    env.close()
    ours = frames(demos(size=64, offset_steps=0, max_frames=1), "reach/corner/0000")[0]
    for picture in (theirs, ours):
        red, green, blue = picture.astype(int)
        _, columns = np.nonzero((red > 100) & (green < 60) & (blue < 60))
        assert 0.15 < columns.mean() / 64 < 0.4
    assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 12


def test_noise_and_offsets_change_episodes() -> None:
    quiet = frames(demos(noise=0.0, offset_steps=0), "reach/corner/0000")
    moved = frames(demos(noise=0.0, offset_steps=40), "reach/corner/0000")
    noisy = frames(demos(noise=1.0, offset_steps=0), "reach/corner/0000")
    assert not np.array_equal(quiet[0], moved[0])
    assert np.array_equal(quiet[0], noisy[0])
    assert not np.array_equal(quiet[2], noisy[2])
