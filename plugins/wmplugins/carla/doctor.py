"""What `wmplatform doctor` can say about CARLA."""

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from wmplatform.errors import PlatformError
from wmplatform.interfaces.env_adapter import Diagnosis
from wmplugins.carla.errors import CarlaUnavailable
from wmplugins.carla.remote import Remote, unreachable
from wmplugins.carla.settings import Server

__all__ = ["diagnose_address", "diagnose_client"]

_TOWN = "Town04"
_EXAMINE_S = 60.0
_CALL_S = 10.0


def diagnose_client() -> Diagnosis:
    """Look for the client library."""
    try:
        version = metadata.version("carla")
    except metadata.PackageNotFoundError:
        return Diagnosis("carla client", False, "not installed", "pip install 'wmplatform[carla]'")
    detail = f"{version}; `wmplatform doctor --carla HOST:PORT` looks at a server"
    return Diagnosis("carla client", True, detail)


def diagnose_address(address: str) -> list[Diagnosis]:
    """Look at the server at `HOST:PORT`; what is wrong first hides what would come after it."""
    client = diagnose_client()
    if not client.ok:
        return [client]
    name = f"carla server {address}"
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        fix = "write HOST:PORT, as in `wmplatform doctor --carla localhost:2000`"
        return [Diagnosis(name, False, "not an address", fix)]
    server = Server(host=host, port=int(port), startup_timeout_s=_CALL_S)
    if reason := unreachable(server):
        return [Diagnosis(name, False, reason, _start(server))]
    remote = Remote(server)
    try:
        return list(_findings(name, server, remote.ask("examine", _EXAMINE_S)))
    except CarlaUnavailable as error:
        fix = (
            "something listens there: a server that is still starting (wait a minute and try "
            "again),\none that hangs (end it and start it again), or another program (compare "
            "the port with the server's -carla-rpc-port)"
        )
        return [Diagnosis(name, False, error.last_error, fix)]
    except PlatformError as error:
        return [Diagnosis(name, False, error.what, error.hint)]
    finally:
        remote.close()


def _findings(name: str, server: Server, found: dict[str, Any]) -> Iterator[Diagnosis]:
    ours, theirs = found["client"], found["server"]
    if ours != theirs:
        detail = f"version {theirs}, and the client library is {ours}: their protocols differ"
        fix = f"start a server of version {ours}: carlasim/carla:{ours}, or its release package"
        yield Diagnosis(name, False, detail, fix)
        return
    if "stopped" in found:
        fix = (
            f"calls are answered, streams are not: let port {server.port + 1} through as well "
            "(docker's --net=host, firewalls);\n"
            "a server that was started with -carla-streaming-port=0 chooses another one each time"
        )
        yield Diagnosis(name, False, f"version {theirs}; {found['stopped']}", fix)
        return
    has = _TOWN in found["maps"]
    detail = f"version {theirs}, shows {found['town']}, {len(found['maps'])} maps"
    detail += f" with {_TOWN}" if has else f" without {_TOWN}: {', '.join(found['maps'])}"
    fix = f"use a complete release of CARLA {ours}; its main package has {_TOWN}"
    yield Diagnosis(name, has, detail, "" if has else fix)
    if found["synchronous"]:
        detail = "in synchronous mode: a client drives it, or ended without giving it back"
        yield Diagnosis(f"{name} pace", True, f"{detail}; the next run takes it over")


def _start(server: Server) -> str:
    return (
        f"is the address right? if so, start a server on {server.host} (docs/carla.md), e.g.\n"
        "docker run --rm --runtime=nvidia --net=host --env=NVIDIA_DRIVER_CAPABILITIES=all \\\n"
        "    carlasim/carla:0.9.16 bash CarlaUE4.sh -RenderOffScreen -nosound "
        f"-carla-rpc-port={server.port}\n"
        "and give it a minute until it listens"
    )
