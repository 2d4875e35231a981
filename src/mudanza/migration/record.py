"""What a job must remember to be finished by whoever finds it: the first thing written into the journal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mudanza.model.migration import Verify
from mudanza.model.policy import Policy, PostCopy
from mudanza.model.vm import Backing
from mudanza.preflight.cargo import CargoFile, Role


@dataclass(frozen=True, slots=True)
class CopiedDisk:
    """A disk that is copied: where it lies at the source and where it will lie. Bytes."""

    target: str
    source_path: str
    source_pool: str | None
    source_volume: str | None
    pool: str
    volume: str
    path: str
    size: int
    removable: bool
    """Whether the source's volume may be deleted after the move."""
    seen_by_both: bool
    """The source's file is one that other hosts see too."""


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """One migration as it was decided."""

    uuid: str
    name: str
    source: str
    target: str
    was_paused: bool
    persistent: bool
    autostart: bool
    keep_source: bool
    tls: bool
    xml: str = field(repr=False)
    """Our own copy of the live definition."""
    inactive_xml: str | None = field(repr=False)
    disks: tuple[CopiedDisk, ...] = ()
    warnings: tuple[str, ...] = ()
    checking_time: float = 0.0
    """Seconds the checking before it took."""
    synchronous: bool = False
    """The guest's writes wait until the target has them too, so that copying its disks comes to an end."""
    ahead: tuple[CargoFile, ...] = ()
    """Files that were to be brought before the VM itself."""
    keeps_chains: bool = False
    """Its disks arrive on top of images that were brought before them."""
    arch: str = ""
    machine: str = ""
    domain_type: str = ""
    nvram: str = ""
    """The source's file of UEFI variables, which QEMU carries along and leaves behind."""
    postcopy: PostCopy = PostCopy.NEVER
    """Whether it was prepared for running at the target before all of its memory is there."""
    policy: Policy = Policy.AUTO
    streams: int = 1
    """By how many connections its memory goes."""
    compression_cache: int = 0
    """Bytes that xbzrle's cache of pages may take at the source; 0: nothing is compressed."""
    hooks: tuple[str, ...] = ()
    """The controller's hooks that are run around it, by name."""

    def to_json(self) -> dict[str, Any]:
        """Return it as what the journal stores."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MoveRecord:
        """Read it back from the journal."""
        fields = dict(stored)
        fields["postcopy"] = PostCopy(fields.get("postcopy", PostCopy.NEVER))
        fields["policy"] = Policy(fields.get("policy", Policy.AUTO))
        fields["disks"] = tuple(CopiedDisk(**disk) for disk in fields["disks"])
        fields["ahead"] = tuple(_cargo_file(file) for file in fields.get("ahead", ()))
        fields["warnings"] = tuple(fields["warnings"])
        fields["hooks"] = tuple(fields.get("hooks", ()))
        return cls(**fields)

    @property
    def places(self) -> dict[str, str]:
        """Path at the source → path at the target, of every file that travels."""
        return {disk.source_path: disk.path for disk in self.disks} | {each.source: each.path for each in self.ahead}

    @property
    def left_at_source(self) -> tuple[CopiedDisk, ...]:
        """The VM's own files, in the order in which they may be deleted: from the top of a chain down."""
        own = (file for file in self.ahead if file.own and file.role in (Role.BACKING, Role.SNAPSHOT))
        return self.disks + tuple(_copied(file) for file in own)

    def as_freight(self) -> ColdRecord:
        """Return what is brought before the VM itself, as a cold move would bring it."""
        return ColdRecord(
            uuid=self.uuid,
            name=self.name,
            source=self.source,
            target=self.target,
            was_running=False,
            autostart=self.autostart,
            keep_source=True,
            tls=self.tls,
            verify=Verify.FULL,
            arch=self.arch,
            machine=self.machine,
            domain_type=self.domain_type,
            xml=self.xml,
            target_xml="",
            files=self.ahead,
        )


@dataclass(frozen=True, slots=True)
class ColdRecord:
    """One move of a switched-off VM as it was decided."""

    uuid: str
    name: str
    source: str
    target: str
    was_running: bool
    """It is shut down for the move, and started again where it ends up."""
    autostart: bool
    keep_source: bool
    tls: bool
    verify: Verify
    arch: str
    machine: str
    domain_type: str
    xml: str = field(repr=False)
    """Our own copy of the definition at the source."""
    target_xml: str = field(repr=False)
    """The definition as the target gets it."""
    files: tuple[CargoFile, ...] = ()
    warnings: tuple[str, ...] = ()
    nics: Mapping[str, str] = field(default_factory=dict)
    """MAC address → network, bridge or device at the target."""
    has_tpm: bool = False
    saved_xml: str | None = field(default=None, repr=False)
    """The definition that its saved memory is restored with at the target; None where there is none."""
    checking_time: float = 0.0
    """Seconds the checking before it took."""
    hooks: tuple[str, ...] = ()
    """As of a live move."""

    def to_json(self) -> dict[str, Any]:
        """Return it as what the journal stores."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ColdRecord:
        """Read it back from the journal."""
        fields = dict(stored)
        fields["verify"] = Verify(fields["verify"])
        fields["files"] = tuple(_cargo_file(file) for file in fields["files"])
        fields["warnings"] = tuple(fields["warnings"])
        fields["hooks"] = tuple(fields.get("hooks", ()))
        return cls(**fields)

    @property
    def places(self) -> dict[str, str]:
        """Path at the source → path at the target, of every file that travels."""
        return {file.source: file.path for file in self.files}

    def as_move(self, by_content: Collection[str]) -> MoveRecord:
        """Return it as far as a live move would have the same to clean up; ``by_content`` as with ``unproven``."""
        kept = self.unproven(by_content)
        return MoveRecord(
            uuid=self.uuid,
            name=self.name,
            source=self.source,
            target=self.target,
            was_paused=False,
            persistent=True,
            autostart=self.autostart,
            keep_source=self.keep_source,
            tls=self.tls,
            xml=self.xml,
            inactive_xml=self.xml,
            disks=tuple(_copied(file) for file in self.files if _is_disk(file) and file not in kept),
        )

    def unproven(self, by_content: Collection[str]) -> tuple[CargoFile, ...]:
        """The files that became another format and were not compared, though they should have been.

        ``by_content``: paths at the source of those whose content the journal says was compared.
        """
        if self.verify is Verify.NONE:
            return ()
        return tuple(file for file in self.files if not file.as_it_is and file.source not in by_content)


def _is_disk(file: CargoFile) -> bool:
    """Whether a file is one of the VM's disks, or was before a snapshot was made."""
    return file.role is Role.DISK or (file.own and file.role is Role.BACKING)


def _copied(file: CargoFile) -> CopiedDisk:
    return CopiedDisk(
        target=file.label,
        source_path=file.source,
        source_pool=file.source_pool or None,
        source_volume=file.source_volume or None,
        pool=file.pool,
        volume=file.volume,
        path=file.path,
        size=file.size,
        removable=file.own and bool(file.source_pool and file.source_volume),
        seen_by_both=file.seen_by_both,
    )


def _cargo_file(stored: Mapping[str, Any]) -> CargoFile:
    fields = dict(stored)
    fields["role"] = Role(fields["role"])
    fields["chain"] = tuple(Backing(**image) for image in fields["chain"])
    return CargoFile(**fields)
