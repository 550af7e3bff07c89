"""Drawing the next batch while the learner works on this one."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from tensordict import TensorDict

from wmplatform.forms import Either, Form, check_form, form_of
from wmplatform.interfaces.request import Request
from wmplatform.replay.buffer import IN_PREFETCH, Replay

__all__ = ["Prefetcher"]


class Prefetcher:
    """Keeps one batch ahead, still uint8, already on the learner's device.

    A batch is drawn right after the one before it was handed out, so it does not know the records
    that are written in between: runs with and without prefetching differ. Each of them repeats
    bit for bit, though: writes wait for a draw that has begun, and `state_dict` holds the batch
    that is ready (30 MB for 50 x 50 frames of 64 x 64 x 3).

    At most one prefetcher draws from a replay.

    Args:
        replay: where to draw; also waits, before it changes, for the draw in flight.
        request: what to draw.
        device: where batches go.
    """

    def __init__(
        self, replay: Replay, request: Request, device: torch.device | str = "cpu"
    ) -> None:
        self._replay, self._request = replay, request
        self._device = torch.device(device)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay-prefetch")
        self._ready: Future[TensorDict] | None = None

    def sample(self) -> TensorDict:
        """Hand out a batch and begin with the next."""
        batch = self._draw() if self._ready is None else self._ready.result()
        self._ready = self._thread.submit(self._draw_ahead)
        self._replay.note_ahead(self._ready)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the batch that is ready, on the CPU."""
        if self._ready is None:
            return {"ready": None}
        batch = self._ready.result().to("cpu")
        return {"ready": batch.to_dict(), "batch_size": list(batch.batch_size)}

    def state_form(self) -> Any:
        """Of which form `load_state_dict` takes a state; replay holds its records by then."""
        return Either({"ready": None}, _Batch(self._replay, self._request))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a batch that was ready."""
        self._ready = None
        if state["ready"] is not None:
            self._ready = Future()
            batch = TensorDict(state["ready"], state["batch_size"])
            self._ready.set_result(batch.to(self._device))

    def close(self) -> None:
        """Stop the thread; a batch in flight is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _draw_ahead(self) -> TensorDict:
        IN_PREFETCH.active = True
        return self._draw()

    def _draw(self) -> TensorDict:
        batch = self._request.sample(self._replay)
        if self._device.type == "cuda" and batch["reward"].device.type == "cpu":
            return batch.pin_memory().to(self._device, non_blocking=True)
        return batch.to(self._device)


class _Batch(Form):
    """A batch as the request draws them; only one that is drawn shows what it holds.

    Args:
        replay: where to draw; its generator stays where it is.
        request: what to draw.
    """

    def __init__(self, replay: Replay, request: Request) -> None:
        self._replay, self._request = replay, request

    def check(self, saved: Any, path: tuple[str | int, ...]) -> None:
        """Compare with a batch."""
        generator = self._replay.sampler.generator
        state = generator.get_state()
        batch = self._request.sample(self._replay)
        generator.set_state(state)
        form = {"ready": form_of(batch.to_dict()), "batch_size": list(batch.batch_size)}
        check_form(saved, form, path)
