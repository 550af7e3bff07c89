"""What a run remembers of the environments that failed it."""

from collections.abc import Mapping
from typing import Any

from wmplatform.collect import FaultReport, FaultTolerance
from wmplatform.forms import Many, Whole
from wmplatform.logging import Progress, RunLogger

__all__ = ["FaultLog"]


class FaultLog:
    """Counts faults, tells of them, and keeps the budget of evaluation.

    Args:
        tolerance: gives evaluation's environment its budget.
        logger: takes the counts, `faults/collect` and `faults/eval`.
        progress: takes the messages.
    """

    def __init__(self, tolerance: FaultTolerance, logger: RunLogger, progress: Progress) -> None:
        self.counts = {"collect": 0, "eval": 0}
        """Environments that failed so far, by what they were for."""
        self._budget = tolerance.budget()
        self._logger, self._progress = logger, progress

    def note(self, purpose: str, report: FaultReport, counters: Mapping[str, int]) -> None:
        """Count a fault and tell of it."""
        self.counts[purpose] += 1
        self._logger.scalars(counters, {f"faults/{purpose}": float(self.counts[purpose])})
        self._progress.say(f"fault: {report}")

    def on_eval_fault(self, report: FaultReport, counters: Mapping[str, int]) -> None:
        """Note a fault of evaluation's environment.

        Raises:
            FaultBudgetSpent: it was one too many.
        """
        self.note("eval", report, counters)
        spent = self._budget.spend(report, counters["agent_steps"])
        if spent is not None:
            raise spent

    def state_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"counts": dict(self.counts), "eval": list(self._budget.noted)}

    def state_form(self) -> Any:
        """Of which form `load_state_dict` takes a state."""
        return {"counts": dict.fromkeys(self.counts, Whole()), "eval": Many(Whole())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.counts = dict(state["counts"])
        self._budget.noted = list(state["eval"])
