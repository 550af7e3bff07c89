"""Who drives which server: two clients that tick one world would spoil each other's episodes."""

import fcntl
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from wmplatform.files import open_own
from wmplugins.carla.errors import ServerTaken
from wmplugins.carla.settings import Server

__all__ = ["Claim"]


class Claim:
    """The first free of several servers, until released or until this process ends.

    Claims are known on this machine and to this user.

    Args:
        servers: in the order in which they are tried.

    Raises:
        ServerTaken: none is free.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        for server in servers:
            held = _lock(server)
            if held is not None:
                self.server = server
                self._close = weakref.finalize(self, os.close, held)  # also of one left behind
                return
        names = ", ".join(map(str, servers))
        raise ServerTaken(
            f"an environment drives CARLA at {names} already, and no further server is named",
            hint="each environment needs a server of its own: name further ones "
            "(envs.carla.ports = (2000, 2010)),\nand for evaluation Online.eval_env = "
            "@eval/envs.carla with eval/envs.carla.ports = (2020,)",
        )

    def release(self) -> None:
        """Let others have the server; a second call does nothing."""
        self._close()


def _lock(server: Server) -> int | None:
    """Lock the server's file and return its descriptor; None where it is locked."""
    name = f"wmplatform-carla-{os.getuid()}-{server.host}-{server.port}.lock"
    path = Path(tempfile.gettempdir(), name)
    held = open_own(path, mode=0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held
