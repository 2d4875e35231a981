"""The faults of the matrix: how each is aimed, struck and mended, whichever way the VM goes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from mudanza.lab import faults, host
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.lab.process import ProcessId
from tests.lab.command import Running

SHORT, LONG = 5.0, 60.0
"""Seconds that a fault lasts which is to be lived through: within libvirt's patience, and beyond it."""
CARRIER = "mudanza-carrier-"


@dataclass
class Stage:
    """Where a cell is played: a VM on its way from ``source`` to ``target``."""

    lab: Lab
    uuid: str
    source: str
    target: str
    cold: bool
    postcopy: bool = False
    running: Running | None = None
    """The command that moves it."""


Act = Callable[[], object]


def _nothing(_stage: Stage) -> None:
    """Mend what mends itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that can be brought about at a stage."""

    aim: Callable[[Stage], Act]
    """Look for what is to be hit, so that the strike itself takes no time."""
    mend: Callable[[Stage], object] = _nothing
    lasts: float | None = None
    """Seconds until it is mended; None: until the command has ended."""
    by_network: bool = False
    """The controller reaches the hosts over the network too, by ssh: it loses what is cut off, and may help itself
    where libvirt does not."""


def _daemon(lab: Lab, name: str) -> ProcessId:
    process = host.daemon_process(lab.cell(name))
    assert process is not None, f"no libvirtd runs on {name}"
    return process


def _revive(lab: Lab, name: str) -> None:
    """Have a host's libvirtd run and answer, whatever was done to it."""
    process = host.daemon_process(lab.cell(name))
    if process is None:
        faults.start_daemon(lab, name)
    else:
        process.signal(signal.SIGCONT)
    virsh(lab.cell(name), "uri")


def _restarting(stage: Stage, name: str) -> Act:
    process = _daemon(stage.lab, name)

    def restart() -> None:
        process.kill()
        faults.start_daemon(stage.lab, name)

    return restart


def _killing_qemu(stage: Stage, name: str) -> Act:
    vm = stage.uuid
    if stage.cold:
        listed = virsh(stage.lab.cell(name), "list", "--name").split()
        vm = next((domain for domain in listed if domain.startswith(CARRIER)), vm)
    return partial(faults.kill_qemu, stage.lab, name, vm)


def _freeing(name: Callable[[Stage], str]) -> Callable[[Stage], object]:
    """Restart a libvirtd whose QEMU was killed in post-copy: libvirt 9.0 keeps its lock on the VM until then."""

    def restart(stage: Stage) -> None:
        if stage.postcopy:
            _restarting(stage, name(stage))()

    return restart


def _filling(stage: Stage) -> Act:
    faults.fill(stage.lab, stage.target, leave=0)
    return lambda: None


def _of_hosts() -> Mapping[str, Fault]:
    """Return the faults that either host can have."""
    found: dict[str, Fault] = {}
    for side in ("source", "target"):

        def name(stage: Stage, side: str = side) -> str:
            return stage.source if side == "source" else stage.target

        def revive(stage: Stage, name: Callable[[Stage], str] = name) -> None:
            _revive(stage.lab, name(stage))

        def kill(stage: Stage, name: Callable[[Stage], str] = name) -> Act:
            return _daemon(stage.lab, name(stage)).kill

        def stop(stage: Stage, name: Callable[[Stage], str] = name) -> Act:
            return _daemon(stage.lab, name(stage)).stop

        def restart(stage: Stage, name: Callable[[Stage], str] = name) -> Act:
            return _restarting(stage, name(stage))

        def kill_qemu(stage: Stage, name: Callable[[Stage], str] = name) -> Act:
            return _killing_qemu(stage, name(stage))

        def cut(stage: Stage, name: Callable[[Stage], str] = name) -> Act:
            return partial(faults.cut, stage.lab, name(stage))

        def heal(stage: Stage, name: Callable[[Stage], str] = name) -> None:
            faults.heal(stage.lab, name(stage))

        found |= {
            f"{side}'s libvirtd killed": Fault(kill, revive),
            f"{side}'s libvirtd restarted": Fault(restart, revive),
            f"{side}'s libvirtd hangs": Fault(stop, revive),
            f"{side}'s libvirtd slow": Fault(stop, revive, lasts=SHORT),
            f"{side}'s libvirtd dead for a minute": Fault(kill, revive, lasts=LONG),
            f"{side}'s libvirtd hangs for a minute": Fault(stop, revive, lasts=LONG),
            f"{side}'s QEMU killed": Fault(kill_qemu, _freeing(name)),
            f"{side} cut off from all": Fault(cut, heal, by_network=True),
            f"{side} cut off for a minute": Fault(cut, heal, lasts=LONG, by_network=True),
        }
    return found


def _signalling(number: signal.Signals) -> Callable[[Stage], Act]:
    def aim(stage: Stage) -> Act:
        assert stage.running is not None
        return partial(stage.running.send, number)

    return aim


def _at_target(function: Callable[[Lab, str], object]) -> Callable[[Stage], Act]:
    return lambda stage: partial(function, stage.lab, stage.target)


def _mending(function: Callable[[Lab, str], object]) -> Callable[[Stage], object]:
    return lambda stage: function(stage.lab, stage.target)


def _parting(stage: Stage) -> Act:
    return partial(faults.part, stage.lab, stage.source, stage.target)


def _joining(stage: Stage) -> None:
    faults.join(stage.lab, stage.source, stage.target)


NOTHING = Fault(lambda stage: partial(_nothing, stage))

FAULTS: Mapping[str, Fault] = {
    **_of_hosts(),
    "controller killed": Fault(_signalling(signal.SIGKILL)),
    "controller told to end": Fault(_signalling(signal.SIGTERM)),
    "link cut for 5 s": Fault(_parting, _joining, lasts=SHORT, by_network=True),
    "link cut for a minute": Fault(_parting, _joining, lasts=LONG, by_network=True),
    "link cut for good": Fault(_parting, _joining, by_network=True),
    "target's disk full": Fault(_filling, _mending(faults.unfill)),
    "target's ports taken": Fault(_at_target(faults.take_ports), _mending(faults.free_ports)),
    "target's certificates wrong": Fault(_at_target(faults.strange_certificates), _mending(faults.right_certificates)),
}
"""Every fault by its name."""
