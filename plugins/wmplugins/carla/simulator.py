"""One environment of the highway task, which outlives its server."""

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from wmplatform.envs import Frame, Simulator
from wmplugins.carla.claims import Claim
from wmplugins.carla.errors import CarlaUnavailable, ServerLost, WrongServer
from wmplugins.carla.remote import Remote, unreachable
from wmplugins.carla.settings import SIGNALS, Server, Settings

__all__ = ["CarlaSimulator"]

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_SLACK_S = 5.0


class CarlaSimulator(Simulator):
    """Drives one server through a client process.

    Where the server or the process is lost within an episode, that episode ends as truncated with
    the signal `invalid`, and the next reset connects again, in a fresh world. It tries for
    `patience_s` with pauses that double, then gives up.

    Args:
        claim: the server; released when this one is closed.
        settings: of world and task.
        patience_s: how long a server may be away.
    """

    def __init__(self, claim: Claim, settings: Settings, *, patience_s: float) -> None:
        self._claim, self._settings, self._patience_s = claim, settings, patience_s
        self._random = np.random.default_rng()
        self._remote: Remote | None = None
        self._pixels = np.zeros((3, settings.size, settings.size), np.uint8)

    @property
    def server(self) -> Server:
        """Where it drives."""
        return self._claim.server

    def reset(self, seed: int | None) -> Mapping[str, float]:
        """Start an episode, on a new connection where there is none.

        Raises:
            CarlaUnavailable: the server was away for longer than `patience_s`.
            WrongServer: it cannot serve this task.
        """
        if seed is not None:
            self._random = np.random.default_rng(seed)
        episode_seed = int(self._random.integers(2**31))
        answer = self._patiently(lambda: self._started(episode_seed))
        self._see(answer)
        signals: dict[str, float] = answer["signals"]
        return signals

    def advance(self, action: Any) -> Frame:
        """Drive one frame; without a server, end the episode."""
        server = self.server
        timeout_s = server.tick_timeout_s + server.camera_timeout_s + _SLACK_S
        assert self._remote is not None, "an episode without a server has ended"
        try:
            answer = self._remote.ask("advance", timeout_s, action=[float(x) for x in action])
        except CarlaUnavailable as error:
            self._remote = None
            self._say(f"{error.what}; the episode ends as truncated")
            signals = {**dict.fromkeys(SIGNALS, 0.0), "invalid": 1.0}
            return Frame(0.0, truncated=True, signals=signals)
        self._see(answer)
        return Frame(answer["reward"], answer["terminated"], answer["truncated"], answer["signals"])

    def observe(self) -> Mapping[str, NDArray[Any]]:
        """The last picture; of a lost server the last one that came."""
        return {"pixels": self._pixels}

    def close(self) -> None:
        """Give the server back."""
        if self._remote is not None:
            self._remote.close()
            self._remote = None
        self._claim.release()

    def _started(self, episode_seed: int) -> dict[str, Any]:
        server = self.server
        if self._remote is None:
            if reason := unreachable(server):
                raise CarlaUnavailable(server.host, server.port, reason)
            self._remote = Remote(server)
            world = TypeAdapter(Settings).dump_python(self._settings, mode="json")
            # Several calls, each with its own time-out; loading a town takes the longest.
            self._remote.ask("open", 4 * server.startup_timeout_s, settings=world)
        return self._remote.ask("reset", 2 * server.startup_timeout_s, seed=episode_seed)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try until it succeeds or the patience ends."""
        end_s, pause_s, tries = time.monotonic() + self._patience_s, _FIRST_PAUSE_S, 0
        while True:
            try:
                tries += 1
                return attempt()
            except WrongServer:
                self._remote = None
                raise
            except CarlaUnavailable as error:
                self._remote = None
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise self._given_up(error, tries) from error
                if tries == 1:
                    self._say(f"{error.what}; trying again for {left_s:.0f} s")
                time.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _given_up(self, error: CarlaUnavailable, tries: int) -> CarlaUnavailable:
        what = f"{error.last_error} (given up after {tries} tries in {self._patience_s:g} s)"
        return CarlaUnavailable(error.host, error.port, what, hint=error.hint)

    def _see(self, answer: dict[str, Any]) -> None:
        flat = np.frombuffer(answer["pixels"], np.uint8)
        self._pixels = flat.reshape(self._pixels.shape)

    def _say(self, what: str) -> None:
        warnings.warn(ServerLost(what), stacklevel=3)
