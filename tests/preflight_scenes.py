"""Preflight cases built from small changes to a good one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.migration import Facts, MigrationOptions, Mode, Probe
from mudanza.model.vm import Firmware, HostDevice, Snapshot, Vm, VmState
from mudanza.preflight.checklist import check
from tests import factories as make
from tests.factories import IMAGES, OTHER_UUID, YES

PATHS = {
    "emulator": make.EMULATOR,
    "iso": f"{IMAGES}/debian.iso",
    "drive": "/dev/sr0",
    "kernel": "/boot/vmlinuz",
    "loader": "/usr/share/OVMF/OVMF_CODE.fd",
    "nvram": "/var/lib/libvirt/qemu/nvram/web_VARS.fd",
    "template": "/usr/share/OVMF/OVMF_VARS.fd",
    "base": f"{IMAGES}/base.qcow2",
    "serial": "/dev/ttyS0",
}


@dataclass(frozen=True)
class Scene:
    """A case under construction: facts are taken for the VM and target as they stand at the end."""

    vm: Vm = field(default_factory=make.vm)
    source: Host = field(default_factory=lambda: make.host("h1"))
    target: Host = field(default_factory=lambda: make.host("h2"))
    more_hosts: tuple[Host, ...] = ()
    others: tuple[Vm, ...] = ()
    options: MigrationOptions = field(default_factory=MigrationOptions)
    probed: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Probe] = field(default_factory=dict)
    mode: Mode = Mode.LIVE

    @property
    def facts(self) -> Facts:
        facts = make.facts(self.vm, self.target)
        return replace(replace(facts, files={**facts.files, **self.files}), **self.probed)

    def findings(self) -> tuple[Finding, ...]:
        cluster = make.cluster((self.source, self.target, *self.more_hosts), (self.vm, *self.others))
        options = replace(self.options, mode=self.mode)
        return check(self.vm, self.source, self.target, cluster, options, self.facts)


Change = Callable[[Scene], Scene]


def vm(**changes: Any) -> Change:
    return lambda scene: replace(scene, vm=replace(scene.vm, **changes))


def disk(**changes: Any) -> Change:
    return vm(disks=(make.disk(**changes),))


def iso(**changes: Any) -> Change:
    return vm(disks=(make.disk(), make.iso(**changes)))


def nic(**changes: Any) -> Change:
    return vm(nics=(make.nic(**changes),))


def device(kind: str, **changes: Any) -> Change:
    return vm(host_devices=(HostDevice(kind, f"some {kind}", **changes),))


def source(**changes: Any) -> Change:
    return lambda scene: replace(scene, source=replace(scene.source, **changes))


def target(**changes: Any) -> Change:
    return lambda scene: replace(scene, target=replace(scene.target, **changes))


def target_entry(**changes: Any) -> Change:
    return lambda scene: replace(scene, target=replace(scene.target, entry=replace(scene.target.entry, **changes)))


def neighbour(**changes: Any) -> Change:
    """Another VM at the target."""
    base = {"uuid": OTHER_UUID, "name": "other", "host": "h2", "nics": (), "disks": (), **changes}
    return lambda scene: replace(scene, others=(make.vm(**base),))


def third(host_changes: dict[str, Any] | None = None, **twin: Any) -> Change:
    """A third host, which lists the VM too where ``twin`` says how."""
    others = (make.vm(host="h3", **twin),) if twin else ()
    third_host = make.host("h3", **(host_changes or {}))
    return lambda scene: replace(scene, more_hosts=(third_host,), others=others)


def facts(**changes: Any) -> Change:
    return lambda scene: replace(scene, probed=changes)


def lookup(**changes: Probe) -> Change:
    """The answer for the one path that matters in the example."""
    return lambda scene: replace(scene, files={PATHS[name]: probe for name, probe in changes.items()})


def options(**changes: Any) -> Change:
    return lambda scene: replace(scene, options=replace(scene.options, **changes))


def in_place(scene: Scene) -> Scene:
    """Its disks are to move to another pool of the host it is on."""
    host = replace(scene.source, pools=(make.pool(), make.pool(name="fast", path="/fast")))
    return replace(scene, source=host, target=host, options=replace(scene.options, map_storage={"images": "fast"}))


def cold(scene: Scene) -> Scene:
    state = scene.vm.state if scene.vm.state is not VmState.RUNNING else VmState.SHUTOFF
    return replace(scene, mode=Mode.COLD, vm=replace(scene.vm, state=state, reason="shutdown"))


def all_of(*changes: Change) -> Change:
    def apply(scene: Scene) -> Scene:
        for change in changes:
            scene = change(scene)
        return scene

    return apply


UEFI = Firmware(PATHS["loader"], PATHS["nvram"], PATHS["template"])
SHARED = facts(shared={"vda": YES})
NETWORK_CARD = {"kind": "network", "source": "lan"}
SNAPSHOT = Snapshot("before", external=False, current=True)
