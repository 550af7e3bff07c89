"""Adam in its forms against a float64 NumPy loop and published first steps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor, nn

from wmplatform.contracts.optimizer import GRADIENT_LAYOUTS
from wmplatform.training.optim import Adam

from ..plugins import dreamer_reference as ref

RUN = torch.zeros(())
SKIP = torch.ones(())


def weights(*values: float, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([v], dtype=dtype)) for v in values]


FIRST = [
    ({"decay": "l2"}, 0.5, 0.9997000060),
    ({"decay": "decoupled", "eps_correction": False}, 0.5, 0.9996991896),
    ({"decay": "adamw"}, 0.5, 0.9997000057),
    ({"decay": "l2"}, 1e-6, 0.9999500000),
    ({"decay": "decoupled", "eps_correction": False}, 1e-6, 0.9999980543),
]


def go(adam: Adam, grads: list[torch.Tensor], update: int) -> None:
    """One step at the learning rate of this update."""
    adam.set_rate(update)
    adam.step(grads, RUN)


@pytest.mark.parametrize(("settings", "gradient", "expected"), FIRST)
def test_published_first_steps(
    settings: dict[str, object], gradient: float, expected: float
) -> None:
    (w,) = parameters = weights(1.0)
    adam = Adam(parameters, lr=3e-4, eps=1e-5, weight_decay=1e-6, **settings)
    go(adam, [torch.full((1,), gradient, dtype=torch.float64)], 0)
    assert_allclose(w.item(), expected, atol=2e-8 if "eps_correction" in settings else 2e-10)


@pytest.mark.parametrize("decay", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("l2", {"decay": "l2"}),
        ("adamw", {"decay": "adamw"}),
        ("decoupled", {"decay": "decoupled", "eps_correction": False}),
    ],
)
def test_twenty_steps_against_numpy(form: str, settings: dict[str, object], decay: float) -> None:
    rng = np.random.default_rng(7)
    start = rng.normal(size=(2, 5))
    ours = [nn.Parameter(torch.tensor(x)) for x in start]
    theirs = [ref.Adam(x, form, lr=1e-2, decay=decay) for x in start]
    adam = Adam(ours, lr=1e-2, eps=1e-5, weight_decay=decay, **settings)
    for update in range(20):
        grads = rng.normal(size=(2, 5)) * 10.0 ** rng.integers(-6, 2)
        go(adam, [torch.tensor(g) for g in grads], update)
        for reference, g in zip(theirs, grads, strict=True):
            reference.step(g)
        for p, reference in zip(ours, theirs, strict=True):
            assert_allclose(p.detach(), reference.w, rtol=1e-5, atol=1e-6)


def test_decay_forms_part_where_the_gradient_is_zero() -> None:
    """Decoupled decay does not depend on the rate, and l2 shrinks by a whole Adam step."""
    kept = {}
    for form in ("decoupled", "l2", "adamw"):
        (w,) = parameters = weights(1.0)
        adam = Adam(parameters, lr=3e-4, eps=1e-5, weight_decay=1e-6, decay=form)
        go(adam, [torch.zeros(1, dtype=torch.float64)], 0)
        kept[form] = 1 - w.item()
    assert_allclose(kept["decoupled"], 1e-6, rtol=0.03)  # the factor is rounded to fp32
    assert_allclose(kept["adamw"], 3e-10, atol=1e-9)
    assert_allclose(kept["l2"], 3e-4 * 1e-6 / (1e-6 + 1e-5), rtol=1e-5)


def test_agrees_with_torch() -> None:
    mine = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))]
    other = [nn.Parameter(p.detach().clone()) for p in mine]
    adam = Adam(mine, lr=1e-2, eps=1e-5, weight_decay=0.01, decay="adamw")
    torch_adam = torch.optim.AdamW(other, lr=1e-2, eps=1e-5, weight_decay=0.01)
    for update in range(5):
        grads = [torch.randn_like(p) for p in mine]
        for p, g in zip(other, grads, strict=True):
            p.grad = g.clone()
        go(adam, grads, update)
        torch_adam.step()
    for a, b in zip(mine, other, strict=True):
        assert_allclose(a.detach(), b.detach(), rtol=1e-5, atol=1e-6)


# Clipping


def test_clips_the_joint_norm() -> None:
    grads = [torch.tensor([300.0]), torch.tensor([400.0])]
    norm = Adam(weights(0.0, 0.0), clip_norm=100.0).clip(grads)
    assert_allclose(norm, 500.0)
    assert_allclose(torch.cat(grads), [60.0, 80.0], rtol=1e-6)


@given(st.floats(1e-3, 1e3), st.integers(0, 2**16))
def test_clipping_against_numpy(limit: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grads = [rng.normal(size=n) * 10 for n in (3, 1, 7)]
    ours = [torch.tensor(g) for g in grads]
    Adam(weights(*[0.0] * 3), clip_norm=limit).clip(ours)
    for a, b in zip(ours, ref.clip(grads, limit), strict=True):
        assert_allclose(a, b, rtol=1e-5)


def test_gradients_within_the_limit_are_untouched() -> None:
    grads = [torch.tensor([3.0, 4.0])]
    Adam(weights(0.0), clip_norm=6.0).clip(grads)
    assert grads[0].tolist() == [3.0, 4.0]
    grads = [torch.tensor([3e6])]
    Adam(weights(0.0), clip_norm=0.0).clip(grads)
    assert grads[0].tolist() == [3e6]


# Schedules and freezing


def test_frozen_updates_move_the_moments_but_no_weight() -> None:
    (w,) = parameters = weights(1.0)
    adam = Adam(parameters, lr=0.1, weight_decay=0.0, frozen_updates=100)
    gradient = torch.full((1,), 0.5, dtype=torch.float64)
    for update in range(100):
        go(adam, [gradient], update)
    assert w.item() == 1.0
    assert adam.second[0].item() > 0
    go(adam, [gradient], 100)  # the 101st
    assert w.item() != 1.0


def test_rate_follows_its_schedule_over_updates() -> None:
    adam = Adam(weights(0.0), lr="linear(1, 0, 10)")
    assert [adam.rate(u) for u in (0, 5, 10, 99)] == [1.0, 0.5, 0.0, 0.0]
    adam = Adam(weights(0.0), lr="linear(1, 0, 10)", frozen_updates=3)
    assert [adam.rate(u) for u in (0, 2)] == [0.0, 0.0]
    assert_allclose(adam.rate(3), 0.7)


# Skipped steps


SETTINGS = [
    {"decay": decay, "eps_correction": eps}
    for decay in ("l2", "adamw", "decoupled")
    for eps in (True, False)
]


def snapshot(adam: Adam) -> list[Tensor]:
    state = adam.state_dict()
    tensors = [*adam.parameters, *state["first"], *state["second"], *state["steps"]]
    return [t.detach().clone() for t in tensors]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.0])
def test_a_skipped_step_changes_nothing_bit_for_bit(
    settings: dict[str, object], bad: float
) -> None:
    parameters = weights(1.0, -2.0, dtype=torch.float32)
    adam = Adam(parameters, lr=0.1, weight_decay=0.01, **settings)
    for update in range(2):
        go(adam, [torch.randn(1) for _ in parameters], update)
    before = snapshot(adam)
    adam.step([torch.full((1,), bad) for _ in parameters], SKIP)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(adam), strict=True))


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_skipped_step_is_as_if_it_had_not_been(settings: dict[str, object]) -> None:
    def run(gradients: list[float]) -> float:
        (w,) = parameters = weights(1.0, dtype=torch.float32)
        adam = Adam(parameters, lr=0.1, weight_decay=0.01, **settings)
        for g in gradients:
            bad = torch.tensor(float(not math.isfinite(g)))
            adam.step([torch.full((1,), g)], bad)
        return w.item()

    assert run([0.5, math.nan, -0.3, math.inf, 0.2]) == run([0.5, -0.3, 0.2])


# State


@pytest.mark.parametrize("settings", SETTINGS)
def test_restoring_continues_bit_for_bit(settings: dict[str, object]) -> None:
    grads = [torch.randn(3) for _ in range(6)]

    def fresh() -> Adam:
        return Adam([nn.Parameter(torch.ones(3))], lr=0.1, weight_decay=0.01, **settings)

    straight, first, second = fresh(), fresh(), fresh()
    for update, g in enumerate(grads):
        go(straight, [g.clone()], update)
    for update, g in enumerate(grads[:3]):
        go(first, [g.clone()], update)
    with torch.no_grad():
        second.parameters[0].copy_(first.parameters[0])
    second.load_state_dict(first.state_dict())
    for update, g in enumerate(grads[3:], 3):
        go(second, [g.clone()], update)
    assert all(torch.equal(a, b) for a, b in zip(snapshot(straight), snapshot(second), strict=True))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("layout", GRADIENT_LAYOUTS)
def test_the_layout_of_gradients_changes_no_bit(settings: dict[str, object], layout: str) -> None:
    start = torch.randn(4, 3, 2, 5)
    adams = [Adam([nn.Parameter(start.clone())], clip_norm=5.0, **settings) for _ in range(2)]
    for update in range(3):
        grad = GRADIENT_LAYOUTS[layout](torch.randn_like(start))
        plain = grad.clone(memory_format=torch.contiguous_format)
        for adam, grads in zip(adams, ([plain], [grad]), strict=True):
            adam.clip(grads)
            go(adam, grads, update)
    assert all(torch.equal(a, b) for a, b in zip(*map(snapshot, adams), strict=True))


def test_restored_moments_lie_as_their_parameters() -> None:
    """A checkpoint holds them without their layout."""
    start = torch.randn(4, 3, 2, 5).contiguous(memory_format=torch.channels_last)
    first, second = (Adam([nn.Parameter(start.clone())], lr=0.1) for _ in range(2))
    go(first, [torch.randn_like(start)], 0)
    with torch.no_grad():
        second.parameters[0].copy_(first.parameters[0])
    state = first.state_dict()
    second.load_state_dict({name: [x.contiguous() for x in state[name]] for name in state})
    for moment in (*second.first, *second.second):
        assert moment.stride() == start.stride()
    grad = torch.randn_like(start)
    for adam in (first, second):
        go(adam, [grad.clone()], 1)
    assert all(torch.equal(a, b) for a, b in zip(*map(snapshot, (first, second)), strict=True))


@pytest.mark.parametrize("gaps", [torch.randn(4, 6)[:, ::2], torch.randn(4, 1).expand(4, 3)])
def test_parameters_with_gaps_are_refused(gaps: Tensor) -> None:
    with pytest.raises(ValueError, match="does not fill its memory"):
        Adam([nn.Parameter(torch.ones(2)), nn.Parameter(gaps)])


def test_a_state_of_other_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        Adam(weights(0.0, 0.0)).load_state_dict(Adam(weights(0.0)).state_dict())


def test_frozen_parameters_are_left_out() -> None:
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    assert len(Adam([*weights(0.0), frozen]).parameters) == 1
