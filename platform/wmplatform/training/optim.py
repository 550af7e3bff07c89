"""Adam with gradient clipping, three forms of weight decay, and steps that can be skipped.

Nothing here waits for the device: whether a step is skipped is a tensor.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from wmplatform.forms import OtherForm, check_form, form_of
from wmplatform.interfaces.optimizer import Optimizer, in_layout_of
from wmplatform.schedules import Schedule

__all__ = ["Adam"]

Decay = Literal["decoupled", "l2", "adamw"]


class Adam(Optimizer):
    """One optimiser group: clip by global norm, decay, Adam step.

    Weight decay forms, which differ by orders of magnitude for the small constants in use:

    - `decoupled`: `w <- (1 - wd) w` before the step, not scaled by the learning rate, on every
      parameter (the original DreamerV2 and APV);
    - `l2`: `wd * w` added to the clipped gradient (the ContextWM authors' code);
    - `adamw`: `w <- (1 - lr * wd) w`.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        lr: Annotated[float, Ge(0.0)] | str = 3e-4,
        eps: Annotated[float, Gt(0.0)] = 1e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        clip_norm: Annotated[float, Ge(0.0)] = 100.0,
        weight_decay: Annotated[float, Ge(0.0)] = 1e-6,
        decay: Decay = "decoupled",
        eps_correction: bool = True,
        frozen_updates: Annotated[int, Ge(0)] = 0,
    ) -> None:
        """Set up the moments.

        Args:
            parameters: of this group.
            lr: learning rate; a number or a schedule over updates.
            eps: added to the root of the second moment.
            betas: decay rates of the moments.
            clip_norm: largest global gradient norm; 0 does not clip.
            weight_decay: see the forms above.
            decay: which form.
            eps_correction: add eps after the bias correction (PyTorch) or before (TensorFlow,
                where eps counts about 30 times more in the first steps).
            frozen_updates: the learning rate is 0 for this many updates, while the moments move.

        Raises:
            ValueError: a parameter has gaps in memory, or elements that share it.
        """
        super().__init__(parameters)
        self.lr, self.eps, self.betas = Schedule(lr), eps, betas
        self.clip_norm, self.weight_decay, self.decay = clip_norm, weight_decay, decay
        self.eps_correction, self.frozen_updates = eps_correction, frozen_updates
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        for p, first in zip(self.parameters, self.first, strict=True):
            if p.stride() != first.stride():  # the fused kernel walks memory without a gap
                raise ValueError(
                    f"a parameter of shape {tuple(p.shape)} and strides {p.stride()} does not fill "
                    "its memory; make a parameter of its contiguous copy"
                )
        device = self.parameters[0].device if self.parameters else "cpu"
        self.steps = [torch.zeros((), device=device) for _ in self.parameters]
        self._rate: float | Tensor = 0.0
        if torch.device(device).type == "cuda":
            self._rate = torch.zeros((), device=device)
        self.set_rate(0)

    def rate(self, updates: int) -> float:
        """Learning rate of the update with this index, counted from 0."""
        return 0.0 if updates < self.frozen_updates else self.lr(updates)

    @torch.no_grad()
    def clip(self, grads: list[Tensor]) -> Tensor:
        """Scale gradients in place to at most `clip_norm`; returns their norm before, a scalar."""
        grads[:] = in_layout_of(grads, self.parameters)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if self.clip_norm:
            torch._foreach_mul_(grads, (self.clip_norm / (norm + 1e-6)).clamp_max(1.0))
        return norm

    def set_rate(self, updates: int) -> None:
        """Set the learning rate for the update with this index, counted from 0.

        On an accelerator the rate is a tensor, so that a captured graph sees it change.
        """
        if isinstance(self._rate, Tensor):
            self._rate.fill_(self.rate(updates))
        else:
            self._rate = self.rate(updates)

    @torch.no_grad()
    def step(self, grads: list[Tensor], skip: Tensor) -> None:
        """Go one step, at the learning rate of `set_rate`.

        Args:
            grads: clipped, one for each parameter.
            skip: float scalar; 1 leaves parameters and moments as they are, bit for bit.
        """
        lr = self._rate
        grads = in_layout_of(grads, self.parameters)
        if self.decay != "l2" and self.weight_decay:
            share = self.weight_decay * (lr if self.decay == "adamw" else 1.0)
            torch._foreach_mul_(self.parameters, 1.0 - share * (1.0 - skip))
        if self.eps_correction:
            self._step_fused(grads, lr, skip)
        else:
            self._step_tensorflow(grads, lr, skip)

    def _step_fused(self, grads: list[Tensor], lr: float | Tensor, skip: Tensor) -> None:
        torch._foreach_add_(self.steps, 1.0)
        torch._fused_adam_(
            self.parameters,
            grads,
            self.first,
            self.second,
            [],
            self.steps,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay if self.decay == "l2" else 0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=skip,
        )
        torch._foreach_sub_(self.steps, [skip] * len(self.steps))

    def _step_tensorflow(self, grads: list[Tensor], lr: float | Tensor, skip: Tensor) -> None:
        """Adam as TensorFlow 2 computes it: eps joins the uncorrected second moment."""
        keep = 1.0 - skip
        beta1, beta2 = self.betas
        if self.decay == "l2" and self.weight_decay:
            grads = list(torch._foreach_add(grads, self.parameters, alpha=self.weight_decay))
        # A skipped gradient may be NaN: select zero, and let the moments stay.
        grads = [torch.where(skip > 0, 0.0, g) for g in grads]
        torch._foreach_add_(self.steps, [keep] * len(self.steps))
        for p, g, m, v, t in zip(
            self.parameters, grads, self.first, self.second, self.steps, strict=True
        ):
            m.add_((g - m) * ((1 - beta1) * keep))
            v.add_((g.square() - v) * ((1 - beta2) * keep))
            root = (1 - beta2**t).sqrt() / (1 - beta1**t).clamp_min(1e-12)
            p.sub_(m * (lr * keep * root) / (v.sqrt() + self.eps))

    def state_dict(self) -> dict[str, Any]:
        """Moments and step counts, in the order of the parameters."""
        return {"first": self.first, "second": self.second, "steps": self.steps}

    def state_form(self) -> Any:
        """As many moments, of the shapes and dtypes of the parameters."""
        return form_of(self.state_dict())

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the state belongs to other parameters.
        """
        try:
            check_form(state, self.state_form())
        except OtherForm as error:
            raise ValueError(f"the state has other shapes than the parameters: {error}") from None
        for name, mine in self.state_dict().items():
            for a, b in zip(mine, state[name], strict=True):
                a.copy_(b)
