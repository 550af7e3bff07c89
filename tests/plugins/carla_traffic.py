"""Four cars under the client's own traffic manager, in a process that ends with it.

Run with the port for the traffic manager and `tests` on the path; prints what the cars did as JSON.
"""

import json
import sys

import carla

from carla_double.launch import Double

DELTA_S, TICKS = 0.05, 120


def drive(double: Double, manager_port: int) -> dict[str, list[float]]:
    """Let the cars drive; returns speed in km/h, road and distance to the lane's centre of each."""
    client = carla.Client("127.0.0.1", double.port, worker_threads=1)
    client.set_timeout(10.0)
    world = client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, DELTA_S
    world.apply_settings(settings)
    manager = client.get_trafficmanager(manager_port)
    manager.set_synchronous_mode(True)
    manager.global_percentage_speed_difference(30.0)
    road = world.get_map()
    audi = world.get_blueprint_library().find("vehicle.audi.a2")
    starts = [road.get_waypoint_xodr(45, -1 - i, 560.0 + 10 * i).transform for i in range(4)]
    new = carla.command.FutureActor
    autopilot = carla.command.SetAutopilot(new, True, manager.get_port())
    batch = [carla.command.SpawnActor(audi, start).then(autopilot) for start in starts]
    cars = [world.get_actor(a.actor_id) for a in client.apply_batch_sync(batch, True)]
    for _ in range(TICKS):
        world.tick()
    places = [car.get_location() for car in cars]
    lanes = [road.get_waypoint(place) for place in places]
    settings.synchronous_mode = False
    world.apply_settings(settings)
    return {
        "kmh": [3.6 * car.get_velocity().length() for car in cars],
        "roads": [lane.road_id for lane in lanes],
        "off": [lane.transform.location.distance(p) for lane, p in zip(lanes, places, strict=True)],
    }


with Double() as server:
    seen = drive(server, int(sys.argv[1]))
    unknown = [call for call in server.counts() if call.startswith("unknown")]
    print(json.dumps({**seen, "unknown": unknown}), flush=True)
