"""One trouble in each phase of a move: what the model meets now and then, always."""

from __future__ import annotations

import pytest

from mudanza.model.migration import Mode
from tests.twin.play import Step, replay
from tests.twin.test_found import begin, later, migrate, step

TROUBLES = {
    "controller killed": step("kill_controller"),
    "controller asleep": step("stop_controller", seconds=200.0),
    "way cut": step("cut"),
    **{f"{host} dead": step("kill_host", host=host) for host in ("h1", "h2")},
    **{f"{host} isolated": step("isolate", host=host) for host in ("h1", "h2")},
    **{f"{host} libvirtd killed": step("kill_libvirtd", host=host, seconds=2.0) for host in ("h1", "h2")},
    **{f"{host} QEMU killed": step("kill_qemu", host=host) for host in ("h1", "h2")},
}
LIVE = [f"phase {phase} of web" for phase in ("DISKS", "MEMORY", "STOPPED", "HANDED_OVER", "FINISHING", "CONFIRMED")]
COLD = [
    "after intend shut down",
    "phase DISKS of mudanza-carrier",
    *(f"after intend {each}" for each in ("compare", "define", "disarm", "start", "release source", "delete volume")),
]


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
@pytest.mark.parametrize(
    ("instant", "mode"), [*((each, Mode.AUTO) for each in LIVE), *((each, Mode.COLD) for each in COLD)]
)
def test_the_promises_hold(instant: str, mode: Mode, trouble: Step) -> None:
    broken = replay([begin(autostart=True), migrate(instant, mode), later(0.05), trouble, later(120.0)])
    assert broken is None, broken
