"""Cancelling a transfer: what is told, written and ordered, in which order; with a host held in that moment."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pytest

from mudanza.hypervisor.domains import Domains
from mudanza.migration import transfer as transfers
from mudanza.migration.steering import Steering
from mudanza.migration.transfer import Order, Transfer
from mudanza.migration.way import Way
from mudanza.model.errors import HypervisorError, MudanzaError, NeedsPersonError
from mudanza.model.migration import Answer, MigrationOptions, Probe, Progress, Side, Sighting
from mudanza.model.policy import PostCopy
from mudanza.model.units import MIB
from mudanza.model.vm import VmState

STEERING = Steering("h1", "h2", max_downtime=0.3, deadline=None, no_progress=300.0)
ORDER = Order("qemu+tls://h2/system", {}, ["LIVE"])


class Source:
    """A host whose transfer hangs until it heeds an order to cancel, the ``heeds``th one."""

    host = "h1"

    def __init__(self, heeds: int = 1) -> None:
        self.heard: list[str] = []
        self.told: list[str] = []
        self._heeds = heeds
        self._ended = threading.Event()

    def migrate_p2p(self, *_: object) -> None:
        self._ended.wait(20)
        raise HypervisorError("h1", "client socket is closed")

    def job_stats(self, _uuid: str, *, timeout: float) -> dict[str, int]:
        return {"type": 1, "disk_total": 9, "disk_processed": 4, "disk_remaining": 5}

    def set_max_downtime(self, _uuid: str, milliseconds: int) -> None:
        self.told.append(f"{milliseconds} ms")

    def set_bandwidth(self, _uuid: str, mib_per_second: int, *, postcopy: bool = False) -> None:
        self.told.append(f"{mib_per_second} MiB/s{' in post-copy' if postcopy else ''}")

    def limit_copies(self, _uuid: str, limits: Mapping[str, int]) -> None:
        self.told.append(", ".join(f"{disk} {limit // MIB} MiB/s" for disk, limit in limits.items()))

    def sighting(self, _uuid: str, *, timeout: float) -> Sighting:
        return Sighting(Side.PRESENT, VmState.RUNNING, "booted")

    def abort_job(self, _uuid: str) -> None:
        self.heard.append("cancel")
        if self.heard.count("cancel") >= self._heeds:
            self._ended.set()

    def cut_off_copies(self, _uuid: str) -> None:
        self.heard.append("cut off")
        raise HypervisorError("h1", "no such command")

    def end_cancelled(self, _uuid: str) -> bool:
        self.heard.append("end cancelled")
        return False


def transfer_of(source: Source, stop: threading.Event, steering: Steering = STEERING) -> Transfer:
    way = Way(lambda: Probe(Answer.UNKNOWN))
    return Transfer(cast(Domains, source), "u-1", steering, way, stop, source.heard.append)


def asked() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


def test_the_reason_is_written_before_anything_is_ordered_and_shown() -> None:
    source, shown = Source(), list[Progress]()
    end = transfer_of(source, asked()).run(ORDER, shown.append, lambda: None)
    assert source.heard[:2] == ["cancelled on request", "cancel"]
    assert end.stopped_because == "cancelled on request"
    assert isinstance(end.error, MudanzaError)
    assert shown[0].cancelling == "cancelled on request"
    assert shown[0].outlook == "cancelling: cancelled on request"


def test_where_nothing_moves_the_copies_are_cut_off_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "STANDING", 0.0)
    source = Source()
    transfer_of(source, asked()).run(ORDER, lambda _: None, lambda: None)
    assert source.heard == ["cancelled on request", "cut off", "cancel"]


def test_an_unheeded_order_is_said_to_be_so_and_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "ABORT_AGAIN", 0.1)
    monkeypatch.setattr(transfers, "ABORT_UNHEEDED", 0.2)
    source, shown = Source(heeds=3), list[Progress]()
    transfer_of(source, asked()).run(ORDER, shown.append, lambda: None)
    again = ["cut off", "cancel", "end cancelled"]
    assert source.heard[:7] == ["cancelled on request", "cancel", *again, *again[:2]]
    assert "not heeded yet: cancelled on request" in shown[-1].outlook


def test_an_order_never_heeded_ends_with_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "ABORT_PATIENCE", 0.5)
    source = Source(heeds=99)
    with pytest.raises(NeedsPersonError, match="cancelled on request"):
        transfer_of(source, asked()).run(ORDER, lambda _: None, lambda: None)
    source._ended.set()


def test_the_first_reason_stands() -> None:
    source = Source()
    transfer = transfer_of(source, asked(), Steering("h1", "h2", 0.3, deadline=0.0, no_progress=300.0))
    transfer.cancel("ana wants it so")
    assert transfer.run(ORDER, lambda _: None, lambda: None).stopped_because == "ana wants it so"
    assert source.heard[0] == "ana wants it so"


def tuned(steering: Steering, options: MigrationOptions) -> list[str]:
    """Return what a host is told of a transfer that is tuned to these options after its first look."""
    source, stop = Source(), threading.Event()
    transfer = transfer_of(source, stop, steering)
    looks = 0

    def on_progress(_: Progress) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            transfer.tune(options)
        if looks == 3:
            stop.set()

    transfer.run(ORDER, on_progress, lambda: None)
    return source.told


def test_a_tuned_transfer_is_told_what_has_changed() -> None:
    options = MigrationOptions(max_downtime=2.0, bandwidth=20 * MIB)
    assert tuned(STEERING, options) == ["75 ms", "2000 ms", "20 MiB/s"]
    mirrored = replace(STEERING, disks={"vda": 3 * MIB, "vdb": MIB})
    assert tuned(mirrored, options) == ["75 ms", "2000 ms", "10 MiB/s", "vda 15 MiB/s, vdb 5 MiB/s"]
    prepared = replace(STEERING, postcopy=PostCopy.ALLOW)
    assert tuned(prepared, options) == ["75 ms", "2000 ms", "20 MiB/s", "20 MiB/s in post-copy"]
    assert tuned(STEERING, MigrationOptions(max_downtime=STEERING.max_downtime)) == ["75 ms"]
