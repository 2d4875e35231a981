"""A migration: what is asked, what is known beforehand, how it goes and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from mudanza.model.claim import Claim
from mudanza.model.vm import VmState

_EMPTY: Mapping[str, str] = MappingProxyType({})


class Tls(StrEnum):
    """Whether memory and disks travel encrypted: where both ends can, always, or never."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


class Mode(StrEnum):
    """While the guest runs, or while it is switched off; ``AUTO``: as it is when asked."""

    AUTO = "auto"
    LIVE = "live"
    COLD = "cold"


class Verify(StrEnum):
    """How much of the content is compared, source against target, before the source is let go."""

    FULL = "full"
    SAMPLE = "sample"
    NONE = "none"


class Chain(StrEnum):
    """What becomes of the images that a disk is built upon."""

    KEEP = "keep"
    """They travel along; one that lies at the target already, the same byte for byte, is used there."""
    REUSE = "reuse"
    """They have to lie at the target already, the same byte for byte."""
    FLATTEN = "flatten"
    """Disk and chain arrive as one image."""


class Media(StrEnum):
    """What becomes of the images in removable drives."""

    THERE = "there"
    """They have to lie at the target under the same path."""
    COPY = "copy"
    """They travel along where the target does not have them."""
    EJECT = "eject"
    """The drives are empty at the target."""


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """What the operator asks of one migration. Seconds, bytes per second."""

    max_downtime: float = 0.3
    bandwidth: int | None = None
    """The most that memory and disks may take together; None: no limit of ours."""
    deadline: float | None = None
    map_storage: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Source pool or directory → destination pool."""
    map_network: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Source network, bridge or device → the destination's."""
    keep_source: bool = False
    tls: Tls = Tls.AUTO
    mode: Mode = Mode.AUTO
    verify: Verify = Verify.FULL
    """Of a cold move."""
    chain: Chain | None = None
    """None: kept in a cold move, flattened in a live one."""
    media: Media = Media.THERE
    format: str | None = None
    """What images become at the target, ``qcow2`` or ``raw``; None: what they are."""
    force_off: bool = False
    """Whether a guest that does not shut down for a cold move may be switched off hard."""
    shutdown_limit: float = 180.0
    """How long it may take to shut down."""
    take_claim: bool = False
    """Whether a claim of another controller that shows no sign of life may be taken over."""

    def is_cold(self, *, active: bool) -> bool:
        """Whether a VM moves switched off; ``active``: it runs now."""
        return self.mode is Mode.COLD or (self.mode is Mode.AUTO and not active)


class Answer(StrEnum):
    """What a probe found out. ``UNKNOWN`` is never read as either of the others."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer of one probe, and why, in the words of the host that gave it."""

    answer: Answer = Answer.UNKNOWN
    detail: str = ""


_NO_PROBES: Mapping[str, Probe] = MappingProxyType({})
_NO_FIGURES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Facts:
    """What had to be tried, for one VM and one pair of hosts, to be known."""

    cpu: Probe = Probe()
    """Can the target's hypervisor provide the VM's CPU?"""
    peer: Probe = Probe()
    """Can the source's libvirt log in to the target's libvirt?"""
    tls: Probe = Probe()
    """Does encrypted migration work from source to target?"""
    data_path: Probe = Probe()
    """Does migration data get from source to target at all, encrypted or not?"""
    shared: Mapping[str, Probe] = field(default_factory=lambda: _NO_PROBES)
    """Disk target → do both hosts see the very same file? Within one host: does any other one see it?"""
    files: Mapping[str, Probe] = field(default_factory=lambda: _NO_PROBES)
    """Path (ISO, kernel, firmware, block device…) → is it there on the target?"""
    occupied: Mapping[str, Probe] = field(default_factory=lambda: _NO_PROBES)
    """Disk target → does a volume of the name we would create exist already? ``detail`` is its path. Of other files
    that need a free place: path → is there one?"""
    elsewhere: Mapping[str, Probe] = field(default_factory=lambda: _NO_PROBES)
    """Path of an image at the source → does it keep content in another file, which libvirt tells nobody of?
    ``detail`` names that one."""
    room: Mapping[str, int] = field(default_factory=lambda: _NO_FIGURES)
    """Pool of the target that disks would be copied into → bytes free in it now."""
    squashed: Mapping[str, Probe] = field(default_factory=lambda: _NO_PROBES)
    """Pool of the target that disks would be copied into → is root somebody else on its storage, and QEMU not root?"""
    addresses: Mapping[str, Probe] = field(default_factory=lambda: _NO_PROBES)
    """Address a display of the VM listens on → can one listen there on the target?"""
    reserved_memory: int = 0
    """Bytes of the target's memory that VMs on their way there have yet to take."""
    reserved_room: Mapping[str, int] = field(default_factory=lambda: _NO_FIGURES)
    """Pool of the target → bytes that disks of VMs on their way there take in it, of ``room``."""
    arriving: tuple[str, ...] = ()
    """The names of those VMs."""
    clock_offset: float | None = None
    """Target's clock minus source's, in seconds."""
    unfinished_job: int | None = None
    """The number of a job of ours on this VM that has not ended."""
    claim: Claim | None = None
    """Somebody else's claim on this VM, or one of ours whose job our journal does not know."""
    same_machine: bool = False
    """Both names lead to one and the same host."""


class Side(StrEnum):
    """What one host says of one VM."""

    ABSENT = "absent"
    UNSEEN = "unseen"
    """The host could not be asked."""
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One host's answer to "what is with this VM?"."""

    side: Side
    state: VmState = VmState.NOSTATE
    reason: str = ""
    persistent: bool = False
    job: str | None = None
    """A libvirt job in flight on it there."""

    @property
    def running(self) -> bool:
        """Its vCPUs run, or are about to."""
        return self.side is Side.PRESENT and self.state in (VmState.RUNNING, VmState.BLOCKED)


@dataclass(frozen=True, slots=True)
class DiskProgress:
    """How far one disk or file has come. Bytes, holes included."""

    label: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A running migration's figures at one instant. Bytes, bytes per second, seconds.

    Memory and disks are counted apart: their sum runs backwards when memory is sent again.
    """

    phase: str
    elapsed: float
    memory_total: int = 0
    memory_sent: int = 0
    memory_remaining: int = 0
    memory_rate: float = 0.0
    dirty_rate: float = 0.0
    iteration: int = 0
    disk_total: int = 0
    disk_sent: int = 0
    disk_remaining: int = 0
    disk_rate: float = 0.0
    downtime: float = 0.0
    """What QEMU expects the downtime to be, or after the end has measured."""
    setup_time: float = 0.0
    postcopy: bool = False
    auto_converge: int = 0
    """By how many percent QEMU slows the guest's CPUs down."""
    eta: float | None = None
    """Seconds to go as far as the figures tell; None where they do not."""
    outlook: str = ""
    """One sentence: done in about N s, or will not converge because…"""
    disks: tuple[DiskProgress, ...] = ()
    """Each disk or file of a cold move by itself, where QEMU tells."""
    still_for: float = 0.0
    """For how long nothing has moved, once that is long enough to mean something."""
    cancelling: str = ""
    """Why it is being cancelled; empty as long as it is not."""


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """How one migration ended. Seconds, bytes."""

    vm: str
    uuid: str
    source: str
    target: str
    mode: str
    """``live`` or ``cold``; of disks that moved within one host ``in place`` or ``in place, off``."""
    total_time: float
    """From the order to the end: checking, moving and cleaning up."""
    downtime: float | None
    """vCPUs stopped, as QEMU measured it; None where it could not be read."""
    memory_bytes: int
    disk_bytes: int
    """What the copied disks hold at the target, holes left out."""
    rate: float
    iterations: int
    tls: bool
    transport: str
    """What carried the data, and from where to where."""
    verified: str = ""
    """What was compared, source against target, before the source was let go; empty: nothing."""
    blackout: float | None = None
    """What a client outside saw, where somebody measured it."""
    removed: tuple[str, ...] = ()
    """Volumes deleted at the source."""
    kept: tuple[str, ...] = ()
    """Volumes left at the source."""
    undeleted: tuple[str, ...] = ()
    """Of these, what ought to have been deleted and could not be: ``mudanza job resume`` tries again."""
    warnings: tuple[str, ...] = ()
    moving_time: float | None = None
    """What of the total time came after the checking; None in reports from before it was measured."""
