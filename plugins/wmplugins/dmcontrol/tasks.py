"""The 51 tasks of the DeepMind Control Suite, known without importing it."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from wmplatform.envs import UnknownTask

__all__ = ["TASKS", "SuiteTask", "suite_task"]

EPISODE_FRAMES = 1000
"""Environment frames of an episode; `lqr` alone has no limit of its own and gets this one too."""


@dataclass(frozen=True)
class SuiteTask:
    """A task and the sizes of what it takes and tells."""

    domain: str
    """The suite's own name of the domain, e.g. `ball_in_cup`."""
    task: str
    """The suite's own name of the task, e.g. `turn_easy`."""
    action: int
    """Entries of an action."""
    state: int
    """Entries of all observations in a row."""

    @property
    def name(self) -> str:
        """Name here, e.g. `ball-in-cup-catch`."""
        return f"{self.domain}-{self.task}".replace("_", "-").lower()

    @property
    def camera(self) -> int:
        """Camera of published pixel agents: the first; for quadrupeds the one at their side."""
        return 2 if self.domain == "quadruped" else 0


_DOMAINS: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "acrobot": (1, {"swingup": 6, "swingup_sparse": 6}),
    "ball_in_cup": (2, {"catch": 8}),
    "cartpole": (
        1,
        {
            "balance": 5,
            "balance_sparse": 5,
            "swingup": 5,
            "swingup_sparse": 5,
            "two_poles": 8,
            "three_poles": 11,
        },
    ),
    "cheetah": (6, {"run": 17}),
    "dog": (38, {"stand": 223, "walk": 223, "trot": 223, "run": 223, "fetch": 232}),
    "finger": (2, {"spin": 9, "turn_easy": 12, "turn_hard": 12}),
    "fish": (5, {"upright": 21, "swim": 24}),
    "hopper": (4, {"stand": 15, "hop": 15}),
    "humanoid": (21, {"stand": 67, "walk": 67, "run": 67, "run_pure_state": 55}),
    "humanoid_CMU": (56, {"stand": 137, "walk": 137, "run": 137}),
    "manipulator": (
        5,
        {"bring_ball": 44, "bring_peg": 44, "insert_ball": 44, "insert_peg": 44},
    ),
    "pendulum": (1, {"swingup": 3}),
    "point_mass": (2, {"easy": 4, "hard": 4}),
    "quadruped": (12, {"walk": 78, "run": 78, "escape": 101, "fetch": 90}),
    "reacher": (2, {"easy": 6, "hard": 6}),
    "stacker": (5, {"stack_2": 49, "stack_4": 63}),
    "walker": (6, {"stand": 24, "walk": 24, "run": 24}),
}

# Their tasks differ in the number of actuators.
_OTHERS = (
    SuiteTask("lqr", "lqr_2_1", 1, 4),
    SuiteTask("lqr", "lqr_6_2", 2, 12),
    SuiteTask("swimmer", "swimmer6", 5, 25),
    SuiteTask("swimmer", "swimmer15", 14, 61),
)


def _all_tasks() -> dict[str, SuiteTask]:
    tasks = [
        SuiteTask(domain, task, action, state)
        for domain, (action, states) in _DOMAINS.items()
        for task, state in states.items()
    ]
    return {task.name: task for task in sorted([*tasks, *_OTHERS], key=lambda task: task.name)}


TASKS: Mapping[str, SuiteTask] = _all_tasks()
"""Every task by its name here: domain and task, in small letters, with hyphens."""


def suite_task(given: str) -> SuiteTask:
    """Return the task of `walker-walk`, `walker_walk`, `dmc_walker_walk` or `cup_catch`.

    Raises:
        UnknownTask: there is none; the message has the nearest ones.
    """
    name = given.replace("_", "-").lower().removeprefix("dmc-")
    if name.startswith("cup-"):
        name = f"ball-in-{name}"
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.5)
    hint = f"near: {', '.join(near)}" if near else f"known: {', '.join(TASKS)}"
    raise UnknownTask(f"the DeepMind Control Suite has no task {given!r}", hint=hint)
