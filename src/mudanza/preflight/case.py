"""Everything one preflight looks at, in one immutable place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mudanza.model.cluster import Cluster
from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Facts, MigrationOptions, Probe
from mudanza.model.vm import Disk, Vm
from mudanza.preflight.cargo import Cargo, cargo_of
from mudanza.preflight.mapping import DiskPlan, Resolution
from mudanza.preflight.wording import blocker, warning

Mode = Literal["live", "cold"]
_UNKNOWN = Probe()


@dataclass(frozen=True, slots=True)
class Case:
    """One VM, one pair of hosts, what is asked and what was probed."""

    vm: Vm
    source: Host
    target: Host
    cluster: Cluster
    options: MigrationOptions
    facts: Facts
    mode: Mode
    plan: Resolution

    @property
    def cargo(self) -> Cargo:
        """The files that travel besides what QEMU carries itself."""
        return cargo_of(self.vm, self.source, self.target, self.options, self.plan, live=self.live)

    @property
    def live(self) -> bool:
        """Whether the guest is to run on while it moves."""
        return self.mode == "live"

    @property
    def neighbours(self) -> tuple[Vm, ...]:
        """The other VMs the target lists."""
        return tuple(vm for vm in self.cluster.vms_on(self.target.name) if vm.uuid != self.vm.uuid)

    def file(self, path: str) -> Probe:
        """What is known of that path on the target."""
        return self.facts.files.get(path, _UNKNOWN)

    def has_file(self, path: str) -> bool:
        """Whether that path is known to exist on the target."""
        return self.file(path).answer is Answer.YES

    def planned(self, action: str) -> Iterator[tuple[Disk, DiskPlan]]:
        """Yield each disk with that action, and its plan."""
        plans = {plan.target: plan for plan in self.plan.disks}
        for disk in self.vm.disks:
            plan = plans.get(disk.target)
            if plan is not None and plan.action == action:
                yield disk, plan


def blocks_live(case: Case, code: str, subject: str, message: str, remedy: str) -> Finding:
    """Return what forbids a live move, and is only to be known of in a cold one."""
    level = blocker if case.live else warning
    return level(code, subject, message, remedy)
