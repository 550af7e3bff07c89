"""The double's two sockets: calls on one port, streams on another."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from . import pictures, wire
from .calls import WORLD_STREAM, Calls
from .wire import CallFailed, Pose
from .world import Actor, World

VERSION = "0.9.16"
SUBSCRIBING_S = 1.0
"""How long a tick waits for a client that asked where a stream is but is not connected to it."""


@dataclass
class Options:
    """How the double behaves, and at which tick it goes wrong.

    Ticks are those that clients ask for, counted from 1 at the start of the process; the client
    library asks for one of its own when settings are applied in synchronous mode. 0: never.
    """

    version: str = VERSION
    map_name: str = "Carla/Maps/Town04"
    listen_after_s: float = 0.0
    """Connections are refused until then."""
    die_at: int = 0
    """The process is killed by SIGKILL when this tick is asked for."""
    hang_at: int = 0
    """From this tick on nothing is answered, while connections stay open; 1 answers no tick."""
    lose_image_at: int = 0
    """This tick's images are not sent."""
    launch_at: int = 0
    """Every vehicle is thrown a metre into the air at this tick."""
    refuse_spawns: int = 0
    """So many of the next vehicles find no room."""


class Server:
    """Serves one world to any number of clients.

    Everything runs in one thread, so a call is answered before the next one is looked at.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.world = World(options.map_name)
        self.world.refuse_spawns = options.refuse_spawns
        self.ticks = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self._listeners: dict[int, list[asyncio.StreamWriter]] = {}
        self._subscribing = 0
        self._nobody_comes = asyncio.Event()
        self._nobody_comes.set()
        self._calls: Calls

    async def run(self, calls_socket: socket.socket) -> None:
        """Serve for ever; the socket is bound already."""
        streams = await asyncio.start_server(self._serve_stream, "127.0.0.1", 0)
        port = streams.sockets[0].getsockname()[1]
        self._calls = Calls(self.world, self.options.version, port)
        await asyncio.sleep(self.options.listen_after_s)
        await asyncio.start_server(self._serve_calls, sock=calls_socket)
        while True:
            started = time.monotonic()
            if not self.world.synchronous:
                self._tick()
            await asyncio.sleep(max(0.001, self.world.delta_s - (time.monotonic() - started)))

    async def _serve_calls(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        unpacker = msgpack.Unpacker(max_buffer_size=2**26)
        try:
            while data := await reader.read(2**16):
                unpacker.feed(data)
                for _, call_id, method, params in unpacker:
                    if method in ("tick_cue", "apply_batch"):
                        await self._subscribed()
                    writer.write(self._answer(call_id, method, params[1:]))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _answer(self, call_id: int, method: str, arguments: list[Any]) -> bytes:
        """One call without its first parameter, which says whether the client wants an answer."""
        self.counts[method] += 1
        try:
            if method == "apply_batch":
                return wire.plain(call_id, self._batch(*arguments))
            call = self._own(method) or self._calls.find(method)
            if call is None:
                self.counts["unknown: " + method] += 1
                return wire.unknown(call_id, method)
            return wire.reply(call_id, call(*arguments))
        except CallFailed as error:
            return wire.failure(call_id, str(error))

    def _own(self, method: str) -> Callable[..., Any] | None:
        """Calls that concern time, streams or the double itself, rather than the world."""
        own: dict[str, Callable[..., Any]] = {
            "tick_cue": self._tick_cue,
            "get_sensor_token": self._token,
            "double_counts": self._counted,
            "double_options": self._change,
        }
        return own.get(method)

    def _token(self, stream: int) -> list[bytes]:
        self._expect(1)
        return self._calls.on_get_sensor_token(stream)

    async def _subscribed(self) -> None:
        """Wait until whoever asked for a stream is connected to it.

        The client connects in the background, so the first messages after `listen` would
        otherwise come or not come by chance.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._nobody_comes.wait(), SUBSCRIBING_S)
        self._expect(-self._subscribing)

    def _expect(self, more: int) -> None:
        """So many more connections to streams are to come."""
        self._subscribing = max(0, self._subscribing + more)
        (self._nobody_comes.clear if self._subscribing else self._nobody_comes.set)()

    def _counted(self) -> dict[str, int]:
        return {**self.counts, "actors": len(self.world.actors), "ticks": self.ticks}

    def _change(self, changes: dict[str, Any]) -> None:
        self.options = dataclasses.replace(self.options, **changes)
        self.world.refuse_spawns = changes.get("refuse_spawns", self.world.refuse_spawns)

    def _batch(self, commands: list[Any], do_tick: bool) -> list[Any]:
        answers = self._calls.batch(commands)
        if do_tick:
            self._tick_cue()
        return answers

    def _tick_cue(self) -> int:
        self.ticks += 1
        options = self.options
        if self.ticks == options.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ticks == options.hang_at:
            signal.pause()
        if self.ticks == options.launch_at:
            for actor in self.world.vehicles():
                actor.pose.location[2] += 1.0
        return self._tick() if self.world.synchronous else self.world.frame

    def _tick(self) -> int:
        """Let time pass and send what the clients listen to; returns the frame's number."""
        episode = self.world.episode
        hits = self.world.tick()
        self._send_world(episode)
        for one, other, impulse in hits:
            self._send_collision(one, other, impulse)
        if self.ticks != self.options.lose_image_at or not self.ticks:
            for camera in self.world.sensors("camera"):
                self._send_image(camera)
        return self.world.frame

    def _send_world(self, episode: int) -> None:
        body = wire.world_body(episode, time.time(), self.world.delta_s, self.world.state())
        self._send(WORLD_STREAM, wire.WORLD_STATE, Pose(), body)

    def _send_collision(self, one: Actor, other: Actor, impulse: list[float]) -> None:
        for sensor in self.world.sensors("other.collision"):
            if sensor.parent == one.number:
                us, them = self._calls.on_get_actors_by_id([one.number, other.number])
                body = wire.collision_body(us, them, impulse)
                self._send(sensor.stream, wire.COLLISION, self.world.place(sensor), body)

    def _send_image(self, camera: Actor) -> None:
        if not self._listeners.get(camera.stream) or self.world.settings[1]:
            return
        width = int(camera.attribute("image_size_x", "800"))
        height = int(camera.attribute("image_size_y", "600"))
        fov = float(camera.attribute("fov", "90"))
        picture_HWC = pictures.draw(self.world, camera, width, height, fov)
        body = wire.image_body(width, height, fov, picture_HWC.tobytes())
        self._send(camera.stream, wire.CAMERA, self.world.place(camera), body)

    def _send(self, stream: int, kind: int, pose: Pose, body: bytes) -> None:
        listeners = self._listeners.get(stream, [])
        if listeners:
            data = wire.message(kind, self.world.frame, self.world.seconds, pose, body)
            for writer in listeners:
                writer.write(data)

    async def _serve_stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        listeners: list[asyncio.StreamWriter] = []
        try:
            (stream,) = struct.unpack("<I", await reader.readexactly(4))
            listeners = self._listeners.setdefault(stream, [])
            listeners.append(writer)
            self._expect(-1)
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            if writer in listeners:
                listeners.remove(writer)
            writer.close()
