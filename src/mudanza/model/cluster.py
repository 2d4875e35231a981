"""One immutable picture of all hosts and their VMs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.host import Host
from mudanza.model.vm import Vm


@dataclass(frozen=True, slots=True)
class Cluster:
    """All hosts, and every domain each of them lists (a VM in migration may stand there twice)."""

    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]

    def host(self, name: str) -> Host:
        """Return the host of that name. Raises UsageError naming the known ones."""
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts) or "none"
        raise UsageError(f"there is no host {name!r} (known: {known})", remedy="add it: mudanza host add NAME URI")

    def vms_on(self, host: str) -> tuple[Vm, ...]:
        """Return the domains a host lists."""
        return tuple(vm for vm in self.vms if vm.host == host)

    def with_hosts(self, seen: Cluster) -> Cluster:
        """Return it with some hosts, and what they list, as they were seen since; one that is new is added."""
        again = {host.name: host for host in seen.hosts}
        hosts = [again.pop(host.name, host) for host in self.hosts]
        anew = {host.name for host in seen.hosts}
        vms = tuple(vm for vm in self.vms if vm.host not in anew)
        return Cluster((*hosts, *again.values()), vms + seen.vms)

    def only(self, names: Collection[str]) -> Cluster:
        """Return it without all other hosts and what they list."""
        hosts = tuple(host for host in self.hosts if host.name in names)
        return Cluster(hosts, tuple(vm for vm in self.vms if vm.host in names))

    def find(self, wanted: str, *, bound_for: str | None = None) -> Vm:
        """Return the one VM with that name or UUID. Raises UsageError for none, or for several, and
        BlockedError for none while a host was not seen: it may be there.

        Of a VM that two hosts list while only one runs it, the running one is meant; while none does, that which is no
        copy that it has left by failover. Of several that are to go to
        the host ``bound_for`` the one that is not there: preflight says what is the matter with the other.
        """
        found = [vm for vm in self.vms if wanted in (vm.name, vm.uuid)]
        if len({vm.uuid for vm in found}) == 1:
            active = [vm for vm in found if vm.state.active]
            newest = [vm for vm in found if vm.epoch == max(each.epoch for each in found)]
            chosen = active or newest
            found = chosen if len(chosen) == 1 else found
        if bound_for is not None and len(found) > 1:
            found = [vm for vm in found if vm.host != bound_for]
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(f"{vm.host} ({vm.state}, {vm.uuid})" for vm in found)
            claims = [claim for vm in found for claim in vm.claims]
            if claims:
                remedy = f"leave it alone, it is on its way: {claims[0].in_words}"
            elif len({vm.uuid for vm in found}) == 1:
                remedy = "it is one VM defined twice: keep the right one, `virsh undefine --keep-nvram` the other"
            else:
                remedy = "name it by UUID"
            raise UsageError(f"{wanted!r} is ambiguous: {places}", remedy=remedy)
        unseen = ", ".join(host.name for host in self.hosts if not host.seen)
        if unseen:
            raise BlockedError(
                f"no host that answers lists a VM {wanted!r}; not seen: {unseen}",
                remedy="mend what keeps the host from answering, and try again",
            )
        raise UsageError(f"no host lists a VM {wanted!r}", remedy="see what is where: mudanza vms")


@dataclass(frozen=True, slots=True)
class Known:
    """A picture of all hosts that somebody has taken, and not just now."""

    cluster: Cluster
    age: float
    """Seconds since the first of its hosts was read."""
