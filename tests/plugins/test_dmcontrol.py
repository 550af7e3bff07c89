"""The DeepMind Control Suite: all tasks, pictures, seeds, rewards."""

import copy
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.envs.utils import check_env_specs

from wmplatform.collect.torch_envs import OneStream
from wmplatform.contracts.env_adapter import check_env_adapter
from wmplatform.envs import BadAction, MissingSimulator, PlatformEnv, SimulatorFault, UnknownTask
from wmplatform.errors import ExitCode
from wmplugins.dmcontrol import TASKS, DMControl, suite_task
from wmplugins.dmcontrol.simulator import DMControlSimulator, load_task
from wmplugins.mujoco import UnknownCamera, import_mujoco, render_profile

QUICK = ["cartpole-swingup", "finger-turn-easy", "hopper-stand", "lqr-lqr-6-2", "quadruped-walk"]
DERIVED = ("xpos", "xquat", "geom_xpos", "geom_xmat", "site_xpos", "cam_xpos", "light_xpos")


def fast(task: str = "cartpole-swingup", **changes: Any) -> DMControl:
    return DMControl(task=task, **{"render_profile": "fast", "size": 16, **changes})


def simulator(env: PlatformEnv) -> Any:
    return env._simulator


def unrendered(name: str, kind: type[DMControlSimulator] = DMControlSimulator) -> Any:
    task = suite_task(name)
    profile = render_profile("fast")
    env = load_task(task.domain, task.task)
    return kind(env, name=name, size=8, camera=task.camera, profile=profile)


def plain(name: str, seed: int) -> Any:
    """What a user of dm_control would load; the system of `lqr` is a part of the task here."""
    from dm_control import suite

    task = suite_task(name)
    drawn = 0 if task.domain == "lqr" else seed
    env = suite.load(task.domain, task.task, task_kwargs={"random": drawn})
    env.task.random.seed(seed)
    return env


def scaled(action: np.ndarray, spec: Any) -> np.ndarray:
    limited = np.abs(spec.maximum) < 1e9
    middle, half = (spec.maximum + spec.minimum) / 2, (spec.maximum - spec.minimum) / 2
    return np.where(limited, middle + half * action, action)


def script(code: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python in a process of its own."""
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    inherited = {name: os.environ[name] for name in os.environ if name != "PYOPENGL_PLATFORM"}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**inherited, **path, **environment},
        check=False,
    )


@settings(max_examples=4)
@given(task=st.sampled_from(QUICK), seed=st.integers(0, 2**40), repeat=st.integers(2, 4))
def test_laws_hold(task: str, seed: int, repeat: int) -> None:
    seen = {"size": 32, "state": True}  # at 16 pixels cartpole's pole and cart fall between pixels
    adapter = fast(task, action_repeat=repeat, time_limit=8, **seen)
    single = fast(task, action_repeat=1, **seen)
    check_env_adapter(adapter, steps=9, seeds=(seed, seed + 1), single=single)


def test_laws_hold_in_the_reference_profile() -> None:
    check_env_adapter(DMControl(task="walker-walk", time_limit=3), steps=4)


def test_torchrl_finds_the_specs_kept() -> None:
    env = OneStream(fast("cheetah-run", time_limit=5, state=True))
    check_env_specs(env, break_when_any_done="both", seed=0)
    env.close()


@pytest.mark.filterwarnings("ignore:.*in1d:DeprecationWarning")  # of the plain one
@pytest.mark.parametrize("name", TASKS)
def test_every_task_plays_as_plain_dm_control_does(name: str) -> None:
    ours, theirs = unrendered(name), plain(name, seed=7)
    spec = theirs.action_spec()
    random = np.random.default_rng(0)
    ours.reset(7)
    moment = theirs.reset()
    for _ in range(3):
        flat = np.concatenate([np.ravel(value) for value in moment.observation.values()])
        assert ours.state.shape == (suite_task(name).state,)
        assert np.array_equal(ours.state, flat.astype(np.float32))
        action = random.uniform(-1, 1, suite_task(name).action).astype(np.float32)
        moment = theirs.step(scaled(action, spec))
        assert ours.advance(action).reward == pytest.approx(moment.reward, rel=1e-9, abs=1e-12)
    ours.close()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_draws_its_state_and_starts_again(name: str) -> None:
    env = fast(name).make(4)
    up = np.ones(env.action_space.shape, np.float32)
    first, _ = env.reset()
    anew = copy.copy(simulator(env).data)
    import_mujoco().mj_forward(simulator(env).model, anew)
    for field in DERIVED:
        assert np.array_equal(getattr(simulator(env).data, field), getattr(anew, field)), field
    step = env.step(up)
    env.reset(seed=5)
    env.step(up)
    again, _ = env.reset(seed=4)
    repeated = env.step(up)
    env.close()
    assert np.array_equal(first["pixels"], again["pixels"])
    assert np.array_equal(step[0]["pixels"], repeated[0]["pixels"])
    assert step[1:] == repeated[1:]


def test_tasks_are_the_suites_own() -> None:
    from dm_control import suite

    ours = {(task.domain, task.task): task.action for task in TASKS.values()}
    assert len(TASKS) == 51
    assert set(ours) == set(suite.ALL_TASKS)


PLAIN_FRAMES = """
import sys
import numpy as np
from dm_control import suite

frames = []
for domain, task in (("cheetah", "run"), ("hopper", "stand"), ("walker", "walk")):
    env = suite.load(domain, task, task_kwargs={"random": 3})
    env.reset()
    random = np.random.default_rng(0)
    frames.append(env.physics.render(64, 64, camera_id=0))
    for _ in range(4):
        action = random.uniform(-1, 1, env.action_spec().shape).astype(np.float32)
        for _ in range(2):
            env.step(action)
        frames.append(env.physics.render(64, 64, camera_id=0))
np.save("frames.npy", np.stack(frames))
"""


def test_reference_profile_draws_what_dm_control_does(tmp_path: Path) -> None:
    done = script(PLAIN_FRAMES, tmp_path)  # its own contexts and ours disturb each other
    assert done.returncode == 0, done.stderr
    expected = np.load(tmp_path / "frames.npy").transpose(0, 3, 1, 2)
    frames = []
    for name in ("cheetah-run", "hopper-stand", "walker-walk"):
        env = DMControl(task=name).make(3)
        random = np.random.default_rng(0)
        frames.append(env.reset()[0]["pixels"])
        for _ in range(4):
            action = random.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            frames.append(env.step(action)[0]["pixels"])
        env.close()
    assert np.array_equal(np.stack(frames), expected)
    assert len(np.unique(expected.reshape(len(expected), -1), axis=0)) == len(expected)


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), repeat=st.integers(1, 5))
def test_reward_is_the_sum_over_the_repeats(seed: int, repeat: int) -> None:
    env, theirs = fast("walker-walk", action_repeat=repeat).make(seed), plain("walker-walk", seed)
    env.reset()
    theirs.reset()
    random = np.random.default_rng(seed)
    for _ in range(4):
        action = random.uniform(-1, 1, 6).astype(np.float32)
        expected = sum(theirs.step(action).reward for _ in range(repeat))
        assert env.step(action)[1] == expected
    env.close()


def test_an_agent_step_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    env = fast(action_repeat=4).make(0)
    renderer, drawn = simulator(env).renderer, []
    draw = renderer.render
    monkeypatch.setattr(renderer, "render", lambda data: drawn.append(data.time) or draw(data))
    env.reset()
    for _ in range(2):
        env.step(np.zeros(1, np.float32))
    env.close()
    assert drawn == pytest.approx([0.0, 0.04, 0.08])


def test_the_last_agent_step_is_cut_at_a_thousand_frames() -> None:
    adapter = fast(action_repeat=300)
    env = adapter.make(0)
    env.reset()
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(4)]
    assert simulator(env).frames == 1000
    env.close()
    assert ends == [(False, False)] * 3 + [(False, True)]
    assert adapter.spec().time_limit == 4
    assert fast().spec().time_limit == 500


def test_episodes_may_be_longer_than_the_suites_own() -> None:
    env = fast(action_repeat=600, time_limit=3).make(0)
    env.reset()
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(3)]
    assert simulator(env).frames == 1800
    env.close()
    assert ends == [(False, False), (False, False), (False, True)]


def test_a_task_that_is_over_terminates() -> None:
    env = fast("lqr-lqr-2-1").make(0)
    env.reset()
    simulator(env).data.qpos[:] = 0  # at rest in the middle: what `lqr` calls solved
    simulator(env).data.qvel[:] = 0
    import_mujoco().mj_forward(simulator(env).model, simulator(env).data)
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)
    assert simulator(env).frames == 1
    env.close()


@pytest.mark.parametrize("name", ["quadruped-run", "lqr-lqr-6-2", "cheetah-run"])
def test_actions_reach_the_bounds_of_each_actuator(name: str) -> None:
    ours = unrendered(name)
    spec = ours.env.action_spec()
    ours.reset(0)
    for action in (np.full(spec.shape, -1, np.float32), np.ones(spec.shape, np.float32)):
        ours.advance(action)
        assert np.array_equal(ours.data.ctrl, scaled(action, spec))
    ours.close()


def test_bad_actions_and_unstable_physics_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = fast("cheetah-run").make(0)
    env.reset()
    with pytest.raises(BadAction, match="dmcontrol/cheetah-run: action of agent step 1 is not"):
        env.step(np.full(6, np.nan, np.float32))
    simulator(env).data.qpos[0] = np.nan
    with pytest.raises(SimulatorFault, match="cheetah-run: the simulation became unstable"):
        env.step(np.zeros(6, np.float32))
    env.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given",
    ["ball-in-cup-catch", "ball_in_cup_catch", "ball_in_cup-catch", "cup_catch", "dmc_cup_catch"],
)
def test_task_names_are_forgiving(given: str) -> None:
    assert DMControl(task=given).name == "dmcontrol/ball-in-cup-catch"


def test_unknown_task_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownTask, match="no task 'walker-wlak'") as caught:
        DMControl(task="walker-wlak")
    assert "walker-walk" in caught.value.hint
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_cameras_are_the_published_ones_or_by_name() -> None:
    assert {task.camera for task in TASKS.values() if task.domain != "quadruped"} == {0}
    assert DMControl(task="quadruped-run").camera == 2
    by_name, by_number = fast("walker-run", camera="back"), fast("walker-run", camera=1)
    pictures = []
    for adapter in (by_name, by_number, fast("walker-run")):
        env = adapter.make(0)
        pictures.append(env.reset()[0]["pixels"])
        env.close()
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    with pytest.raises(UnknownCamera, match="no camera 'nose'"):
        fast(camera="nose").make(0)


def test_a_shadow_can_be_drawn_in_the_fast_profile() -> None:
    pictures = []
    for shadow_size in (None, 256):
        env = fast("walker-walk", size=64, shadow_size=shadow_size).make(0)
        pictures.append(env.reset()[0]["pixels"])
        env.close()
    assert not np.array_equal(*pictures)


def test_supersampling_keeps_what_is_thin() -> None:
    """The rail of `cartpole` runs through whole rows; without averaging it is not drawn at all."""
    spread = {}
    for supersample in (1, 2):
        env = fast("cartpole-balance", size=64, supersample=supersample).make(0)
        pixels = env.reset(seed=0)[0]["pixels"].astype(int)
        env.close()
        spread[supersample] = np.abs(np.diff(pixels[0, 20:38, :12], axis=0)).max()
    assert spread[2] > 2 * spread[1]


class Relit(DMControlSimulator):
    """Hangs the light at another height in every episode."""

    def before_episode(self, random: np.random.Generator) -> None:
        self.height = 1 + random.uniform()
        self.model.light_pos[:, 2] = self.height


@settings(max_examples=5)
@given(seed=st.integers(0, 2**40))
def test_changes_before_an_episode_follow_its_seed_and_leave_its_state_alone(seed: int) -> None:
    changed, untouched = unrendered("cartpole-balance", Relit), unrendered("cartpole-balance")
    changed.reset(seed)
    untouched.reset(seed)
    height = changed.height
    assert np.array_equal(changed.state, untouched.state)
    assert not np.array_equal(changed.data.light_xpos, untouched.data.light_xpos)
    changed.reset(None)
    assert changed.height != height
    changed.reset(seed)
    assert changed.height == height
    changed.close()
    untouched.close()


def test_seeds_of_any_size_differ() -> None:
    ours = unrendered("hopper-stand")
    states = []
    for seed in (1, 2**32 + 1, 2**64 + 1, 2**32, 0):
        ours.reset(seed)
        states.append(ours.state.tobytes())
    ours.close()
    assert len(set(states)) == len(states)


def test_the_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    env = fast("quadruped-escape").make(0)
    env.reset()
    env.step(np.zeros(12, np.float32))
    env.close()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_dm_control_opens_no_context_of_its_own() -> None:
    env = fast("quadruped-escape").make(0)
    env.reset()
    env.step(np.zeros(12, np.float32))
    env.reset(seed=1)
    assert simulator(env).env.physics._contexts is None
    env.close()


def test_the_terrain_of_a_later_episode_is_drawn() -> None:
    later, fresh = (fast("quadruped-escape", size=64).make(0) for _ in range(2))
    first, _ = later.reset()
    second, _ = later.reset(seed=1)
    expected, _ = fresh.reset(seed=1)
    later.close()
    fresh.close()
    assert np.array_equal(second["pixels"], expected["pixels"])
    assert not np.array_equal(second["pixels"], first["pixels"])


def test_fast_profile_costs_less() -> None:
    costs_s = {}
    for profile in ("reference", "fast"):
        env = DMControl(task="cheetah-run", render_profile=profile).make(0)
        env.reset()
        env.step(np.zeros(6, np.float32))
        start_s = time.process_time()
        for _ in range(10):
            env.step(np.zeros(6, np.float32))
        costs_s[profile] = time.process_time() - start_s
        env.close()
    assert costs_s["fast"] < costs_s["reference"] / 3


def test_environments_closed_and_left_open_leave_no_message(tmp_path: Path) -> None:
    code = """
from wmplugins.dmcontrol import DMControl
for _ in range(20):
    env = DMControl(task="quadruped-escape", render_profile="fast").make(0)
    env.reset(); env.close(); env.close()
a, b = DMControl().make(0), DMControl(task="walker-run").make(0)
a.reset(); b.reset(); a.close()
"""
    done = script(code, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_doctor_reports_backend_device_and_cost() -> None:
    (diagnosis,) = fast().diagnose()
    assert diagnosis.ok
    assert diagnosis.name == "dmcontrol/cartpole-swingup, fast profile"
    assert "CPU ms for each frame" in diagnosis.detail


@pytest.mark.parametrize("module", ["dm_control", "mujoco"])
def test_a_missing_extra_names_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingSimulator, match="is not installed") as caught:
        fast().make(0)
    assert "wmplatform[dmcontrol]" in caught.value.hint
    (diagnosis,) = fast().diagnose()
    assert not diagnosis.ok


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_a_missing_gl_is_a_diagnosis(backend: str, tmp_path: Path) -> None:
    code = """
import ctypes, ctypes.util
load, find = ctypes.CDLL.__init__, ctypes.util.find_library
def none(name): return any(word in str(name) for word in ("EGL", "OSMesa"))
def no_gl(self, name, *rest, **options):
    if none(name):
        raise OSError(f"{name}: cannot open shared object file")
    load(self, name, *rest, **options)
ctypes.CDLL.__init__ = no_gl
ctypes.util.find_library = lambda name: None if none(name) else find(name)
from wmplugins.dmcontrol import DMControl
(diagnosis,) = DMControl().diagnose()
assert not diagnosis.ok and "apt-get install" in diagnosis.fix, diagnosis
"""
    done = script(code, tmp_path, MUJOCO_GL=backend)
    assert done.returncode == 0, done.stderr


def test_describing_and_importing_start_nothing(tmp_path: Path) -> None:
    code = """
import sys
from wmplugins.dmcontrol import DMControl
DMControl().spec()
print({"mujoco", "dm_control", "OpenGL", "torch", "PIL"} & set(sys.modules))
"""
    assert script(code, tmp_path).stdout.strip() == "set()"
