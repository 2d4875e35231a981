"""Is the target another machine, and is the VM nowhere else already?"""

from __future__ import annotations

from collections.abc import Iterator

from mudanza.model.finding import Finding
from mudanza.model.migration import Answer
from mudanza.preflight.case import Case
from mudanza.preflight.wording import blocker, mudanza, virsh, vm_key, warning


def same_host(case: Case) -> Iterator[Finding]:
    """The target is where the VM is. Everything else preflight could say would be about the VM itself."""
    if case.target.name == case.source.name:
        yield blocker(
            "target-is-source",
            f"host {case.target.name}",
            f"{case.vm.name} is on {case.source.name} already",
            "name another host: --to HOST (mudanza hosts lists them); or, to move its disks within this one, "
            "the pool they go to: --map-storage A=B",
        )
    elif case.facts.same_machine or _one_uuid(case):
        yield blocker(
            "same-machine",
            f"host {case.target.name}",
            f"{case.source.name} and {case.target.name} seem to be one and the same machine "
            f"(host UUID {case.target.host_uuid or 'unknown'}), and libvirt refuses to migrate within one",
            f"remove one of the names: {mudanza('host', 'remove', case.target.name)}; if they are two machines, set "
            "host_uuid in /etc/libvirt/libvirtd.conf (or virtqemud.conf) of one to a value from uuidgen and restart it",
        )


def _one_uuid(case: Case) -> bool:
    return bool(case.source.host_uuid) and case.source.host_uuid == case.target.host_uuid


def named_alike(case: Case) -> bool:
    """Whether both hosts have one name, and no rehearsal got through all the same (by names libvirt had before)."""
    same = bool(case.source.hostname) and case.source.hostname == case.target.hostname
    return same and case.facts.data_path.answer is not Answer.YES


def host_names(case: Case) -> Iterator[Finding]:
    """libvirt refuses to migrate between hosts that call themselves alike."""
    source, target = case.source, case.target
    if named_alike(case):
        yield blocker(
            "hostname-same",
            f"host {target.name}",
            f"{source.name} and {target.name} both call themselves {target.hostname}, "
            "and libvirt takes them for one machine",
            f"on {target.name}: hostnamectl set-hostname NAME, then restart libvirt",
        )


def already_there(case: Case) -> Iterator[Finding]:
    """The VM's UUID or name is taken at the target."""
    target, key = case.target, case.vm.uuid
    for other in case.cluster.vms_on(target.name):
        if other.uuid == case.vm.uuid and other.state.active:
            yield _runs_elsewhere(case, target.name, str(other.state))
        elif other.uuid == case.vm.uuid:
            yield blocker(
                "uuid-stale",
                f"host {target.name}",
                f"{target.name} lists {case.vm.name} already ({other.state}): an old copy, or left by a failed move",
                f"compare it: {virsh(target, 'dumpxml', '--domain', key)}; if it is not needed: "
                + virsh(target, "undefine", "--domain", key, "--keep-nvram"),
            )
        elif other.name == case.vm.name:
            yield blocker(
                "name-taken",
                f"host {target.name}",
                f"another VM on {target.name} has the name {case.vm.name} (UUID {other.uuid}, {other.state})",
                "rename one of the two while it is shut off: "
                + virsh(target, "domrename", "--domain", vm_key(other), "--new-name", "NEW-NAME"),
            )


def on_third_host(case: Case) -> Iterator[Finding]:
    """The VM stands on a host that is neither source nor target."""
    listed = [vm for vm in case.cluster.vms if vm.uuid == case.vm.uuid]
    for host in case.cluster.hosts:
        if host.name in (case.source.name, case.target.name):
            continue
        if not host.seen and not case.live:
            yield warning(
                "host-unseen",
                f"host {host.name}",
                f"{host.name} did not answer, so whether it runs {case.vm.name} too is not known",
                f"make sure it does not before you start the VM anywhere: {mudanza('hosts')}",
            )
        for other in listed:
            if other.host != host.name:
                continue
            if other.state.active:
                yield _runs_elsewhere(case, host.name, str(other.state))
            else:
                yield warning(
                    "uuid-elsewhere",
                    f"host {host.name}",
                    f"{host.name} lists {case.vm.name} too ({other.state}): started there, it would run twice",
                    f"if it is not needed: {virsh(host, 'undefine', '--domain', case.vm.uuid, '--keep-nvram')}",
                )


def _runs_elsewhere(case: Case, host: str, state: str) -> Finding:
    return blocker(
        "uuid-running",
        f"host {host}",
        f"DANGER: {host} has {case.vm.name} ({case.vm.uuid}) too, {state}: the VM may be running twice, "
        "or a migration has not been settled",
        f"start, resume or destroy nothing before you know which one is right: {mudanza('show', vm_key(case.vm))}",
    )
