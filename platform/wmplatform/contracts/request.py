"""The laws of `Request`, runnable."""

from collections.abc import Callable, Sequence

import torch
from tensordict import TensorDict

from wmplatform.contracts.laws import Report, law, require
from wmplatform.contracts.probes import draw_actions, draw_specs, equal, generator, seeded
from wmplatform.interfaces.env_adapter import ActionSpec, ArraySpec, EnvSpec
from wmplatform.interfaces.request import Request
from wmplatform.replay import Replay

__all__ = [
    "check_request",
    "law_1_equal_replays_give_equal_batches",
    "law_2_one_episode_suffices",
    "law_3_images_are_stacked_bytes",
]

SPEC = EnvSpec({"pixels": ArraySpec((3, 4, 4), "uint8")}, ActionSpec(2))


def check_request(make: Callable[[], Request], *, seed: int = 0, collect: bool = False) -> Report:
    """Run every law of `Request`.

    Args:
        make: builds the request.
        seed: of all random inputs.
        collect: note all violations in the report instead of raising the first.
    """
    report = Report("Request", collect=collect)
    request = make()
    report.run(law_1_equal_replays_give_equal_batches, request, seed=seed)
    report.run(law_2_one_episode_suffices, request, seed=seed)
    report.run(law_3_images_are_stacked_bytes, request, seed=seed)
    return report


@law("Request", 1)
def law_1_equal_replays_give_equal_batches(request: Request, *, seed: int) -> None:
    """Batches follow replay's generator and nothing else; drawing changes no record."""
    lengths = (request.records, 2 * request.records, request.records + 3)
    one, other = _filled(lengths, seed), _filled(lengths, seed)
    for each in range(2):
        with seeded(seed + each):
            first = request.sample(one)
        with seeded(seed + each + 7):
            second = request.sample(other)
        require(equal(first.to_dict(), second.to_dict()), "equal replays give other batches")
    fresh = _filled(lengths, seed)
    for key in fresh.columns:
        rows = slice(0, len(fresh))
        same = equal(one.storage.column(key)[rows], fresh.storage.column(key)[rows])
        require(same, f"drawing changed the column {key}")


@law("Request", 2)
def law_2_one_episode_suffices(request: Request, *, seed: int) -> None:
    """One episode of `records` records is enough for a batch."""
    request.sample(_filled((request.records,), seed))


@law("Request", 3)
def law_3_images_are_stacked_bytes(request: Request, *, seed: int) -> None:
    """Images are uint8, `stack` frames on the channel axis."""
    images = request.sample(_filled((request.records + 4,), seed))["pixels"]
    require(images.dtype == torch.uint8, f"images are {images.dtype}")
    channels, height, width = SPEC.observations["pixels"].shape
    expected = (request.stack * channels, height, width)
    require(
        tuple(images.shape[-3:]) == expected,
        f"with stack {request.stack} images are {tuple(images.shape[-3:])} instead of {expected}",
    )


def _filled(lengths: Sequence[int], seed: int) -> Replay:
    """A replay with episodes of these many records."""
    replay = Replay(SPEC, capacity=sum(lengths) + 1, seed=seed)
    for number, count in enumerate(lengths):
        replay.extend(_episode(count, seed + number))
    return replay


def _episode(count: int, seed: int) -> TensorDict:
    first = torch.arange(count) == 0
    return TensorDict(
        {
            **draw_specs(SPEC.observations, (count,), seed),
            "action": draw_actions(SPEC.action, (count,), seed + 1) * ~first[:, None],
            "reward": torch.randn(count, generator=generator(seed + 2)) * ~first,
            "is_first": first,
            "is_last": torch.arange(count) == count - 1,
            "is_terminal": torch.zeros(count, dtype=torch.bool),
            "stream": torch.zeros(count, dtype=torch.int64),
        },
        [count],
    )
