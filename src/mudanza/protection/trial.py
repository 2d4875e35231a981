"""Test failover: a double of a protected VM runs from a restore point, cut off, and is taken away without a trace.

It runs on images of its own upon the point's, as after a failover, which stay as they are: nobody writes to them, and
no points are thinned as long as it is up. Its job is about the double and not about the VM, whose rounds go on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.shell import HostShell
from mudanza.journal.jobs import JobHandle, NewJob
from mudanza.migration.claim import keeping, left_open
from mudanza.migration.residue import Residue
from mudanza.model.cluster import Cluster
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
)
from mudanza.model.migration import MigrationReport, Side
from mudanza.model.protection import Protection, RestorePoint, Standing, Trial
from mudanza.protection import firmware
from mudanza.protection.bringing_up import BringingUp, Refusals
from mudanza.protection.cut_off import NETWORK, double_of
from mudanza.protection.drives import ejected, missing_media
from mudanza.protection.evidence import Compared, compared, looked_at
from mudanza.protection.failover import chosen_point, running_on
from mudanza.protection.replica import Replica

KIND = "test failover"
"""What such jobs are called in the journal."""
DIRECTORY = "test"
"""Where a double's images are, within the replica's directory."""
LOOK_AGAIN = 1.0
"""Seconds between two looks whether the double's agent answers."""
AGENT_TIMEOUT = 5.0
"""Seconds that an agent may take to answer."""

ReadCluster = Callable[[], Cluster]


@dataclass(frozen=True, slots=True)
class Report:
    """How a test failover went, for those who have to be told. Seconds."""

    vm: str
    uuid: str
    host: str
    point: int
    age: float | None
    """How old the restore point was when the test was asked for."""
    double: str
    double_uuid: str
    network: str
    started: float | None
    """From when it was asked for until libvirt had started the double."""
    answered: float | None
    """The same until its guest's agent answered; None: nobody waited for that, or it did not."""
    up: bool
    """Whether the double is there still."""
    compared: tuple[Compared, ...] = ()
    removed: tuple[str, ...] = ()
    lasted: float | None = None
    """From when it was asked for until everything was removed."""

    @property
    def different(self) -> tuple[Compared, ...]:
        """What is not any more as it was before."""
        return tuple(each for each in self.compared if not each.same)


class Trials(BringingUp):
    """Carries out test failovers."""

    def begin(
        self,
        protection: Protection,
        number: int | None,
        cluster: Cluster,
        asked_by: str,
        *,
        digests: bool = False,
        networks: Mapping[str, str] | None = None,
    ) -> Report:
        """Have a double of a VM run from a restore point (None: the newest), and leave it up.

        ``digests``: have what the replica's images hold compared, too; ``networks``: a network or bridge of the VM →
        an isolated network at the replica's host that nobody but doubles is on. Raises BlockedError, nothing being
        touched; MigrationFailedError where the double could not be started: everything of it is removed.
        """
        point = chosen_point(protection, number)
        _refuse(protection)
        trial = Trial(point.number, str(uuid4()), self._name(protection, point), protection.target, 0.0)
        networks = networks or {}
        refuse_shared(networks.values(), cluster, trial.host, self._doubles())
        definition = self._definition(protection, point, trial, networks)
        with self._job(protection, trial, asked_by, networks) as handle:
            try:
                about = {"host": trial.host, "point": trial.point, "of": protection.vm_uuid}
                pin = self._protections.begin_trial
                handle.perform("pin point", about, lambda: pin(protection.id, trial))
            except BlockedError as error:
                handle.finish("refused", str(error), error.exit_code)
                raise
            try:
                self._look_before(protection, cluster, digests=digests)
                self._bring_up(handle, protection, point, definition)
            except Refusals as error:
                raise self._failed(handle, protection, trial, error) from error
            self._protections.tell_trial(protection.id, started=self._since_begun(protection))
            handle.finish("done", f"{trial.name} runs on {trial.host} from restore point {trial.point}, cut off", 0)
        return self.report(self._protections.get(protection.id))

    def _name(self, protection: Protection, point: RestorePoint) -> str:
        """Return what the double is called: as no double of another replica of the VM is."""
        name = f"{protection.vm_name}-test-{point.number}"
        taken = [each.trial.name for each in self._protections.replicas(protection.vm_uuid) if each.trial is not None]
        return f"{name}-{protection.target}" if name in taken else name

    def _doubles(self) -> frozenset[str]:
        return frozenset(each.trial.uuid for each in self._protections.all() if each.trial is not None)

    @staticmethod
    def _definition(protection: Protection, point: RestorePoint, trial: Trial, networks: Mapping[str, str]) -> str:
        place = f"{protection.directory}/{DIRECTORY}"
        disks = {target: replace(disk, file=f"{DIRECTORY}/{target}.qcow2") for target, disk in point.disks.items()}
        definition = running_on(protection, point, disks, {})
        about = (protection.vm_uuid, point.number)
        return double_of(definition, name=trial.name, uuid=trial.uuid, directory=place, about=about, networks=networks)

    @contextmanager
    def _job(
        self, protection: Protection, trial: Trial, asked_by: str, networks: Mapping[str, str]
    ) -> Iterator[JobHandle]:
        asked = {
            "protection": protection.id,
            "point": trial.point,
            "vm": protection.vm_uuid,
            "networks": dict(networks),
        }
        handle = self._jobs.begin(NewJob(KIND, trial.uuid, trial.name, "", trial.host, asked, asked_by))
        with acting_only_if(handle.assert_may_act), keeping(handle):
            yield handle

    def _look_before(self, protection: Protection, cluster: Cluster, *, digests: bool) -> None:
        with HostShell(self._entries[protection.target]) as there:
            before = looked_at(protection, cluster, Replica(protection, there), digests=digests)
        self._protections.tell_before_trial(protection.id, before)

    def _bring_up(self, handle: JobHandle, protection: Protection, point: RestorePoint, definition: str) -> None:
        host = protection.target
        with HostShell(self._entries[host]) as there:
            double = Replica(_of_double(protection), there)
            for target, disk in point.disks.items():
                double.put_upon(f"../{disk.file}", f"{target}.qcow2")
            domains = self._connections.domains(host)
            definition = ejected(definition, missing_media(there, self._connections.volumes(host), definition))
            define = lambda: domains.define(definition)  # noqa: E731
            uuid = handle.perform("define", {"host": host}, define, lambda uuid: {"uuid": uuid})
            # Copies, in places that are the double's alone.
            firmware.put_in_place(handle, there, protection, point.firmware, definition)
        handle.perform("start", {"host": host}, lambda: domains.start(uuid))

    def _failed(
        self, handle: JobHandle, protection: Protection, trial: Trial, error: MudanzaError
    ) -> MigrationFailedError:
        told = f"the double of VM {protection.vm_name!r} could not be started at {trial.host}: {error}"
        state = "production and replica are as they were; nothing of the double is left"
        try:
            self._remove(handle, protection, trial)
        except Refusals as failure:
            state = f"production and replica are as they were; the double is not removed: {failure}"
            remedy = f"once {trial.host} answers: mudanza test-failover end {protection.vm_name}"
        else:
            remedy = error.remedy or "a real failover would fail for that, too: mend it, and try again"
        handle.finish("failed", told, MigrationFailedError.exit_code)
        return MigrationFailedError(told, vm_state=state, remedy=remedy)

    def await_agent(self, protection: Protection, patience: float, stop: clock.Event) -> bool:
        """Wait until the double's guest answers by its agent, ``patience`` seconds at the most, or until ``stop`` is
        set; return whether it does."""
        trial = _trial_of(protection)
        domains, until = self._connections.domains(trial.host), clock.monotonic() + patience
        while clock.monotonic() < until and not stop.is_set():
            try:
                domains.guest_time(trial.uuid, timeout=AGENT_TIMEOUT)
            except (HypervisorError, HostUnreachableError):
                stop.wait(LOOK_AGAIN)
                continue
            self._protections.tell_trial(protection.id, answered=self._since_begun(protection))
            return True
        return False

    def _since_begun(self, protection: Protection) -> float:
        return self._protections.instant() - _trial_of(self._protections.get(protection.id)).begun_at

    def end(self, protection: Protection, read_cluster: ReadCluster, asked_by: str) -> Report:
        """Take the double away, and compare what there was before with what there is now.

        Raises BlockedError where there is none, or a controller works on it; MigrationFailedError where it could not
        be removed: asked for again, it is tried again; NeedsPersonError where it is on another host by now.
        """
        trial = _trial_of(protection)
        job = self._jobs.unfinished_of(trial.uuid)
        if job is not None and not job.abandoned:
            raise BlockedError(f"a controller works on {trial.name}: job {job.id}", remedy=job.way_out)
        if job is not None:
            handle = self._jobs.take_over(job.id)
            with acting_only_if(handle.assert_may_act), keeping(handle):
                return self._end(handle, protection, trial, read_cluster)
        with self._job(protection, trial, asked_by, self._networks_of(trial)) as handle:
            return self._end(handle, protection, trial, read_cluster)

    def _networks_of(self, trial: Trial) -> Mapping[str, str]:
        """Return which isolated networks a double was given, as its newest job says."""
        job = self._jobs.newest_of(trial.uuid)
        return dict(job.asked.get("networks", {})) if job is not None else {}

    def _end(self, handle: JobHandle, protection: Protection, trial: Trial, read_cluster: ReadCluster) -> Report:
        cluster = read_cluster()
        elsewhere = [vm.host for vm in cluster.vms if vm.uuid == trial.uuid and vm.host != trial.host]
        if elsewhere:
            told = f"{trial.name} was moved to {elsewhere[0]}, with disks of its own there"
            handle.finish("failed", told, NeedsPersonError.exit_code)
            raise NeedsPersonError(told, remedy=f"take it away there, then: mudanza test-failover end {trial.name}")
        try:
            self._take_off(handle, trial)
            with HostShell(self._entries[trial.host]) as there:  # no sooner: it might have written until now
                digests = any("sha256" in how for how in trial.before.values())
                now = self._protections.get(protection.id)
                after = looked_at(now, cluster, Replica(now, there), digests=digests)
            self._drop_images(handle, protection, trial)
        except Refusals as error:
            told = f"{trial.name} could not be removed from {trial.host}: {error}"
            handle.finish("failed", told, MigrationFailedError.exit_code)
            again = f"try again: mudanza test-failover end {protection.vm_name}"
            raise MigrationFailedError(told, vm_state="production is as it was", remedy=again) from error
        removed = (f"{trial.name} on {trial.host}", f"{_of_double(protection).directory} with its images")
        lasted = self._protections.instant() - trial.begun_at
        found = compared(trial.before, after)
        report = replace(self.report(protection), up=False, compared=found, removed=removed, lasted=lasted)
        different = [each.what for each in report.different]
        told = f"{trial.name} is removed; " + (
            f"not as before: {', '.join(different)}" if different else "all as before"
        )
        handle.finish("done", told, 0, {"test": _as_text(report)})
        return report

    def _take_off(self, handle: JobHandle, trial: Trial) -> None:
        domains = self._connections.domains(trial.host)

        def take_off() -> None:
            seen = domains.sighting(trial.uuid)
            if seen.side is Side.UNSEEN:
                raise HostUnreachableError(trial.host, seen.reason)
            if seen.side is Side.PRESENT and seen.state.active:
                domains.destroy(trial.uuid)
            if seen.side is Side.PRESENT:
                domains.undefine(trial.uuid, keep_nvram=False, with_snapshots=True, with_saved_memory=True)

        handle.perform("take off double", {"host": trial.host, "uuid": trial.uuid}, take_off)

    def _remove(self, handle: JobHandle, protection: Protection, trial: Trial) -> None:
        self._take_off(handle, trial)
        self._drop_images(handle, protection, trial)

    def _drop_images(self, handle: JobHandle, protection: Protection, trial: Trial) -> None:
        with HostShell(self._entries[trial.host]) as there:
            double = Replica(_of_double(protection), there)
            about = {"host": trial.host, "path": _of_double(protection).directory}
            handle.perform("unpin point", about, double.remove)
        self._protections.end_trial(protection.id)

    def report(self, protection: Protection) -> Report:
        """Return what is to be told of a double that is up. Raises BlockedError where there is none."""
        trial = _trial_of(protection)
        point = protection.point(trial.point)
        age = trial.begun_at - point.taken_at if point is not None else None
        started, answered = trial.times.get("started"), trial.times.get("answered")
        return Report(
            protection.vm_name, protection.vm_uuid, trial.host, trial.point, age, trial.name, trial.uuid,
            shown(self._networks_of(trial)), started, answered, up=True,
        )  # fmt: skip

    def resume(self, job_id: int, _stop: clock.Event) -> MigrationReport:
        """Take away what a controller that died has left of a test failover.

        Raises NeedsPersonError where it cannot be removed.
        """
        begun, job = clock.monotonic(), self._jobs.get(job_id)
        handle = self._jobs.take_over(job_id)
        with acting_only_if(handle.assert_may_act), keeping(handle):
            protection = self._protections.get(int(job.asked["protection"]))
            if protection.trial is not None and protection.trial.uuid == job.vm_uuid:
                try:
                    self._remove(handle, protection, protection.trial)
                except Refusals as error:
                    told = f"{job.vm_name} could not be removed from {job.target}: {error}"
                    raise left_open(handle, NeedsPersonError(told)) from error
            told = f"{job.vm_name} is removed: its controller died"
            handle.finish("done", told, 0)
        return MigrationReport(
            job.vm_name, job.vm_uuid, job.source, job.target, KIND, clock.monotonic() - begun, None, 0, 0, 0.0, 0,
            tls=False, transport=told,
        )  # fmt: skip

    def clean_up(self, _job_id: int) -> Residue:
        """What such a job leaves, ``mudanza test-failover end`` takes away."""
        return Residue()


def shown(networks: Mapping[str, str]) -> str:
    """Return in words what a double's cards hang on: pure."""
    if not networks:
        return NETWORK
    return f"isolated: {', '.join(f'{one} as {other}' for one, other in networks.items())}; others {NETWORK}"


def refuse_shared(networks: Iterable[str], cluster: Cluster, host: str, doubles: Collection[str]) -> None:
    """Raise BlockedError for a network that leads out of its host, or that somebody is on who is no double: pure."""
    for name in dict.fromkeys(networks):
        found = cluster.host(host).network(name)
        if found is None or not found.active:
            raise BlockedError(f"{host} has no active network {name!r}", remedy="make it there, without <forward>")
        if found.forward is not None:
            raise BlockedError(
                f"network {name!r} at {host} leads out of it ({found.forward}): a double would be seen",
                remedy="name one that is isolated: its definition has no <forward>",
            )
        others = [
            vm.name
            for vm in cluster.vms_on(host)
            if vm.state.active and vm.uuid not in doubles and any(nic.source == name for nic in vm.nics)
        ]
        if others:
            raise BlockedError(
                f"network {name!r} at {host} has VMs on it that are no doubles: {', '.join(others)}",
                remedy="make one that is for tests alone",
            )


def _refuse(protection: Protection) -> None:
    if protection.standing is not Standing.ON:
        raise BlockedError(f"VM {protection.vm_name!r} is {protection.standing}: it runs on its replica already")
    if protection.trial is not None:
        raise BlockedError(
            f"{protection.trial.name} is up already", remedy=f"end it: mudanza test-failover end {protection.vm_name}"
        )


def _trial_of(protection: Protection) -> Trial:
    if protection.trial is None:
        raise BlockedError(
            f"no test failover of VM {protection.vm_name!r} is up",
            remedy=f"begin one: mudanza test-failover {protection.vm_name}",
        )
    return protection.trial


def _of_double(protection: Protection) -> Protection:
    return replace(protection, directory=f"{protection.directory}/{DIRECTORY}")


def _as_text(report: Report) -> Mapping[str, object]:
    return {"point": report.point, "started": report.started, "different": [each.what for each in report.different]}
