"""An image and a mask of each branch, over a background that stands still.

Shape letters: B segments, T time, N product of leading dims, C H W image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from wmplatform.distributions import UnitNormal
from wmplatform.images import image_shape
from wmplatform.interfaces import Decoder
from wmplatform.types import ArraySpec, Context, Distribution, Features, FeatureSpec
from wmplugins.blocks import flat_size, flatten_lead
from wmplugins.isodream.nets import ImageStack, require_image

__all__ = ["BRANCHES", "Layers", "MaskDecoder"]

BRANCHES = ("ctrl", "free")


@dataclass(frozen=True)
class Layers:
    """What an image is put together from."""

    images: dict[str, Tensor]
    """Centred images by branch, `[*lead, C, H, W]`."""
    masks: dict[str, Tensor]
    """Weights by branch `[*lead, 1, H, W]`; with a background, each in 0..1 by itself."""
    background: Tensor | None
    """`[B, C, H, W]`; its weight is what the masks leave of one, which may be negative."""

    def compose(self) -> Tensor:
        """Weigh and add the layers, `[*lead, C, H, W]` (Iso-Dream eq. 5)."""
        image = torch.stack([self.masks[name] * self.images[name] for name in BRANCHES]).sum(0)
        if self.background is None:
            return image
        lead = image.shape[1:-3]
        background = self.background.unflatten(0, (-1, *[1] * len(lead)))
        return image + self.rest * background

    @property
    def rest(self) -> Tensor:
        """Weight of the background, `[*lead, 1, H, W]`, in -1..1."""
        return 1.0 - self.masks["ctrl"] - self.masks["free"]


class MaskDecoder(Decoder):
    """Two transposed-convolution stacks and a composition.

    Reads the view `decode`: the features of `ctrl` and of `free`. With a `background` the two
    masks are independent sigmoids and images are clamped to -0.5..0.5; without one, the masks are
    a softmax over the branches and nothing is clamped. The sum is not clamped.

    Parameters at depth 32, 250 features each, 3 channels: 7,634,376.
    """

    context = "optional"

    def __init__(
        self,
        features: FeatureSpec,
        observations: Mapping[str, ArraySpec],
        context: Mapping[str, ArraySpec] | None = None,
        *,
        depth: Annotated[int, Ge(1)] = 32,
        mask_bias: float = 0.0,
        key: str = "pixels",
    ) -> None:
        """Build the stacks.

        Args:
            features: spec of the view, a vector for each branch.
            observations: specs of the observation keys.
            context: specs of the context, if there is one.
            depth: channels of the last layer's input.
            mask_bias: added to the logits of masks. At 0 the masks of an untrained model leave
                nothing of the background, so that branches learn what stands still as well.
            key: the image that is made.
        """
        super().__init__()
        shape = image_shape(observations, key)
        require_image(shape, "decoders.masks")
        if not isinstance(features, Mapping) or set(features) != set(BRANCHES):
            raise ValueError(f"decoders.masks reads a vector each of {BRANCHES}, not {features}")
        if context is not None and (
            "background" not in context or context["background"].shape != shape
        ):
            raise ValueError(
                f"decoders.masks reads a context 'background' of shape {shape}, not {context}; "
                "use context_encoders.background"
            )
        self.keys, self.channels, self.mask_bias = (key,), shape[0], mask_bias
        self.stacks = nn.ModuleDict(
            {name: ImageStack(flat_size(features[name]), shape[0] + 1, depth) for name in BRANCHES}
        )

    def forward(
        self, features: Features, context: Context | None = None
    ) -> dict[str, Distribution]:
        """Decode to a unit normal over centred images `[*lead, C, H, W]`."""
        image = self.layers(features, context).compose()
        return {self.keys[0]: UnitNormal(image, event_dims=3)}

    def layers(self, features: Features, context: Context | None = None) -> Layers:
        """Decode each branch, all frames at once.

        Raises:
            ValueError: the context holds no background.
        """
        assert isinstance(features, dict)
        images, logits = {}, {}
        for name in BRANCHES:
            part = features[name]
            assert isinstance(part, Tensor)
            f_NF, lead = flatten_lead(part, 1)
            out = self.stacks[name](f_NF).float()
            out = out.reshape(*lead, *out.shape[1:])
            images[name], logits[name] = out.split([self.channels, 1], -3)
        if context is None:
            weights = torch.stack([logits[name] for name in BRANCHES]).softmax(0)
            return Layers(images, dict(zip(BRANCHES, weights, strict=True)), None)
        if "background" not in context:
            raise ValueError(f"decoders.masks needs a background, the context has {set(context)}")
        masks = {name: (x + self.mask_bias).sigmoid() for name, x in logits.items()}
        clamped = {name: x.clamp(-0.5, 0.5) for name, x in images.items()}
        return Layers(clamped, masks, context["background"])

    @classmethod
    def contract_settings(cls) -> dict[str, object]:
        """Tiny settings for the contract checks."""
        return {"depth": 2}

    @classmethod
    def contract_wiring(cls) -> dict[str, object]:
        """Specs for the contract checks."""
        return {
            "features": {name: ArraySpec((12,)) for name in BRANCHES},
            "context": {"background": ArraySpec((3, 64, 64))},
        }
