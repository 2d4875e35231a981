"""What protects a VM: a replica at another host, with points in time that it can come back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MANY_OF_JOURNAL = 12
"""Digits of a journal's id that names at hosts have: 48 bits of chance."""
MOST_POINTS = 100
"""Restore points of one replica: QEMU opens all images below the one it reads."""
MOST_EVERY = 10_000
"""Rounds between two in which a guest's file systems are frozen."""


class Standing(StrEnum):
    """What becomes of a protection."""

    ON = "on"
    """Rounds are made."""
    GOING_HOME = "going home"
    """It is to run where its replica is, by a live move, and nobody has written down yet what came of that."""
    FAILED_OVER = "failed over"
    """The VM was brought back at the replica's host, and is there; no rounds are made any more."""
    LEFT = "left"
    """It was, and has come up at another one of its replicas since; what it ran on there stays as it left it."""


class Consistency(StrEnum):
    """What the disks of a restore point are like."""

    CRASH = "crash"
    """As if the power had failed at that instant."""
    APPLICATION = "application"
    """The guest's own agent had frozen its file systems, and they were frozen at that instant."""


class Compress(StrEnum):
    """Whether what a round sends is compressed on its way."""

    AUTO = "auto"
    """As it wins: by what was measured in the round before."""
    YES = "yes"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Carriage:
    """What was measured of how a VM's data travel. Bytes per second; None: not known."""

    rate: float | None = None
    """What the way took at the least."""
    ratio: float | None = None
    """How many times smaller a sample of the data became when it was compressed."""
    speed: float | None = None
    """How much of it the source compressed."""


@dataclass(frozen=True, slots=True)
class FirmwareState:
    """A VM's UEFI variables and the state of its emulated TPM, as they are kept with a restore point."""

    file: str
    """The archive in the replica's directory, in which all points that have the same share one."""
    digest: str
    """Of what is in it."""


@dataclass(frozen=True, slots=True)
class ReplicaDisk:
    """One disk at one restore point."""

    file: str
    """The image's name in the replica's directory. It holds what changed since the point before, or everything."""
    size: int
    """Virtual size in bytes."""
    image: str = ""
    """Which image the disk was then: its host, inode and path, with blanks between; empty: that was not kept."""


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """One instant that a VM can come back to. It is whole: nothing is known here of half a round."""

    number: int
    taken_at: float
    """The instant of the data, in seconds since the epoch by the database's clock: not later than the source's disks
    were like this."""
    disks: Mapping[str, ReplicaDisk]
    """By the guest's names for them."""
    definition: str = field(repr=False)
    """The VM's definition at that instant."""
    carried: int = 0
    """Bytes of the guest's disks that the round brought over."""
    instant: str = ""
    """What the points of one instant of a consistency group have in common; empty: it was made alone."""
    consistency: Consistency = Consistency.CRASH
    firmware: FirmwareState | None = None
    """None: the VM had neither UEFI variables nor an emulated TPM, or it was made before these were kept."""
    sent: int | None = None
    """Bytes that left the source in that round by the login that the data go by, as its kernel counts them; None: it
    does not tell."""
    why_not: str = ""
    """Why it is not application-consistent though that was asked for; empty otherwise."""
    epoch: int = 0
    """How often the VM had changed its place by failover then."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A test failover that is up, or was not taken down yet: a double of the VM runs on a restore point, cut off."""

    point: int
    """The restore point that it stands on; as long as it does, no point is thinned."""
    uuid: str
    """Of the double."""
    name: str
    """Of the double."""
    host: str
    begun_at: float
    """Seconds since the epoch, by the database's clock."""
    before: Mapping[str, str] = field(default_factory=dict)
    """What production, replica and protection were like before it: what → how it was."""
    times: Mapping[str, float] = field(default_factory=dict)
    """Seconds from when it was asked for: ``started``, and ``answered`` where that was waited for."""


@dataclass(frozen=True, slots=True)
class Readdressed:
    """That a VM's guest was given other addresses where it came up."""

    at: str
    """The host that they are for."""
    macs: tuple[str, ...]
    """Of the cards that have them."""
    limit: float
    """Seconds that its agent has for such things, as its plan says."""
    owed_at: str = ""
    """The host at which it is at home since, and is to have its own ones again; empty: nobody has said so."""


@dataclass(frozen=True, slots=True)
class Protection:
    """One VM's replica at one host; a VM may have several, each at a host of its own, with rounds of its own. Times in
    seconds since the epoch, by the database's clock."""

    id: int
    vm_uuid: str
    vm_name: str
    target: str
    directory: str
    """Where the replica's images are at the target."""
    every: float
    """Seconds between two rounds."""
    keep: int
    """How many restore points there are at the most."""
    scratch: int
    """Bytes that the source may need to keep an instant while it is read; a round gives way before it needs more."""
    standing: Standing
    epoch: int
    """How often the VM has changed its place by failover: the same of all its replicas."""
    autostart: bool
    """Whether its host started it when it booted, before it was protected."""
    checkpoint: str
    """libvirt's checkpoint at the newest restore point; empty: the next round brings everything."""
    rounds: int
    """The number of the last round that was begun."""
    made_by: str
    made_at: float
    tried_at: float | None
    """When the last round was begun."""
    said: str
    """What became of it, in a sentence."""
    seed: Mapping[str, str]
    """A disk → the image at the target that the VM ran on there before: a replica begins with it, and it stays as it
    is."""
    read_at: float
    points: tuple[RestorePoint, ...] = ()
    """The oldest first."""
    given_up: RestorePoint | None = None
    """One that is not to be come back to any more: its images go into those of the next one."""
    trial: Trial | None = None
    """The test failover that stands on one of its points."""
    group: str = ""
    """The consistency group whose rounds it shares; empty: it has rounds of its own."""
    bandwidth: int | None = None
    """Bytes per second that a round may send at the most; None: as fast as it goes."""
    verify_every: float | None = None
    """Seconds after which a round compares all of the replica with the source; None: only when asked to."""
    verified_at: float | None = None
    """When that was done last, and all was the same."""
    freeze_every: int | None = None
    """Every how many rounds the guest's file systems are frozen for the instant; None: never."""
    compress: Compress = Compress.AUTO
    carriage: Carriage = field(default_factory=Carriage)
    readdressed: Readdressed | None = None
    """None: its guest has its own addresses, as far as is known."""
    test_every: float | None = None
    """Seconds after which it is tried whether a double boots from the newest point; None: only when asked to."""
    test_limit: float = 300.0
    """Seconds within which the double's guest has to answer."""
    tested_at: float | None = None
    """When that was tried last by itself."""
    tested: str = ""
    """What came of it, in a sentence."""
    paused_by: str = ""
    """Who wants no rounds to be made by themselves for now; empty: they are made."""
    journal: str = ""
    """The id of the journal that this is in: others may have protections of the same number."""
    reign: int = 0
    """How often that was taken over at another machine: a copy of an older reign does nothing to the replica."""

    @property
    def newest(self) -> RestorePoint | None:
        """The newest restore point."""
        return self.points[-1] if self.points else None

    @property
    def lag(self) -> float | None:
        """Seconds since the instant of the newest restore point: what would be lost now. None: there is none yet."""
        return self.read_at - self.newest.taken_at if self.newest is not None else None

    @property
    def is_stale(self) -> bool:
        """Whether its restore points are all of before the VM came up elsewhere: what was written there is in none."""
        return self.standing is Standing.ON and self.newest is not None and self.newest.epoch < self.epoch

    @property
    def is_kept(self) -> bool:
        """Whether rounds are made by themselves."""
        return self.standing is Standing.ON and not self.paused_by

    @property
    def is_to_be_verified(self) -> bool:
        """Whether the next round is to compare all of the replica: the last time is too long ago, or never was."""
        if self.verify_every is None:
            return False
        since = self.verified_at if self.verified_at is not None else self.made_at
        return self.read_at - since >= self.verify_every

    @property
    def is_to_be_tested(self) -> bool:
        """Whether it is to be tried whether a double boots: the last time is too long ago, or never was."""
        able = self.standing is Standing.ON and self.newest is not None and not self.is_stale and self.trial is None
        if self.test_every is None or not able:
            return False
        since = self.tested_at if self.tested_at is not None else self.made_at
        return self.read_at - since >= self.test_every

    @property
    def is_to_be_frozen(self) -> bool:
        """Whether the round that comes next is to have the guest's file systems frozen. One that was to, and broke
        off, is made up for by the next one."""
        if self.freeze_every is None:
            return False
        last = self.newest.number if self.newest is not None else 0
        return (self.rounds + 1) // self.freeze_every > last // self.freeze_every

    def point(self, number: int) -> RestorePoint | None:
        """Return the restore point of that number."""
        return next((each for each in self.points if each.number == number), None)


def own_name(protection: Protection) -> str:
    """Return a word that no other protection has, whichever journal it is in, nor had one that was given up: a database
    gives numbers again, and an image that was no disk of the VM's just then keeps bitmaps of that name."""
    made = f"{protection.id}-{int(protection.made_at)}"
    return f"{protection.journal[:MANY_OF_JOURNAL]}-{made}" if protection.journal else made


def is_of_journal(protection: Protection, name: str) -> bool:
    """Whether a word is the own name of some protection in the same journal, as it is, or was without that
    moment."""
    begin = f"{protection.journal[:MANY_OF_JOURNAL]}-" if protection.journal else ""
    numbers = name.removeprefix(begin).split("-")
    return name.startswith(begin) and len(numbers) <= 2 and all(number.isdigit() for number in numbers)


def checkpoint_name(protection: Protection, number: int) -> str:
    """Return what libvirt calls the checkpoint of a round."""
    return f"mudanza-{own_name(protection)}-{number}"


def is_own_checkpoint(protection: Protection, name: str) -> bool:
    """Whether a checkpoint is one of this protection. They were called by its journal and number alone, and until
    schema 22 by its number."""
    begin, _, number = name.rpartition("-")
    before = f"mudanza-{protection.journal[:MANY_OF_JOURNAL]}-{protection.id}"
    return number.isdigit() and begin in (f"mudanza-{own_name(protection)}", before, f"mudanza-{protection.id}")
