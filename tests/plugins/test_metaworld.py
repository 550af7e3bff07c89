"""Meta-World: pictures, seeds, and what the adapter puts right."""

import ctypes.util
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wmplatform.contracts.env_adapter import check_env_adapter
from wmplatform.envs import BadAction, MissingSimulator, PlatformEnv, UnknownTask
from wmplatform.errors import ExitCode
from wmplugins.metaworld import TASKS, MetaWorld
from wmplugins.mujoco import import_mujoco

PAPER_TASKS = [
    "lever-pull",
    "drawer-open",
    "door-lock",
    "button-press-topdown-wall",
    "reach",
    "dial-turn",
]

REST = np.zeros(4, np.float32)


def fast(task: str = "reach", **settings: Any) -> MetaWorld:
    return MetaWorld(task=task, render_profile="fast", **settings)


def simulator(env: PlatformEnv) -> Any:
    return env._simulator


def script(code: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python in a process of its own, with `fast` at hand."""
    head = "from wmplugins.metaworld import MetaWorld\n"
    head += "def fast(task='reach'): return MetaWorld(task=task, render_profile='fast').make(0)\n"
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    # MuJoCo writes the backend that it chose here, and refuses another one after that.
    inherited = {name: os.environ[name] for name in os.environ if name != "PYOPENGL_PLATFORM"}
    return subprocess.run(
        [sys.executable, "-c", head + code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**inherited, **path, **environment},
        check=False,
    )


def test_laws_hold() -> None:
    check_env_adapter(fast("lever_pull", time_limit=6, state=True), steps=8)


def test_law_5_holds() -> None:
    repeated = fast("drawer-open", action_repeat=3, time_limit=4)
    check_env_adapter(repeated, steps=5, single=fast("drawer-open"))


def test_laws_hold_in_the_reference_profile() -> None:
    check_env_adapter(MetaWorld(task="door-lock", time_limit=3), steps=4)


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_picture_is_upright_and_mirrored(task: str) -> None:
    env = fast(task).make(1)
    picture = env.reset()[0]["pixels"].astype(int)
    env.close()
    red, green, blue = picture
    arm = (red > 100) & (green < 60) & (blue < 60)
    _, columns = np.nonzero(arm)
    assert 0.15 < columns.mean() / 64 < 0.35
    top_right = picture[:, :19, -19:].reshape(3, -1)
    assert (top_right == np.array([[127], [126], [122]])).all()


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_reference_profile_draws_what_mujoco_does_flipped(task: str) -> None:
    mujoco = import_mujoco()
    env = MetaWorld(task=task).make(1)
    env.reset()
    picture = env.step(REST)[0]["pixels"]
    world = simulator(env)._env
    theirs = mujoco.Renderer(world.model, 64, 64)
    theirs.update_scene(world.data, camera="corner")
    expected = theirs.render()[::-1].transpose(2, 0, 1)
    theirs.close()
    env.close()
    assert np.array_equal(picture, expected)


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_first_frame_and_state_show_the_placement_that_was_drawn(task: str) -> None:
    env = fast(task, state=True).make(2)
    first, _ = env.reset()
    world = simulator(env)._env
    import_mujoco().mj_forward(world.model, world.data)
    again = simulator(env).observe()["pixels"]
    current = world._get_curr_obs_combined_no_goal()
    env.close()
    assert np.array_equal(first["pixels"], again)
    assert np.allclose(first["state"][:18], current, atol=1e-6)
    assert np.allclose(first["state"][18:36], current, atol=1e-6)


@pytest.mark.parametrize("task", ["door-lock", "reach"])
def test_goal_sites_are_in_place_in_every_frame(task: str) -> None:
    env = fast(task).make(0)
    env.reset()
    for _ in range(3):
        env.step(REST)
        world = simulator(env)._env
        for name, place in world._target_site_config:
            assert np.array_equal(world._get_site_pos(name), place[:3])
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_starts_steps_and_starts_again(task: str) -> None:
    env = fast(task, state=True).make(4)
    first, info = env.reset()
    step = env.step(np.ones(4, np.float32))
    again, _ = env.reset(seed=4)
    repeated = env.step(np.ones(4, np.float32))
    other, _ = env.reset(seed=5)
    env.close()
    assert info == {"success": 0.0}
    for key in ("pixels", "state"):
        assert np.array_equal(first[key], again[key])
        assert np.array_equal(step[0][key], repeated[0][key])
    assert step[1:] == repeated[1:]
    assert not np.array_equal(first["state"], other["state"])
    assert 0.0 <= step[1] <= 10.0


def test_tasks_are_meta_worlds_own() -> None:
    import metaworld

    assert {f"{task}-v3" for task in TASKS} == set(metaworld.ALL_V3_ENVIRONMENTS)


@pytest.mark.parametrize("name", ["lever_pull", "lever-pull", "lever-pull-v3"])
def test_task_names_are_forgiving(name: str) -> None:
    assert MetaWorld(task=name).name == "metaworld/lever-pull"


def test_unknown_task_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownTask, match="no task 'leverpul'") as caught:
        MetaWorld(task="leverpul")
    assert "lever-pull" in caught.value.hint
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_episodes_may_be_longer_than_meta_worlds_own() -> None:
    env = fast(action_repeat=200, time_limit=3).make(0)
    env.reset()
    ends = [env.step(REST)[2:4] for _ in range(3)]
    env.close()
    assert ends == [(False, False), (False, False), (False, True)]


def test_making_an_environment_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    env = fast().make(0)
    env.reset()
    env.close()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_bad_actions_never_reach_mujoco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = fast().make(0)
    env.reset()
    with pytest.raises(BadAction, match="metaworld/reach: action of agent step 1 is not finite"):
        env.step(np.full(4, np.nan, np.float32))
    env.close()
    assert not list(tmp_path.iterdir())


def test_fast_profile_costs_less() -> None:
    costs_s = {}
    for profile in ("reference", "fast"):
        env = MetaWorld(render_profile=profile).make(0)
        env.reset()
        start_s = time.process_time()
        for _ in range(8):
            env.step(REST)
        costs_s[profile] = time.process_time() - start_s
        env.close()
    assert costs_s["fast"] < costs_s["reference"] / 3


NO_OSMESA = ctypes.util.find_library("OSMesa") is None
OSMESA = pytest.param(
    "osmesa", marks=pytest.mark.skipif(NO_OSMESA, reason="libOSMesa is not installed (libosmesa6)")
)


@pytest.mark.parametrize("backend", ["egl", OSMESA])
def test_twenty_environments_in_turn_leave_no_message(backend: str, tmp_path: Path) -> None:
    code = "for _ in range(20):\n    env = fast(); env.reset(); env.close(); env.close()"
    done = script(code, tmp_path, MUJOCO_GL=backend)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_environments_left_open_leave_no_message(tmp_path: Path) -> None:
    code = "a, b, c = fast(), fast(), fast('soccer')\n"
    code += "for env in (a, b, c): env.reset()\nb.close()\ndel c"
    done = script(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_is_refused_instead_of_hanging(tmp_path: Path) -> None:
    code = """
import multiprocessing
from wmplugins.mujoco import RenderingMoved
env = fast()
env.reset()
def child():
    for used in (env, fast()):
        try:
            used.reset()
        except RenderingMoved as error:
            print("spawn" in error.hint, flush=True)
        used.close()
worker = multiprocessing.get_context("fork").Process(target=child)
worker.start()
worker.join(30)
print(worker.exitcode)
"""
    done = script(code, tmp_path)
    assert done.stdout.split() == ["True", "True", "0"], done.stderr


def test_a_spawned_worker_renders_after_its_parent_did() -> None:
    env = fast().make(0)
    env.reset()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (diagnosis,) = pool.apply_async(fast().diagnose).get(timeout=60)
    env.close()
    assert diagnosis.ok, diagnosis


def test_doctor_reports_backend_device_and_cost() -> None:
    (diagnosis,) = fast().diagnose()
    assert diagnosis.ok
    assert diagnosis.name == "metaworld/reach, fast profile"
    for word in ("MUJOCO_GL=", "CPU ms for each frame"):
        assert word in diagnosis.detail


def test_doctor_says_what_installs_a_missing_gl(tmp_path: Path) -> None:
    code = """
import ctypes, ctypes.util
load, find = ctypes.CDLL.__init__, ctypes.util.find_library
def no_egl(self, name, *rest, **options):
    if "EGL" in str(name):
        raise OSError(f"{name}: cannot open shared object file")
    load(self, name, *rest, **options)
ctypes.CDLL.__init__ = no_egl
ctypes.util.find_library = lambda name: None if "EGL" in name else find(name)
(diagnosis,) = MetaWorld().diagnose()
assert not diagnosis.ok and "libegl1" in diagnosis.fix, diagnosis
"""
    done = script(code, tmp_path, MUJOCO_GL="egl")
    assert done.returncode == 0, done.stderr


def test_a_backend_without_its_display_is_one_clear_message(tmp_path: Path) -> None:
    code = """
from wmplugins.mujoco import MissingGL
try:
    fast().reset()
except MissingGL as error:
    print(error.what)
"""
    done = script(code, tmp_path, MUJOCO_GL="glfw", DISPLAY="", WAYLAND_DISPLAY="")
    assert "MUJOCO_GL=glfw" in done.stdout, done.stderr


@pytest.mark.parametrize("module", ["metaworld", "mujoco"])
def test_a_missing_extra_names_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingSimulator, match="is not installed") as caught:
        fast().make(0)
    assert "wmplatform[metaworld]" in caught.value.hint
    assert caught.value.exit_code is ExitCode.ENVIRONMENT


def test_describing_and_importing_start_nothing(tmp_path: Path) -> None:
    code = """
import sys
import wmplugins.gym, wmplugins.mujoco
MetaWorld().spec()
heavy = {"mujoco", "metaworld", "OpenGL", "pygame", "torch", "PIL"}
print(heavy & set(sys.modules))
"""
    assert script(code, tmp_path).stdout.strip() == "set()"
