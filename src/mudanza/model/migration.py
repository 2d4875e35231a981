"""A migration: what is asked, what is known beforehand, how it goes and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from mudanza.model.claim import Claim
from mudanza.model.compression import Compressed
from mudanza.model.disk_locks import DiskLocks
from mudanza.model.policy import Compression, Policy, PostCopy
from mudanza.model.vm import BoundMemory, VmState
from mudanza.model.wishes import FIELDS, VmWishes, in_words

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


class GuestClock(StrEnum):
    """What becomes of a guest's wall clock, which stands while its vCPUs do."""

    SET = "set"
    """After a live move its agent, if it has one, sets it forward by what it has lost."""
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """What the operator asks of one migration. Seconds, bytes per second."""

    max_downtime: float = 0.3
    streams: int | None = None
    """By how many connections memory goes; None: by several where they are known to carry more than one."""
    compression: Compression = Compression.AUTO
    bandwidth: int | None = None
    """The most that memory and disks may take together; None: no limit of ours."""
    deadline: float | None = None
    policy: Policy = Policy.AUTO
    post_copy: PostCopy | None = None
    """None: as the policy has it."""
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
    probe: str | None = None
    """What a client outside is to ask of the guest meanwhile, ``ping:HOST`` or ``tcp:HOST:PORT``; None: nothing."""
    take_claim: bool = False
    """Whether a claim of another controller that shows no sign of life may be taken over."""
    guest_clock: GuestClock = GuestClock.SET
    no_hooks: bool = False
    """Whether none of the controller's hooks are run around it."""
    upon: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """Disk → image at the target that holds what the guest finds in the image right below that disk, or what it has
    written since: the disk arrives upon that, and nothing that is below it travels. Nobody can ask for it but a
    failback, which has seen to it."""
    epoch: int | None = None
    """The activation epoch under which it arrives, as after a failover; None: its own."""
    named: frozenset[str] = frozenset()
    """Which fields whoever asks has named: there a VM's own wishes do not count."""
    own: tuple[str, ...] = ()
    """Which fields are as the VM's own metadata wishes."""

    @property
    def postcopy(self) -> PostCopy:
        """Whether post-copy may be used, by what was asked."""
        if self.post_copy is not None:
            return self.post_copy
        return {Policy.GENTLE: PostCopy.NEVER, Policy.NOW: PostCopy.NOW}.get(self.policy, PostCopy.ALLOW)

    @property
    def may_throttle(self) -> bool:
        """Whether QEMU may slow the guest down for it to get across."""
        return self.policy is Policy.DEADLINE

    def is_cold(self, *, active: bool) -> bool:
        """Whether a VM moves switched off; ``active``: it runs now."""
        return self.mode is Mode.COLD or (self.mode is Mode.AUTO and not active)


NOT_ASKED_FOR = frozenset({"named", "own", "upon", "epoch"})
"""Those fields of MigrationOptions that nobody who asks for a move can set."""


def with_wishes(options: MigrationOptions, wishes: VmWishes | None) -> MigrationOptions:
    """Return what is asked of a move once its VM was heard: what whoever gives the order has named, stands.

    A policy that was named decides about post-copy as well, unless that was named too.
    """
    named = options.named | ({"post_copy"} if "policy" in options.named else set())
    asked = {name: getattr(wishes, name) for name in FIELDS if name not in named} if wishes is not None else {}
    heeded = {name: value for name, value in asked.items() if value is not None}
    return replace(options, **heeded, own=tuple(heeded))


def own_in_words(options: MigrationOptions) -> tuple[str, ...]:
    """Return what of a move the VM's own metadata has asked for."""
    return tuple(in_words(name, getattr(options, name)) for name in options.own)


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
    reserved_bound: tuple[BoundMemory, ...] = ()
    """The same of memory that must come from certain NUMA nodes of it."""
    reserved_room: Mapping[str, int] = field(default_factory=lambda: _NO_FIGURES)
    """Pool of the target → bytes that disks of VMs on their way there take in it, of ``room``."""
    arriving: tuple[str, ...] = ()
    """The names of those VMs."""
    hooks: Mapping[str, Probe] = field(default_factory=lambda: _NO_PROBES)
    """Name of a hook that is to be run around the move → can this controller run it? Unknown: it does not know it."""
    clock_offset: float | None = None
    """Target's clock minus source's, in seconds."""
    locks: tuple[DiskLocks, DiskLocks] = (DiskLocks(), DiskLocks())
    """How source and target lock disks; not known where no disk is one that both hosts see."""
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


class Qemu(StrEnum):
    """What a host's kernel shows of a VM."""

    GONE = "gone"
    """No QEMU of it is there."""
    NEVER_RAN = "never ran"
    """There is one, whose vCPUs have not run a guest instruction."""
    RAN = "ran"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One host's answer to "what is with this VM?"."""

    side: Side
    state: VmState = VmState.NOSTATE
    reason: str = ""
    persistent: bool = False
    job: str | None = None
    """A libvirt job in flight on it there."""
    qemu: Qemu | None = None
    """What the kernel shows there of it, where libvirt could not be asked and that mattered; None: not known."""
    kept: bool = False
    """Its QEMU, which was asked where that mattered, says that its last migration was cancelled or failed: the target
    was never told to let the VM run."""

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
    compressed: Compressed | None = None
    """What compression has come to; None: there is none."""
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
class Standing:
    """How far a job is, for whoever follows it."""

    state: str
    ended: bool
    abandoned: bool
    """Nobody works on it just now; somebody may take it up."""
    left_to_person: bool
    """Nobody will work on it before a person has looked."""
    decided: bool
    """How it is done was written down."""
    way: str
    """From where to where."""
    progress: Progress


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
    """The longest that a client outside got no answer, where somebody measured it."""
    silent_time: float | None = None
    """How long it got none in all, in every silence longer than usual: what post-copy costs, too."""
    silences: int = 0
    """How many such silences there were."""
    removed: tuple[str, ...] = ()
    """Volumes deleted at the source."""
    kept: tuple[str, ...] = ()
    """Volumes left at the source."""
    undeleted: tuple[str, ...] = ()
    """Of these, what ought to have been deleted and could not be: ``mudanza job resume`` tries again."""
    warnings: tuple[str, ...] = ()
    postcopy_time: float | None = None
    """For how long the guest ran at the target without all of its memory; None: it did not."""
    moving_time: float | None = None
    """What of the total time came after the checking; None in reports from before it was measured."""
    hooks: tuple[str, ...] = ()
    """The hooks that were run around it and ended well, in words."""
    hooks_time: float | None = None
    """Seconds of the total time that hooks have taken, by whoever brought it to its end; None: there were none."""
    longest_stall: float | None = None
    """The longest that a client outside got no answer between the switchover and the last page, where somebody
    measured it; the switchover itself is the blackout."""
    stalled_time: float | None = None
    """How long it got none in all between the two."""
    guest_clock: str = ""
    """What became of the guest's wall clock, in words; empty: nobody has looked."""
    clock_drift: float | None = None
    """What it was after the move against what it would have been, less than 0: behind; None: not measured."""
    clock_left: float | None = None
    """The same once the guest's agent had set it; None: it was not set."""
    own_wishes: tuple[str, ...] = ()
    """What of all that was asked the VM's own metadata has asked for, in words."""
    streams: int = 1
    """By how many connections its memory went."""
    memory_rate: float | None = None
    """Bytes per second of memory alone, as QEMU measured over all of it; None where it did not tell."""
    compression: Mapping[str, Any] | None = None
    """What compression came to (``share``: of their size that pages which had changed again took); None: there was
    none."""
    forecast: Mapping[str, Any] | None = None
    """What was foreseen: ``total`` beside ``moving_time``, ``downtime``, ``bytes``…; None: nothing was."""
