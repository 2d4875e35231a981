"""What is free in a pool is read anew, also where a volume is being made in it for a moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.probing.facts import ROOM_PATIENCE, probe_room
from tests.twin.scene import scene


@pytest.mark.parametrize(("busy", "known"), [(0.0, True), (ROOM_PATIENCE / 2, True), (10 * ROOM_PATIENCE, False)])
def test_a_pool_in_which_a_volume_is_made_is_asked_again(tmp_path: Path, busy: float, known: bool) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        host = the.twin.hosts["h2"]

        def look() -> Mapping[str, int]:
            host.pools["default"].busy_until = the.twin.scheduler.now + busy
            with Connections(the.inventory.hosts()) as connections:
                return probe_room(connections.get("h2"), ["default"])

        found = the.do(look)
    assert found == ({"default": host.own.available} if known else {})
