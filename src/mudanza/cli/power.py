"""``mudanza start``, ``shutdown`` and ``console``."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import show_error
from mudanza.cli.exit_codes import of_several
from mudanza.cli.options import Tag, VmName, VmNames, choose_vms
from mudanza.cli.output import say
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    UsageError,
)
from mudanza.model.migration import Side, Sighting
from mudanza.model.units import format_duration
from mudanza.model.vm import Vm

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.hypervisor.console import Console

LOOK_AGAIN = 0.3
"""Seconds between two looks whether a guest is off."""
ASK_AGAIN = 10.0
"""Seconds before a guest is asked again to shut down: one that boots does not listen yet."""
ESCAPE = b"\x1d"
"""Ctrl-], which leaves the console, as in virsh."""

_DOUBTS = {Side.PRESENT: "has it too", Side.UNSEEN: "could not be asked"}


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
    for error in errors:
        show_error(error)
    done = [0] * (len(vms) - len(errors))
    raise typer.Exit(of_several([*done, *(error.exit_code for error in errors)]))


@audited
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
    from mudanza.migration.vm_claim import in_the_way

    if vm.state.active:
        say(f"{vm.name} runs on {vm.host} already: nothing to do")
        return
    job = app.jobs.unfinished_of(vm.uuid)
    if job is not None:
        raise BlockedError(
            f"VM {vm.name!r} has an unfinished job, number {job.id}: it may be running elsewhere",
            remedy=job.way_out,
        )
    if (claim := in_the_way(app.jobs, vm.claims)) is not None:
        raise BlockedError(
            f"VM {vm.name!r} was not started: {claim.in_words}",
            remedy="wait until that job has ended; if its controller is gone for good: mudanza rebuild",
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


@audited
def shutdown(
    context: typer.Context,
    vms: VmNames = None,
    tag: Tag = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until they are off.")] = True,
) -> None:
    """Ask VMs to shut down; they are never cut off.

    A guest that has not gone off is asked again every 10 s, until limits.shutdown of the settings (180 s unless
    set) is over: then the exit code is 4.
    """
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
    """Wait until all are off, asking again what is not; return an error for each that is not off in the end."""
    limit = app.loaded.settings.limits.shutdown
    begun = clock.monotonic()
    ask_at = begun + ASK_AGAIN
    waiting = list(vms)
    errors: list[MudanzaError] = []
    while waiting and clock.monotonic() < begun + limit:
        for vm in tuple(waiting):
            seen = _sighting(app, connections, vm)
            if _has_left(seen, vm):
                waiting.remove(vm)
                errors.append(_left(vm))
            elif _is_off(seen):
                waiting.remove(vm)
                say(f"{vm.name} is off")
        if waiting and clock.monotonic() >= ask_at:
            names = ", ".join(vm.name for vm in waiting)
            say(f"{names}: still on after {format_duration(ask_at - begun)}, asked again")
            _ask_again(connections, waiting)
            ask_at += ASK_AGAIN
        clock.sleep(LOOK_AGAIN)
    return errors + [_still_on(vm, limit) for vm in waiting]


def _sighting(app: App, connections: Connections, vm: Vm) -> Sighting:
    try:
        return connections.domains(vm.host).sighting(vm.uuid, timeout=app.loaded.settings.limits.read)
    except HostUnreachableError:
        return Sighting(Side.UNSEEN)


def _has_left(seen: Sighting, vm: Vm) -> bool:
    """Whether the VM went to another host meanwhile; a transient one that is gone may as well be off."""
    return seen.reason == "migrated" if seen.side is Side.PRESENT else seen.side is Side.ABSENT and vm.persistent


def _is_off(seen: Sighting) -> bool:
    return seen.side is Side.ABSENT or (seen.side is Side.PRESENT and not seen.state.active)


def _left(vm: Vm) -> MudanzaError:
    return MigrationFailedError(
        f"VM {vm.name!r} was asked to shut down and has left {vm.host} meanwhile",
        vm_state="it may run elsewhere",
        remedy="look where it is: mudanza vms",
    )


def _still_on(vm: Vm, limit: float) -> MudanzaError:
    return MigrationFailedError(
        f"VM {vm.name!r} was asked to shut down and did not within {format_duration(limit)}",
        vm_state=f"as far as its host answers, it still runs on {vm.host}",
        remedy=f"look at it: mudanza console {vm.uuid}; more time: limits.shutdown in the settings",
    )


def _ask_again(connections: Connections, vms: Sequence[Vm]) -> None:
    for vm in vms:
        # It may have gone off since we looked, or its host may not answer now: the next look tells.
        with suppress(HypervisorError, HostUnreachableError):
            connections.domains(vm.host).shutdown(vm.uuid)


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
    over = clock.new_event()

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
        clock.start_thread(listen, "console")
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
