"""Whom rules mean: names, UUIDs, tags and zones, looked up in one snapshot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mudanza.model.host import Host
from mudanza.model.vm import Vm


class Directory:
    """Finds VMs and hosts by what rules call them; ``unknown`` collects what nobody answers to."""

    def __init__(self, vms: Sequence[Vm], hosts: Sequence[Host], zones: Mapping[str, tuple[str, ...]]) -> None:
        self.unknown: list[str] = []
        self._vms: dict[str, list[int]] = defaultdict(list)
        self._hosts: dict[str, list[int]] = defaultdict(list)
        for number, vm in enumerate(vms):
            for key in {vm.name, vm.uuid, *(f"tag:{tag}" for tag in vm.tags)}:
                self._vms[key].append(number)
        for number, host in enumerate(hosts):
            for key in {host.name, *(f"tag:{tag}" for tag in host.entry.tags)}:
                self._hosts[key].append(number)
        places = {host.name: number for number, host in enumerate(hosts)}
        for zone, members in zones.items():
            self._hosts[f"zone:{zone}"] = [places[name] for name in members if name in places]

    def vms(self, names: Iterable[str], asked_by: str) -> list[int]:
        """Return the numbers of the VMs meant, each once, in order."""
        return self._found(names, self._vms, f"{asked_by} names VM", "no host that answers lists")

    def hosts(self, names: Iterable[str], asked_by: str) -> list[int]:
        """Return the numbers of the hosts meant, each once, in order."""
        return self._found(names, self._hosts, f"{asked_by} names host", "nobody has added")

    def _found(self, names: Iterable[str], known: Mapping[str, list[int]], who: str, why: str) -> list[int]:
        found: set[int] = set()
        for name in names:
            there = known.get(name, ())
            if not there and not name.startswith(("tag:", "zone:")):
                self.unknown.append(f"{who} {name}, which {why}")
            found.update(there)
        return sorted(found)
