"""Look at a server without changing anything there."""

from typing import Any

import carla

from wmplugins.carla.session import talking, town_of
from wmplugins.carla.settings import Server

__all__ = ["examine"]


def examine(server: Server) -> dict[str, Any]:
    """Ask a server for its version, its maps and its state.

    A later question that is not answered leaves its entries out and is named in `stopped`.

    Raises:
        CarlaUnavailable: what listens there does not even tell its version.
    """
    with talking(server, "asking for its version"):
        client = carla.Client(server.host, server.port)
        client.set_timeout(server.startup_timeout_s)
        found: dict[str, Any] = {
            "client": client.get_client_version(),
            "server": client.get_server_version(),
        }
    if found["client"] != found["server"]:
        return found  # the next messages might crash this process
    try:
        found["maps"] = sorted(map(town_of, client.get_available_maps()))
        world = client.get_world()  # waits for a message of the world's stream
        found["town"] = town_of(world.get_map().name)
        found["synchronous"] = world.get_settings().synchronous_mode
    except RuntimeError as error:
        found["stopped"] = str(error).splitlines()[0]
    return found
