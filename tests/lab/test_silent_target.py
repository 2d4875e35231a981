"""The target's libvirt falls silent over the switchover: what it may still carry out later makes no second copy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mudanza.hypervisor.qemu_processes import QemuProcesses
from mudanza.hypervisor.ssh import ssh_command
from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.lab.watch import Watch
from mudanza.model.errors import HypervisorError
from mudanza.model.migration import Qemu
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true, ssh_entry
from tests.lab.matrix.copies import Copies

pytestmark = pytest.mark.lab


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    made = create_guest(lab, GuestSpec("handed", memory=192 * MIB, disk=64 * MIB, beat=0.05, working_set=64 * MIB))
    yield made
    made.remove()


@pytest.fixture
def processes(lab: Lab, by_ssh: Mudanza) -> QemuProcesses:
    """The QEMUs of h2, as the controller sees them from its seat."""
    return QemuProcesses("h2", ssh_command(ssh_entry(lab, "h2", by_ssh.config.parent).uri))


@pytest.mark.soak
def test_an_order_that_lies_with_a_libvirt_that_hangs_finds_nothing_to_carry_it_out_with(
    lab: Lab, by_ssh: Mudanza, guest: Guest, processes: QemuProcesses
) -> None:
    lab.set_uplink("h1", 10 * MIB)
    try:
        with Copies(lab, guest.uuid) as copies, Watch(lab, guest.address) as watch:
            running = by_ssh.start("migrate", "handed", "--to", "h2", "-o", "json")
            running.until("copying memory")
            assert processes.look(guest.uuid) is Qemu.NEVER_RAN
            faults.stop_daemon(lab, "h2")
            lab.set_uplink("h1", None)
            ended = running.end(4)
            assert processes.look(guest.uuid) is Qemu.GONE
            faults.cont_daemon(lab, "h2")
            await_true(lambda: "h2" not in guest.states(), "h2 has forgotten it")
            guest.await_answer()
    finally:
        lab.set_uplink("h1", None)
        faults.cont_daemon(lab, "h2")
    assert not copies.twice
    assert watch.series.every_beat_arrived, watch.series
    assert guest.states() == {"h1": "running"}
    assert "h2" in ended.events[-1]["vm_state"], "what lies there is told of"
    job = by_ssh("jobs", "-o", "json").data[0]
    assert [step["intent"]["act"] for step in job["steps"] if step["name"] == "settle"] == [
        "end the target's QEMU, whose vCPUs never ran, by ssh: its libvirt does not answer"
    ]
    by_ssh("job", "resume", str(job["id"]))  # cleans up there
    assert "handed" not in " ".join(virsh(lab.cell("h2"), "vol-list", "default").split())


def test_a_copy_that_has_run_is_never_ended_so(guest: Guest, by_ssh: Mudanza, processes: QemuProcesses) -> None:
    by_ssh("migrate", "handed", "--to", "h2")
    await_true(lambda: processes.look(guest.uuid) is Qemu.RAN, "its vCPUs have run")
    with pytest.raises(HypervisorError, match="have run"):
        processes.end(guest.uuid)
    guest.await_answer()
    assert guest.states()["h2"] == "running"
    assert processes.look("00000000-0000-0000-0000-000000000000") is Qemu.GONE
    by_ssh("migrate", "handed", "--to", "h1")
