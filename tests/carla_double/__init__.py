"""A stand-in for the CARLA 0.9.16 server, for tests with the real client library and no simulator.

It serves a small highway of its own over the simulator's protocol, from its own process: inside a
client's process it could not answer, since the client holds the interpreter's lock while it waits.

By hand, from the folder `tests`::

    python -m carla_double --port 2000 --die-at 100

prints the port and serves until its standard input closes; `--port 0` takes any free port, and
`--help` lists the faults it can produce. From a test::

    from ..carla_double.launch import Double

    with Double(die_at=100, next_lives=[{}]) as double:
        client = carla.Client("127.0.0.1", double.port)

dies at the hundredth tick and comes back on the same port; `double.counts()` tells what was asked.

What it is not: a simulator. Cars follow a bicycle model on a plane, two that touch go on with their
common velocity, pictures are flat colours, there are no walkers, traffic lights or other sensors.
A call it does not know raises in the client and is counted as `unknown: X`.

How the client library behaves, as seen with it and worth knowing when writing against it:

- A client whose connection was refused or lost never connects again, also when the server is back:
  every call waits for its whole time-out. Try again with a new client.
- A traffic manager lives in the client's process. When the server is gone, a thread of it raises,
  and that aborts the process (SIGABRT); no exception reaches Python. The same can happen, rarely,
  in the thread that reads streams while `load_world` runs on a busy machine.
- `apply_settings` asks for a tick of its own in synchronous mode, and the first one after
  connecting to a server that is synchronous already waits for a second.
- A stream is opened in the background. The real server may tick before that; the double waits.
"""
