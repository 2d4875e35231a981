"""``mudanza start``, ``shutdown`` and ``console``."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import app_of
from mudanza.cli.errors import leave_of_each
from mudanza.cli.options import Tag, VmName, VmNames
from mudanza.cli.output import say
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.operations.choosing import choose_vms

if TYPE_CHECKING:
    from mudanza.hypervisor.console import Console

LOOK_AGAIN = 0.3
"""Seconds between two looks whether the console has ended."""
ESCAPE = b"\x1d"
"""Ctrl-], which leaves the console, as in virsh."""


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("start")(start)
    app.command("shutdown")(shutdown)
    app.command("console")(console)


@audited
def start(context: typer.Context, vms: VmNames = None, tag: Tag = None) -> None:
    """Start VMs that are off, each on the host it is defined on."""
    leave_of_each(*app_of(context).asked.start(lambda cluster: choose_vms(cluster, vms, tag), say))


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
    leave_of_each(*app_of(context).asked.shut_down(lambda cluster: choose_vms(cluster, vms, tag), say, wait=wait))


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
