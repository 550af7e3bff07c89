"""Messages between an environment and its client process: JSON, then maybe bytes."""

import json
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["receive", "send"]


def send(connection: "Connection[Any, Any]", message: dict[str, Any], extra: bytes = b"") -> None:
    """Send a message, and after it `extra` where the message has `pixels`."""
    connection.send_bytes(json.dumps(message).encode())
    if message.get("pixels"):
        connection.send_bytes(extra)


def receive(connection: "Connection[Any, Any]") -> dict[str, Any] | None:
    """Wait for a message; None where the other end is closed. Its bytes are under `pixels`."""
    try:
        message: dict[str, Any] = json.loads(connection.recv_bytes())
        if message.get("pixels"):
            message["pixels"] = connection.recv_bytes()
    except (EOFError, ConnectionResetError):
        return None
    return message
