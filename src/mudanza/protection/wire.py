"""Whether what a round sends is compressed on its way, and how many bytes that were.

ssh compresses as ``gzip -6`` does, with one CPU at each end. It wins where the way is slower than that CPU and the data
become small enough; both are measured, of each round for the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.shell import Answer, HostShell
from mudanza.journal.protections import Protections
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.host import HostEntry
from mudanza.model.protection import Carriage, Compress, Protection
from mudanza.model.units import KIB, MIB
from mudanza.model.vm import Disk
from mudanza.protection import scripts
from mudanza.protection.extents import Extent
from mudanza.protection.serving import options

GAIN = 1.2
"""How many times faster a round must become by it: the CPUs have other things to do."""
ENOUGH = 4 * MIB
"""Bytes that must have been sent for that to tell how fast the way is."""
BOUND_BY_CPU = 0.7
"""Of the speed at which the source compresses; from there on it may be that which holds a round up, and not the way."""
FASTEST = 100.0 * MIB
"""Bytes per second of a way for which nobody needs to look how small data become: no CPU compresses as fast."""
PIECE, PIECES = 512 * KIB, 4
"""Of the data so many pieces of so many bytes are compressed to see how small they become."""
NOISE = 512 * KIB
"""Bytes that are sent to see how fast the way is, before the first round."""
SAMPLING = 30.0
"""Seconds that a sample may take beyond a round."""
MOMENT = 0.001
"""Seconds that they take at the least."""


def is_compressed(protection: Protection) -> bool:
    """Whether a round's data are to be compressed: pure."""
    match protection.compress:
        case Compress.YES:
            return True
        case Compress.NO:
            return False
    return wins(protection.carriage, protection.bandwidth)


def wins(carriage: Carriage, bandwidth: int | None) -> bool:
    """Whether compressing makes a round faster: pure. ``bandwidth``: bytes per second that the source reads at the
    most."""
    if carriage.rate is None or carriage.ratio is None or carriage.speed is None:
        return False
    most = float("inf") if bandwidth is None else float(bandwidth)
    plain = min(carriage.rate, most)
    return min(carriage.speed, carriage.rate * carriage.ratio, most) > GAIN * plain


def learned(carriage: Carriage, *, compressed: bool, sent: int | None, carried: int, seconds: float) -> Carriage:
    """Return what is known of the way after a round: pure. ``sent`` and ``carried``: bytes."""
    if sent is None or sent < ENOUGH or seconds <= 0:
        return carriage
    rate = sent / seconds
    if compressed and carriage.speed is not None and carried / seconds > BOUND_BY_CPU * carriage.speed:
        rate = max(rate, carriage.rate or 0.0)  # the way may take more than the CPU gives it
    return replace(carriage, rate=rate)


def is_to_be_sampled(protection: Protection, extents: Sequence[Extent]) -> bool:
    """Whether it is worth looking how small a round's data become, for the next one: pure."""
    rate, amount = protection.carriage.rate, sum(length for _, length in extents)
    return protection.compress is Compress.AUTO and amount >= ENOUGH and (rate is None or rate < FASTEST)


def pieces_of(extents: Sequence[Extent]) -> tuple[int, ...]:
    """Return where the pieces begin that stand for what has changed, spread over it evenly: pure."""
    whole = [at for start, length in extents for at in range(start, start + length - PIECE + 1, PIECE)]
    step = max(len(whole) // PIECES, 1)
    return tuple(whole[::step][:PIECES])


def sent_by(shell: HostShell) -> int | None:
    """Return how many bytes have left a host by the login of this shell, by its kernel; None: it does not tell."""
    for words in shell.run(scripts.SENT, what="asking how many bytes were sent"):
        if words[0] == "sent":
            return int(words[1])
    return None


def sampled(here: HostShell, image: Mapping[str, str], places: Sequence[int]) -> Carriage | None:
    """Return how small pieces of a served disk become, and how fast; None: nothing is told.

    ``image``: QEMU's options for it. Raises HypervisorError, HostUnreachableError.
    """
    values = {"under": options(image, "file."), "places": " ".join(map(str, places)), "piece": PIECE}
    return _told(here.run(scripts.SAMPLE, values, what="looking how small data become"))


def first_look(entry: HostEntry, disks: Sequence[Disk]) -> Carriage:
    """Return what can be known of a way before anything was sent by it, from the VM's own images; what cannot be asked
    is not known."""
    sources = [str(disk.source) for disk in disks]
    times: list[tuple[float, int]] = []

    def note(words: Answer) -> None:
        if words[0] == "noise":
            times.append((clock.monotonic(), len(words[1])))

    found = Carriage()
    with suppress(HypervisorError, HostUnreachableError, MigrationFailedError), HostShell(entry) as here:
        values = {"disk": sources[0], "piece": PIECE, "pieces": PIECES, "noise": NOISE}
        found = _told(here.run(scripts.FIRST_LOOK, values, what="looking how fast the way is", on_answer=note)) or found
    if len(times) > 1:
        amount = sum(length for _, length in times[1:])
        found = replace(found, rate=amount / max(times[-1][0] - times[0][0], MOMENT))
    return found


def _told(answers: Sequence[Answer]) -> Carriage | None:
    for words in answers:
        match words:
            case ["sample", before, after, nanoseconds] if int(before) and int(after):
                return Carriage(ratio=int(before) / int(after), speed=int(before) * 1e9 / max(int(nanoseconds), 1))
    return None


def looked_at(store: Protections, protection: Protection, entry: HostEntry, disks: Sequence[Disk]) -> Protection:
    """Return a protection with what is known of its way; before its first round that is looked at. ``entry``: where the
    VM is."""
    if protection.compress is not Compress.AUTO or protection.newest is not None:
        return protection
    found = first_look(entry, disks)
    store.measured(protection.id, found)
    return replace(protection, carriage=found)


class Weighing:
    """Measures how one round's data travel, beside that."""

    def __init__(self, protection: Protection, here: HostShell, *, compressed: bool, held_back: bool) -> None:
        """``here``: a shell at the source, by whose login they travel; ``held_back``: something else takes its time,
        too, as what is compared afterwards does, and nothing is learned of the way from how long that took."""
        self._protection = protection
        self._here = here
        self._compressed = compressed
        self._held_back = held_back
        self._sampling: Task[Carriage | None] | None = None
        self._begun = clock.monotonic()

    def begin(self, image: Mapping[str, str], extents: Sequence[Extent]) -> None:
        """Have data travel from now on; ``image``: QEMU's options for a served disk of which this has changed."""
        self._begun = clock.monotonic()
        if is_to_be_sampled(self._protection, extents):
            places = pieces_of(extents)
            self._sampling = Task(lambda: sampled(self._here, image, places))

    def end(self, carried: int) -> tuple[int | None, Carriage]:
        """Return how many bytes have left the source, and what is known of the way now; ``carried``: bytes of disks."""
        seconds, known = clock.monotonic() - self._begun, self._protection.carriage
        try:
            sample = self._sampling.wait(SAMPLING) if self._sampling is not None else None
            sent = sent_by(self._here)
        except (HypervisorError, HostUnreachableError, MigrationFailedError, TimeoutError):
            return None, known  # what travelled is there all the same
        if sample is not None:
            known = replace(known, ratio=sample.ratio, speed=sample.speed)
        if self._held_back:
            return sent, known
        return sent, learned(known, compressed=self._compressed, sent=sent, carried=carried, seconds=seconds)
