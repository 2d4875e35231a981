"""What libvirt tells of a busy guest is read; figures as libvirt 9.0 gave them."""

from __future__ import annotations

from typing import Any

import pytest

from mudanza.hypervisor.reading.busyness import Busyness, read_busyness, read_changed
from mudanza.migration.forecast.measuring import QEMU_ITSELF, memory_in_use, worth_waiting
from mudanza.model.units import KIB, MIB
from mudanza.model.vm import VmState, Written
from tests.factories import vm

FIGURES: dict[str, Any] = {
    "cpu.time": 17000000000, "cpu.user": 13690000000, "cpu.system": 3310000000, "balloon.current": 262136,
    "balloon.maximum": 262144, "balloon.unused": 194508, "balloon.available": 223612, "balloon.usable": 197764,
    "balloon.last-update": 1795659197, "balloon.rss": 316532, "block.count": 2, "block.0.name": "vda",
    "block.0.wr.bytes": 1000, "block.1.name": "vdb", "block.1.wr.bytes": 24,
}  # fmt: skip
SAMPLED: dict[str, Any] = {
    "dirtyrate.calc_status": 2, "dirtyrate.calc_start_time": 14224, "dirtyrate.calc_period": 3,
    "dirtyrate.calc_mode": "page-sampling", "dirtyrate.megabytes_per_second": 26,
}  # fmt: skip


def test_memory_computing_and_writing_are_read() -> None:
    found = read_busyness(FIGURES)
    assert (found.memory, found.resident, found.told) == (262136 * KIB, 316532 * KIB, (262136 - 194508) * KIB)
    assert found.cpu_seconds == 17.0
    assert found.written.amount == 1024


def test_what_is_not_told_is_not_known() -> None:
    found = read_busyness({})
    assert (found.memory, found.resident, found.told, found.cpu_seconds) == (None, None, None, None)


def test_a_rate_becomes_what_changed_within_its_period() -> None:
    assert read_changed(SAMPLED, 3) == 78 * MIB


def test_a_rate_of_another_period_or_one_still_sampled_is_none() -> None:
    assert read_changed(SAMPLED, 1) is None
    assert read_changed({**SAMPLED, "dirtyrate.calc_status": 1}, 3) is None
    assert read_changed({**SAMPLED, "dirtyrate.megabytes_per_second": -1}, 3) is None
    assert read_changed({}, 3) is None


def seen(**changes: int | None) -> Busyness:
    figures: dict[str, Any] = {"memory": 512 * MIB, "resident": 300 * MIB, "told": 60 * MIB, **changes}
    return Busyness(**figures, cpu_seconds=None, written=Written(0, 0.0))


def test_memory_in_use_is_what_qemu_occupies_less_itself() -> None:
    emulated = vm(domain_type="qemu", memory=1024 * MIB)
    assert memory_in_use(emulated, seen()) == 300 * MIB - QEMU_ITSELF["qemu"]
    assert memory_in_use(emulated, seen(resident=90 * MIB)) == 60 * MIB, "what the guest says that it uses, at least"
    assert memory_in_use(emulated, seen(resident=900 * MIB)) == 512 * MIB, "never more than it has"
    assert memory_in_use(emulated, None) == 1024 * MIB, "all of it where nobody tells"
    assert memory_in_use(vm(hugepages=(2048 * KIB,)), seen()) == 512 * MIB
    assert memory_in_use(vm(state=VmState.SHUTOFF), None) == 0


def test_a_move_is_held_up_by_measuring_only_where_that_is_worth_it() -> None:
    assert worth_waiting(0.8, 12.0, 0.9, 1.5) == pytest.approx(1.2), "a busy guest, a long way"
    assert worth_waiting(0.8, 12.0, None, 1.5) == pytest.approx(1.2), "what it computes is not known"
    assert worth_waiting(0.8, 600.0, 0.9, 1.5) == 1.5, "never longer than the settings let it"
    assert worth_waiting(0.8, 12.0, 0.02, 1.5) == 0, "a calm guest"
    assert worth_waiting(0.8, 2.0, 0.9, 1.5) == 0, "a short move"
    assert worth_waiting(0.8, 12.0, 0.9, 0.0) == 0, "not at all"
