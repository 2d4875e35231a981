"""VMs that must not be in one place: by rules, and because a host has each name, port and vsock address only once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from mudanza.model.rules import RuleKind, Rules
from mudanza.model.vm import Vm
from mudanza.planning.naming import Directory
from mudanza.planning.problem import Counts, Numbers, Row


class Groups:
    """Rows in which units count, and rows that keep them away. See ``Problem``."""

    def __init__(
        self,
        rules: Rules,
        directory: Directory,
        units: Sequence[tuple[int, ...]],
        unit_of: Mapping[int, int],
        hosts: int,
    ) -> None:
        self.rows: list[Row] = []
        self._units, self._unit_of, self._hosts = len(units), unit_of, hosts
        self._adds: dict[int, set[int]] = defaultdict(set)
        self._blocked: dict[int, set[int]] = defaultdict(set)
        self._fixed: list[tuple[int, int]] = []
        for rule in rules.rules:
            asked_by = f"rule {rule.name!r}"
            zonal = rule.across == "zone"
            if rule.kind is RuleKind.APART:
                self._apart(Row(rule.name, zonal), directory.vms(rule.vms, asked_by))
            elif rule.kind is RuleKind.GROUPS_APART:
                one, other = directory.vms(rule.vms, asked_by), directory.vms(rule.others, asked_by)
                self._between(Row(rule.name, zonal), one, other)
                self._between(Row(rule.name, zonal), other, one)

    def _apart(self, row: Row, vms: Sequence[int]) -> None:
        self._between(row, vms, vms)

    def _between(self, row: Row, counted: Sequence[int], kept_away: Sequence[int]) -> None:
        number = len(self.rows)
        self.rows.append(row)
        for vm in counted:
            self._adds[self._unit_of[vm]].add(number)
        for vm in kept_away:
            self._blocked[self._unit_of[vm]].add(number)

    def add_clashes(
        self, vms: Sequence[Vm], doubles: Sequence[Vm], off: Sequence[Vm], places: Mapping[str, int]
    ) -> None:
        """Add what preflight would find in neighbours: names, UUIDs, vsock addresses and display ports taken."""
        clashing: dict[str, list[int]] = defaultdict(list)
        mine: dict[str, list[int]] = defaultdict(list)
        for number, vm in enumerate(vms):
            mine[vm.uuid].append(number)
            clashing[f"the name {vm.name}"].append(number)
            if vm.vsock_cid is not None:
                clashing[f"vsock address {vm.vsock_cid}"].append(number)
            for display in vm.graphics:
                if not display.autoport and display.port is not None:
                    clashing[f"display port {display.port}"].append(number)
        for name, members in clashing.items():
            if len(members) > 1:
                self._apart(Row(name), members)
        for other in (*doubles, *off):
            here = [number for number in mine.get(other.uuid, ()) if vms[number].host != other.host]
            if here:
                self._keep_off(Row(f"an old copy of {other.name}"), here, places[other.host])
            named = [n for n in clashing.get(f"the name {other.name}", ()) if vms[n].uuid != other.uuid]
            if named:
                self._keep_off(Row(f"the name {other.name}"), named, places[other.host])

    def _keep_off(self, row: Row, vms: Sequence[int], host: int) -> None:
        self._fixed.append((len(self.rows), host))
        self._between(row, (), vms)

    @property
    def adds(self) -> Numbers:
        """The rows each unit counts in, padded."""
        return self._padded(self._adds)

    @property
    def blocked_by(self) -> Numbers:
        """The rows that keep each unit away, padded."""
        return self._padded(self._blocked)

    @property
    def fixed(self) -> Counts:
        """Who counts there whatever is moved."""
        counts = np.zeros((len(self.rows) + 1, self._hosts), dtype=np.int16)
        for row, host in self._fixed:
            counts[row, host] += 1
        return counts

    def _padded(self, of_unit: Mapping[int, set[int]]) -> Numbers:
        width = max((len(rows) for rows in of_unit.values()), default=0)
        padded = np.full((self._units, width), len(self.rows), dtype=np.int64)
        for unit, rows in of_unit.items():
            padded[unit, : len(rows)] = sorted(rows)
        return padded
