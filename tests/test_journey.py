"""How a VM would travel is told before it begins, and truly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mudanza.model.host import HostEntry
from mudanza.model.migration import Answer, Chain, MigrationOptions, Mode, Probe, Tls, Verify
from mudanza.model.units import KIB
from mudanza.model.vm import Backing, Firmware, Snapshot, Tpm, Vm, VmState
from mudanza.preflight.journey import Leg, journey
from mudanza.preflight.mapping import resolve
from tests.factories import YES, disk, facts, host, vm

BY_TLS = "h1 → h2 directly, QEMU over TLS"
BY_ORDERS = "through the controller, by libvirt"


def legs(of: Vm, options: MigrationOptions | None = None, by: str = "qemu+tls", **known: Any) -> dict[str, Leg]:
    asked = options or MigrationOptions()
    source, target = (host(name, entry=HostEntry(name, f"{by}://{name}.example/system")) for name in ("h1", "h2"))
    found = facts(of, target, **known)
    plan = resolve(of, source, target, asked, found)
    return {leg.what: leg for leg in journey(of, source, target, asked, found, plan)}


def test_memory_and_disks_of_a_running_vm_go_directly() -> None:
    found = legs(vm())
    assert list(found) == ["memory", "vda"]
    assert (found["memory"].size, found["memory"].way) == (vm().memory, BY_TLS)
    assert found["vda"] == Leg("vda", disk().allocation, "images/web.qcow2", BY_TLS)


def test_what_is_not_encrypted_is_called_so() -> None:
    assert "not encrypted" in legs(vm(), MigrationOptions(tls=Tls.OFF))["memory"].way
    assert "not encrypted" in legs(vm(), tls=Probe(Answer.NO, "no certificate"))["memory"].way


def test_what_may_work_encrypted_is_not_sent_in_the_clear() -> None:
    assert legs(vm(), tls=Probe(Answer.UNKNOWN, "no answer within 30 s"))["memory"].way == BY_TLS


def test_a_shared_disk_stays() -> None:
    assert legs(vm(), shared={"vda": YES})["vda"].way == "stays where it is: both hosts see it"


def test_a_vm_that_is_off_takes_everything_along() -> None:
    small = disk(
        target="vdb",
        source="/var/lib/libvirt/images/b.raw",
        format="raw",
        capacity=64 * KIB,
        allocation=64 * KIB,
        volume="b.raw",
    )
    off = vm(
        state=VmState.SHUTOFF,
        firmware=Firmware(loader=None, nvram="/v/web_VARS.fd"),
        tpm=Tpm("tpm-crb", "emulator"),
        snapshots=(Snapshot("before", external=False, current=True),),
        disks=(disk(), small),
    )
    found = legs(off)
    assert set(found) >= {"vda", "vdb", "UEFI variables", "TPM state", "definition", "records of 1 snapshots"}
    assert found["vda"].way == found["TPM state"].way == BY_TLS
    assert found["vdb"].way == found["UEFI variables"].way == found["definition"].way == BY_ORDERS


def test_bytes_that_come_to_the_controller_for_the_comparison_are_told_beforehand() -> None:
    cold = MigrationOptions(mode=Mode.COLD)
    assert "every byte of h1 comes to the controller" in legs(vm(), cold)["comparison"].way
    assert "controller" not in legs(vm(), cold, by="qemu+ssh")["comparison"].way
    assert "comparison" not in legs(vm(), replace(cold, verify=Verify.NONE))


def test_images_below_a_disk_travel_ahead_of_a_running_vm_where_they_are_kept() -> None:
    chained = vm(disks=(disk(backing=(Backing("/var/lib/libvirt/images/base.qcow2", "qcow2"),)),))
    found = legs(chained, MigrationOptions(chain=Chain.KEEP))
    assert found["vda's base.qcow2"].way == f"{BY_TLS}, ahead of the VM"
    assert "vda's base.qcow2" not in legs(chained)
