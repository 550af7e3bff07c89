"""WorldModel: encoder, dynamics, decoder and heads to named losses.

Shape letters: B batch, T time.
"""

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from wmplatform.errors import ExitCode, PlatformError
from wmplatform.factory import Factory
from wmplatform.images import to_centred
from wmplatform.interfaces.behavior import Objective, Phase, Update
from wmplatform.interfaces.context_encoder import ContextEncoder
from wmplatform.interfaces.decoder import Decoder
from wmplatform.interfaces.encoder import Encoder
from wmplatform.interfaces.explorer import Explorer
from wmplatform.interfaces.latent_dynamics import LatentDynamics, Observed
from wmplatform.interfaces.loss_balancer import LossBalancer
from wmplatform.interfaces.reward_head import Head
from wmplatform.stateless import Stateless
from wmplatform.types import (
    ArraySpec,
    Batch,
    Carry,
    Context,
    Distribution,
    EnvSpec,
    Features,
    FeatureSpec,
    Latent,
    Metrics,
    tree_map,
)

_Part = TypeVar("_Part")

__all__ = ["IncompatibleParts", "ModelLosses", "WorldModel"]


EMBEDS = "embeds"
"""The view of a head that reads the encoder's output instead of the latent."""


class IncompatibleParts(PlatformError):
    """Two components that do not fit were put together."""

    exit_code = ExitCode.BAD_INPUT


@dataclass
class ModelLosses:
    """What one pass of the world model over a segment gives."""

    losses: dict[str, Tensor]
    """Scalars by name, unweighted."""
    metrics: Metrics
    observed: Observed


class PlainSum(LossBalancer):
    """Every loss with weight one."""

    def needed(self, name: str) -> bool:
        """Every loss takes part."""
        del name
        return True

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        """Sum the losses."""
        return torch.stack(list(losses.values())).sum(), {}


class WorldModel(nn.Module):
    """A world model assembled from components.

    Each is given as a factory: the platform calls it with the specs of what lies upstream, and
    gin supplies the rest. In train mode only inside its own loss; acting, imagination and reports
    run in eval mode (batch normalisation uses its running statistics there).
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        encoder: Factory[Encoder],
        dynamics: Factory[LatentDynamics] | None = None,
        decoder: Factory[Decoder] | None = None,
        heads: dict[str, Factory[Head]] | None = None,
        context_encoder: Factory[ContextEncoder] | None = None,
        balancer: Factory[LossBalancer] | None = None,
        reads: dict[str, str] | None = None,
    ) -> None:
        """Assemble the parts.

        Args:
            spec: of the environment.
            encoder: embeds observations.
            dynamics: latent dynamics; without one the state is the embedding.
            decoder: reconstructs observations; without one there is no image loss.
            heads: scalar heads by name; the name is that of the loss.
            context_encoder: what stays the same over a segment.
            balancer: weighs the losses; without one they are summed.
            reads: the view that the `decoder`, or a head by its name, reads instead of the one
                that it declares.

        Raises:
            IncompatibleParts: a component cannot work with another one.
        """
        super().__init__()
        self.spec = spec
        observations = spec.observations
        self.encoder = _build("encoder", encoder, observations)
        self.dynamics = _build(
            "dynamics", dynamics or Stateless, self.encoder.embed_specs, spec.action
        )
        self.context_encoder = (
            _build("context_encoder", context_encoder, observations) if context_encoder else None
        )
        if self.context_encoder:
            self.context_encoder.share(self.encoder)
        context_specs = self.context_encoder.context_specs if self.context_encoder else None
        self._check_dynamics()
        self.decoder: Decoder | None = None
        others = dict(reads or {})
        if decoder:
            view = others.pop("decoder", "") or _declared(decoder, "view", Decoder.view)
            read = self.view_spec(view)
            self.decoder = _build("decoder", decoder, read, observations, context_specs)
            self.decoder.view = view
            self._check_context(self.decoder)
        self.heads = nn.ModuleDict()
        for name, make in (heads or {}).items():
            view = others.pop(name, "") or _declared(make, "view", Head.view)
            self.heads[name] = _build(f"head {name!r}", make, self._head_spec(make, view))
            self.head(name).view = view
        if others:
            raise IncompatibleParts(
                f"WorldModel.reads names {', '.join(sorted(others))}, but the model has "
                f"{', '.join(['decoder'] * (decoder is not None) + list(self.heads)) or 'no head'}",
            )
        self.balancer = _build("balancer", balancer or PlainSum, self.loss_names)
        self.eval()

    def _check_dynamics(self) -> None:
        if self.dynamics.capabilities.needs_context and self.context_encoder is None:
            raise IncompatibleParts(
                f"dynamics {type(self.dynamics).__name__} needs a context, but the model has no "
                "context encoder",
                hint="set WorldModel.context_encoder",
            )

    def _check_context(self, decoder: Decoder) -> None:
        given, wants = self.context_encoder is not None, decoder.context
        if (given and wants == "refused") or (not given and wants == "required"):
            raise IncompatibleParts(
                f"decoder {type(decoder).__name__} has context {wants}, but the model has "
                f"{'a' if given else 'no'} context encoder",
                hint="set WorldModel.context_encoder and WorldModel.decoder to a pair that fits",
            )

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of all losses: images, divergences, heads."""
        keys = self.decoder.keys if self.decoder else ()
        images = tuple(_image_name(key, keys) for key in keys)
        return (*images, *self.dynamics.loss_names, *self.heads)

    def view_spec(self, view: str) -> FeatureSpec:
        """Spec of a view of the dynamics.

        Raises:
            IncompatibleParts: the dynamics has no such view.
        """
        if view not in self.dynamics.views:
            raise IncompatibleParts(
                f"dynamics {type(self.dynamics).__name__} has no view {view!r}",
                hint=f"its views are {', '.join(sorted(self.dynamics.views))}",
            )
        return self.dynamics.feature_spec(view)

    def _head_spec(self, make: Factory[Head], view: str) -> FeatureSpec:
        """Spec of what a head reads of a view."""
        spec = dict(self.encoder.embed_specs) if view == EMBEDS else self.view_spec(view)
        if _declared(make, "timing", Head.timing) != "transition":
            return spec
        return {"before": spec, "action": ArraySpec((self.spec.action.size,)), "after": spec}

    def view_specs(self) -> dict[str, FeatureSpec]:
        """Specs of all views by name."""
        return {view: self.dynamics.feature_spec(view) for view in sorted(self.dynamics.views)}

    def head(self, name: str) -> Head:
        """Head by name.

        Raises:
            IncompatibleParts: there is none of that name.
        """
        if name not in self.heads:
            raise IncompatibleParts(
                f"the world model has no head {name!r}",
                hint=f"its heads are {', '.join(self.heads) or 'none'}; see WorldModel.heads",
            )
        head = self.heads[name]
        assert isinstance(head, Head)
        return head

    def predict(self, head: str, states: Latent, actions: Tensor | None = None) -> Distribution:
        """Predict with a head from states `[*lead, ...]`.

        Prediction i belongs to state i, or with the timing `departure` to the state after it. A
        head of the timing `transition` reads states `[N, K, ...]` and the actions `[N, K - 1, A]`
        between them; prediction i, of K - 1, belongs to state i + 1.

        Raises:
            IncompatibleParts: the head reads embeddings, or needs the actions.
        """
        module = self.head(head)
        if module.view == EMBEDS:
            raise IncompatibleParts(f"head {head!r} reads embeddings, which a state does not hold")
        features = self.dynamics.features(states, module.view)
        if module.timing == "transition":
            if actions is None:
                raise IncompatibleParts(f"head {head!r} reads transitions; give it the actions")
            features = _transition(features, actions)
        prediction: Distribution = module(features)
        return prediction

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Embed the observations of a batch, any leading dims."""
        embeds: dict[str, Tensor] = self.encoder(self.observations(batch))
        return embeds

    def observations(self, batch: Batch) -> dict[str, Tensor]:
        """Pick the observations of a batch and centre the images: the one place where that is."""
        return {key: to_centred(batch[key]) for key in self.spec.observations}

    def decode(self, states: Latent, context: Context | None = None) -> dict[str, Distribution]:
        """Decode states `[*lead, ...]` to distributions over images by key.

        Raises:
            IncompatibleParts: the model has no decoder.
        """
        if self.decoder is None:
            raise IncompatibleParts(
                "this world model has no decoder", hint="set WorldModel.decoder"
            )
        features = self.dynamics.features(states, self.decoder.view)
        images: dict[str, Distribution] = self.decoder(features, context)
        return images

    def context(self, batch: Batch, observed: int | None = None) -> Context | None:
        """Select and encode the context of a segment; None without a context encoder."""
        if self.context_encoder is None:
            return None
        frames = self.context_encoder.select(batch["pixels"], observed)
        context: Context = self.context_encoder(frames)
        return context

    def losses(
        self, batch: Batch, explorer: Explorer | None = None, carry: Carry | None = None
    ) -> ModelLosses:
        """Compute all losses of a segment `[B, T]`.

        Losses that the balancer does not need are computed without a graph, for the log.

        Args:
            batch: records.
            explorer: gives the intrinsic reward, if any.
            carry: of the record before the first one; None for the dynamics' initial one.
        """
        observations = self.observations(batch)
        embeds = self.encoder(observations)
        action = batch["action"] if "action" in batch.keys() else None  # noqa: SIM118
        context = self.context(batch)
        observed = self.dynamics.observe(embeds, action, batch["is_first"], carry, context=context)
        known = observed.records
        records = {key: batch[key][:, known] for key in batch.keys()}  # noqa: SIM118
        records.update({key: value[:, known] for key, value in observations.items()})
        losses, metrics = self.dynamics.losses(observed)
        bonus = self._intrinsic(observed, explorer)
        if bonus:
            records["intrinsic"] = bonus[0]
            metrics.update(bonus[1])
        for name, value in self._image_losses(observed, records, context).items():
            losses[name] = value
        for name in self.heads:
            every = self.head(name).view == EMBEDS  # an encoder uses no record up
            with torch.set_grad_enabled(self.balancer.needed(name) and torch.is_grad_enabled()):
                seen = self._head_features(self.head(name), observed, embeds)
                losses[name] = self._head_loss(name, seen, batch if every else records, metrics)
        return ModelLosses(losses, metrics, observed)

    def _intrinsic(
        self, observed: Observed, explorer: Explorer | None
    ) -> tuple[Tensor, Metrics] | None:
        if explorer is None or explorer.view is None:
            return None
        with torch.no_grad():
            features = self.dynamics.features(observed.states, explorer.view)
            found = explorer.intrinsic(_detached(features))
        return (found.values, found.metrics) if found else None

    def _image_losses(
        self, observed: Observed, records: Batch, context: Context | None
    ) -> dict[str, Tensor]:
        """Negative log-likelihood of each decoded key, mean over records (ContextWM eq. 2)."""
        if self.decoder is None:
            return {}
        features = self.dynamics.features(observed.states, self.decoder.view)
        if not self.decoder.sends_gradient:
            features = _detached(features)
        names = [_image_name(key, self.decoder.keys) for key in self.decoder.keys]
        needed = any(self.balancer.needed(name) for name in names)
        with torch.set_grad_enabled(needed and torch.is_grad_enabled()):
            images = self.decoder(features, context)
        return {
            _image_name(key, self.decoder.keys): -image.log_prob(records[key]).mean()
            for key, image in images.items()
        }

    def _head_features(self, head: Head, observed: Observed, embeds: dict[str, Tensor]) -> Features:
        """What a head reads of each record, `[B, T', ...]`; all T of the embeddings."""
        features: Features = dict(embeds)
        if head.view != EMBEDS:
            features = self.dynamics.features(observed.states, head.view)
        return features if head.sends_gradient else _detached(features)

    def _head_loss(self, name: str, seen: Features, records: Batch, metrics: Metrics) -> Tensor:
        """Mean loss of one head: the state of record t with the scalar its timing pairs it with."""
        head = self.head(name)
        target = head.target(records)
        features = tree_map(lambda x: x[:, target.records], seen)
        values, weight = target.values, None
        if head.timing != "arrival":
            if head.timing == "departure":
                features = tree_map(lambda x: x[:, :-1], features)
            else:
                features = _transition(features, records["action"][:, target.records][:, 1:])
            values = values[:, 1:]
            # Nothing leads into the first record of an episode.
            weight = (~records["is_first"][:, target.records][:, 1:]).float()
        metrics[f"{name}_target"] = values.detach().mean()
        each = head.loss(features, values)
        if weight is None:
            return each.mean()
        return torch.where(weight > 0, each, 0.0).sum() / weight.sum().clamp_min(1.0)

    def phase(self, explorer: Explorer | None = None) -> Phase:
        """The world model's share of an update.

        Starts from `carry` in the update's memory, if there is one, and leaves `observed` there.
        """

        def compute(update: Update) -> Sequence[Objective]:
            self.train()
            found = self.losses(update.batch, explorer, update.memory.get("carry"))
            total, metrics = self.balancer(found.losses)
            self.eval()
            update.memory["observed"] = found.observed
            update.metrics.update(found.metrics)
            update.metrics.update({f"{k}_loss": v.detach() for k, v in found.losses.items()})
            update.metrics.update(metrics)
            update.metrics["model_loss"] = total.detach()
            return [Objective("model", total, ("world_model",))]

        return Phase("world_model", compute)


def _image_name(key: str, keys: Sequence[str]) -> str:
    return "image" if len(keys) == 1 else f"image_{key}"


def _transition(features: Features, actions: Tensor) -> Features:
    """Pair features `[B, T, ...]` with the actions `[B, T - 1, A]` that led into all but the first.

    What a head of the timing `transition` reads, `[B, T - 1, ...]`.
    """
    before, after = (
        tree_map(lambda x, s=s: x[:, s], features) for s in (slice(-1), slice(1, None))
    )
    return {"before": before, "action": actions, "after": after}


def _detached(features: Features) -> Features:
    detached: Features = tree_map(lambda x: x.detach(), features)
    return detached


def _declared(make: Factory[nn.Module], name: str, default: str) -> str:
    """Class attribute of what a factory makes, seen through partials and gin's wrappers."""
    target: object = inspect.unwrap(make)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    value = getattr(target, name, default)
    return value if isinstance(value, str) else default


def _build(what: str, make: Factory[_Part], *wiring: object) -> _Part:
    """Call a component's factory; an error of its own says which component it was."""
    try:
        return make(*wiring)
    except ValueError as error:
        name = getattr(make, "__name__", str(make))
        why = str(error).partition("\n")[0]  # gin adds lines about itself
        raise IncompatibleParts(f"{what} {name} cannot be built: {why}") from error
