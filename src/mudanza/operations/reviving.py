"""VMs whose host is lost with their disks come up from their replicas by themselves, where somebody has said that they
may: by the same failover as for a person, after the same proof as a restart on shared storage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mudanza.availability.deciding import loss_of
from mudanza.journal.audit import Audit
from mudanza.journal.errors import JournalLostError
from mudanza.journal.fences import Fences
from mudanza.journal.outbox import Outbox
from mudanza.journal.protections import Protections
from mudanza.model.errors import BlockedError, HostUnreachableError, MudanzaError
from mudanza.model.notice import Kind
from mudanza.model.protection import Standing
from mudanza.model.units import format_duration
from mudanza.operations.power import refuse_copies
from mudanza.protection.choosing import freshest, unseen
from mudanza.protection.copies import is_old
from mudanza.protection.failover import Failover, Lost

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.model.cluster import Cluster
    from mudanza.model.fencing import Fencing
    from mudanza.model.kept import KeptUp
    from mudanza.model.protection import Protection
    from mudanza.operations.means import Means, Say

LOST_LIMIT = 3.0
"""Seconds that a host which is proven off has to show that it lives after all."""


class Reviver:
    """Brings VMs of lost hosts up from their replicas."""

    def __init__(self, means: Means, asked_by: str, say: Say, once: Say) -> None:
        """``once`` is told what is told only when it was not just before."""
        self._means = means
        self._asked_by = asked_by
        self._say = say
        self._once = once
        self._fences = Fences(means.database)
        self._protections = Protections(means.database)
        self._noticed: set[tuple[str, str]] = set()
        """Which VM it was told of that it is not brought up, and why."""

    def replicated(self) -> frozenset[str]:
        """Return the UUIDs of VMs that have a replica which they could come up from."""
        return frozenset(each.vm_uuid for each in self._protections.all() if each.standing is Standing.ON)

    def left_behind(self, cluster: Cluster) -> frozenset[tuple[str, str]]:
        """Return the UUIDs and hosts of copies that VMs have left by failover, and that are off: a VM that went on at
        another of its replicas since is not to be kept from the next one by them."""
        protected = {each.vm_uuid: each for each in self._protections.all()}
        return frozenset(
            (vm.uuid, vm.host)
            for vm in cluster.vms
            if vm.uuid in protected and not vm.state.active and is_old(vm, protected[vm.uuid])
        )

    def revive(self, connections: Connections, host: str, kept: KeptUp) -> None:
        """Bring a VM of a lost host up, and have it told what is lost. Raises JournalLostError; what keeps it from
        coming up is told."""
        audit, asked = Audit(self._means.database), list[int]()
        try:
            cluster = self._means.read_cluster(connections)
            protection, proof, loss = self._may(host, kept, cluster)
            told = f"at most {format_duration(loss)} of its work are lost with {host}"
            prove = self._prover(connections, protection, host, proof)
            prove()  # what stands against it is no failed try, after which it would have to rest

            def begin() -> None:  # nothing was touched before
                if not asked:
                    who = {"user": self._asked_by, "by": "availability"}
                    asked.append(audit.asked(who, ["failover", kept.name, "--from", host]))
                prove()

            done = Failover(connections, self._means.jobs, self._protections).from_point(
                protection, cluster, None, {}, self._asked_by, Lost(host, proof.id, told, begin)
            )
        except JournalLostError:
            raise
        except MudanzaError as error:
            if asked:
                audit.ended(asked[0], error.exit_code, str(error))
            self._refused(host, kept, error)
            return
        said = f"{kept.name} runs on {done.host} from restore point {done.point} of its replica; {told}"
        audit.ended(asked[0], 0, said)
        self._tell(Kind.VM_FROM_REPLICA, kept, said, {"source": host, "target": done.host, "lost_seconds": loss})
        self._say(said)

    def _may(self, host: str, kept: KeptUp, cluster: Cluster) -> tuple[Protection, Fencing, float]:
        """Return by what it may come up, and how many seconds are lost then. Raises BlockedError where it may not."""
        replicas = self._protections.replicas(kept.uuid)
        if not any(each.newest is not None for each in replicas):
            raise BlockedError(f"{kept.name} has no restore point: it is lost with {host}")
        proof = self._fences.proof_of(host)
        if proof is None or proof.ended_at is None:
            raise BlockedError(f"nobody has shown that {host} is off: {kept.name} may be running there")
        away = {host: "it is lost with that host", **unseen(cluster)}
        away |= {each.name: "that is in maintenance" for each in self._means.inventory.hosts() if each.maintenance}
        protection = freshest(replicas, away)
        assert protection.newest is not None
        loss, most = loss_of(protection.newest.taken_at, proof.ended_at), kept.care.max_loss
        if most is not None and loss > most:
            raise BlockedError(
                f"{kept.name} is not brought up from its replica: {format_duration(loss)} would be lost, and it may "
                f"lose {format_duration(most)}",
                remedy=f"if that is to be lost: mudanza failover {kept.name} --source-is-dead",
            )
        return protection, proof, loss

    def _prover(
        self, connections: Connections, protection: Protection, host: str, proof: Fencing
    ) -> Callable[[], None]:
        """Return what looks once more whether the host is off by the same proof, and nobody else has the VM."""

        def prove() -> None:
            with suppress(HostUnreachableError):
                if connections.get(host, timeout=LOST_LIMIT).answers():
                    self._fences.seen_alive([host])
            now = self._fences.proof_of(host)
            if now is None or now.id != proof.id:
                raise BlockedError(f"nobody has shown any more that {host} is off")
            refuse_copies(
                self._means, connections, protection.vm_uuid, protection.vm_name, protection.target, protection.epoch
            )

        return prove

    def _refused(self, host: str, kept: KeptUp, error: MudanzaError) -> None:
        self._once(f"! {error}" + (f"; {error.remedy}" if error.remedy else ""))
        if (kept.uuid, str(error)) not in self._noticed:
            self._noticed.add((kept.uuid, str(error)))
            self._tell(Kind.VM_LOST, kept, str(error), {"source": host})

    def _tell(self, kind: Kind, kept: KeptUp, said: str, about: dict[str, object]) -> None:
        Outbox(self._means.database).write_down(kind, kept.name, said, {"vm": kept.name, "uuid": kept.uuid, **about})
