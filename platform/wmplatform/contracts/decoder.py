"""The laws of `Decoder`, runnable."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from wmplatform.contracts.laws import Report, fail, law, require, skip
from wmplatform.contracts.probes import (
    any_changed,
    check_array,
    draw_features,
    draw_specs,
    equal,
    generator,
    leaves,
    no_draws,
    require_gradients,
    require_some_gradient,
    require_unchanged,
    seeded,
    set_row,
    shake,
    variants,
)
from wmplatform.images import to_centred
from wmplatform.interfaces.decoder import Decoder
from wmplatform.types import (
    ArraySpec,
    Context,
    Distribution,
    Features,
    FeatureSpec,
    tree_map,
)

__all__ = [
    "check_decoder",
    "law_1_images_as_declared",
    "law_1_likelihood_is_highest_at_the_mode",
    "law_2_context_as_declared",
    "law_3_frames_do_not_mix",
    "law_3_rows_use_their_own_context",
    "law_4_gradients_reach_features_and_parameters",
    "law_5_eval_is_deterministic",
]

Specs = Mapping[str, ArraySpec]
MakeDecoder = Callable[[FeatureSpec, Specs, Specs | None], Decoder]


def check_decoder(
    make: MakeDecoder,
    features: FeatureSpec,
    observations: Specs,
    *,
    context: Specs | None = None,
    seed: int = 0,
    collect: bool = False,
) -> Report:
    """Run every law of `Decoder`.

    Args:
        make: builds the decoder for these specs; called with the context's specs, or None.
        features: spec of the view it reads.
        observations: what a record holds.
        context: specs of the context; needed where a context is optional or required.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("Decoder", collect=collect)
    decoder = shake(make(features, observations, context), seed).eval()
    given = None if decoder.context == "refused" else context
    specs = (features, observations, given)
    report.run(law_2_context_as_declared, decoder, *specs, seed=seed)
    leads: list[tuple[int, ...]] = [(2, 3)] if given else [(), (3,), (2, 3)]
    for lead in leads:
        report.run(law_1_images_as_declared, decoder, *specs, lead=lead, seed=seed)
    report.run(law_1_likelihood_is_highest_at_the_mode, decoder, *specs, seed=seed)
    for row, t in ((0, 0), (1, 2)):
        report.run(law_3_frames_do_not_mix, decoder, *specs, row=row, t=t, seed=seed)
        report.run(law_3_rows_use_their_own_context, decoder, *specs, row=row, seed=seed)
    report.run(law_4_gradients_reach_features_and_parameters, decoder, *specs, seed=seed)
    report.run(law_5_eval_is_deterministic, decoder, *specs, seed=seed)
    return report


@law("Decoder", 1)
def law_1_images_as_declared(
    decoder: Decoder,
    features: FeatureSpec,
    observations: Specs,
    context: Specs | None,
    *,
    lead: Sequence[int],
    seed: int,
) -> None:
    """One distribution a key, with the mean of the image's shape and a finite likelihood."""
    images = _decode(decoder, *_inputs(features, context, lead, seed))
    require(
        set(images) == set(decoder.keys),
        f"forward gives {sorted(images)}, declared are {sorted(decoder.keys)}",
    )
    targets = {k: to_centred(v) for k, v in draw_specs(observations, lead, seed).items()}
    for key, image in images.items():
        spec = ArraySpec(observations[key].shape)
        check_array(f"the mean of {key}", image.mean, spec, lead)
        check_array(
            f"the log-likelihood of {key}", image.log_prob(targets[key]), ArraySpec(()), lead
        )


@law("Decoder", 1)
def law_1_likelihood_is_highest_at_the_mode(
    decoder: Decoder,
    features: FeatureSpec,
    observations: Specs,
    context: Specs | None,
    *,
    seed: int,
) -> None:
    """No image near the mode or far from it is likelier than the mode."""
    del observations
    images = _decode(decoder, *_inputs(features, context, (2, 3), seed))
    g = generator(seed)
    for key, image in images.items():
        best = image.log_prob(image.mode)
        for scale in (0.01, 0.1, 1.0):
            noise = scale * torch.randn(image.mode.shape, generator=g)
            for other in (image.mode + noise, image.mode - noise, image.mode + scale):
                require(
                    bool((image.log_prob(other) <= best + 1e-4 * best.abs() + 1e-4).all()),
                    f"an image that differs from the mode by {scale} is likelier for {key}",
                )


@law("Decoder", 2)
def law_2_context_as_declared(
    decoder: Decoder,
    features: FeatureSpec,
    observations: Specs,
    context: Specs | None,
    *,
    seed: int,
) -> None:
    """A refused context and a missing required one raise `ValueError`; nothing else does."""
    del observations
    f, given = _inputs(features, context, (2, 3), seed)
    declared = decoder.context
    if declared == "refused":
        given = {"pixels": torch.zeros(2, 3, 4, 4)}
    elif given is None:
        fail(f"its context is {declared}: check it with the specs of one (`context=...`)")
    if not _accepts(decoder, f, None) and declared != "required":
        fail(f"a missing context raises ValueError though it is {declared}")
    if not _accepts(decoder, f, given) and declared != "refused":
        fail(f"a context raises ValueError though it is {declared}")
    if declared == "required" and _accepts(decoder, f, None):
        fail("a missing context is accepted though it is required")
    if declared == "refused" and _accepts(decoder, f, given):
        fail("a context is accepted though it is refused")


@law("Decoder", 3)
def law_3_frames_do_not_mix(
    decoder: Decoder,
    features: FeatureSpec,
    observations: Specs,
    context: Specs | None,
    *,
    row: int,
    t: int,
    seed: int,
) -> None:
    """Changing the features of one frame changes its own image and no other."""
    del observations
    f, given = _inputs(features, context, (2, 3), seed)
    other = draw_features(features, (2, 3), seed + 1)
    changed = tree_map(lambda x, y: x.index_put(_at(row, t), y[row, t]), f, other)
    before, after = _means(decoder, f, given), _means(decoder, changed, given)
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[row, t] = False
    for key in before:
        require_unchanged(
            before[key][mask],
            after[key][mask],
            f"the features of frame {t} of row {row} change {key} of other frames",
        )
    require(
        any(any_changed(_means(d, f, given), _means(d, changed, given)) for d in variants(decoder)),
        "an image does not depend on its features",
    )


@law("Decoder", 3)
def law_3_rows_use_their_own_context(
    decoder: Decoder,
    features: FeatureSpec,
    observations: Specs,
    context: Specs | None,
    *,
    row: int,
    seed: int,
) -> None:
    """Changing the context of one row changes the images of that row, and of no other."""
    del observations
    f, given = _inputs(features, context, (2, 3), seed)
    if given is None or context is None:
        skip("no context")
    changed = set_row(given, draw_specs(context, (2,), seed + 31), row)
    before, after = _means(decoder, f, given), _means(decoder, f, changed)
    other = 1 - row
    a, b = (tree_map(lambda x: x[other], images) for images in (before, after))
    require_unchanged(a, b, f"the context of row {row} changes the images of row {other}")
    require(
        any(any_changed(_means(d, f, given), _means(d, f, changed)) for d in variants(decoder)),
        f"the images of row {row} do not depend on the context of row {row}",
    )


@law("Decoder", 4)
def law_4_gradients_reach_features_and_parameters(
    decoder: Decoder,
    features: FeatureSpec,
    observations: Specs,
    context: Specs | None,
    *,
    seed: int,
) -> None:
    """The likelihood's gradient reaches every parameter, and the features if declared."""
    f, given = _inputs(features, context, (2, 3), seed)
    f = tree_map(lambda x: x.requires_grad_(), f)
    targets = {k: to_centred(v) for k, v in draw_specs(observations, (2, 3), seed).items()}

    def loss(module: Decoder) -> Tensor:
        module.train()
        try:
            with seeded(seed):
                images: dict[str, Distribution] = module(f, given)
        finally:
            module.eval()
        return -torch.stack([d.log_prob(targets[key]).mean() for key, d in images.items()]).sum()

    require_gradients(loss(decoder), decoder, "the image likelihood")
    if decoder.sends_gradient:  # else the world model cuts it
        each = (loss(module) for module in variants(decoder))
        require_some_gradient(each, leaves(f), "the features though sends_gradient is True")


@law("Decoder", 5)
def law_5_eval_is_deterministic(
    decoder: Decoder,
    features: FeatureSpec,
    observations: Specs,
    context: Specs | None,
    *,
    seed: int,
) -> None:
    """In eval mode two calls agree bit for bit and draw nothing."""
    del observations
    f, given = _inputs(features, context, (2, 3), seed)
    with no_draws("decoding in eval mode"):
        first = _means(decoder, f, given)
    with seeded(seed + 1):
        second = _means(decoder, f, given)
    require(equal(first, second), "two calls in eval mode differ")


def _inputs(
    features: FeatureSpec, context: Specs | None, lead: Sequence[int], seed: int
) -> tuple[Features, Context | None]:
    given = draw_specs(context, lead[:1], seed + 5) if context else None
    return draw_features(features, lead, seed), given


@torch.no_grad()
def _decode(
    decoder: Decoder, features: Features, context: Context | None
) -> dict[str, Distribution]:
    images: dict[str, Distribution] = decoder(features, context)
    return images


def _means(decoder: Decoder, features: Features, context: Context | None) -> dict[str, Tensor]:
    return {key: image.mean for key, image in _decode(decoder, features, context).items()}


def _accepts(decoder: Decoder, features: Features, context: Context | None) -> bool:
    try:
        _decode(decoder, features, context)
    except ValueError:
        return False
    return True


def _at(row: int, t: int) -> tuple[Tensor, Tensor]:
    return torch.tensor(row), torch.tensor(t)
