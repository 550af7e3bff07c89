"""`Factory[T]`: the annotation of a setting that takes a part and builds it later.

A gin file hands over `@encoders.cnn`, a callable with its hyperparameters already bound; whoever
receives it calls it with the wiring arguments (the specs of what lies upstream).
"""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

__all__ = ["Factory"]

T_co = TypeVar("T_co", covariant=True)

Factory: TypeAlias = Callable[..., T_co]
"""Something that makes a `T_co` when called. `Factory[Encoder]` takes `@encoders.<name>` only."""
