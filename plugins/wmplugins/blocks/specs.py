"""Reading one vector where specs and features may hold several parts."""

from collections.abc import Mapping

from torch import Tensor

from wmplatform.types import ArraySpec, Features, FeatureSpec

__all__ = ["as_vector", "embed_size", "flat_size"]


def flat_size(spec: FeatureSpec) -> int:
    """Width F of a single-tensor feature spec `(F,)`.

    Raises:
        ValueError: the view has several parts or is not a vector.
    """
    if not isinstance(spec, ArraySpec) or len(spec.shape) != 1:
        raise ValueError(f"this component reads one feature vector, but the view gives {spec}")
    return spec.shape[0]


def as_vector(features: Features) -> Tensor:
    """The single feature tensor `[*lead, F]`.

    Raises:
        ValueError: there are several parts.
    """
    if isinstance(features, dict):
        raise ValueError(f"expected one feature tensor, got the parts {sorted(features)}")
    return features


def embed_size(embeds: Mapping[str, ArraySpec], name: str) -> int:
    """Width of the embedding `name`.

    Raises:
        ValueError: there is none of that name, or it is no vector.
    """
    if name not in embeds:
        raise ValueError(f"no embedding {name!r}; the encoder gives {sorted(embeds)}")
    if len(embeds[name].shape) != 1:
        raise ValueError(f"embedding {name!r} is no vector: {embeds[name].shape}")
    return embeds[name].shape[0]
