"""``mudanza lab …``: real hosts, guests and faults on this machine."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, print_rows, say
from mudanza.model.errors import UsageError
from mudanza.model.fencing import Device
from mudanza.model.host import HostEntry
from mudanza.model.plain import plain
from mudanza.model.units import MIB, format_rate, parse_rate, parse_size

if TYPE_CHECKING:
    from mudanza.lab.lab import Lab
    from mudanza.lab.series import Series

CONFIG = "mudanza.toml"
DEFAULT_WORKING_SET = 64 * MIB
"""What a guest rewrites when only the rate is given."""

lab_app = typer.Typer(no_args_is_help=True, help="Real hosts, guests and faults on this one machine.")

LabName = Annotated[str, typer.Option("--lab", metavar="NAME", envvar="MUDANZA_LAB", help="Which lab.")]
HostArgument = Annotated[str, typer.Option("--on", metavar="HOST", help="The host it starts on.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(lab_app, name="lab")


@lab_app.command("up")
def up(
    lab: LabName = "lab",
    hosts: Annotated[int, typer.Option(min=1, max=8, help="How many.")] = 2,
    uplink: Annotated[str | None, typer.Option(metavar="RATE", help="Cap each host's link: 1gbit, 100MiB/s.")] = None,
    tls: Annotated[bool, typer.Option("--tls/--no-tls", help="Give the hosts certificates.")] = True,
    qemu_user: Annotated[str, typer.Option(metavar="ACCOUNT", help="Who QEMU runs as: root, libvirt-qemu.")] = "root",
    virtlockd: Annotated[bool, typer.Option("--virtlockd", help="Have the hosts lock their guests' disks.")] = False,
) -> None:
    """Build real libvirt hosts in namespaces, ready to use."""
    from mudanza.lab.lab import Lab

    rate = parse_rate(uplink) if uplink else None
    try:
        with _terminated_like_interrupted():
            built = Lab.up(lab, hosts, uplink=rate, tls=tls, qemu_user=qemu_user, virtlockd=virtlockd, on_progress=say)
            try:
                tell_mudanza(built)
            except BaseException:
                built.down()
                raise
    except KeyboardInterrupt:
        say(f"stopped; nothing is left of the lab {lab!r}")
        raise
    say(f"the lab {lab!r} is up; now: eval $(mudanza lab env{_named(lab)})")


def _named(lab: str) -> str:
    return "" if lab == "lab" else f" --lab {lab}"


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM undo what is half built, as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell_mudanza(lab: Lab) -> None:
    """Write a configuration for this lab, with its hosts and what switches their power known: by unix socket here, by
    the network in its seat."""
    from mudanza.journal.database import open_database
    from mudanza.journal.fences import Fences
    from mudanza.journal.inventory import Inventory
    from mudanza.lab import fence_agent

    database = lab.directory / "mudanza.db"
    agents = fence_agent.install(lab)
    (lab.directory / CONFIG).write_text(f'database = "{database}"\n[fencing]\nagents = ["{agents}"]\n')
    engine = open_database(str(database))
    Inventory(engine).put_hosts(_entry(lab, host, lab.uri(host)) for host in lab.hosts)
    for host in lab.hosts:
        Fences(engine).put(host, [Device("power", fence_agent.NAME, options={"lab": lab.name, "plug": host})])
    for host in lab.hosts:
        lab.cell("controller").run(
            [*_program(), "host", "add", host, lab.peer_uri(host), "--migration-address", _address(lab, host)]
        )


def _entry(lab: Lab, host: str, uri: str) -> HostEntry:
    return HostEntry(host, uri, peer_uri=lab.peer_uri(host), migration_address=_address(lab, host))


def _address(lab: Lab, host: str) -> str:
    """Return where migrations to a host go: by name with TLS, for certificates are made for names."""
    from mudanza.lab import layout

    return host if lab.tls else layout.address(host)


def _program() -> list[str]:
    return [sys.executable, "-m", "mudanza"]


def _argv(command: list[str]) -> list[str]:
    """Return what to run: `mudanza` is this very program, and a `--` in front is only there for the eye.

    Raises UsageError for an option: ours stand before the first argument, so that the command can have its own.
    """
    words = command[1:] if command[0] == "--" else command
    if not words or words[0].startswith("-"):
        raise UsageError(
            f"{words[0]!r} is not a command" if words else "no command is given",
            remedy="options of ours stand before the first argument, such as: mudanza lab watch --seconds 5 GUEST",
        )
    return [*_program(), *words[1:]] if words[0] == "mudanza" else words


@lab_app.command("down")
def down(
    lab: LabName = "lab",
    every: Annotated[bool, typer.Option("--all", help="All labs of this machine.")] = False,
) -> None:
    """End a lab and leave nothing behind, also after a killed run."""
    from mudanza.lab.construction import take_down
    from mudanza.lab.lab import Lab

    names = [status.name for status in Lab.list()] if every else [lab]
    for name in names:
        say(f"the lab {name!r} is down" if take_down(name) else f"there is no lab {name!r}: nothing to do")


@lab_app.command("status")
def status(output: Output = Format.TABLE) -> None:
    """Show all labs with their hosts and seats."""
    from mudanza.lab.lab import Lab

    labs = Lab.list()
    rows = [
        {
            "name": cell.name,
            "lab": lab.name,
            "address": cell.address,
            "state": "up" if cell.alive else "dead",
            "link": "up" if cell.link_up else "down",
            "uplink": format_rate(cell.uplink) if cell.uplink else "not capped",
            "libvirtd": cell.daemon,
        }
        for lab in labs
        for cell in lab.cells
    ]
    rows += [{"name": "-", "lab": lab.name, "state": "dead: mudanza lab down"} for lab in labs if not lab.alive]
    columns = ("name", "lab", "address", "state", "link", "uplink", "libvirtd")
    print_rows(rows, output, columns=columns, data=plain(labs), empty="no lab is up; begin with: mudanza lab up")


@lab_app.command("env")
def env(lab: LabName = "lab") -> None:
    """Print what a shell needs to use the lab: eval $(mudanza lab env)."""
    from mudanza.lab.lab import Lab

    opened = Lab.open(lab)
    sys.stdout.write(f"export MUDANZA_CONFIG={shlex.quote(str(opened.directory / CONFIG))} MUDANZA_LAB={lab}\n")


@lab_app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="h1, h2 …, client, controller or switch.")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND…", help="What to run there.")],
    lab: LabName = "lab",
) -> None:
    """Run a command inside a host or seat, such as `lab exec h1 virsh list` or `lab exec controller mudanza vms`."""
    from mudanza.lab.lab import Lab

    argv = _argv(command)
    terminal = {"TERM": os.environ.get("TERM", "dumb")}
    process = Lab.open(lab).cell(place).popen(argv, stdin=None, foreground=True, env=terminal)
    raise typer.Exit(process.wait())


@lab_app.command("guest")
def guest(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    on: HostArgument = "h1",
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Its memory.")] = "256MiB",
    disk: Annotated[str, typer.Option(metavar="SIZE", help="Its data disk.")] = "1GiB",
    write: Annotated[str, typer.Option(metavar="RATE", help="Memory it rewrites.")] = "0",
    working_set: Annotated[str | None, typer.Option(metavar="SIZE", help="How much memory it rewrites.")] = None,
    disk_write: Annotated[str, typer.Option(metavar="RATE", help="Data it writes to its disk.")] = "0",
    shared: Annotated[bool, typer.Option("--shared", help="Put its disks on storage that all hosts share.")] = False,
    disk_format: Annotated[str, typer.Option(metavar="qcow2|raw", help="Of its disks.")] = "qcow2",
    backing: Annotated[str | None, typer.Option(metavar="VOLUME", help="Its data disk lies on this image.")] = None,
    extra_disk: Annotated[str, typer.Option(metavar="SIZE", help="A second disk, blank.")] = "0",
    uefi: Annotated[bool, typer.Option("--uefi", help="Give it OVMF and NVRAM.")] = False,
    tpm: Annotated[bool, typer.Option("--tpm", help="Give it a TPM 2.0.")] = False,
    guest_agent: Annotated[bool, typer.Option("--guest-agent", help="Have QEMU's guest agent run in it.")] = False,
    stubborn: Annotated[bool, typer.Option("--stubborn", help="Have it ignore the power button.")] = False,
    lab: LabName = "lab",
) -> None:
    """Make and start a guest that counts aloud: over TCP and onto its disk."""
    from mudanza.lab.domain import GuestSpec
    from mudanza.lab.guest import create_guest
    from mudanza.lab.lab import Lab

    rate = parse_rate(write)
    spec = GuestSpec(
        name,
        memory=parse_size(memory),
        disk=parse_size(disk),
        pool="shared" if shared else "default",
        write_rate=rate,
        working_set=parse_size(working_set) if working_set else (DEFAULT_WORKING_SET if rate else 0),
        disk_write_rate=parse_rate(disk_write),
        disk_format=disk_format,
        backing=backing,
        extra_disk=parse_size(extra_disk),
        uefi=uefi,
        tpm=tpm,
        guest_agent=guest_agent,
        stubborn=stubborn,
    )
    made = create_guest(Lab.open(lab), spec, on=on)
    say(f"guest {name} runs on {on} and answers at {made.address}")


@lab_app.command("fault", context_settings={"ignore_unknown_options": True})
def fault(
    name: Annotated[str | None, typer.Argument(metavar="FAULT", help="Which; none: list them.")] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENT…", help="What the fault is told, such as a host.")
    ] = None,
    lab: LabName = "lab",
) -> None:
    """Break something on purpose, or mend it."""
    from mudanza.lab import faults
    from mudanza.lab.lab import Lab

    if name is None:
        rows = [{"fault": each.name, "arguments": each.usage, "what": each.summary} for each in faults.ALL.values()]
        print_rows(rows, Format.TABLE, columns=("fault", "arguments", "what"))
        return
    if name not in faults.ALL:
        raise UsageError(f"there is no fault {name!r}", remedy=f"one of: {', '.join(faults.ALL)}")
    faults.ALL[name].apply(Lab.open(lab), arguments or [])
    say(f"done: {name} {' '.join(arguments or [])}")


@lab_app.command("watch", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def watch(
    name: Annotated[str, typer.Argument(metavar="GUEST", help="Its name or UUID.")],
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND…]", help="What to run meanwhile.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long, when no command is given.")] = 10.0,
    lab: LabName = "lab",
    output: Output = Format.TABLE,
) -> None:
    """Be a client of a guest while a command runs, and tell what was seen: blackout, lost beats, stalls."""
    from mudanza.lab.guest import find_guest
    from mudanza.lab.lab import Lab
    from mudanza.lab.process import LabError
    from mudanza.lab.watch import Watch

    opened = Lab.open(lab)
    argv = _argv(command) if command else None
    code = 0
    found = find_guest(opened, name)
    watched = Watch(opened, found.address)
    try:
        watched.start()
    except LabError as error:
        raise found.no_answer(str(error)) from error
    try:
        if argv is not None:
            code = _run_here(argv, opened)
        else:
            clock.sleep(seconds)
    finally:
        watched.stop()
    if output is Format.TABLE:
        sys.stdout.write(series_text(name, watched.series) + "\n")
    else:
        print_data(watched.series, output)
    if code:
        raise typer.Exit(code)


def _run_here(argv: list[str], lab: Lab) -> int:
    """Run a command as it would run in a shell that uses this lab; Ctrl-C is for it to heed, not for us."""
    environment = {**os.environ, "MUDANZA_CONFIG": str(lab.directory / CONFIG)}
    # A handler of ours, unlike "ignore", is not inherited by the command.
    before = signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    try:
        return subprocess.run(argv, env=environment, check=False).returncode
    except OSError as error:
        raise UsageError(f"{argv[0]!r} cannot be run: {error.strerror}") from error
    finally:
        signal.signal(signal.SIGINT, before)


def series_text(name: str, series: Series) -> str:
    """Write what a client saw, for people."""
    if series.every_beat_arrived:
        heard = f"{series.beats} heartbeats, none lost, repeated or out of order"
    else:
        heard = (
            f"{series.beats} heartbeats, {series.beats_lost} lost, {series.beats_repeated} repeated, "
            f"{series.beats_disordered} out of order"
        )
    return (
        f"what a client of {name} saw\n"
        f"  blackout  {series.blackout * 1000:.0f} ms without an answer to ping "
        f"(usually {series.typical_gap * 1000:.0f} ms between two; {series.pings_lost} of {series.pings_sent} lost)\n"
        f"  TCP       {heard}; {series.reconnects} reconnects\n"
        f"  stall     {series.longest_tick_stall * 1000:.0f} ms at most, as the guest itself felt it"
    )


@lab_app.command("verify")
def verify(
    name: Annotated[str, typer.Argument(metavar="GUEST", help="Its name or UUID.")],
    lab: LabName = "lab",
) -> None:
    """Have a guest read back from its disk every heartbeat it ever wrote."""
    from mudanza.lab.guest import find_guest
    from mudanza.lab.lab import Lab

    first, last = find_guest(Lab.open(lab), name).verify()
    sys.stdout.write(f"{name}: heartbeats {first} to {last} are on its disk, none lost, none torn\n")
