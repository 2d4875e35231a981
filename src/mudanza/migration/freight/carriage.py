"""Files on their way: by a carrier from host to host, what is small or no whole sector through the controller."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.own.carrier import SECTOR, Carrier, Kind, Load
from mudanza.hypervisor.own.throwaway import throwaway_name
from mudanza.hypervisor.streams import copy_bytes
from mudanza.journal.jobs import JobHandle
from mudanza.migration.claim import journalling_cancel
from mudanza.migration.freight.comparison import Piece, Range
from mudanza.migration.freight.reception import Reception
from mudanza.migration.record import ColdRecord
from mudanza.migration.steering import Steering, is_wish
from mudanza.migration.transfer import Order, Transfer, TransferEnd
from mudanza.migration.wanted import CancelledError, Wanted
from mudanza.migration.way import way_between
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError, MudanzaError
from mudanza.model.host import Host
from mudanza.model.migration import DiskProgress, Progress
from mudanza.model.units import MIB, format_duration, format_size
from mudanza.preflight.cargo import SMALL, CargoFile

MOST_LOADS = 24
"""Ranges that one carrier takes; each is a disk of its own to QEMU."""
UNDER_WAY = 32 * MIB
"""Bytes by which what QEMU says to be done is ahead of what surely is: it has 16 writes of 1 MiB in flight."""
LAST_LOOKS, LOOK_AGAIN = 15, 0.04
"""How often, and after how many seconds, it is looked again when all is about to have arrived: the last of it is
compared, and the carrier ended at the target, while QEMU and libvirt take their time over the end at the source."""
NEARLY_OVER = 0.5
"""Seconds before the end, at the rate until then."""
TURN = 0.2
"""Seconds between two looks whether the claim on the job is to be renewed."""

OnProgress = Callable[[Progress], None]
OnArrival = Callable[[str, int], None]
"""Told path at the source, and how many bytes from its beginning on are at the target."""


@dataclass(frozen=True, slots=True)
class FreightLimits:
    """What carrying is held to. Seconds, bytes per second."""

    no_progress: float
    deadline: float | None = None
    bandwidth: int | None = None


@dataclass(frozen=True, slots=True)
class _Parting:
    """A carrier that has brought everything and is being ended."""

    step: int
    carried: int
    end: Task[tuple[str, ...]]


class Carriage:
    """Carries ranges of the files of one job."""

    def __init__(
        self,
        connections: Connections,
        handle: JobHandle,
        record: ColdRecord,
        hosts: tuple[Host, Host],
        limits: FreightLimits,
        wanted: Wanted,
        on_progress: OnProgress,
    ) -> None:
        self._connections = connections
        self._handle = handle
        self._record = record
        self._source, self._target = hosts
        self._limits = limits
        self._wanted = wanted
        self._on_progress = on_progress
        self._on_arrival: OnArrival = lambda _source, _upto: None
        self._parting: _Parting | None = None
        self.carrying_time = 0.0
        """Seconds that carriers were at work."""

    @property
    def transport(self) -> str:
        """Return in words what carried the data, and from where to where."""
        here, there = self._record.source, self._record.target
        if not self.carrying_time:
            return "small files through the controller, over libvirt"
        how = "QEMU over TLS" if self._record.tls else "QEMU over TCP, not encrypted"
        return f"{here} → {there} directly, {how}; files up to {format_size(SMALL)} and orders over libvirt"

    def carry(self, ranges: Mapping[Piece, tuple[Range, ...]], on_arrival: OnArrival) -> None:
        """Carry these ranges. A carrier may still be ending when this returns: see ``see_off``.

        Raises CancelledError, MigrationFailedError, HypervisorError and HostUnreachableError.
        """
        self._on_arrival = on_arrival
        loads: list[Load] = []
        rests: list[tuple[CargoFile, Range]] = []
        for piece, wanted in ranges.items():
            big, small = split(piece, wanted)
            loads += [_load(piece, part) for part in big]
            rests += [(piece.file, part) for part in small]
        for at in range(0, len(loads), MOST_LOADS):
            self._wanted.turn()
            self._send(loads[at : at + MOST_LOADS])
        for file, part in rests:
            self._wanted.turn()
            self._copy_through_us(file, part)

    def see_off(self) -> None:
        """Wait until the carrier that has brought everything is gone from both hosts, and write that down.

        libvirt takes its time over it, in which what it brought can be used already: it is paused, writes nothing, and
        only keeps others from starting a VM on these files. Raises MigrationFailedError when it cannot be ended.
        """
        parting, self._parting = self._parting, None
        if parting is None:
            return
        while not parting.end.ended:
            self._wanted.keep_claim()
            with suppress(TimeoutError):
                parting.end.wait(TURN)
        left = parting.end.wait(0)
        self._handle.done(parting.step, {"carried": parting.carried, **({"left": left} if left else {})})
        if left:
            raise MigrationFailedError(f"what carried the files could not be ended: {'; '.join(left)}")

    def _send(self, loads: Sequence[Load]) -> None:
        self.see_off()
        record = self._record
        name, key = throwaway_name("carrier"), str(uuid.uuid4())
        step = self._handle.intend("carry", {"carrier": name, "uuid": key, "loads": len(loads)})
        self._handle.enter("carrying")
        source, target = (self._connections.get(host.name) for host in (self._source, self._target))
        kind = Kind(record.domain_type, record.arch, record.machine)
        carrier = Carrier(source, target, self._source, self._target, name, key, kind)
        reception = Reception(carrier, target)
        stopped = ""
        failure: MudanzaError | None = None
        self._handle.assert_held()
        try:
            carrier.start(loads)
            end = self._transfer(carrier, self._tell_carried(carrier, reception))
            stopped = end.stopped_because
            if end.error or not (carrier.has_left() and (reception.has_come_in or carrier.has_come_in())):
                failure = end.error or MigrationFailedError(f"the files did not get to {self._target.name}")
        except MudanzaError as error:
            failure = error
        finally:
            reception.stop()
        if failure is None:
            carried = sum(load.length for load in loads)
            self._parting = _Parting(step, carried, Task(reception.end))
            for load in carrier.loads:
                self._on_arrival(load.source, load.start + load.length)
            # Whoever finds it so ends it first.
            self._handle.done(step, {"carried": carried, "left": "it is being ended"})
            return
        left = {"left": why} if (why := reception.end()) else {}
        self._handle.done(step, {"error": str(failure), "stopped": stopped, **left})
        if stopped:
            kind_of_end = CancelledError if is_wish(stopped) else MigrationFailedError
            raise kind_of_end(self._wanted.cancelled or stopped)
        raise failure

    def _transfer(self, carrier: Carrier, on_progress: OnProgress) -> TransferEnd:
        order = Order(*carrier.order(tls=self._record.tls, bandwidth=self._limits.bandwidth))
        steering = Steering(self._source.name, self._target.name, 0.3, self._limits.deadline, self._limits.no_progress)
        way = way_between(self._connections, self._source, self._target)
        domains, stop = self._connections.domains(self._source.name), self._wanted.stop
        transfer = Transfer(domains, carrier.uuid, steering, way, stop, self._note_stop)
        begun = clock.monotonic()
        self._handle.renew()
        end = transfer.run(order, on_progress, self._wanted.keep_claim)
        self.carrying_time += clock.monotonic() - begun
        return end

    def _note_stop(self, why: str) -> None:
        journalling_cancel(self._handle)(why)

    def _copy_through_us(self, file: CargoFile, part: Range) -> None:
        source, target = (self._connections.get(host.name) for host in (self._source, self._target))
        copy_bytes(source, self._source, file.source, target, self._target, file.path, start=part[0], length=part[1])

    def _tell_carried(self, carrier: Carrier, reception: Reception) -> OnProgress:
        labels = {file.source: file.label for file in self._record.files}

        def look() -> tuple[DiskProgress, ...]:
            disks = []
            with suppress(HypervisorError, HostUnreachableError):  # then more is left to be compared in the end
                states = carrier.disk_progress()
                for load, state in zip(carrier.loads, states, strict=True):
                    if state is not None:
                        self._on_arrival(load.source, load.start + arrived(state[0], load.length))
                        disks.append(DiskProgress(labels[load.source], *state))
                if all(map(_is_there, carrier.loads, states)):
                    reception.begin()
            return tuple(disks)

        def tell(progress: Progress) -> None:
            disks = look()
            if disks:  # not before: a login would slow down what starts there at the same time
                reception.prepare()
            words = progress.outlook
            if progress.eta is not None:
                words = f"copied in about {format_duration(progress.eta)}"
            self._on_progress(replace(progress, phase="copying", outlook=words, disks=disks))
            for _ in range(LAST_LOOKS if _is_nearly_over(progress) else 0):
                clock.sleep(LOOK_AGAIN)
                if reception.has_begun or not look():
                    break

        return tell


def _is_nearly_over(progress: Progress) -> bool:
    return 0 < progress.disk_remaining < progress.disk_rate * NEARLY_OVER


def arrived(done: int, length: int) -> int:
    """Return how much of a range is at the target when libvirt says that so much is done. Bytes.

    Of a disk of which all is there, and only QEMU's last flush is not over, libvirt takes one byte off.
    """
    return length if done >= length - 1 else max(0, done - UNDER_WAY)


def _is_there(load: Load, state: tuple[int, int] | None) -> bool:
    return state is not None and arrived(state[0], load.length) == load.length


def _load(piece: Piece, part: Range) -> Load:
    file = piece.file
    return Load(
        source=file.source,
        source_is_block=file.source_is_block,
        target=file.path,
        target_is_block=file.is_block,
        start=part[0],
        length=part[1],
        whole=part == whole(piece)[0],
        read_only=file.for_others_too,
        source_format="raw" if file.as_it_is else file.source_format,
        target_format="raw" if file.as_it_is else file.format,
        backing=tuple((image.path, image.format) for image in file.chain),
    )


def whole(piece: Piece) -> tuple[Range, ...]:
    """Return the range that is all of a file."""
    return ((0, piece.length),) if piece.length else ()


def split(piece: Piece, ranges: Iterable[Range]) -> tuple[list[Range], list[Range]]:
    """Return what of these ranges a carrier takes, and what goes through the controller.

    QEMU counts in sectors: what a file has beyond its last whole one would arrive with zeroes behind it.
    """
    if not piece.file.as_it_is or piece.file.source_is_block or piece.file.is_block:
        return list(ranges), []
    big, small = [], []
    for start, length in ranges:
        rest = (start + length) % SECTOR
        if length <= SMALL and piece.length <= SMALL:
            small.append((start, length))
            continue
        if length > rest:
            big.append((start, length - rest))
        if rest:
            small.append((start + length - rest, rest))
    return big, small
