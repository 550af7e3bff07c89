"""A stand-in for the CARLA 0.9.16 server, for tests with the real client library and no simulator.

It serves a small highway of its own over the simulator's protocol, from its own process: inside a
client's process it could not answer, since the client holds the interpreter's lock while it waits.

By hand, from the folder `tests`::

    python -m carla_double --port 2000 --die-at 100

prints the port and serves until its standard input closes; `--port 0` takes any free port, and
`--help` lists the faults it can produce. From a test::

    from ..carla_double.launch import Double

    with Double(die_at=100) as double:
        client = carla.Client("127.0.0.1", double.port)

What it is not: a simulator. Cars follow a bicycle model on a plane, pictures are flat colours.
"""
