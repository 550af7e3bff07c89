"""What the laws of `LatentDynamics` ask of views, the features that heads and policies read."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from wmplatform.contracts.dependence import StepTrial
from wmplatform.contracts.laws import fail, require, skip
from wmplatform.contracts.probes import (
    check_array,
    close,
    leaves,
    require_unchanged,
)
from wmplatform.contracts.segments import DynamicsCase
from wmplatform.interfaces.latent_dynamics import LatentDynamics
from wmplatform.types import ArraySpec, Features, FeatureSpec, Latent, tree_map

__all__ = [
    "check_views",
    "feature_sums",
    "hears_actions",
    "require_action",
    "require_heard",
    "views_of",
]


@torch.no_grad()
def views_of(
    dynamics: LatentDynamics, states: Latent, views: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Features by view; those of a part by its path, such as `decode/free`."""

    def parts(path: str, features: Features) -> Iterator[tuple[str, Tensor]]:
        if isinstance(features, Tensor):
            yield path, features
            return
        for name, part in features.items():
            yield from parts(f"{path}/{name}", part)

    names = sorted(dynamics.views if views is None else views)
    return dict(pair for name in names for pair in parts(name, dynamics.features(states, name)))


def check_views(dynamics: LatentDynamics, states: Latent, views: Iterable[str]) -> None:
    """Break the law unless these views of states `[B, T, ...]` are as declared."""
    lead = leaves(states)[0].shape[:2]
    folded = tree_map(lambda x: x.flatten(0, 1), states)
    single = tree_map(lambda x: x[0, 0], states)
    for view in sorted(views):
        with torch.no_grad():
            whole, flat, one = (dynamics.features(s, view) for s in (states, folded, single))
        _check_features(view, whole, dynamics.feature_spec(view), lead)
        _check_features(view, one, dynamics.feature_spec(view), ())
        require_unchanged(
            tree_map(lambda x: x.flatten(0, 1), whole), flat, f"folding changes the view {view}"
        )
        require_unchanged(
            tree_map(lambda x: x[0, 0], whole), one, f"a single state changes the view {view}"
        )


def feature_sums(dynamics: LatentDynamics, states: Latent, views: Iterable[str]) -> list[Tensor]:
    """One scalar a view, weighted so that no symmetry cancels."""
    sums = []
    for view in sorted(views):
        for part in leaves(dynamics.features(states, view)):
            weights = torch.linspace(0.5, 1.5, part.shape[-1] if part.dim() else 1)
            sums.append((part * weights).mean() + part.square().mean())
    return sums


def hears_actions(dynamics: LatentDynamics, path: str) -> bool:
    """Whether actions should reach this view, or this part of one."""
    deaf = dynamics.capabilities.ignores_actions
    return path not in deaf and path.partition("/")[0] not in deaf


def require_action(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Leave the law at hand where there are no actions, or none has an effect by declaration."""
    if not case.action.size:
        skip("there are no actions")
    if not any(hears_actions(dynamics, view) for view in dynamics.views):
        skip("no view depends on actions, by declaration")


def require_heard(
    dynamics: LatentDynamics,
    trial: StepTrial[LatentDynamics],
    views: Iterable[str],
    must_hear: Iterable[str],
    what: str,
) -> None:
    """Break the law unless exchanged actions reach these views of the trial's states as declared.

    Args:
        dynamics: whose `capabilities.ignores_actions` says which ones no action may reach.
        trial: gives states.
        views: those that the states have.
        must_hear: those that the action of a step has to reach at that step.
        what: names the states.
    """
    before, after = (views_of(dynamics, states, views) for states in (trial.before, trial.after))
    for path, x in before.items():
        view = path.partition("/")[0]
        if not hears_actions(dynamics, path):
            require(
                close(x, after[path]),
                f"actions change {path} of {what}, which capabilities.ignores_actions names",
            )
        elif view in must_hear:
            every = torch.ones(trial.count, len(x) // trial.count, dtype=torch.bool)

            def pick(states: Latent, path: str = path, view: str = view) -> Tensor:
                return views_of(dynamics, states, [view])[path]

            require(
                not bool(trial.unmoved(every, pick).all()),
                f"no action changes {path} of {what} at its own step; if none is to reach it by "
                "design, name it in capabilities.ignores_actions",
            )


def _check_features(view: str, features: Features, spec: FeatureSpec, lead: Sequence[int]) -> None:
    if isinstance(spec, ArraySpec):
        if not isinstance(features, Tensor):
            fail(f"view {view} is no tensor")
        require(features.dtype == torch.float32, f"view {view} is {features.dtype}, not fp32")
        check_array(f"view {view}", features, spec, lead)
        return
    if not isinstance(features, dict) or set(features) != set(spec):
        fail(f"view {view} has not the parts it declares: {', '.join(sorted(spec))}")
    for name, part in features.items():
        _check_features(f"{view}/{name}", part, spec[name], lead)
