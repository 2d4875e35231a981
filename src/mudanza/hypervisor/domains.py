"""What can be done with a host's domains: thin, typed, bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import libvirt

from mudanza.hypervisor.agents import ask_agent
from mudanza.hypervisor.bounded import bounded
from mudanza.hypervisor.connection import CALL_TIMEOUT, HostConnection, Raw, hang_up, refusal
from mudanza.hypervisor.console import Console
from mudanza.hypervisor.jobs import job_name
from mudanza.hypervisor.reading.vms import written
from mudanza.hypervisor.states import reason_name, state_name
from mudanza.hypervisor.xml import activation
from mudanza.hypervisor.xml.claims import PREFIX, claim_namespace, claim_xml, read_claims
from mudanza.hypervisor.xml.parsing import parse
from mudanza.hypervisor.xml.wishes import WISHES_NAMESPACE, WISHES_PREFIX, wishes_xml
from mudanza.hypervisor.yank import (
    POSTCOPY_PAUSED,
    drop_forgotten_copies,
    end_cancelled,
    gave_up,
    limit_copies,
    migration_status,
    yank_copies,
)
from mudanza.model.claim import Claim
from mudanza.model.errors import HostUnreachableError, HypervisorError, UsageError
from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import Written

SIGHTING_TIMEOUT = 10.0
"""Seconds a host may take to say what is with one VM."""
JOB_TIMEOUT = 5.0
"""Seconds QEMU may take to give a job's figures."""
CLAIM_TIMEOUT = 40.0
"""Seconds that writing a claim may take: libvirt waits for 30 s for whatever works on the domain, then refuses."""
START_TIMEOUT = 120.0
"""Seconds that starting or ending a guest's QEMU may take."""

Result = TypeVar("Result")
Parameters = Mapping[str, int | str | list[str]]
"""Migration parameters by libvirt's names: ``migrate_uri``, ``destination_xml``, ``migrate_disks``…"""


class Domains:
    """The domains of one host. Every call raises HostUnreachableError or HypervisorError when it fails."""

    def __init__(self, host: HostConnection) -> None:
        self._host = host

    @property
    def host(self) -> str:
        """The name of the host."""
        return self._host.name

    def names(self) -> Mapping[str, str]:
        """Return UUID → name of every domain the host lists."""
        return self._host.ask(lambda raw: {d.UUIDString(): d.name() for d in raw.listAllDomains()})

    def sighting(self, uuid: str, *, timeout: float = SIGHTING_TIMEOUT) -> Sighting:
        """Return what the host says of a VM, asked within ``timeout`` seconds; never raises.

        ABSENT only if the host answered that it has no such domain. The job is asked for before the state: a
        state read after the end of a job is final. A job QEMU does not tell of in time counts as one.
        """
        try:
            job = self._job(uuid, min(timeout / 2, JOB_TIMEOUT))
            return self._of(uuid, lambda domain: _sight(domain, job), timeout)
        except HypervisorError as error:
            return Sighting(Side.ABSENT if _means_no_domain(error) else Side.UNSEEN, reason=error.reason)
        except HostUnreachableError as error:
            return Sighting(Side.UNSEEN, reason=str(error))

    def _job(self, uuid: str, timeout: float) -> str | None:
        try:
            return self._of(uuid, job_name, timeout)
        except HostUnreachableError:
            if not self._host.answers():
                raise
            return "unknown"

    def describe(self, uuid: str, *, inactive: bool = False, secure: bool = True, migratable: bool = False) -> str:
        """Return a domain's XML: as it runs, or as it will start next; as another host would take it."""
        flags = inactive * libvirt.VIR_DOMAIN_XML_INACTIVE
        flags |= secure * libvirt.VIR_DOMAIN_XML_SECURE
        flags |= migratable * libvirt.VIR_DOMAIN_XML_MIGRATABLE
        return self._of(uuid, lambda domain: str(domain.XMLDesc(flags)))

    def define(self, xml: str) -> str:
        """Make or change a persistent definition and return its UUID."""
        return self._host.ask(lambda raw: str(raw.defineXML(xml).UUIDString()))

    def undefine(
        self, uuid: str, *, keep_nvram: bool = True, with_snapshots: bool = False, with_saved_memory: bool = False
    ) -> None:
        """Take a persistent definition away; no disk is touched.

        ``with_snapshots``: also libvirt's records of snapshots and checkpoints; ``with_saved_memory``: also the
        memory of a managed save. Where there are such, libvirt refuses without.
        """
        flags = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM if keep_nvram else libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        if with_snapshots:
            flags |= libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            flags |= libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        if with_saved_memory:
            flags |= libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        self._of(uuid, lambda domain: domain.undefineFlags(flags))

    def saved_definition(self, uuid: str) -> str:
        """Return the XML that a saved memory (managed save) is restored with."""
        flags = libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE
        return self._of(uuid, lambda domain: str(domain.managedSaveGetXMLDesc(flags)))

    def define_saved(self, uuid: str, xml: str) -> None:
        """Have a saved memory be restored with that XML, whose guest has to be the same."""
        self._of(uuid, lambda domain: domain.managedSaveDefineXML(xml))

    def start(self, uuid: str, *, paused: bool = False) -> None:
        """Start a VM."""
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        self._of(uuid, lambda domain: domain.createWithFlags(flags), START_TIMEOUT)

    def shutdown(self, uuid: str) -> None:
        """Ask the guest to shut down; it may take its time, or ignore it."""
        self._of(uuid, lambda domain: domain.shutdown())

    def destroy(self, uuid: str) -> None:
        """End a VM's QEMU at once, as if the power had failed."""
        self._of(uuid, lambda domain: domain.destroy(), START_TIMEOUT)

    def suspend(self, uuid: str) -> None:
        """Stop the vCPUs."""
        self._of(uuid, lambda domain: domain.suspend())

    def reset(self, uuid: str) -> None:
        """Have a guest start anew within its QEMU, as by a machine's reset button; one that is paused stays so."""
        self._of(uuid, lambda domain: domain.reset(0), START_TIMEOUT)

    def resume(self, uuid: str) -> None:
        """Let the vCPUs run again."""
        self._of(uuid, lambda domain: domain.resume())

    def autostart(self, uuid: str) -> bool:
        """Return whether the host starts the VM when it boots."""
        return self._of(uuid, lambda domain: bool(domain.autostart()))

    def claims(self, uuid: str, *, timeout: float = CALL_TIMEOUT) -> tuple[Claim, ...]:
        """Return who claims the VM, one claim for each journal. Answered while a migration runs, too."""
        return self._of(uuid, _claims_on, timeout)

    def set_claim(self, uuid: str, claim: Claim, *, timeout: float = CLAIM_TIMEOUT) -> None:
        """Write one journal's claim, and nobody else's. Refused while the VM is being migrated."""
        self._of(uuid, lambda domain: _write_claim(domain, claim.journal, claim_xml(claim)), timeout)

    def drop_claim(self, uuid: str, journal: str) -> None:
        """Take one journal's claim away, if it is there. Refused while the VM is being migrated."""
        self._of(uuid, lambda domain: _write_claim(domain, journal, None), CLAIM_TIMEOUT)

    def set_wishes(self, uuid: str, said: Mapping[str, str]) -> None:
        """Write what a VM wishes of its moves, running and defined, in place of what stood there; empty: nothing.
        Refused while the VM is being migrated."""
        self._of(uuid, lambda domain: _write_wishes(domain, wishes_xml(said) if said else None), CLAIM_TIMEOUT)

    def set_activation(self, uuid: str, xml: str | None) -> None:
        """Write what a VM's metadata says of its protection, or take it away; see ``xml.activation``. Refused while the
        VM is being migrated."""
        self._of(uuid, lambda domain: _write_activation(domain, xml), CLAIM_TIMEOUT)

    def set_autostart(self, uuid: str, on: bool) -> None:
        """Have the host start the VM when it boots, or not."""
        self._of(uuid, lambda domain: domain.setAutostart(int(on)))

    def job_stats(self, uuid: str, *, timeout: float = JOB_TIMEOUT) -> Mapping[str, int | str]:
        """Return the figures of the running job by libvirt's names; ``type`` 0: there is none."""
        return self._of(uuid, lambda domain: dict(domain.jobStats()), timeout)

    def disk_jobs(self, uuid: str, disks: Iterable[str]) -> Mapping[str, tuple[int, int]]:
        """Return how far each disk's copy has come and its end, in bytes; a disk that is not being copied is left out.

        ``disks`` by their target names. The ends can grow while a guest writes.
        """
        return self._of(uuid, lambda domain: _disk_jobs(domain, list(disks)), JOB_TIMEOUT)

    def completed_job_stats(self, uuid: str) -> Mapping[str, int | str]:
        """Return the figures of the last job that ended well; they stay there to be read again."""
        flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
        return self._of(uuid, lambda domain: dict(domain.jobStats(flags)), JOB_TIMEOUT)

    def written(self, uuid: str) -> Written:
        """Return what the guest has written to its disks since it started."""
        return self._host.ask(lambda raw: _written(raw, raw.lookupByUUIDString(uuid)), timeout=JOB_TIMEOUT)

    def abort_job(self, uuid: str) -> None:
        """Cancel the running job."""
        self._of(uuid, lambda domain: domain.abortJob())

    def cut_off_copies(self, uuid: str) -> tuple[str, ...]:
        """End the connections over which a migration copies disks, which makes it fail; return which ones."""
        return self._of(uuid, yank_copies, JOB_TIMEOUT)

    def limit_copies(self, uuid: str, limits: Mapping[str, int]) -> None:
        """Limit a migration's disk mirrors, by the target names of the disks, in bytes per second."""
        self._of(uuid, lambda domain: limit_copies(domain, limits), JOB_TIMEOUT)

    def end_cancelled(self, uuid: str) -> bool:
        """End a migration that QEMU has given up and libvirt has not noticed; return whether there was such."""
        return self._of(uuid, end_cancelled, JOB_TIMEOUT)

    def gave_up(self, uuid: str) -> bool:
        """Whether QEMU says that its last migration was cancelled, or failed."""
        return self._of(uuid, gave_up, JOB_TIMEOUT)

    def drop_forgotten_copies(self, uuid: str) -> None:
        """Take out of QEMU what a migration that broke off has left there, which would stand in the next one's way."""
        if kept := self._of(uuid, drop_forgotten_copies, JOB_TIMEOUT):
            raise HypervisorError(
                self.host,
                f"QEMU does not let go of {', '.join(kept)}: until the VM has been shut down and started again, its "
                "disks cannot be copied while it runs",
            )

    def end_stranded(self, uuid: str) -> None:
        """End an incoming post-copy that waits in vain; no disk is touched.

        Raises HypervisorError where its QEMU says that it goes on, or has all of its memory by now. One whose guest
        waits for a page cannot say anything: its main loop may wait for that page, too (seen with QEMU 7.2).
        """
        try:
            status = self._of(uuid, migration_status, JOB_TIMEOUT)
        except HostUnreachableError:
            status = POSTCOPY_PAUSED
        if status != POSTCOPY_PAUSED:
            raise HypervisorError(self.host, f"QEMU says of the VM's migration: {status or 'nothing'}")
        self.destroy(uuid)

    def set_max_downtime(self, uuid: str, milliseconds: int) -> None:
        """Tell a running migration how long the vCPUs may stand still."""
        self._of(uuid, lambda domain: domain.migrateSetMaxDowntime(milliseconds, 0))

    def set_bandwidth(self, uuid: str, mib_per_second: int, *, postcopy: bool = False) -> None:
        """Limit a migration's memory stream, or that of its post-copy, in MiB per second."""
        flags = libvirt.VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY if postcopy else 0
        self._of(uuid, lambda domain: domain.migrateSetMaxSpeed(mib_per_second, flags))

    def guest_time(self, uuid: str, *, timeout: float) -> float:
        """Return the guest's wall clock as its agent tells it: seconds since the epoch."""
        told = self._of(uuid, lambda domain: dict(domain.getTime()), timeout)
        return float(told["seconds"] + told["nseconds"] / 1e9)

    def set_guest_time(self, uuid: str, time: float, *, timeout: float) -> None:
        """Have the guest's agent set its wall clock, and the guest's hardware clock by it; ``time`` as above."""
        seconds, part = divmod(time, 1)
        told = {"seconds": int(seconds), "nseconds": int(part * 1e9)}
        self._of(uuid, lambda domain: _done(domain.setTime(told)), timeout)

    def ask_agent(self, uuid: str, command: Mapping[str, Any], *, timeout: int) -> Any:
        """Return what a guest's agent answers to a command of QEMU's guest agent protocol, within ``timeout`` seconds.

        Raises HypervisorError also where there is no agent, or it does not know or may not do that.
        """
        return self._of(uuid, lambda domain: ask_agent(domain, command, timeout), timeout + JOB_TIMEOUT)

    def freeze(self, uuid: str, *, timeout: float) -> int:
        """Have the guest's agent freeze its file systems, so that nobody writes to them; return how many."""
        return self._of(uuid, lambda domain: int(domain.fsFreeze()), timeout)

    def thaw(self, uuid: str, *, timeout: float) -> int:
        """Have the guest's agent thaw them; return how many were frozen."""
        return self._of(uuid, lambda domain: int(domain.fsThaw()), timeout)

    @staticmethod
    def has_no_agent(error: HypervisorError) -> bool:
        """Whether libvirt refused because the VM has no line to an agent of its guest."""
        return error.code in (libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, libvirt.VIR_ERR_OPERATION_UNSUPPORTED)

    def start_postcopy(self, uuid: str) -> None:
        """Have a running migration go on as post-copy: the guest runs at the target from now on."""
        self._of(uuid, lambda domain: domain.migrateStartPostCopy(0))

    def migrate_p2p(self, uuid: str, peer_uri: str, parameters: Parameters, flags: Iterable[str]) -> None:
        """Have this host carry the VM to the one at ``peer_uri``; returns when libvirt says it is done.

        Runs in the caller's thread for as long as it takes. Goes on without us if the connection breaks, so what
        is returned or raised here is a hint and no verdict: ask both hosts. ``flags`` by name, such as ``LIVE``;
        PEER2PEER is always set. Raises UsageError for a flag that the installed libvirt does not have.
        """
        number = migration_flags(["PEER2PEER", *flags])
        self._host.carry_out(
            lambda raw: _done(raw.lookupByUUIDString(uuid).migrateToURI3(peer_uri, dict(parameters), number))
        )

    def console(self, uuid: str, *, force: bool = False) -> Console:
        """Open the guest's console; ``force`` disconnects whoever has it open."""
        flags = libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else libvirt.VIR_DOMAIN_CONSOLE_SAFE
        line = self._host.open_own_line()
        try:
            return bounded(lambda: _attach(self._host.name, line, uuid, flags), CALL_TIMEOUT)
        except TimeoutError:
            hang_up(line.close)
            raise HostUnreachableError(self._host.name, f"no console within {CALL_TIMEOUT:g} s") from None
        except HypervisorError:
            hang_up(line.close)
            raise

    def _of(self, uuid: str, function: Callable[[Any], Result], timeout: float = CALL_TIMEOUT) -> Result:
        return self._host.ask(lambda raw: function(raw.lookupByUUIDString(uuid)), timeout=timeout)


def migration_flags(names: Iterable[str]) -> int:
    """Return the sum of ``VIR_MIGRATE_*`` flags. Raises UsageError for one the installed libvirt lacks."""
    total = 0
    for name in names:
        value = getattr(libvirt, f"VIR_MIGRATE_{name}", None)
        if value is None:
            version = libvirt.getVersion()
            raise UsageError(
                f"the controller's libvirt {version // 10**6}.{version // 1000 % 1000} knows no migration flag {name}",
                remedy="install a newer libvirt and libvirt-python on the controller",
            )
        total |= int(value)
    return total


def _claims_on(domain: Any) -> tuple[Claim, ...]:
    """Read them as the VM runs, and as it will start next: a saved memory comes back without its claim."""
    flags = [libvirt.VIR_DOMAIN_XML_INACTIVE, 0] if domain.isPersistent() else [0]
    read = (read_claims(parse(domain.XMLDesc(flag), domain.name())) for flag in flags)
    return tuple({claim.key: claim for claims in read for claim in claims}.values())


def _write_claim(domain: Any, journal: str, xml: str | None) -> None:
    kind, prefix = libvirt.VIR_DOMAIN_METADATA_ELEMENT, PREFIX if xml is not None else None
    domain.setMetadata(kind, xml, prefix, claim_namespace(journal), _both(domain))


def _write_wishes(domain: Any, xml: str | None) -> None:
    kind, prefix = libvirt.VIR_DOMAIN_METADATA_ELEMENT, WISHES_PREFIX if xml is not None else None
    domain.setMetadata(kind, xml, prefix, WISHES_NAMESPACE, _both(domain))


def _write_activation(domain: Any, xml: str | None) -> None:
    kind, prefix = libvirt.VIR_DOMAIN_METADATA_ELEMENT, activation.PREFIX if xml is not None else None
    domain.setMetadata(kind, xml, prefix, activation.NAMESPACE, _both(domain))


def _both(domain: Any) -> int:
    """Return the flags for the running VM and its definition, as far as there are these."""
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
    return live | (libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0)


def _sight(domain: Any, job: str | None) -> Sighting:
    number, reason = domain.state()
    state = state_name(number)
    return Sighting(Side.PRESENT, state, reason_name(state, reason), bool(domain.isPersistent()), job)


def _disk_jobs(domain: Any, disks: Sequence[str]) -> dict[str, tuple[int, int]]:
    jobs = {disk: domain.blockJobInfo(disk) for disk in disks}
    return {disk: (int(job["cur"]), int(job["end"])) for disk, job in jobs.items() if job}


def _written(raw: Any, domain: Any) -> Written:
    answer = raw.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_BLOCK)
    return written(answer[0][1] if answer else {})


def _attach(host: str, line: Raw, uuid: str, flags: int) -> Console:
    try:
        stream = line.newStream(libvirt.VIR_STREAM_NONBLOCK)
        line.lookupByUUIDString(uuid).openConsole(None, stream, flags)
        return Console(host, line, stream)
    except libvirt.libvirtError as error:
        failure = refusal(host, error)
    raise failure


def _means_no_domain(error: HypervisorError) -> bool:
    return bool(error.code == libvirt.VIR_ERR_NO_DOMAIN)


def _done(_result: object) -> None:
    """Drop what libvirt returns for success."""
