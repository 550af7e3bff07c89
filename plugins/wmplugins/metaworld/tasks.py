"""The 50 tasks of Meta-World, known without importing it."""

import difflib

from wmplatform.envs import UnknownTask

__all__ = ["TASKS", "task_name"]

TASKS: tuple[str, ...] = tuple(  # one word each, so no list of 50 quoted lines
    """
    assembly basketball bin-picking box-close button-press button-press-topdown
    button-press-topdown-wall button-press-wall coffee-button coffee-pull coffee-push dial-turn
    disassemble door-close door-lock door-open door-unlock drawer-close drawer-open faucet-close
    faucet-open hammer hand-insert handle-press handle-press-side handle-pull handle-pull-side
    lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall
    plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall
    reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close
    window-open
    """.split()  # noqa: SIM905
)
"""Names without a version."""


def task_name(given: str) -> str:
    """Return the name in `TASKS` of `lever_pull`, `lever-pull` or `lever-pull-v3`.

    Raises:
        UnknownTask: there is none; the message has the nearest ones.
    """
    name = given.replace("_", "-").removesuffix("-v3")
    if name in TASKS:
        return name
    near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.5)
    hint = f"near: {', '.join(near)}" if near else f"known: {', '.join(TASKS)}"
    raise UnknownTask(f"Meta-World has no task {given!r}", hint=hint)
