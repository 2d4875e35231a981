"""Reading hosts, claims and our own left-overs into a journal that knows nothing of them."""

from __future__ import annotations

from contextlib import suppress

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.own.leftovers import carriers_on, remove_tool, tools_on
from mudanza.journal.jobs import Jobs
from mudanza.migration.rebuild.adoption import Found, adopted, paths_of
from mudanza.migration.rebuild.orphans import (
    Orphan,
    find_orphans,
    is_ours_at_target,
    sighting_in,
)
from mudanza.migration.vm_claim import VmClaim, is_void
from mudanza.model.claim import Claim
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, HostUnreachableError, HypervisorError
from mudanza.model.tool import Tool


class Rebuild:
    """Finds what is nobody's in one picture of the cluster, and makes it this journal's, or takes it away."""

    def __init__(self, connections: Connections, jobs: Jobs, cluster: Cluster) -> None:
        self._connections = connections
        self._jobs = jobs
        self._cluster = cluster

    def find(self) -> tuple[Orphan, ...]:
        """Return everything that is nobody's on the hosts that were seen. Raises nothing for one that is silent now."""
        claims = [claim for vm in self._cluster.vms for claim in vm.claims]
        ended = [claim.job for claim in claims if is_void(self._jobs, claim)]
        unfinished = {job.id: job.vm_uuid for job in self._jobs.unfinished(brief=True)}
        return find_orphans(self._cluster, self._jobs.journal, ended, unfinished, self._tools())

    def _tools(self) -> list[Tool]:
        found: list[Tool] = []
        for host in self._cluster.hosts:
            if host.seen:
                with suppress(
                    HypervisorError, HostUnreachableError
                ):  # it was seen a moment ago, and a repeat looks again
                    found += tools_on(self._connections.get(host.name))
        return found

    def adopt(self, orphan: Orphan, by: str) -> int:
        """Make a job of this journal of a claim whose holder shows no sign of life; return its number.

        Nothing of the VM is touched but the claim on it. Raises BlockedError when its holder seems to live or the
        claim cannot be understood; HypervisorError, HostUnreachableError.
        """
        claim = orphan.claim
        if claim is None or not orphan.adoptable:
            raise BlockedError(f"{orphan.name} cannot be adopted: {orphan.would}", remedy="put it right by hand")
        new, steps = adopted(self._found(orphan, claim), by)
        number = self._jobs.adopt(new, steps)
        handle = self._jobs.take_over(number)
        VmClaim(self._connections, self._jobs, handle, steps[0][1]).take(over=claim)
        handle.let_go("adopted")
        if claim.kind == "cold":
            # What it had decided about the target's definition is lost: the VM goes back, unless it is too late.
            self._jobs.ask_to_cancel(number, by)
        return number

    def _found(self, orphan: Orphan, claim: Claim) -> Found:
        copies = {vm.host: vm for vm in self._cluster.vms if vm.uuid == orphan.uuid}
        vm = copies.get(claim.source) or copies[orphan.where[0]]
        carriers = [
            name
            for host in dict.fromkeys((claim.source, claim.target))
            for name in carriers_on(self._connections.get(host), paths_of(claim))
        ]
        return Found(
            claim=claim,
            uuid=vm.uuid,
            name=vm.name,
            source=sighting_in(self._cluster, claim.source, vm.uuid),
            target=sighting_in(self._cluster, claim.target, vm.uuid),
            xml=vm.inactive_xml or vm.xml,
            defined=claim.kind == "cold" and is_ours_at_target(self._cluster, claim, vm.uuid),
            carriers=tuple(dict.fromkeys(carriers)),
        )

    def take_off(self, orphan: Orphan) -> None:
        """Take the claim of an ended job off its VM. Raises HypervisorError, HostUnreachableError."""
        for host in orphan.where:
            domains = self._connections.domains(host)
            for claim in domains.claims(orphan.uuid):
                if is_void(self._jobs, claim):
                    domains.drop_claim(orphan.uuid, claim.journal)

    def remove_tool(self, tool: Tool) -> None:
        """Take a throw-away thing of ours away. Raises HypervisorError, HostUnreachableError."""
        remove_tool(self._connections.get(tool.host), tool)
