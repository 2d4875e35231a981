"""Whether a plan for recovery could be carried out as things are: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.finding import Finding, Level
from mudanza.model.protection import Protection, Standing
from mudanza.model.recovery import Await, Machine, RecoveryPlan
from mudanza.model.units import format_duration, format_size
from mudanza.model.vm import Vm, VmState
from mudanza.protection.addressing import cards_of
from mudanza.protection.choosing import planned_for, unseen

LATE = 2
"""Of how many intervals a restore point may be old before it is said to be late."""


def findings_of(
    plan: RecoveryPlan,
    protections: Sequence[Protection],
    cluster: Cluster,
    *,
    planned: bool = False,
    scripts: Mapping[str, str] | None = None,
) -> tuple[Finding, ...]:
    """Return everything that stands against a plan. ``planned``: the VMs' own hosts live; ``scripts``: those that this
    controller cannot run, and why."""
    named: dict[str, list[Protection]] = {}
    for each in protections:
        for name in (each.vm_uuid, each.vm_name):
            named.setdefault(name, []).append(each)
    away = unseen(cluster)

    def runs(protection: Protection) -> bool:
        there = [vm for vm in cluster.vms if vm.uuid == protection.vm_uuid and vm.host == protection.target]
        return any(vm.state.active for vm in there)

    found = [
        _blocker("script-not-there", f"script {name}", why, "put it into the controller's settings: [hooks.NAME]")
        for name, why in (scripts or {}).items()
    ]
    arriving: dict[str, int] = {}
    for group in plan.groups:
        for vm in group.vms:
            if vm not in named:
                found.append(_blocker("not-protected", f"VM {vm}", "it is not protected", "mudanza protect"))
                continue
            try:
                protection = planned_for(named[vm], plan.host_of(vm), away, runs)
            except (BlockedError, UsageError) as error:
                found.append(_blocker("no-replica-there", f"VM {vm}", str(error), error.remedy))
                continue
            if protection.standing is Standing.FAILED_OVER:
                found += _of_one_there(protection, cluster)
                continue
            found += _of_vm(protection, plan.networks_of(vm, group), cluster, planned=planned)
            if protection.newest is not None:
                found += _of_guest(protection, plan.machines.get(vm))
                arriving[protection.target] = arriving.get(protection.target, 0) + _there(protection).memory
        known = {name for vm in plan.vms for each in named.get(vm, ()) for name in (vm, each.vm_name, each.vm_uuid)}
        for wait in (*group.before, *group.waits):
            if wait.kind is Await.AGENT and wait.what not in known:
                said = f"it waits for the agent of {wait.what}, which is none of the plan's VMs"
                found.append(_blocker("wait-unknown", f"group {group.name}", said, "name one that is"))
    return (*found, *_memory(arriving, cluster))


def _of_one_there(protection: Protection, cluster: Cluster) -> Iterator[Finding]:
    """Yield what is the matter with a VM that has come up from its replica before: it may be off by now."""
    copies = [vm for vm in cluster.vms if vm.uuid == protection.vm_uuid]
    if any(vm.state.active for vm in copies):
        return
    subject, host = f"VM {protection.vm_name}", protection.target
    if host in (away := unseen(cluster)):
        yield _blocker("host-not-seen", subject, f"{host}, where it has come up before: {away[host]}", "mudanza hosts")
        return
    said = f"it has come up at {host} before, and does not run: it is started where it is"
    yield Finding(Level.WARNING, "off-there", subject, said, "look why it went off: mudanza vms")


def _of_guest(protection: Protection, machine: Machine | None) -> Iterator[Finding]:
    """Yield what keeps a guest from getting the addresses that its plan has for it."""
    if machine is None or not machine.addresses or protection.newest is None:
        return
    subject = f"VM {protection.vm_name}"
    try:
        cards_of(machine, protection.newest.definition)
    except BlockedError as error:
        yield _blocker("card-unclear", subject, str(error), error.remedy)
    if not _there(protection).guest_agent:
        said = "its guest is to get other addresses, and it has no channel for QEMU's guest agent"
        yield _blocker(
            "no-agent", subject, said, "give it one (org.qemu.guest_agent.0), and the agent; or leave it out"
        )


def _of_vm(
    protection: Protection, networks: Mapping[str, str], cluster: Cluster, *, planned: bool
) -> Iterator[Finding]:
    subject = f"VM {protection.vm_name}"
    newest, lag = protection.newest, protection.lag
    if protection.is_stale:
        said = f"its replica at {protection.target} is of before it came up elsewhere: what was written since is lost"
        yield Finding(Level.WARNING, "replica-stale", subject, said, "mudanza protection sync")
    if newest is None or lag is None:
        yield _blocker("no-point", subject, "it has no restore point yet", "mudanza protection sync")
        return
    if lag > LATE * protection.every:
        said = f"its newest restore point is {format_duration(lag)} old, and was to be {protection.every:g} s"
        yield Finding(Level.WARNING, "replica-late", subject, said, "see why: mudanza protections")
    if protection.trial is not None:
        said = f"a test failover of it is up and takes up memory: {protection.trial.name}"
        yield Finding(Level.WARNING, "test-up", subject, said, "mudanza test-failover end")
    running = [vm for vm in cluster.vms if vm.uuid == protection.vm_uuid and vm.state.active]
    if planned and len(running) != 1:
        yield _blocker("not-running", subject, "no one host says that it runs there", "look: mudanza vms")
    host = next((each for each in cluster.hosts if each.name == protection.target), None)
    if host is None or not host.seen:
        why = host.error if host is not None else "there is no such host"
        yield _blocker("host-not-seen", subject, f"{protection.target}, where its replica is, was not seen: {why}",
                       "mudanza hosts")  # fmt: skip
        return
    for nic in _there(protection).nics:
        if nic.source is None or nic.kind not in ("network", "bridge"):
            continue
        wanted = networks.get(nic.source, nic.source)
        network = host.network(wanted) if nic.kind == "network" else None
        there = network is not None and network.active if nic.kind == "network" else (
            host.interfaces is None or wanted in host.interfaces)  # fmt: skip
        if not there:
            said = f"{host.name} has no active {nic.kind} {wanted!r}"
            yield _blocker(
                "network-missing", subject, said, f"make it there, or map it: networks = {{ {nic.source} = … }}"
            )


def _memory(arriving: dict[str, int], cluster: Cluster) -> Iterator[Finding]:
    for host in cluster.hosts:
        wanted = arriving.get(host.name, 0)
        if host.seen and wanted > host.memory_free:
            said = f"these VMs may take {format_size(wanted)} of memory, and {format_size(host.memory_free)} is free"
            yield _blocker("memory", f"host {host.name}", said, "make room there: mudanza drain, shutdown")


def _there(protection: Protection) -> Vm:
    """Return a VM as its newest restore point has it."""
    assert protection.newest is not None
    return parse_vm(protection.newest.definition, host=protection.target, state=VmState.SHUTOFF)


def _blocker(code: str, subject: str, message: str, remedy: str) -> Finding:
    return Finding(Level.BLOCKER, code, subject, message, remedy)
