"""What switches hosts' power, as it is asked for: named, tested, used, and taken a person's word for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mudanza.model.errors import BlockedError, HostUnreachableError, UsageError
from mudanza.model.fencing import Device, DeviceTest, Fencing, Match, Power
from mudanza.model.machine import Machine, Verdict

if TYPE_CHECKING:
    from mudanza.availability.fence_agents import Agents, Settings
    from mudanza.availability.fencer import Fencer
    from mudanza.operations.means import Means, Say


@dataclass(frozen=True, slots=True)
class Fenced:
    """What switches a host's power, and how it was last to be proven off."""

    host: str
    devices: tuple[Device, ...]
    last: Fencing | None
    tests: tuple[DeviceTest, ...] = ()
    """What its devices said when they were last asked on schedule."""
    matches: tuple[Match, ...] = ()
    """Of which devices it was compared whether they switch this host."""

    def match_of(self, device: Device | None) -> Match | None:
        """Return what is known of one of them; None: it was never compared."""
        return next((each for each in self.matches if device is not None and each.device == device.name), None)

    def test_of(self, device: Device | None) -> DeviceTest | None:
        """Return what one of them said; None: it was not asked yet."""
        return next((each for each in self.tests if device is not None and each.device == device.name), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device says of its host's power."""

    device: Device
    power: Power
    said: str
    match: Match | None = None
    """Whether it switches this host, as far as that is known."""


def agents_of(settings: Settings) -> Agents:
    """Return this controller's fence agents."""
    from mudanza.availability.fence_agents import Agents

    return Agents(settings)


def fencer_of(means: Means, agents: Agents, say: Say) -> Fencer:
    """Return who proves hosts off."""
    from mudanza.availability.fencer import Fencer

    return Fencer(means.database, agents, lambda host: answers(means, host), say, lambda host: machine_of(means, host))


def machine_of(means: Means, host: str) -> Machine:
    """Return what a host says of itself. Raises UsageError, HostUnreachableError, HypervisorError."""
    from mudanza.hypervisor.reading.machine import read_machine

    means.inventory.host(host)
    with means.connections() as connections:
        return read_machine(connections.get(host))


def answers(means: Means, host: str) -> bool:
    """Whether a host's libvirt answers, asked anew within ``limits.connect``. Raises UsageError."""
    means.inventory.host(host)
    with means.connections() as connections:
        try:
            connections.get(host)
        except HostUnreachableError:
            return False
    return True


def put_devices(means: Means, agents: Agents, host: str, devices: Iterable[Device]) -> bool:
    """Have exactly these fence devices for a host; return whether there were others. Raises UsageError for one that its
    agent would not understand."""
    from mudanza.journal.fences import Fences

    means.inventory.host(host)
    wanted = tuple(devices)
    for device in wanted:
        agents.check(device)
    return Fences(means.database).put(host, wanted)


def put_all(means: Means, agents: Agents, wanted: Mapping[str, Iterable[Device]]) -> tuple[str, ...]:
    """Have exactly these fence devices for each of the hosts; return whose were others. Raises UsageError."""
    from mudanza.journal.fences import Fences

    there = Fences(means.database)
    kept = {host: tuple(devices) for host, devices in wanted.items()}
    for host, devices in kept.items():
        if there.of(host) != devices:
            for device in devices:
                agents.check(device)
    return tuple(host for host, devices in kept.items() if there.put(host, devices))


def listed(means: Means) -> tuple[Fenced, ...]:
    """Return what switches the power of which host, and which are proven off, by the hosts' names."""
    from mudanza.journal.fences import Fences

    there = Fences(means.database)
    devices, last, tests, matches = there.devices(), there.last(), there.tests(), there.matches()

    def of(host: str) -> Fenced:
        own = tuple(each for each in tests if each.host == host)
        compared = tuple(each for each in matches if each.host == host)
        return Fenced(host, devices.get(host, ()), last.get(host), own, compared)

    return tuple(of(entry.name) for entry in means.inventory.hosts())


def put(means: Means, host: str, device: Device, asked_by: str, *, unmatched: bool = False) -> str:
    """Have a device switch a host's power, in place of one of its name; return what is to be told. Nothing is switched,
    and the machine behind it is compared with the host. ``unmatched``: take whoever asks by their word where nothing
    can tell.

    Raises UsageError for one that its agent would not understand; BlockedError where it switches another machine, or
    nobody can tell.
    """
    from mudanza.availability.matching import matched
    from mudanza.journal.fences import Fences

    fences, agents = Fences(means.database), agents_of(means.fencing)
    means.inventory.host(host)
    agents.check(device)
    found = matched(agents, lambda name: machine_of(means, name), host, device)
    if found.verdict is Verdict.OTHER:
        raise BlockedError(
            f"{device.shown} switches another machine than {host}: {found.said}; it was not taken",
            remedy="look which one it is; where only libvirt's host_uuid is another one, have dmidecode on the host",
        )
    if found.verdict is Verdict.UNKNOWN and not unmatched:
        raise BlockedError(
            f"whether {device.shown} switches {host} cannot be told: {found.said}; it was not taken",
            remedy="if you have seen that it does: --unmatched",
        )
    others = [each for each in fences.of(host) if each.name != device.name]
    put_devices(means, agents, host, [*others, device])
    fences.matched(host, device.name, found, asked_by if found.verdict is Verdict.UNKNOWN else "")
    by = f"compared: {found.said}" if found.verdict is Verdict.SAME else f"by your word: {found.said}"
    return f"{device.shown} switches {host} ({by}); try whether it answers: mudanza fence test {host}"


def drop(means: Means, host: str, device: str) -> str:
    """Forget a device; return what is to be told. Raises UsageError where there is no such host, or device of it."""
    from mudanza.journal.fences import Fences

    means.inventory.host(host)
    known = Fences(means.database).of(host)
    left = [each for each in known if each.name != device]
    if len(left) == len(known):
        raise UsageError(f"host {host} has no fence device {device!r}", remedy="see them: mudanza fence show")
    put_devices(means, agents_of(means.fencing), host, left)
    return f"{device} of {host} is forgotten"


def ask(means: Means, host: str, say: Say) -> tuple[Answer, ...]:
    """Ask each of a host's devices whether the power is on, and compare the machine behind it with the host; nothing is
    switched. Raises UsageError."""
    from mudanza.availability.fencing import standing
    from mudanza.journal.fences import Fences

    means.inventory.host(host)
    fencer, fences = fencer_of(means, agents_of(means.fencing), say), Fences(means.database)
    replies = fencer.test(host)
    fencer.match(host)
    known = {each.device: each for each in fences.matches() if each.host == host}
    return tuple(Answer(*each, known.get(each[0].name)) for each in standing(fences.of(host), replies))


def switch_off(means: Means, host: str, asked_by: str, say: Say, *, force: bool) -> Fencing:
    """Switch a host off, and prove it. ``force``: even if it answers. Raises UsageError, BlockedError where it answers,
    and as ``Fencer.off``."""
    means.inventory.host(host)
    if not force:
        refuse_answering(host, answers=answers(means, host))
    return fencer_of(means, agents_of(means.fencing), say).off(host, asked_by)


def refuse_answering(host: str, *, answers: bool) -> None:
    """Raise BlockedError where a host answers."""
    if answers:
        raise BlockedError(
            f"host {host} answers: it was not switched off",
            remedy=f"empty it first: mudanza drain {host}; or cut its VMs off: mudanza fence off {host} --force",
        )


def confirm(means: Means, host: str, asked_by: str, say: Say) -> Fencing:
    """Take a person's word that a host is off. Raises UsageError, BlockedError where it answers."""
    means.inventory.host(host)
    return fencer_of(means, agents_of(means.fencing), say).confirm(host, asked_by)
