"""What each factor of DMC Remastered changes, and what it leaves alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wmplatform.envs import PlatformEnv
from wmplugins.dmcremastered import DOMAINS, FACTORS, DMCRemastered
from wmplugins.dmcremastered.looks import Factor, draw_look
from wmplugins.mujoco import import_mujoco

PAPER_TASKS = ["cheetah-run", "hopper-stand", "walker-run"]


def fast(task: str = "walker-run", **settings: Any) -> DMCRemastered:
    return DMCRemastered(task=task, render_profile="fast", **settings)


def simulator(env: PlatformEnv) -> Any:
    return env._simulator


ROBOT, FLOOR, NOTHING = 2, 1, 0


def regions(env: PlatformEnv) -> NDArray[np.int64]:
    """What each pixel of the present view shows: nothing (sky), the floor, or the robot."""
    mujoco, sim = import_mujoco(), simulator(env)
    flags = sim.renderer._drawing.scene.flags
    kept = flags.copy()
    flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
    red, green, blue = sim.renderer.render(sim.data).astype(int)
    geom = red + 256 * green + 65536 * blue - 1
    flags[:] = kept
    materials = [sim.model.material(int(m)).name for m in sim.model.geom_matid]
    kinds = np.array([NOTHING, *(FLOOR if name == "grid" else ROBOT for name in materials)])
    return kinds[geom + 1]


def changed_regions(task: str, factor: Factor, profile: Any = "fast") -> dict[int, float]:
    """Share of each region's pixels that differ between the plain look and one factor's."""
    shares: dict[int, list[NDArray[np.bool_]]] = {NOTHING: [], FLOOR: [], ROBOT: []}
    plain = DMCRemastered(task=task, vary=(), render_profile=profile).make(0)
    varied = DMCRemastered(task=task, vary=(factor,), render_profile=profile).make(0)
    for seed in range(6):
        before, after = plain.reset(seed=seed)[0]["pixels"], varied.reset(seed=seed)[0]["pixels"]
        where = regions(plain)
        if factor != "camera":
            assert np.array_equal(where, regions(varied))
        for kind, found in shares.items():
            found.append((before != after).any(0)[where == kind])
    plain.close()
    varied.close()
    return {kind: float(np.concatenate(found).mean()) for kind, found in shares.items()}


@pytest.mark.parametrize("task", PAPER_TASKS)
@pytest.mark.parametrize(
    ("factor", "region"), [("background", NOTHING), ("floor", FLOOR), ("body", ROBOT)]
)
def test_a_factor_changes_its_own_region_alone(task: str, factor: Factor, region: int) -> None:
    shares = changed_regions(task, factor)
    assert shares.pop(region) > 0.9
    assert set(shares.values()) == {0.0}


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_light_falls_on_floor_and_robot_and_not_on_the_sky(task: str) -> None:
    shares = changed_regions(task, "light")
    assert shares[NOTHING] == 0.0
    assert min(shares[FLOOR], shares[ROBOT]) > 0.7


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_the_camera_moves_the_view_of_everything_it_sees(task: str) -> None:
    plain, varied = fast(task, vary=()).make(0), fast(task, vary=("camera",)).make(0)
    for seed in range(4):
        plain.reset(seed=seed)
        varied.reset(seed=seed)
        before, after = regions(plain), regions(varied)
        assert (before != after).any()
        assert (after == ROBOT).sum() > 0.5 * (before == ROBOT).sum()
        assert np.array_equal(simulator(plain).data.xpos, simulator(varied).data.xpos)
    plain.close()
    varied.close()


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_the_target_changes_no_picture(task: str) -> None:
    assert set(changed_regions(task, "target").values()) == {0.0}


def test_reflectance_is_seen_on_the_floor_alone_and_not_in_the_fast_profile() -> None:
    reference = changed_regions("walker-run", "reflectance", "reference")
    assert reference[FLOOR] > 0.01
    assert max(reference[ROBOT], reference[NOTHING]) < 0.002  # smoothed edges of the floor
    assert set(changed_regions("walker-run", "reflectance").values()) == {0.0}


WRITTEN: dict[Factor, set[str]] = {
    "floor": {"tex_data"},
    "background": {"tex_data"},
    "body": {"mat_rgba"},
    "target": {"mat_rgba"},
    "reflectance": {"mat_reflectance"},
    "camera": {"cam_pos", "cam_poscom0", "cam_pos0", "cam_quat", "cam_mat0"},
    "light": {"vis.headlight.ambient", "vis.headlight.diffuse", "vis.headlight.specular"},
}
LIGHT_POSITION = {"light_pos", "light_poscom0", "light_pos0"}


def fields(model: Any) -> dict[str, NDArray[Any]]:
    """Every array of a model, its options and its visual settings, copied."""
    parts = {"": model, "opt.": model.opt, "stat.": model.stat}
    visual = ("global_", "headlight", "map", "quality", "rgba", "scale")
    parts |= {f"vis.{name}.": getattr(model.vis, name) for name in visual}
    found = {}
    for prefix, part in parts.items():
        for name in dir(part):
            value = getattr(part, name)
            if isinstance(value, int | float | np.ndarray) and not name.startswith("_"):
                found[prefix + name] = np.array(value)
    assert {"dof_invweight0", "opt.timestep", "stat.extent", "vis.headlight.diffuse"} <= set(found)
    return found


def written(task: str, vary: tuple[Factor, ...]) -> set[str]:
    """Fields of the model that a reset changes."""
    env = fast(task, vary=vary).make(0)
    before = fields(simulator(env).model)
    env.reset(seed=1)
    after = fields(simulator(env).model)
    env.close()
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("task", PAPER_TASKS)
@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_writes_its_own_fields_of_the_model_alone(task: str, factor: Factor) -> None:
    expected = set(WRITTEN[factor])
    if task == "cheetah-run" and factor == "light":
        expected |= LIGHT_POSITION
    if task != "hopper-stand" and factor == "camera":
        expected -= {"cam_quat", "cam_mat0"}
    assert written(task, (factor,)) == expected


def test_nothing_is_written_where_nothing_varies() -> None:
    assert written("cheetah-run", ()) == set()


@given(visual_seed=st.integers(1, 1_000_000), domain=st.sampled_from(sorted(DOMAINS)))
def test_every_value_lies_in_its_range(visual_seed: int, domain: str) -> None:
    ranges = DOMAINS[domain]
    look = draw_look(visual_seed, ranges)
    for colour in (look.body, look.effector, look.target):
        assert all(0 <= value <= 1 for value in colour)
        assert colour[3] >= 0.75
    assert 0 <= look.reflectance <= 0.5
    assert all(0.05 <= value <= 0.85 for value in look.ambient)
    assert all(0.3 <= value <= 1.0 for value in look.diffuse)
    assert all(0.03 <= value <= 0.32 for value in look.specular)
    for value, drawn in ((look.camera, ranges.camera), (look.tilt, ranges.tilt)):
        if drawn is not None:
            assert value is not None
            assert all(np.array(drawn.low) <= value)
            assert all(value <= np.array(drawn.high))
    assert (look.tilt is None, look.light is None) == (ranges.tilt is None, ranges.light is None)


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_turning_factors_off_does_not_move_the_others(task: str) -> None:
    both = fast(task, vary=("body", "camera")).make(0)
    whole = fast(task).make(0)
    for seed in range(3):
        both.reset(seed=seed)
        whole.reset(seed=seed)
        mine, all_of_it = fields(simulator(both).model), fields(simulator(whole).model)
        for name in WRITTEN["camera"]:
            assert np.array_equal(mine[name], all_of_it[name])
        body = simulator(both).model.material("self").id
        assert np.array_equal(mine["mat_rgba"][body], all_of_it["mat_rgba"][body])
    both.close()
    whole.close()


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_the_robot_is_seen_in_every_look(task: str) -> None:
    env = fast(task).make(0)
    for seed in range(12):
        env.reset(seed=seed)
        assert (regions(env) == ROBOT).sum() > 60
    env.close()


def test_a_users_pictures_are_shown(tmp_path: Path) -> None:
    for name, colour in (("floors", (255, 0, 0)), ("skies", (0, 0, 255))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 30), colour).save(tmp_path / name / "one.png")
    env = fast(pictures=str(tmp_path), vary=("floor", "background")).make(0)
    red, green, blue = env.reset()[0]["pixels"].astype(int)
    where = regions(env)
    env.close()
    assert (blue[where == NOTHING] == 255).all()
    assert (red[where == NOTHING] == 0).all()
    assert (red[where == FLOOR] > 40).all()
    assert (green + blue)[where == FLOOR].max() < 20
