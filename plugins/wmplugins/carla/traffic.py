"""Other cars, driven by CARLA's traffic manager, which lives in the client's process."""

from typing import Any

import carla
import numpy as np

from wmplugins.carla.route import Route
from wmplugins.carla.settings import Settings

__all__ = ["Traffic"]


class Traffic:
    """Cars on autopilot, new ones for each episode.

    Args:
        client: a connected `carla.Client`, whose world is in synchronous mode.
        library: the world's blueprints.
        route: where the cars are put.
        settings: how many, and how they drive.
        port: of the traffic manager, on this machine.
    """

    def __init__(
        self, client: Any, library: Any, route: Route, settings: Settings, port: int
    ) -> None:
        self._client, self._route, self._count = client, route, settings.traffic
        self._kinds = [each for each in library.filter("vehicle.*") if _four_wheels(each)]
        self._cars: list[int] = []
        self._manager = client.get_trafficmanager(port)
        self._manager.set_synchronous_mode(True)
        self._manager.set_global_distance_to_leading_vehicle(settings.traffic_gap_m)
        self._manager.global_percentage_speed_difference(settings.traffic_slower_percent)

    def place(self, random: np.random.Generator) -> None:
        """Spawn the cars; where one would stand in another, there is one fewer."""
        self._manager.set_random_device_seed(int(random.integers(2**31)))
        pilot = carla.command.SetAutopilot(
            carla.command.FutureActor, True, self._manager.get_port()
        )
        batch = []
        for place in self._route.places(random, self._count):
            kind = self._kinds[int(random.integers(len(self._kinds)))]
            _paint(kind, random)
            batch.append(carla.command.SpawnActor(kind, place).then(pilot))
        answers = self._client.apply_batch_sync(batch, False)
        self._cars = [answer.actor_id for answer in answers if not answer.error]

    def remove(self) -> None:
        """Destroy the cars."""
        cars, self._cars = self._cars, []
        if cars:
            self._client.apply_batch_sync(list(map(carla.command.DestroyActor, cars)), False)

    def close(self) -> None:
        """End the traffic manager, then the cars.

        In this order, and in synchronous mode to the last: its thread asks the server about every
        vehicle that it has seen, and ends the process where one is gone.
        """
        self._manager.shut_down()
        self.remove()


def _four_wheels(blueprint: Any) -> bool:
    return int(blueprint.get_attribute("number_of_wheels")) == 4


def _paint(blueprint: Any, random: np.random.Generator) -> None:
    if blueprint.has_attribute("color"):
        colours = blueprint.get_attribute("color").recommended_values
        blueprint.set_attribute("color", colours[int(random.integers(len(colours)))])
