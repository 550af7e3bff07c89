"""Command line of the double: bind, say where, serve until stdin closes."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import socket
import sys
import threading

from .server import Options, Server


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="carla_double")
    parser.add_argument("--port", type=int, default=0)
    for option in dataclasses.fields(Options):
        name = "--" + option.name.replace("_", "-")
        parser.add_argument(name, type=type(option.default), default=option.default)
    return parser


def _exit_with_parent() -> None:
    """End the process, even one that hangs on purpose, when whoever started it is gone."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve with the options of the command line."""
    given = vars(_parser().parse_args())
    calls_socket = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio answers without delay then
    calls_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    calls_socket.bind(("127.0.0.1", given.pop("port")))
    if not given["listen_after_s"]:
        calls_socket.listen()
    print(calls_socket.getsockname()[1], flush=True)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    asyncio.run(Server(Options(**given)).run(calls_socket))


main()
