"""``mudanza start``, ``shutdown`` and ``console``."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza.cli.context import App, app_of
from mudanza.cli.options import Tag, VmName, VmNames, choose_vms
from mudanza.cli.output import say
from mudanza.model.errors import BlockedError, HostUnreachableError, MigrationFailedError, MudanzaError, UsageError
from mudanza.model.migration import Side
from mudanza.model.units import format_duration
from mudanza.model.vm import Vm

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.hypervisor.console import Console

LOOK_AGAIN = 0.3
"""Seconds between two looks whether a guest is off."""
ESCAPE = b"\x1d"
"""Ctrl-], which leaves the console, as in virsh."""

_DOUBTS = {Side.PRESENT: "has it too", Side.UNSEEN: "could not be asked"}

PARTLY = 7


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("start")(start)
    app.command("shutdown")(shutdown)
    app.command("console")(console)


def _chosen(
    app: App, connections: Connections, names: Sequence[str] | None, tags: Sequence[str] | None
) -> tuple[Vm, ...]:
    cluster = app.read_cluster(connections)
    return choose_vms(cluster, names, tags)


def _each(vms: Sequence[Vm], errors: Sequence[MudanzaError]) -> None:
    """Tell every error and leave with the exit code for one or several VMs."""
    from mudanza.cli.main import show_error

    for error in errors:
        show_error(error)
    if errors:
        raise typer.Exit(PARTLY if len(errors) < len(vms) else max(error.exit_code for error in errors))


def start(context: typer.Context, vms: VmNames = None, tag: Tag = None) -> None:
    """Start VMs that are off, each on the host it is defined on."""
    app = app_of(context)
    errors: list[MudanzaError] = []
    with app.connections() as connections:
        chosen = _chosen(app, connections, vms, tag)
        for vm in chosen:
            try:
                _start(app, connections, vm)
            except MudanzaError as error:
                errors.append(error)
    _each(chosen, errors)


def _start(app: App, connections: Connections, vm: Vm) -> None:
    if vm.state.active:
        say(f"{vm.name} runs on {vm.host} already: nothing to do")
        return
    job = app.jobs.unfinished_of(vm.uuid)
    if job is not None:
        raise BlockedError(
            f"VM {vm.name!r} has an unfinished job, number {job.id}: it may be running elsewhere",
            remedy=f"finish that first: mudanza job resume {job.id}",
        )
    others = [entry.name for entry in app.inventory.hosts() if entry.name != vm.host]
    sides = {host: _side(app, connections, host, vm.uuid) for host in others}
    doubts = [f"{host} {_DOUBTS[side]}" for host, side in sides.items() if side in _DOUBTS]
    if doubts:
        raise BlockedError(
            f"VM {vm.name!r} was not started on {vm.host}: {', '.join(doubts)}",
            remedy="look where it is: mudanza vms; two running copies would destroy its disks",
        )
    connections.domains(vm.host).start(vm.uuid)
    say(f"{vm.name} started on {vm.host}")


def _side(app: App, connections: Connections, host: str, uuid: str) -> Side:
    """Return what a host says of a VM; one that cannot be asked says nothing."""
    try:
        return connections.domains(host).sighting(uuid, timeout=app.loaded.settings.limits.read).side
    except HostUnreachableError:
        return Side.UNSEEN


def shutdown(
    context: typer.Context,
    vms: VmNames = None,
    tag: Tag = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until they are off.")] = True,
) -> None:
    """Ask VMs to shut down; they are never cut off."""
    app = app_of(context)
    errors: list[MudanzaError] = []
    with app.connections() as connections:
        chosen = _chosen(app, connections, vms, tag)
        asked = []
        for vm in chosen:
            if not vm.state.active:
                say(f"{vm.name} is off already: nothing to do")
                continue
            try:
                connections.domains(vm.host).shutdown(vm.uuid)
                asked.append(vm)
                if not wait:
                    say(f"{vm.name} on {vm.host} was asked to shut down")
            except MudanzaError as error:
                errors.append(error)
        if wait:
            errors += _wait_until_off(app, connections, asked)
    _each(chosen, errors)


def _wait_until_off(app: App, connections: Connections, vms: Sequence[Vm]) -> list[MudanzaError]:
    limit = app.loaded.settings.limits.shutdown
    until = time.monotonic() + limit
    waiting = list(vms)
    while waiting and time.monotonic() < until:
        for vm in tuple(waiting):
            seen = connections.domains(vm.host).sighting(vm.uuid, timeout=app.loaded.settings.limits.read)
            if seen.side is Side.ABSENT or (seen.side is Side.PRESENT and not seen.state.active):
                waiting.remove(vm)
                say(f"{vm.name} is off")
        time.sleep(LOOK_AGAIN)
    return [
        MigrationFailedError(
            f"VM {vm.name!r} was asked to shut down and did not within {format_duration(limit)}",
            vm_state=f"it still runs on {vm.host}",
            remedy=f"look at it: mudanza console {vm.uuid}",
        )
        for vm in waiting
    ]


def console(context: typer.Context, vm: VmName) -> None:
    """Open a VM's serial console; Ctrl-] leaves it."""
    if not sys.stdin.isatty():
        raise UsageError("the console needs a terminal")
    app = app_of(context)
    with app.connections() as connections:
        found = app.read_cluster(connections).find(vm)
        if not found.state.active:
            raise UsageError(f"VM {found.name!r} is off", remedy=f"start it: mudanza start {found.uuid}")
        stream = connections.domains(found.host).console(found.uuid)
        say(f"connected to {found.name} on {found.host}; Ctrl-] leaves")
        try:
            _talk(stream)
        finally:
            stream.close()


def _talk(stream: Console) -> None:
    """Copy between terminal and guest until either ends, or Ctrl-] is typed."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    over = threading.Event()

    def listen() -> None:
        try:
            while data := stream.receive():
                os.write(sys.stdout.fileno(), data)
            say("\r\nthe console has ended: the VM is off, or on another host\r")
        except MudanzaError as error:
            say(f"\r\n{error}\r")
        finally:
            over.set()

    try:
        tty.setraw(terminal)
        threading.Thread(target=listen, name="console", daemon=True).start()
        while not over.is_set():
            if not select.select([terminal], [], [], LOOK_AGAIN)[0]:
                continue
            typed = os.read(terminal, 4096)
            if not typed or ESCAPE in typed:
                return
            stream.send(typed)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        sys.stdout.write("\n")
