"""Components of a distribution that is installed beside the platform in every test run.

Each group has one that cannot be imported and one whose entry point is malformed. None may matter
to a test that does not name it; `tests/conftest.py` puts the distribution on the path.
"""

from collections.abc import Mapping

from torch import Tensor

from wmplatform.interfaces import Encoder
from wmplatform.types import ArraySpec


class Lawless(Encoder):
    """Embeds nothing, in a shape that it does not declare."""

    def __init__(self, observations: Mapping[str, ArraySpec]) -> None:
        super().__init__()

    @property
    def embed_specs(self) -> Mapping[str, ArraySpec]:
        return {"embed": ArraySpec((3,))}

    def forward(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}
