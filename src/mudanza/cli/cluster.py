"""``mudanza hosts``, ``vms`` and ``show``: what is where."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mudanza.cli.context import App, app_of
from mudanza.cli.options import Output, Tag, VmName
from mudanza.cli.output import Format, console, print_data, print_rows
from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.units import format_size, format_version
from mudanza.model.vm import Disk, Nic, Vm
from mudanza.model.wishes import VmWishes


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("hosts")(hosts)
    app.command("vms")(vms)
    app.command("show")(show)


def _read(context: typer.Context) -> Cluster:
    app = app_of(context)
    app.begin_to_connect()
    return app.picture()


def hosts(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List the hosts with what they have and what is free."""
    cluster = _read(context)
    away = _away(app_of(context)) if any(not host.seen for host in cluster.hosts) else {}
    rows = [{**_host_row(host, cluster), **away.get(host.name, {})} for host in cluster.hosts]
    columns = (
        "name",
        "state",
        "vms",
        "cpus",
        "memory",
        "free",
        "cpu model",
        "libvirt",
        "qemu",
        "storage free",
    )
    print_rows(rows, output, columns=columns, data=cluster.hosts)


def _away(app: App) -> dict[str, dict[str, str]]:
    """Return what is to be shown of hosts that are off on purpose."""
    last = {each.host: each.last for each in app.asked.powers() if each.last is not None}
    return {host: {"state": str(each.standing)} for host, each in last.items() if each.standing.away}


def _host_row(host: Host, cluster: Cluster) -> dict[str, Any]:
    if not host.seen:
        return {"name": host.name, "state": "not seen"}
    pools = [pool for pool in host.pools or () if pool.active]
    return {
        "name": host.name,
        "state": "maintenance" if host.entry.maintenance else "up",
        "vms": sum(vm.state.active for vm in cluster.vms_on(host.name)),
        "cpus": host.cpus,
        "memory": format_size(host.memory_total),
        "free": format_size(host.memory_free),
        "cpu model": host.cpu_model,
        "libvirt": format_version(host.libvirt_version),
        "qemu": format_version(host.qemu_version),
        "storage free": [
            f"{pool.name} {format_size(pool.available)}" for pool in sorted(pools, key=lambda pool: pool.name)
        ],
    }


def vms(
    context: typer.Context,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="Only those on this host.")] = None,
    tag: Tag = None,
    output: Output = Format.TABLE,
) -> None:
    """List the VMs and where they are."""
    cluster = _read(context)
    if host is not None:
        cluster.host(host)
    found = [vm for vm in cluster.vms if (host is None or vm.host == host) and (not tag or set(tag) & set(vm.tags))]
    found.sort(key=lambda vm: (vm.name, vm.uuid, vm.host))
    rows = [_vm_row(vm) for vm in found]
    columns = ("name", "host", "state", "vcpus", "memory", "disks", "job", "claim", "tags")
    print_rows(rows, output, columns=columns, data=found, empty="no such VM" if host or tag else "no VM is there")


def _vm_row(vm: Vm) -> dict[str, Any]:
    return {
        "name": vm.name,
        "host": vm.host,
        "state": str(vm.state),
        "vcpus": vm.vcpus,
        "memory": format_size(vm.memory),
        "disks": format_size(sum(disk.capacity or 0 for disk in vm.disks)),
        "job": vm.job,
        "claim": [f"{claim.name} ({claim.controller})" for claim in vm.claims],
        "tags": vm.tags,
    }


def show(context: typer.Context, vm: VmName, output: Output = Format.TABLE) -> None:
    """Show everything known about one VM."""
    found = _read(context).find(vm)
    if output is Format.NAME:
        print_rows([{"name": found.name}], output, columns=("name",))
        return
    if output is not Format.TABLE:
        print_data(found, output)
        return
    for label, value in _details(found):
        console().print(f"{label:<12}{value}", soft_wrap=True)


def _details(vm: Vm) -> list[tuple[str, str]]:
    lines = [
        ("name", vm.name + (f" ({vm.title})" if vm.title else "")),
        ("uuid", vm.uuid),
        ("host", vm.host),
        ("state", f"{vm.state} ({vm.reason})" if vm.reason else str(vm.state)),
        ("definition", "persistent" if vm.persistent else "transient: it is gone when it stops"),
        ("autostart", "yes" if vm.autostart else "no"),
        (
            "cpus",
            f"{vm.vcpus}, {vm.cpu_mode or 'hypervisor default'}, {vm.domain_type}, {vm.arch} {vm.machine}",
        ),
        ("memory", f"{format_size(vm.memory)}" + _used(vm)),
    ]
    lines += [("disk", _disk_line(disk)) for disk in vm.disks]
    lines += [("network", _nic_line(nic)) for nic in vm.nics]
    lines += [("device", f"{device.kind} {device.description}") for device in vm.host_devices]
    lines += [("display", f"{each.kind} on {each.listen or 'the default address'}") for each in vm.graphics]
    lines += [("snapshot", each.name + (" (current)" if each.current else "")) for each in vm.snapshots]
    lines += [("checkpoint", name) for name in vm.checkpoints]
    if vm.firmware:
        lines.append(("firmware", f"{vm.firmware.loader or 'default'}, NVRAM {vm.firmware.nvram or 'none'}"))
    if vm.tpm:
        lines.append(("tpm", f"{vm.tpm.model}, {vm.tpm.backend}"))
    if vm.job:
        lines.append(("job", vm.job))
    lines += [("claim", claim.in_words) for claim in vm.claims]
    if vm.tags:
        lines.append(("tags", ", ".join(vm.tags)))
    if vm.wishes:
        lines += [("wishes", f"{name} {text}{_fault(vm.wishes, name)}") for name, text in vm.wishes.said.items()]
    return lines


def _fault(wishes: VmWishes, name: str) -> str:
    return f" (cannot be heeded: {wishes.faults[name]})" if name in wishes.faults else ""


def _used(vm: Vm) -> str:
    return f", QEMU occupies {format_size(vm.memory_used)}" if vm.memory_used else ""


def _disk_line(disk: Disk) -> str:
    size = f", {format_size(disk.capacity)}" if disk.capacity is not None else ""
    if disk.allocation is not None:
        size += f" ({format_size(disk.allocation)} allocated)"
    where = f", pool {disk.pool}" if disk.pool else ""
    chain = "".join(f" ← {image.path}" for image in disk.backing)
    marks = "".join(f", {word}" for word, on in (("read-only", disk.readonly), ("shareable", disk.shareable)) if on)
    return f"{disk.target} {disk.device} {disk.source or 'empty'}{chain} ({disk.format}{size}{where}{marks})"


def _nic_line(nic: Nic) -> str:
    vlans = f", VLAN {', '.join(map(str, nic.vlans))}" if nic.vlans else ""
    return f"{nic.mac} {nic.kind} {nic.source or ''} ({nic.model or 'default model'}{vlans})"
