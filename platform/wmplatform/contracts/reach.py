"""The laws of `LatentDynamics` about what reaches which state, runnable."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from wmplatform.contracts.dependence import repeat_rows, require_seen
from wmplatform.contracts.laws import fail, law, skip
from wmplatform.contracts.probes import (
    actions_like,
    contrary,
    require_nowhere,
    variants,
    where_apart,
    where_changed,
)
from wmplatform.contracts.segments import DynamicsCase, draw_segment, exchange_records, observe
from wmplatform.contracts.views import require_action, require_heard, views_of
from wmplatform.interfaces.latent_dynamics import LatentDynamics
from wmplatform.types import TensorTree

__all__ = [
    "law_1_action_leads_into_its_record",
    "law_6_causal",
    "law_6_depends_on_all_of_an_embedding",
    "law_6_depends_on_embedding",
    "law_6_depends_on_its_context",
    "law_6_views_hear_actions_as_declared",
]


@law("LatentDynamics", 1)
def law_1_action_leads_into_its_record(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """`actions[:, t]` changes the state of record t, and of none before it, in every row."""
    require_action(dynamics, case)
    segment = draw_segment(dynamics, case)
    other = segment._replace(actions=actions_like(segment.actions, case.action))
    kept, trial = exchange_records(dynamics, segment, other)
    seen = partial(views_of, dynamics)
    ignored = segment.is_first[:, kept].T
    require_nowhere(
        trial.split(where_apart(trial.before, trial.after, 2))
        & (trial.earlier | ignored.unsqueeze(-1)),
        lambda k, b, j: (
            f"the action that led into record {kept[k]} of row {b} changes the state of record "
            f"{kept[j]}"
        ),
    )
    require_nowhere(
        trial.unmoved(~ignored, seen),
        lambda k, b: (
            f"the action that led into record {kept[k]} does not change the state of record "
            f"{kept[k]} in row {b}; is it shifted by one?"
        ),
    )


@law("LatentDynamics", 6)
def law_6_causal(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """States of records before t do not see embeddings, actions and resets from t on."""
    segment, future = (draw_segment(dynamics, replace(case, seed=case.seed + i)) for i in (0, 13))
    if dynamics.capabilities.resets_mid_sequence:
        future = future._replace(is_first=~segment.is_first)
    kept, trial = exchange_records(dynamics, segment, future, onwards=True)
    require_nowhere(
        trial.split(where_apart(trial.before, trial.after, 2)) & trial.earlier,
        lambda k, b, j: (
            f"a record from {kept[k]} on changes the state of record {kept[j]} in row {b}"
        ),
    )


@law("LatentDynamics", 6)
def law_6_depends_on_embedding(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """The state of record t depends on the embedding of record t, in every row."""
    segment = draw_segment(dynamics, case)
    others = [segment._replace(embeds=contrary(segment.embeds, by)) for by in (1.0, 10.0)]
    kept, trial = exchange_records(dynamics, segment, *others)
    seen = partial(views_of, dynamics)
    require_nowhere(
        trial.unmoved(torch.ones(len(kept), segment.batch, dtype=torch.bool), seen),
        lambda k, b: (
            f"the state of record {kept[k]} of row {b} does not depend on the embedding of that "
            "record"
        ),
    )


@law("LatentDynamics", 6)
def law_6_depends_on_all_of_an_embedding(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Every piece of every embedding reaches a state."""
    segment = draw_segment(dynamics, replace(case, batch=1, resets=frozenset()))
    for name, embed in segment.embeds.items():

        def run(module: LatentDynamics, arrays: Tensor, name: str = name) -> TensorTree:
            copies = repeat_rows(segment, len(arrays))
            return observe(module, copies._replace(embeds={**copies.embeds, name: arrays})).states

        require_seen(dynamics, run, embed[0], f"the embedding {name}")


@law("LatentDynamics", 6)
def law_6_depends_on_its_context(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Every part of the context reaches the states of every row, if the dynamics needs one."""
    if not dynamics.capabilities.needs_context:
        skip("needs no context")
    segment = draw_segment(dynamics, case)
    if segment.context is None:
        fail("it needs a context: check it with the specs of one (`context=...`)")
    for name, part in segment.context.items():
        other = segment._replace(context={**segment.context, name: contrary(part)})
        same = torch.ones(segment.batch, dtype=torch.bool)
        for each in variants(dynamics):
            same &= ~where_changed(observe(each, segment).states, observe(each, other).states, 1)
        require_nowhere(same, lambda b, name=name: f"row {b} does not depend on its {name}")


@law("LatentDynamics", 6)
def law_6_views_hear_actions_as_declared(dynamics: LatentDynamics, case: DynamicsCase) -> None:
    """Actions reach observed views that imagination lacks, and none of `ignores_actions`."""
    if not case.action.size:
        skip("there are no actions")
    can = dynamics.capabilities
    only_here = can.observed_only if can.supports_imagination else dynamics.views
    segment = draw_segment(dynamics, case)
    other = segment._replace(actions=actions_like(segment.actions, case.action))
    _, trial = exchange_records(dynamics, segment, other)
    require_heard(dynamics, trial, dynamics.views, only_here, "observed states")
