"""A VM moves switched off with everything it is: definition, memory that was saved, firmware, TPM, snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.guest_disk import read_ring
from mudanza.lab.lab import Lab
from mudanza.lab.watch import Watch
from mudanza.model.units import MIB
from tests.lab import kinds
from tests.lab.cold import BODY, FAST, IMAGES, definition, exists, image, look, off, states, sums
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true
from tests.lab.domains import disk

pytestmark = pytest.mark.lab

NAMES = ("a;reboot", "$(id)", "--help", '">', "ñandú 駱駝")
NAMESPACE = "https://mudanza.dev/xmlns/1"


@pytest.fixture
def made(lab: Lab) -> Iterator[ExitStack]:
    """Takes what a test makes away again, the last first."""
    with ExitStack() as stack:
        yield stack


def make(lab: Lab, made: ExitStack, name: str, **settings: object) -> Guest:
    spec = GuestSpec(name, **{"memory": 128 * MIB, "disk": 64 * MIB, **settings})  # type: ignore[arg-type]  # by field
    guest = create_guest(lab, spec)
    made.callback(guest.remove)
    return guest


def shut_down(lab: Lab, guest: Guest, host: str = "h1") -> None:
    virsh(lab.cell(host), "shutdown", guest.uuid)
    await_true(lambda: guest.states()[host] == "shut off", f"{guest.name} is off")


def autostarts(lab: Lab, host: str, uuid: str) -> bool:
    return uuid in virsh(lab.cell(host), "list", "--all", "--autostart", "--uuid")


def test_there_switched_off_and_back_from_running(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    guest = make(lab, made, "whole", disk_write_rate=2 * MIB)
    h1, path = lab.cell("h1"), f"{IMAGES}/whole.qcow2"
    for words in (["--title", "The whole of it"], ["two\nlines & more <ñ>"]):
        virsh(h1, "desc", guest.uuid, "--config", *words)
    tags = "<mudanza><tag>kept</tag></mudanza>"
    virsh(h1, "metadata", guest.uuid, NAMESPACE, "--key", "m", "--set", tags, "--config")
    virsh(h1, "autostart", guest.uuid)
    with Watch(lab, guest.address) as watch:
        watch.until(lambda seen: len(seen.beats) >= 50, limit=30)
    shut_down(lab, guest)
    before, told = look(lab, "h1", path), definition(lab, "h1", guest.uuid)
    assert "The whole of it" in told
    assert "<m:tag>kept</m:tag>" in told

    report = mudanza("migrate", "whole", "--to", "h2", "-o", "json").report
    after = look(lab, "h2", path)
    assert after.sha256 == before.sha256
    assert (after.size, after.owner, after.mode) == (before.size, before.owner, before.mode)
    assert after.allocated <= before.allocated + MIB, "holes stay holes"
    assert definition(lab, "h2", guest.uuid) == told
    assert autostarts(lab, "h2", guest.uuid)
    assert guest.states() == {"h2": "shut off"}
    assert not exists(lab, "h1", path)
    assert (report["mode"], report["tls"], report["downtime"]) == ("cold", True, None)
    assert report["removed"] == [f"h1:{path}"]
    assert "QEMU over TLS" in report["transport"]
    assert "1 file compared in full" in report["verified"]

    virsh(lab.cell("h2"), "start", guest.uuid)
    guest.await_answer()
    with Watch(lab, guest.address) as watch:
        watch.until(lambda seen: len(seen.beats) >= 20, limit=30)
        # It runs: it is shut down by ACPI, moved, and runs again.
        back = mudanza("migrate", "whole", "--to", "h1", "--mode", "cold", "-o", "json").report
        watch.until(lambda seen: len({beat.boot for beat in seen.beats}) == 2, limit=30)
    assert guest.states() == {"h1": "running"}
    assert back["downtime"] > 0
    ring = read_ring(h1, path, "qcow2")
    assert ring.whole, "no heartbeat is lost on the way"
    assert ring.boots == 3
    assert autostarts(lab, "h1", guest.uuid)
    assert definition(lab, "h1", guest.uuid) == told


@pytest.mark.soak
def test_a_guest_that_does_not_shut_down_is_left_alone_unless_force_is_allowed(
    lab: Lab, mudanza: Mudanza, made: ExitStack
) -> None:
    guest = make(lab, made, "mule", stubborn=True, memory=96 * MIB)
    cold = ["migrate", "mule", "--to", "h2", "--mode", "cold", "--shutdown-limit", "2s"]
    with Watch(lab, guest.address) as watch:
        refused = mudanza(*cold, expect=4)
    assert "did not shut down within 2.0 s" in refused.err
    assert "--force-off" in refused.err
    assert watch.series.every_beat_arrived
    assert watch.series.boots == 1
    assert guest.states() == {"h1": "running"}
    assert not exists(lab, "h2", f"{IMAGES}/mule.qcow2")
    mudanza(*cold, "--force-off")
    guest.await_answer()
    assert guest.states() == {"h2": "running"}
    guest.verify()
    assert guest.stats()["boot"] == 2


@pytest.mark.soak
def test_saved_memory_goes_along_and_the_guest_goes_on(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    guest = make(lab, made, "asleep", memory=160 * MIB, working_set=16 * MIB)
    pages = guest.verify_memory()
    virsh(lab.cell("h1"), "managedsave", guest.uuid)
    made.callback(kinds.sweep, lab, "asleep")
    mudanza("migrate", "asleep", "--to", "h2", "--map-storage", "default=fast")
    assert not exists(lab, "h1", "/var/lib/libvirt/qemu/save/asleep.save")
    # What the host's libvirt says of it has to do for the next move, without a start in between.
    mudanza("migrate", "asleep", "--to", "h1", "--map-storage", "fast=default")
    mudanza("migrate", "asleep", "--to", "h2", "--map-storage", "default=fast")
    virsh(lab.cell("h2"), "start", guest.uuid)
    guest.await_answer()
    assert guest.stats()["boot"] == 1, "it was never switched off, as far as it knows"
    assert guest.verify_memory() == pages
    guest.verify()
    assert f"{FAST}/asleep.qcow2" in virsh(lab.cell("h2"), "domblklist", guest.uuid)


def test_firmware_and_tpm_keep_their_state(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    guest = make(lab, made, "firm", uefi=True, tpm=True, memory=256 * MIB)
    for place in ("nvram", "tpm"):
        guest.keep(place, 4711)
    shut_down(lab, guest)
    nvram = "/var/lib/libvirt/qemu/nvram/firm_VARS.fd"
    before = look(lab, "h1", nvram)
    mudanza("migrate", "firm", "--to", "h2")
    after = look(lab, "h2", nvram)
    assert (after.sha256, after.mode, after.owner) == (before.sha256, before.mode, before.owner)
    assert not exists(lab, "h1", nvram)
    assert not exists(lab, "h1", f"/var/lib/libvirt/swtpm/{guest.uuid}")
    virsh(lab.cell("h2"), "start", guest.uuid)
    guest.await_answer()
    assert [guest.kept("nvram"), guest.kept("tpm")] == [4711, 4711]


def test_snapshots_inside_an_image_can_be_reverted_to(lab: Lab, mudanza: Mudanza) -> None:
    path = image(lab, f"{IMAGES}/inside.qcow2", "64M", "write -q -P 1 1M 1M")
    with off(lab, "inside", disk(path, "vda")) as uuid:
        h1, h2 = lab.cell("h1"), lab.cell("h2")
        virsh(h1, "snapshot-create-as", uuid, "first")
        h1.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 2 1M 1M", path])
        virsh(h1, "snapshot-create-as", uuid, "second")
        told = virsh(h1, "snapshot-dumpxml", uuid, "second")
        before = look(lab, "h1", path).sha256
        mudanza("migrate", "inside", "--to", "h2")
        assert look(lab, "h2", path).sha256 == before
        assert virsh(h2, "snapshot-dumpxml", uuid, "second") == told
        assert virsh(h2, "snapshot-current", "--name", uuid).strip() == "second"
        for name, pattern in (("first", 1), ("second", 2)):
            virsh(h2, "snapshot-revert", uuid, name)
            h2.run(["qemu-io", "-f", "qcow2", "-r", "-c", f"read -q -P {pattern} 1M 1M", path])
        mudanza("migrate", "inside", "--to", "h1", "--map-storage", "default=fast")
        virsh(h1, "snapshot-revert", uuid, "first")
        assert states(lab, uuid) == {"h1": "shut off"}


def test_external_snapshots_travel_with_their_chain_and_their_memory(
    lab: Lab, mudanza: Mudanza, made: ExitStack
) -> None:
    made.callback(kinds.sweep, lab, "beside")
    path = image(lab, f"{IMAGES}/beside.qcow2", "64M", "write -q -P 1 1M 1M")
    over, memory = f"{IMAGES}/beside.over.qcow2", f"{IMAGES}/beside.memory"
    h1, h2 = lab.cell("h1"), lab.cell("h2")
    with off(lab, "beside", disk(path, "vda"), start=True) as uuid:
        where = ["--memspec", f"file={memory},snapshot=external", "--diskspec", f"vda,file={over}"]
        virsh(h1, "snapshot-create-as", uuid, "outside", *where)
        virsh(h1, "destroy", uuid)
        told = virsh(h1, "snapshot-dumpxml", uuid, "outside")
        before = sums(lab, "h1", [path, over, memory])
        report = mudanza("migrate", "beside", "--to", "h2", "-o", "json").report
        assert sums(lab, "h2", [path, over, memory]) == before
        assert virsh(h2, "snapshot-dumpxml", uuid, "outside") == told
        assert sorted(report["removed"]) == sorted(f"h1:{each}" for each in (path, over, memory))
        mudanza("migrate", "beside", "--to", "h1", "--map-storage", "default=fast")
        there = virsh(h1, "snapshot-dumpxml", uuid, "outside")
        assert f"{FAST}/beside.over.qcow2" in there
        assert IMAGES not in definition(lab, "h1", uuid)


def test_several_at_once_whatever_they_are_called_and_whether_they_run(
    lab: Lab, mudanza: Mudanza, made: ExitStack
) -> None:
    uuids = {}
    tags = f"<metadata><m:mudanza xmlns:m='{NAMESPACE}'><m:tag>odd</m:tag></m:mudanza></metadata>"
    for number, name in enumerate(NAMES):
        path = image(lab, f"{IMAGES}/{name}.qcow2", "8M", f"write -q -P {number + 1} 0 64k")
        # Only the last one runs, and moves as it is.
        found = off(lab, name, disk(path, "vda"), body=tags + BODY, start=name == NAMES[-1])
        uuids[name] = made.enter_context(found)
    paths = [f"{IMAGES}/{name}.qcow2" for name in NAMES]
    before = sums(lab, "h1", paths)
    told = mudanza("migrate", "--tag", "odd", "--to", "h2", "-o", "json")
    modes = {event["vm"]: event["mode"] for event in told.events if event["event"] == "report"}
    assert modes == {**dict.fromkeys(NAMES, "cold"), NAMES[-1]: "live"}
    assert sums(lab, "h2", paths[:-1]) == {path: before[path] for path in paths[:-1]}
    assert {name: states(lab, uuid) for name, uuid in uuids.items()} == {
        **{name: {"h2": "shut off"} for name in NAMES},
        NAMES[-1]: {"h2": "paused"},
    }
    again = mudanza("migrate", "--to", "h2", "-o", "json", "--", *NAMES)
    assert {event["vm"] for event in again.events if event["event"] == "unchanged"} == set(NAMES)
    assert not [event for event in again.events if event["event"] in ("start", "report", "error")]
    assert not [path for path in paths if exists(lab, "h1", path)]


def test_a_source_that_is_kept_does_not_start_by_itself(lab: Lab, mudanza: Mudanza) -> None:
    path = image(lab, f"{IMAGES}/keeper.qcow2", "8M", "write -q -P 7 0 64k")
    with off(lab, "keeper", disk(path, "vda")) as uuid:
        virsh(lab.cell("h1"), "autostart", uuid)
        told = mudanza("migrate", "keeper", "--to", "h2", "--keep-source").out
        assert "h1 keeps its definition too, with autostart off" in told
        assert look(lab, "h1", path).sha256 == look(lab, "h2", path).sha256
        assert states(lab, uuid) == {"h1": "shut off", "h2": "shut off"}
        assert not autostarts(lab, "h1", uuid)
        assert autostarts(lab, "h2", uuid)
        # What goes by its name at h2 now may be any copy of it.
        assert "uuid-stale" in mudanza("migrate", "keeper", "--to", "h2", expect=3).err
        assert exists(lab, "h1", path)


def test_a_running_vm_that_will_have_other_disks_is_not_shut_down(lab: Lab, mudanza: Mudanza) -> None:
    paths = [image(lab, f"{IMAGES}/pending{number}.qcow2", "8M") for number in (1, 2)]
    with off(lab, "pending", disk(paths[0], "vda"), start=True) as uuid:
        more = ["--targetbus", "virtio", "--driver", "qemu", "--subdriver", "qcow2", "--config"]
        virsh(lab.cell("h1"), "attach-disk", uuid, paths[1], "vdb", *more)
        refused = mudanza("migrate", "pending", "--to", "h2", "--mode", "cold", expect=3)
        assert "once it is shut down: vdb" in refused.err
        assert states(lab, uuid) == {"h1": "paused"}


def test_checkpoints_and_their_bitmaps_go_along(lab: Lab, mudanza: Mudanza) -> None:
    path = image(lab, f"{IMAGES}/marked.qcow2", "8M", "write -q -P 1 1M 1M")
    with off(lab, "marked", disk(path, "vda"), start=True) as uuid:
        h1, h2 = lab.cell("h1"), lab.cell("h2")
        virsh(h1, "resume", uuid)
        virsh(h1, "checkpoint-create-as", uuid, "monday")
        virsh(h1, "destroy", uuid)
        mudanza("migrate", "marked", "--to", "h2", "--map-storage", "default=fast")
        virsh(h2, "start", uuid)
        since = ["<domainbackup mode='pull'><incremental>monday</incremental>"]
        since += ["<server transport='unix' socket='/run/marked.nbd'/></domainbackup>"]
        h2.run(["tee", "/run/since.xml"], stdin="".join(since))
        virsh(h2, "backup-begin", uuid, "/run/since.xml")
        virsh(h2, "domjobabort", uuid)
