"""Latent dynamics whose imagination or samples are at fault, and train happily."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from wmplatform.interfaces import Imagined, Observed, Starts
from wmplatform.types import (
    ActionSpec,
    ArraySpec,
    Carry,
    Features,
    Latent,
    tree_map,
)
from wmplugins.apv.dynamics import StackedRSSM
from wmplugins.dreamer.rssm import RSSM

from ..reference_dynamics import (
    ClockedDynamics,
    RecurrentDynamics,
    WindowDynamics,
)

Specs = Mapping[str, ArraySpec]


class RestartsItsClock(ClockedDynamics):
    """Imagination begins with an episode's first time step, wherever it starts."""

    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        carry = {**carry, "age": torch.zeros_like(carry["age"])}
        return super().imagine(start, carry, policy, horizon, **k)


class RestartsItsClockWhereItGoesOn(ClockedDynamics):
    def imagine(self, *a: Any, **k: Any) -> Imagined:
        imagined = super().imagine(*a, **k)
        return replace(
            imagined, carry={**imagined.carry, "age": torch.zeros_like(imagined.carry["age"])}
        )


class ForgetsItsWindow(WindowDynamics):
    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        fresh = self.initial(len(start["hidden"]))
        return super().imagine(start, fresh, policy, horizon, **k)


class WindowIsOneShortInImagination(WindowDynamics):
    """The oldest record is dropped before it has to be."""

    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        used = carry["used"].clone()
        used[:, 1] = False
        return super().imagine(start, {**carry, "used": used}, policy, horizon, **k)


class EndsWithTheCarryOfItsStart(RecurrentDynamics):
    def imagine(self, start: Latent, carry: Carry, *a: Any, **k: Any) -> Imagined:
        return replace(super().imagine(start, carry, *a, **k), carry=carry)


class ImaginesFromTheRowAbove(RecurrentDynamics):
    def imagine(self, start: Latent, carry: Carry, *a: Any, **k: Any) -> Imagined:
        return super().imagine(start, tree_map(lambda x: x.roll(1, 0), carry), *a, **k)


class StartsWithTheCarryOfTheRowAbove(RecurrentDynamics):
    def starts(self, observed: Observed) -> Starts:
        starts = super().starts(observed)
        return replace(starts, carry=tree_map(lambda x: x.roll(1, 0), starts.carry))


class StartsWithTheLastWindow(WindowDynamics):
    def starts(self, observed: Observed) -> Starts:
        length = observed.states["hidden"].shape[1]
        last = tree_map(lambda x: x.repeat_interleave(length, 0), observed.carry)
        return replace(super().starts(observed), carry=self.detach(last))


class ImaginesInDoublePrecision(RecurrentDynamics):
    def imagine(self, *a: Any, **k: Any) -> Imagined:
        imagined = super().imagine(*a, **k)
        return replace(imagined, states=tree_map(lambda x: x.double(), imagined.states))

    def features(self, state: Latent, view: str) -> Features:
        return super().features(tree_map(lambda x: x.float(), state), view)


# ---------------------------------------------------------------- samples


class NeverSamplesInImagination(RecurrentDynamics):
    def imagine(self, *a: Any, **k: Any) -> Imagined:
        return super().imagine(*a, **{**k, "deterministic": True})


class WindowNeverSamples(WindowDynamics):
    def imagine(self, *a: Any, **k: Any) -> Imagined:
        return super().imagine(*a, **{**k, "deterministic": True})


class NeverSamplesThePosterior(RecurrentDynamics):
    def observe_step(self, *a: Any, **k: Any) -> tuple[Latent, Carry]:
        return super().observe_step(*a, **{**k, "deterministic": True})


class ActsOnTheMode(RSSM):
    """Samples while it learns, and not while it acts."""

    def observe_step(self, *a: Any, **k: Any) -> tuple[Latent, Carry]:
        return super().observe_step(*a, **{**k, "deterministic": True})


class SamplesFromTheSecondStepOn(RecurrentDynamics):
    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        if not isinstance(policy, Tensor) or horizon < 2:
            return super().imagine(start, carry, policy, horizon, **{**k, "deterministic": True})
        first = super().imagine(start, carry, policy[:, :1], 1, **{**k, "deterministic": True})
        state = tree_map(lambda x: x[:, 0], first.states)
        rest = super().imagine(state, first.carry, policy[:, 1:], horizon - 1, **k)
        states = tree_map(lambda x, y: torch.cat([x, y], 1), first.states, rest.states)
        return Imagined(states, policy, rest.carry)


@contextmanager
def noise_like(change: Any) -> Iterator[None]:
    """All draws of `torch.randn_like` inside become what `change` makes of them."""
    draw = torch.randn_like
    with mock.patch.object(torch, "randn_like", lambda x: change(draw(x))):
        yield


class SameNoiseForAllRows(RecurrentDynamics):
    def imagine(self, *a: Any, **k: Any) -> Imagined:
        with noise_like(lambda x: x[:1].expand_as(x)):
            return super().imagine(*a, **k)


class SameNoiseForAllStepsOfAWindow(WindowDynamics):
    def imagine(self, *a: Any, **k: Any) -> Imagined:
        drawn: list[Tensor] = []
        with noise_like(lambda x: (drawn.append(x), drawn[0])[1]):
            return super().imagine(*a, **k)


class SamePosteriorNoiseForAllRows(RecurrentDynamics):
    def observe(self, *a: Any, **k: Any) -> Observed:
        with noise_like(lambda x: x[:1].expand_as(x)):
            return super().observe(*a, **k)


class _SharedNoise(RSSM):
    def __init__(self, embeds: Specs, action: ActionSpec, **settings: Any) -> None:
        super().__init__(embeds, action, **settings)
        draw = self.cell.noise
        self.cell.noise = lambda *lead, **k: self.share(draw(*lead, **k))  # type: ignore[method-assign]

    def share(self, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def __deepcopy__(self, memo: Any) -> Any:
        return self  # its cell holds a closure; the laws do without other parameters


class SameNoiseForAllStepsOfARollout(_SharedNoise):
    """In the scan and in imagination: `[steps, N, G, K]`."""

    def share(self, noise: Tensor) -> Tensor:
        return noise[:1].expand_as(noise) if noise.dim() == 4 else noise


class SameNoiseForTwoStepsEach(_SharedNoise):
    def share(self, noise: Tensor) -> Tensor:
        if noise.dim() < 4:
            return noise
        return noise[::2].repeat_interleave(2, 0)[: len(noise)]


class ImaginesDeafAfterThreeSteps(RecurrentDynamics):
    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        if not isinstance(policy, Tensor):
            return super().imagine(start, carry, policy, horizon, **k)
        index = torch.arange(horizon).clamp_max(2)
        imagined = super().imagine(start, carry, policy[:, index], horizon, **k)
        return replace(imagined, actions=policy)


class ImaginesDeafInTheLastRow(StackedRSSM):
    def imagine(self, start: Latent, carry: Carry, policy: Any, horizon: int, **k: Any) -> Imagined:
        if not isinstance(policy, Tensor):
            return super().imagine(start, carry, policy, horizon, **k)
        last = torch.arange(len(policy)) == len(policy) - 1
        deaf = policy.masked_fill(last[:, None, None], 0.0)
        return replace(super().imagine(start, carry, deaf, horizon, **k), actions=policy)


MUTANTS = {
    RestartsItsClock: "law_4_goes_on_from_its_carry",
    RestartsItsClockWhereItGoesOn: "law_4_goes_on_from_its_carry",
    ForgetsItsWindow: "law_4_goes_on_from_its_carry",
    WindowIsOneShortInImagination: "law_4_goes_on_from_its_carry",
    EndsWithTheCarryOfItsStart: "law_4_goes_on_from_its_carry",
    ImaginesFromTheRowAbove: "law_5_imagined_rows_do_not_mix",
    StartsWithTheCarryOfTheRowAbove: "law_4_starts_where_acting_stands",
    StartsWithTheLastWindow: "law_4_starts_where_acting_stands",
    ImaginesInDoublePrecision: "law_4_first_output_is_one_step_on",
    NeverSamplesInImagination: "law_9_samples_as_declared",
    WindowNeverSamples: "law_9_samples_as_declared",
    NeverSamplesThePosterior: "law_9_samples_as_declared",
    ActsOnTheMode: "law_9_samples_as_declared",
    SamplesFromTheSecondStepOn: "law_9_steps_have_their_own_noise",
    SameNoiseForAllRows: "law_9_samples_as_declared",
    SameNoiseForAllStepsOfAWindow: "law_9_steps_have_their_own_noise",
    SamePosteriorNoiseForAllRows: "law_9_samples_as_declared",
    SameNoiseForAllStepsOfARollout: "law_9_steps_have_their_own_noise",
    SameNoiseForTwoStepsEach: "law_9_steps_have_their_own_noise",
    ImaginesDeafAfterThreeSteps: "law_4_first_output_is_one_step_on",
    ImaginesDeafInTheLastRow: "law_4_first_output_is_one_step_on",
}
