"""What restore points are like: frozen by the guest's own agent, and with what a VM's firmware knows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mudanza.lab.domain import NVRAM_DIRECTORY, GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from mudanza.protection.freezing import FROZEN
from tests.lab import dying
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true, replica_of
from tests.lab.domains import disk
from tests.lab.test_guest_clock import answers
from tests.lab.test_migrate import expire_leases
from tests.lab.test_protection import by_ssh, state
from tests.lab.tiny import volume

__all__ = ["by_ssh"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NOT_WRITTEN_BACK = "echo 0 >/proc/sys/vm/dirty_writeback_centisecs; echo 360000 >/proc/sys/vm/dirty_expire_centisecs"
TPM = "/var/lib/libvirt/swtpm"


@pytest.fixture
def filing(lab: Lab) -> Iterator[Guest]:
    """A guest with a file system on its second disk, that writes nothing back to it by itself."""
    with volume(lab, "files.qcow2", size=16 * MIB) as files:
        spec = GuestSpec(
            "filing", memory=192 * MIB, disk=64 * MIB, guest_agent=True, devices=disk(files, "vdb", "qcow2")
        )
        guest = create_guest(lab, spec)
        await_true(lambda: answers(lab, "h1", guest), "its agent answers")
        have_done(lab, guest, NOT_WRITTEN_BACK)
        yield guest
        guest.remove()


def ask(lab: Lab, guest: Guest, command: str, **arguments: object) -> Any:
    question = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
    return json.loads(virsh(lab.cell("h1"), "qemu-agent-command", guest.uuid, question))["return"]


def have_done(lab: Lab, guest: Guest, script: str) -> None:
    """Have a guest run a script, by its agent."""
    begun = ask(lab, guest, "guest-exec", **{"path": "/bin/busybox", "arg": ["sh", "-c", script]})
    await_true(lambda: ask(lab, guest, "guest-exec-status", pid=begun["pid"])["exited"], "it has run")


def holds(lab: Lab, guest: Guest, number: int, word: str) -> bool:
    """Whether a restore point's second disk holds a word anywhere."""
    place = replica_of(lab, guest.uuid)
    name = f"vdb.{number}{'.whole' if number == 1 else ''}.qcow2"
    script = 'qemu-img convert -O raw "$1" /tmp/files.raw; grep -c "$2" /tmp/files.raw; rm -f /tmp/files.raw'
    return lab.cell("h2").run(["sh", "-c", script, "sh", f"{place}/{name}", word]).stdout.strip() != "0"


def points(by_ssh: Mudanza, guest: Guest) -> list[dict[str, Any]]:
    return list(by_ssh("protection", "points", guest.uuid, "-o", "json").data)


def is_frozen(lab: Lab, guest: Guest) -> bool:
    return bool(ask(lab, guest, "guest-fsfreeze-status") == "frozen")


def guardians(lab: Lab) -> str:
    return lab.cell("h1").run(["sh", "-c", "ls /run/mudanza-thawing.* 2>/dev/null"], check=False).stdout


def test_what_the_guest_holds_back_is_in_each_point_that_it_is_frozen_for(
    lab: Lab, by_ssh: Mudanza, filing: Guest
) -> None:
    have_done(lab, filing, "echo held-back-one >/data/one")
    by_ssh("protect", filing.uuid, "--to", "h2", "--freeze-every", "2")
    try:
        assert not holds(lab, filing, 1, "held-back-one"), "the guest has it in its memory only"
        told = by_ssh("protection", "sync", filing.uuid)
        assert told.err.rstrip().endswith("application-consistent")
        assert [each["consistency"] for each in points(by_ssh, filing)] == ["crash", "application"]
        assert holds(lab, filing, 2, "held-back-one")
        assert not is_frozen(lab, filing)
        assert not guardians(lab)
        have_done(lab, filing, "echo it-writes-on >/data/two && sync")

        have_done(lab, filing, "umount /data")
        by_ssh("protection", "sync", filing.uuid)
        told = by_ssh("protection", "sync", filing.uuid)
        assert "crash-consistent only: its agent found no file system to freeze" in told.err
        have_done(lab, filing, "(sleep 1; killall qemu-ga) &")
        await_true(lambda: not answers(lab, "h1", filing), "its agent is gone")
        by_ssh("protection", "sync", filing.uuid)
        told = by_ssh("protection", "sync", filing.uuid)
        assert "crash-consistent only: its agent did not freeze its file systems" in told.err
        assert [each["consistency"] for each in points(by_ssh, filing)][-1] == "crash"
        filing.await_answer()
    finally:
        by_ssh("unprotect", filing.uuid, expect=None)


def test_a_guest_whose_controller_dies_while_it_is_frozen_is_thawed_by_its_guardian(
    lab: Lab, by_ssh: Mudanza, filing: Guest
) -> None:
    by_ssh("protect", filing.uuid, "--to", "h2", "--freeze-every", "2")
    try:
        steps = [sys.executable, dying.__file__, "KILL", "after", "begin backup"]
        killed = by_ssh.start_argv([*steps, "protection", "sync", filing.uuid])
        assert killed.end(None).code == -9
        assert is_frozen(lab, filing)
        assert guardians(lab)
        await_true(lambda: not is_frozen(lab, filing), "it is thawed by itself", limit=FROZEN + 30)
        await_true(lambda: not guardians(lab), "its guardian has gone")
        have_done(lab, filing, "echo it-writes-on >/data/two && sync")
        expire_leases(by_ssh)
        told = by_ssh("protection", "sync", filing.uuid)
        assert "application-consistent" in told.err, "the round that broke off is made up for"
    finally:
        by_ssh("unprotect", filing.uuid, expect=None)


@pytest.mark.soak
def test_a_whole_group_is_frozen_for_one_instant(lab: Lab, by_ssh: Mudanza, filing: Guest) -> None:
    with volume(lab, "others-filed.qcow2", size=16 * MIB) as others:
        spec = GuestSpec(
            "others", memory=192 * MIB, disk=32 * MIB, guest_agent=True, devices=disk(others, "vdb", "qcow2")
        )
        other = create_guest(lab, spec)
        both = (filing, other)
        try:
            await_true(lambda: answers(lab, "h1", other), "its agent answers")
            have_done(lab, other, NOT_WRITTEN_BACK)
            for guest in both:
                have_done(lab, guest, f"echo held-back-{guest.name} >/data/one")
            how = ("--to", "h2", "--group", "files", "--every", "1h", "--freeze-every", "2")
            by_ssh("protect", filing.uuid, other.uuid, *how)
            for guest in both:
                assert not holds(lab, guest, 1, f"held-back-{guest.name}"), "the guest has it in its memory only"
            by_ssh("protection", "sync", filing.uuid)
            for guest in both:
                assert points(by_ssh, guest)[-1]["consistency"] == "application"
                assert holds(lab, guest, 2, f"held-back-{guest.name}")
                assert not is_frozen(lab, guest)
            assert len({state(by_ssh, guest)["instant"] for guest in both}) == 1
            assert not guardians(lab)

            have_done(lab, other, "umount /data")
            for _ in range(2):
                by_ssh("protection", "sync", filing.uuid)
            assert [points(by_ssh, guest)[-1]["consistency"] for guest in both] == ["application", "crash"]
            assert len({state(by_ssh, guest)["instant"] for guest in both}) == 1, "the others do not fall out over it"
            assert not is_frozen(lab, filing)
        finally:
            for guest in both:
                by_ssh("unprotect", guest.uuid, expect=None)
            other.remove()


@pytest.mark.parametrize(
    "and_home", [pytest.param(False, id="there"), pytest.param(True, id="tried, and home", marks=pytest.mark.soak)]
)
def test_uefi_variables_and_the_tpm_come_up_as_they_were_at_the_point(
    lab: Lab, by_ssh: Mudanza, and_home: bool
) -> None:
    guest = create_guest(lab, GuestSpec("firmly", uefi=True, tpm=True, disk=64 * MIB, memory=256 * MIB, beat=0.05))
    try:
        for place in ("nvram", "tpm"):
            guest.keep(place, 4711)
        by_ssh("protect", guest.uuid, "--to", "h2")
        by_ssh("protection", "sync", guest.uuid)
        for place in ("nvram", "tpm"):
            guest.keep(place, 42)
        by_ssh("protection", "sync", guest.uuid)
        files = [each["firmware"] for each in points(by_ssh, guest)]
        assert files == ["firmware.1.tgz", "firmware.1.tgz", "firmware.3.tgz"], "those that are the same share one"

        if and_home:
            tried_with_its_firmware(lab, by_ssh, guest)
        virsh(lab.cell("h1"), "destroy", guest.uuid)
        by_ssh("failover", guest.uuid, "--source-is-dead", "--point", "2")
        guest.await_answer()
        assert [guest.kept(place) for place in ("nvram", "tpm")] == [4711, 4711]
        assert guest.states() == {"h1": "shut off", "h2": "running"}
        if and_home:
            home_with_its_firmware(by_ssh, guest)
    finally:
        by_ssh("unprotect", guest.uuid, expect=None)
        guest.remove()
        for host in ("h1", "h2"):
            path = f"{NVRAM_DIRECTORY}/firmly_VARS.fd"
            lab.cell(host).run(["rm", "-rf", "--", path, f"{TPM}/{guest.uuid}"])


def tried_with_its_firmware(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    up = by_ssh("test-failover", guest.uuid, "-o", "json").data
    own = lab.cell("h2").run(["ls", f"{TPM}/{up['double_uuid']}/tpm2"]).stdout
    assert "permall" in own
    ended = by_ssh("test-failover", "end", guest.uuid, "-o", "json").data
    assert ended["different"] == []
    assert {"image firmware.1.tgz", "image firmware.3.tgz"} <= {each["what"] for each in ended["compared"]}
    assert up["double_uuid"] not in lab.cell("h2").run(["ls", TPM]).stdout


def home_with_its_firmware(by_ssh: Mudanza, guest: Guest) -> None:
    for place in ("nvram", "tpm"):
        guest.keep(place, 99)
    by_ssh("reprotect", guest.uuid)
    by_ssh("failback", guest.uuid, "--mode", "cold")
    guest.await_answer()
    assert [guest.kept(place) for place in ("nvram", "tpm")] == [99, 99]
    assert guest.states()["h1"] == "running"


@pytest.mark.soak
@pytest.mark.parametrize("compress", ["yes", "no"])
def test_what_leaves_the_source_is_told_as_the_switch_sees_it(lab: Lab, by_ssh: Mudanza, compress: str) -> None:
    guest = create_guest(lab, GuestSpec("packed", memory=128 * MIB, disk=64 * MIB, beat=5))
    try:
        by_ssh("protect", guest.uuid, "--to", "h2", "--compress", compress)
        changes = f'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -q -P 0x5a {32 * MIB} {16 * MIB}"'
        virsh(lab.cell("h1"), "qemu-monitor-command", guest.uuid, "--hmp", changes)
        before = lab.switch_bytes()["h1"].received
        by_ssh("protection", "sync", guest.uuid)
        left = lab.switch_bytes()["h1"].received - before
        newest = points(by_ssh, guest)[-1]
        print(f"{newest['brought_bytes']} brought, {newest['sent_bytes']} sent, {left} left the source", compress)
        assert newest["brought_bytes"] >= 16 * MIB
        assert newest["sent_bytes"] <= left <= newest["sent_bytes"] * 1.1 + MIB
        assert (newest["sent_bytes"] < 4 * MIB) == (compress == "yes")
        assert state(by_ssh, guest)["compress"] == compress
    finally:
        by_ssh("unprotect", guest.uuid, expect=None)
        guest.remove()


@pytest.mark.soak
def test_a_slow_way_is_compressed_by_itself(lab: Lab, by_ssh: Mudanza) -> None:
    guest = create_guest(lab, GuestSpec("packed", memory=128 * MIB, disk=64 * MIB, beat=5))
    changes = 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -q -P {} {} {}"'
    virsh(lab.cell("h1"), "qemu-monitor-command", guest.uuid, "--hmp", changes.format(7, 32 * MIB, 16 * MIB))
    lab.set_uplink("h1", MIB)
    try:
        by_ssh("protect", guest.uuid, "--to", "h2")
        assert points(by_ssh, guest)[-1]["sent_bytes"] < 8 * MIB, "it was seen beforehand"
        assert points(by_ssh, guest)[-1]["brought_bytes"] > 16 * MIB
    finally:
        lab.set_uplink("h1", None)
        by_ssh("unprotect", guest.uuid, expect=None)
        guest.remove()
