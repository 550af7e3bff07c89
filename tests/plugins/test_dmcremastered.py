"""DMC Remastered: looks that change from episode to episode, and physics that does not."""

import hashlib
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchrl.envs.utils import check_env_specs

from wmplatform.collect import OneStream
from wmplatform.contracts.env_adapter import check_env_adapter
from wmplatform.envs import PlatformEnv, UnknownTask
from wmplatform.errors import ExitCode, PlatformError
from wmplugins.dmcontrol import DMControl
from wmplugins.dmcremastered import BadLooks, DMCRemastered
from wmplugins.dmcremastered.drawing import draw_floor, draw_sky
from wmplugins.dmcremastered.pictures import BadPictures, DrawnPictures

PAPER_TASKS = ["cheetah-run", "hopper-stand", "walker-run"]
ALL_TASKS = [
    "cheetah-run",
    "hopper-hop",
    "hopper-stand",
    "walker-run",
    "walker-stand",
    "walker-walk",
]


def fast(task: str = "walker-run", **changes: Any) -> DMCRemastered:
    return DMCRemastered(task=task, render_profile="fast", **changes)


def simulator(env: PlatformEnv) -> Any:
    return env._simulator


def first_picture(adapter: DMControl, seed: int = 0) -> NDArray[np.uint8]:
    env = adapter.make(seed)
    picture = env.reset()[0]["pixels"]
    env.close()
    return picture


def actions(env: PlatformEnv, count: int) -> list[NDArray[np.float32]]:
    env.action_space.seed(0)
    return [env.action_space.sample() for _ in range(count)]


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_laws_hold(task: str) -> None:
    check_env_adapter(fast(task, time_limit=5, state=True), steps=6)


def test_law_5_holds() -> None:
    repeated = fast("cheetah-run", action_repeat=3, time_limit=4)
    check_env_adapter(repeated, steps=5, single=fast("cheetah-run", action_repeat=1))


def test_laws_hold_in_the_reference_profile() -> None:
    check_env_adapter(DMCRemastered(task="hopper-stand", time_limit=2), steps=3)


def test_torchrl_finds_the_specs_kept() -> None:
    env = OneStream(fast("hopper-stand", time_limit=3, state=True))
    check_env_specs(env, break_when_any_done="both", seed=0)
    env.close()


@settings(max_examples=6)
@given(seed=st.integers(0, 2**63), task=st.sampled_from(PAPER_TASKS))
def test_any_seed_gives_its_own_look_again(seed: int, task: str) -> None:
    env = fast(task).make(0)
    first, again = env.reset(seed=seed)[0]["pixels"], env.reset(seed=seed)[0]["pixels"]
    other = env.reset(seed=seed + 1)[0]["pixels"]
    env.close()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def digest(adapter: DMCRemastered, seeds: Iterable[int]) -> str:
    """Hash of some frames of some episodes of one environment."""
    found = hashlib.sha256()
    env = adapter.make(0)
    for seed in seeds:
        found.update(env.reset(seed=seed)[0]["pixels"].tobytes())
        for action in actions(env, 2):
            found.update(env.step(action)[0]["pixels"].tobytes())
    env.close()
    return found.hexdigest()


def test_the_same_seed_gives_the_same_pictures_in_another_process() -> None:
    adapters, seeds = [DMCRemastered(task=task) for task in PAPER_TASKS], (3, 2**31 - 1, 3)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        waiting = pool.starmap_async(digest, [(adapter, seeds) for adapter in adapters])
        theirs = waiting.get(timeout=300)
    assert [digest(adapter, seeds) for adapter in adapters] == theirs
    assert len(set(theirs)) == 3


def test_an_episode_looks_the_same_whatever_was_played_before() -> None:
    env, other = fast().make(0), fast().make(1)
    for seed in (7, 8, 9):
        env.reset(seed=seed)
    other.reset()
    assert np.array_equal(env.reset(seed=5)[0]["pixels"], other.reset(seed=5)[0]["pixels"])
    env.close()
    other.close()


def test_a_reset_without_a_seed_goes_on_to_other_looks_that_repeat() -> None:
    def looks() -> list[int]:
        env = fast().make(11)
        seeds = [(env.reset(), simulator(env).look.visual_seed)[1] for _ in range(5)]
        env.close()
        return seeds

    first = looks()
    assert first == looks()
    assert len(set(first)) == 5


@pytest.mark.parametrize("task", ALL_TASKS)
def test_states_and_rewards_are_those_of_the_plain_task(task: str) -> None:
    plain = DMControl(task=task, render_profile="fast", state=True).make(0)
    varied = fast(task, state=True).make(0)
    for seed in (4, 5):
        same = np.array_equal(
            plain.reset(seed=seed)[0]["state"], varied.reset(seed=seed)[0]["state"]
        )
        assert same
        for action in actions(plain, 40):
            one, other = plain.step(action), varied.step(action)
            assert np.array_equal(one[0]["state"], other[0]["state"])
            assert one[1:] == other[1:]
    plain.close()
    varied.close()


@pytest.mark.parametrize("task", ["hopper-stand", "walker-run"])
@pytest.mark.parametrize("profile", ["fast", "reference"])
def test_without_factors_a_task_looks_like_the_plain_one(task: str, profile: Any) -> None:
    plain = first_picture(DMControl(task=task, render_profile=profile))
    assert np.array_equal(
        first_picture(DMCRemastered(task=task, vary=(), render_profile=profile)), plain
    )


def test_without_factors_cheetah_differs_in_the_width_of_its_floor_alone() -> None:
    env = fast("cheetah-run", vary=()).make(0)
    ground = simulator(env).model.geom("ground")
    assert ground.size.tolist() == [100.0, 15.0, 0.5]
    ground.size[1] = 0.8
    picture = env.reset()[0]["pixels"]
    env.close()
    plain = DMControl(task="cheetah-run", render_profile="fast")
    assert np.array_equal(picture, first_picture(plain))


def test_a_reset_keeps_the_model_and_its_place_in_opengl() -> None:
    env = fast().make(0)
    env.reset()
    sim = simulator(env)
    model, drawing = sim.model, sim.renderer._drawing
    pictures = {env.reset()[0]["pixels"].tobytes() for _ in range(4)}
    assert sim.model is model
    assert sim.renderer._drawing is drawing
    assert len(pictures) == 4
    env.close()


def looks_of(adapter: DMCRemastered, episodes: int) -> set[int]:
    env = adapter.make(0)
    found = {(env.reset(seed=n), simulator(env).look.visual_seed)[1] for n in range(episodes)}
    env.close()
    return found


def test_a_pool_of_looks_is_drawn_from_entirely_and_alone() -> None:
    assert looks_of(fast(visual_seeds=(3, 6), texture_size=16), 60) == {3, 4, 5, 6}
    assert looks_of(fast(visual_seeds=(9, 9), texture_size=16), 3) == {9}


def test_one_look_is_one_background_and_floor_whatever_the_state() -> None:
    one = fast(visual_seeds=(9, 9)).make(0)
    textures = []
    for seed in (1, 2):
        one.reset(seed=seed)
        textures.append(simulator(one).model.tex_data.copy())
    one.close()
    assert np.array_equal(*textures)


def test_looks_that_do_not_overlap_share_no_picture() -> None:
    pictures = DrawnPictures(16)
    for factor in ("floor", "background"):
        train = {pictures.picture(factor, seed).tobytes() for seed in range(1, 101)}
        unseen = {pictures.picture(factor, seed).tobytes() for seed in range(500_001, 500_101)}
        assert (len(train), len(unseen), len(train & unseen)) == (100, 100, 0)


@given(seed=st.integers(0, 2**32), size=st.sampled_from([16, 33, 128]))
def test_pictures_are_drawn_the_same_again_in_any_size(seed: int, size: int) -> None:
    for draw in (draw_sky, draw_floor):
        picture = draw(np.random.default_rng(seed), size)
        assert (picture.shape, picture.dtype) == ((size, size, 3), np.uint8)
        assert np.array_equal(picture, draw(np.random.default_rng(seed), size))


def test_drawn_pictures_are_as_diverse_as_photographs() -> None:
    pictures = DrawnPictures(128)
    for factor in ("floor", "background"):
        many = np.stack([pictures.picture(factor, seed) for seed in range(1, 33)]).astype(float)
        pairs = np.triu_indices(len(many), 1)
        apart = np.abs(many[pairs[0], ::4, ::4] - many[pairs[1], ::4, ::4]).mean((1, 2, 3))
        assert apart.mean() > 45
        assert np.percentile(apart, 10) > 25
        detail = np.abs(np.diff(many, axis=2)).mean((1, 2, 3))
        assert np.median(detail) > 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Red floors and blue skies, of odd shapes."""
    for name, colour in (("floors", (255, 0, 0)), ("skies", (0, 0, 255))):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGBA", (40 + number, 30), (*colour, 255)).save(
                tmp_path / name / f"{number}.png"
            )
    (tmp_path / "skies" / "licence.txt").write_text("not a picture")
    return tmp_path


def skies(adapter: DMCRemastered, episodes: int) -> list[int]:
    """Shade of the upper left corner at the start of some episodes."""
    env = adapter.make(0)
    shades = [int(env.reset(seed=seed)[0]["pixels"][0, 0, 0]) for seed in range(episodes)]
    env.close()
    return shades


def test_a_users_picture_goes_with_its_seed_not_with_the_order_of_the_folder(folder: Path) -> None:
    for number, shade in enumerate((50, 100, 200)):
        Image.new("L", (20, 20), shade).save(folder / "skies" / f"{number}.png")
    adapter = fast(pictures=str(folder), vary=("background",))
    before = skies(adapter, 8)
    for number in (2, 0, 1):
        file = folder / "skies" / f"{number}.png"
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    assert skies(adapter, 8) == before
    assert set(before) == {50, 100, 200}


def test_folders_of_factors_that_do_not_vary_are_not_needed(folder: Path) -> None:
    for file in (folder / "floors").iterdir():
        file.unlink()
    first_picture(fast(pictures=str(folder), vary=("background", "body")))


def test_pictures_that_are_not_there_are_refused_with_what_to_do(folder: Path) -> None:
    with pytest.raises(BadPictures, match=r"there is no folder .*nowhere") as caught:
        fast(pictures=str(folder / "nowhere")).make(0)
    assert "subfolders floors and skies" in caught.value.hint
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    for file in (folder / "floors").iterdir():
        file.unlink()
    with pytest.raises(BadPictures, match=r"there are no pictures in .*floors"):
        fast(pictures=str(folder)).make(0)


def test_a_broken_picture_is_named(folder: Path) -> None:
    for number in range(3):
        (folder / "skies" / f"{number}.png").write_bytes(b"not an image")
    env = fast(pictures=str(folder)).make(0)
    with pytest.raises(BadPictures, match=r"cannot read the picture .*skies.\d\.png"):
        env.reset()
    env.close()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (
            {"task": "cartpole-balance"},
            UnknownTask,
            "DMC Remastered has no task 'cartpole-balance'",
        ),
        ({"task": "walker-fly"}, UnknownTask, "no task 'walker-fly'"),
        ({"vary": ("floor", "sky")}, BadLooks, "varies no 'sky'"),
        ({"visual_seeds": (0, 5)}, BadLooks, "no range of numbers from 1"),
        ({"visual_seeds": (6, 5)}, BadLooks, "no range of numbers from 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: Any, error: type[PlatformError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        DMCRemastered(**settings)
    assert caught.value.hint
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_doctor_draws_a_look() -> None:
    (diagnosis,) = fast().diagnose()
    assert diagnosis.ok
    assert diagnosis.name == "dmcr/walker-run, fast profile"
    (missing,) = fast(pictures="nowhere").diagnose()
    assert not missing.ok
    assert "floors" in missing.fix
