"""The files of a switched-off VM on their way: places made, bytes carried from host to host, both sides compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.contents.reading import contents_of
from mudanza.hypervisor.probing.files import file_lengths
from mudanza.journal.jobs import Job, JobHandle
from mudanza.migration.freight.as_good import candidates
from mudanza.migration.freight.bases import name_bases_anew, refuse_unknown_bases
from mudanza.migration.freight.carriage import Carriage, FreightLimits, OnProgress, whole
from mudanza.migration.freight.comparison import Comparison, Piece, Range
from mudanza.migration.freight.images import images_at_both_ends, length_of
from mudanza.migration.freight.room import Room, places_made
from mudanza.migration.record import ColdRecord
from mudanza.migration.secrets import same_but_for_secrets
from mudanza.migration.wanted import CancelledError, Wanted
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.host import Host
from mudanza.model.migration import Progress, Verify
from mudanza.model.units import format_size
from mudanza.preflight.cargo import CargoFile

__all__ = ["CancelledError", "Freight", "FreightLimits"]


class Freight:
    """Carries the files of one job."""

    by = Carriage
    """What carries them."""

    def __init__(
        self,
        connections: Connections,
        handle: JobHandle,
        record: ColdRecord,
        hosts: tuple[Host, Host],
        limits: FreightLimits,
        stop: clock.Event,
        on_progress: OnProgress,
    ) -> None:
        self._connections = connections
        self._handle = handle
        self._record = record
        self._source, self._target = hosts
        self._stop = stop
        self._on_progress = on_progress
        self._room = Room(connections, handle, self._target)
        self._ours: frozenset[str] = frozenset()
        self._wanted = Wanted(handle, stop)
        self._carriage = self.by(connections, handle, record, hosts, limits, self._wanted, on_progress)

    def changed_at_source(self, compared: Mapping[str, Any]) -> str:
        """Return in words what has changed at the source since it was compared; empty for nothing."""
        record = self._record
        before = compared.get("written", {})
        try:
            now = self._connections.domains(record.source).describe(record.uuid, inactive=True)
        except HypervisorError as error:
            return str(error)
        if not same_but_for_secrets(now, record.xml):
            return "its definition is another one"
        return next((f"{path} was written to" for path, at in self._written().items() if before.get(path) != at), "")

    def _written(self) -> dict[str, float | None]:
        """Return when each of the source's volumes was written to last, by its own clock."""
        volumes = self._connections.volumes(self._record.source)
        pooled = [file for file in self._record.files if file.source_pool and not file.for_others_too]
        for pool in {file.source_pool for file in pooled if volumes.find(file.source) is None}:
            volumes.refresh(pool)
        return {file.source: volumes.read(file.source_pool, file.source_volume).changed_at for file in pooled}

    def bytes_at_target(self) -> int:
        """Return what the files take up at the target, holes left out."""
        volumes = self._connections.volumes(self._record.target)
        pooled = [file for file in self._record.files if file.pool]
        try:
            return sum(volumes.read(file.pool, file.volume).allocation or 0 for file in pooled)
        except (HypervisorError, HostUnreachableError):
            return 0

    @property
    def rate(self) -> float:
        """What was carried, holes left out, in bytes per second of carrying; 0 where nothing was."""
        return self.bytes_at_target() / self._carriage.carrying_time if self._carriage.carrying_time else 0.0

    @property
    def transport(self) -> str:
        """Return in words what carried the data."""
        return self._carriage.transport

    def turn(self) -> None:
        """Keep the claim on the job. Raises CancelledError when it is to be cancelled."""
        self._wanted.turn()

    def look(self) -> None:
        """As ``turn``, and look at the journal in any case: whoever has cancelled it by now is heeded."""
        self._wanted.look()

    def see_off(self) -> None:
        """Wait until nothing is at work on the files any more. Raises MigrationFailedError."""
        self._carriage.see_off()

    def bring(self, job: Job, *, see_off: bool = True) -> str:
        """Bring everything; return what was compared, in words. Repeatable: what is there already is compared first.

        Without ``see_off`` what carried it may be ending still when this returns, and the caller waits for that.
        Raises CancelledError, MigrationFailedError when both sides differ in the end, HypervisorError and
        HostUnreachableError.
        """
        written = self._written()
        files = self._measure(self._record.files)
        refuse_unknown_bases(self._connections.get(self._source.name), self._source, [file for file, _ in files])
        pieces = self._make_places(files, job)
        stale = [piece for piece in pieces if not piece.fresh]
        # What becomes another format is carried anew as a whole.
        ranges = {piece: whole(piece) for piece in pieces if piece.fresh or not piece.file.as_it_is}
        if stale:
            self.tell("comparing what is there already")
            found = self._differences(stale, Verify.FULL)
            as_good = self._as_good(stale, found)
            pieces = tuple(as_good.get(piece.file.source, piece) for piece in pieces)
            differing = [piece for piece in stale if piece.file.source in found.keys() - as_good.keys()]
            ranges |= {piece: found[piece.file.source] for piece in differing}
            self._refuse_foreign(ranges)
        comparison = self._comparison(pieces, self._record.verify)
        # An image that QEMU still writes makes no sense to others until it is closed.
        as_they_come = frozenset(piece.file.source for piece in ranges if piece.fresh and not piece.here)

        def note(source: str, upto: int) -> None:
            if source in as_they_come:
                comparison.has_arrived(source, upto)

        try:
            self._carriage.carry(ranges, note)
            if see_off or not all(piece.file.as_it_is and not piece.file.below for piece in ranges):
                self.see_off()
        except BaseException:
            comparison.give_up()
            raise
        proof = self._prove(comparison, written)
        name_bases_anew(self._connections.get(self._target.name), self._target, self._handle, self._record, self._ours)
        return proof

    def _measure(self, files: Sequence[CargoFile]) -> list[tuple[CargoFile, int]]:
        """Return the files that are there, and how long they are at the source."""
        blocks = frozenset(file.source for file in files if file.source_is_block)
        lengths = file_lengths(
            self._connections.get(self._source.name), self._source, [f.source for f in files], blocks
        )
        missing = [file for file in files if lengths[file.source] is None and not file.optional]
        if missing:
            raise MigrationFailedError(
                f"{self._source.name} has no {missing[0].source}, which is {missing[0].label} of the VM"
            )
        return [(file, length) for file in files if (length := lengths[file.source]) is not None]

    def _make_places(self, files: Sequence[tuple[CargoFile, int]], job: Job) -> tuple[Piece, ...]:
        made = places_made(job)
        looked_for = [file for file, _ in files if file.for_others_too or file.path in made]
        blocks = frozenset(file.path for file in looked_for if file.is_block)
        there = file_lengths(
            self._connections.get(self._target.name), self._target, [f.path for f in looked_for], blocks
        )
        for file, length in files:
            if file.path not in made:
                self._refuse_unfit(file, length, there.get(file.path))
        pieces = []
        for file, length in files:
            self.turn()
            found = there.get(file.path)
            fresh = found is None or (file.path in made and not _still_fits(file, length, found))
            if fresh:
                if found is not None:
                    self._room.remove(made[file.path])
                self._room.make(file, length)
            pieces.append(Piece(file, length_of(file, length), fresh, *images_at_both_ends(file)))
        self._ours = frozenset(piece.file.path for piece in pieces if piece.fresh or piece.file.path in made)
        return tuple(pieces)

    def _refuse_unfit(self, file: CargoFile, length: int, there: int | None) -> None:
        """Refuse, before anything is made, what is to be used from where it lies and cannot be."""
        if there is None and file.must_exist:
            raise MigrationFailedError(
                f"{self._target.name} has no {file.path}, and {file.label} is to be used from there",
                remedy="let it travel along: --chain keep",
            )
        if there not in (None, length):
            raise self._foreign(file, f"it is {format_size(there or 0)} long, the source's {format_size(length)}")

    def _refuse_foreign(self, ranges: Mapping[Piece, tuple[Range, ...]]) -> None:
        """Write into nothing that somebody else has made."""
        for piece in ranges:
            if not piece.fresh and piece.file.path not in self._ours:
                raise self._foreign(piece.file, "its content is another one")

    def _foreign(self, file: CargoFile, why: str) -> MigrationFailedError:
        return MigrationFailedError(
            f"{self._target.name} has a {file.path} of its own, and it is not the source's {file.source}: {why}",
            remedy="rename one of them, map its directory to another pool (--map-storage), or let disk and chain "
            "become one image (--chain flatten)",
        )

    def _comparison(self, pieces: Sequence[Piece], how: Verify) -> Comparison:
        return Comparison(
            lambda: contents_of(self._connections.get(self._source.name), self._source),
            lambda: contents_of(self._connections.get(self._target.name), self._target),
            [piece for piece in pieces if piece.here or piece.file.as_it_is],
            how,
            self._stop,
        )

    def _differences(self, pieces: Sequence[Piece], how: Verify) -> Mapping[str, tuple[Range, ...]]:
        comparison = self._comparison(pieces, how)
        return comparison.differences(self.turn, self._tell_compared(comparison.total))

    def _as_good(self, stale: Sequence[Piece], differing: Collection[str]) -> Mapping[str, Piece]:
        """Return, by path at the source, the images there that are no others to a guest though their bytes are."""
        source, target = ((self._connections.get(host.name), host) for host in (self._source, self._target))
        foreign = {piece.file.source for piece in stale if piece.file.path not in self._ours}
        pieces = {each.file.source: each for each in candidates(source, target, stale, foreign.intersection(differing))}
        if not pieces:
            return {}
        comparison = self._comparison(tuple(pieces.values()), Verify.FULL)
        found = comparison.differences(self.turn, self._tell_compared(comparison.total))
        return {path: pieces[path] for path in comparison.by_content if path not in found}

    def _prove(self, comparison: Comparison, written: Mapping[str, float | None]) -> str:
        self._handle.enter("comparing")
        step = self._handle.intend("compare", {"how": self._record.verify.value, "bytes": comparison.total})
        differing = comparison.differences(self.turn, self._tell_compared(comparison.total))
        if differing:
            self._handle.done(step, {"differing": {path: len(ranges) for path, ranges in differing.items()}})
            path, ranges = next(iter(differing.items()))
            raise MigrationFailedError(
                f"{path} is not the same on both hosts after it was carried: "
                f"{format_size(sum(length for _, length in ranges))} from byte {ranges[0][0]} on differ",
                remedy="see whether something writes to it, and try again: only what differs is carried then",
            )
        same = {"same": comparison.in_words(), "by content": list(comparison.by_content), "written": dict(written)}
        self._handle.done(step, same)
        return comparison.in_words()

    def tell(self, phase: str) -> None:
        """Tell whoever watches what is going on."""
        self._on_progress(Progress(phase, 0.0))

    def _tell_compared(self, total: int) -> Callable[[int], None]:
        def tell(done: int) -> None:
            self._on_progress(
                Progress("comparing", 0.0, disk_total=total, disk_sent=done, disk_remaining=max(0, total - done))
            )

        return tell


def _still_fits(file: CargoFile, length: int, there: int) -> bool:
    """Whether what an earlier try has made can become the file: not if it was made for another length or format.

    What others may have begun to use stays in any case.
    """
    return file.for_others_too or (file.as_it_is and (there == length or file.is_block))
