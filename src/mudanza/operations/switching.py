"""Switching hosts off and on to save power. An empty host's system is shut down by ssh, and it is seen off; one that is
woken shows that it is well before it gets VMs. In between it is closed to newcomers, and nobody takes it for dead.

Each is written down before anything is done. A controller that dies leaves a host that is *shutting down* or *waking*,
which nobody fences; doing the same again goes on from what is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from mudanza import clock
from mudanza.model.carrying import CannotGo, RunPolicy
from mudanza.model.errors import BlockedError, MudanzaError, NeedsPersonError, UsageError
from mudanza.model.fencing import Device, Order
from mudanza.model.host_power import Standing, Switching, Wish
from mudanza.operations.emptying import Choose, Emptying, off
from mudanza.operations.fencing import answers
from mudanza.operations.host_power import needed_hosts

if TYPE_CHECKING:
    from mudanza.availability.fence_agents import Agents
    from mudanza.journal.duty import DutyHandle
    from mudanza.journal.host_power import HostPowers
    from mudanza.operations.means import Means, Say

KIND = "power off"
LOOK_AGAIN = 2.0
"""Seconds between two looks whether a host is off, or well."""
SHUTTING = 20.0
"""Seconds within which a host must have taken the order to shut down."""

# A lab's host, or a container, is no machine that could be switched off: the machine around it would be.
_SHUT_DOWN = """
if [ "$own" = no ] && [ "$(cat /proc/1/comm)" != systemd ]; then echo "@ no-system"; exit 0; fi
# Its word comes once it has a session of its own, which does not end with this one.
word=$(setsid --fork sh -c "echo ordered; exec </dev/null >/dev/null 2>&1; sleep 1; $command")
echo "@ $word"
"""
USUAL_COMMAND = "systemctl poweroff"


class Settings(Protocol):
    """How hosts are switched. Seconds."""

    @property
    def shutdown(self) -> str:
        """What a host's shell is told."""

    @property
    def off(self) -> float:
        """A host to shut down, until it is seen off."""

    @property
    def boot(self) -> float:
        """A host to start, until it is well."""


class Switcher:
    """Switches hosts off and on."""

    def __init__(self, means: Means, agents: Agents, settings: Settings, asked_by: str, say: Say) -> None:
        from mudanza.journal.host_power import HostPowers

        self._means = means
        self._agents = agents
        self._settings = settings
        self._asked_by = asked_by
        self._say = say
        self._powers: HostPowers = HostPowers(means.database)

    def empty(
        self, host: str, cannot_go: CannotGo, policy: RunPolicy, choose: Choose, *, with_off: bool, force: bool
    ) -> Emptying:
        """Close a host to newcomers, and return what takes its VMs off it.

        Raises UsageError where nothing could see it off, BlockedError where it has to stay on (unless ``force``) or
        somebody could not go: then it is open again.
        """
        entry = self._means.inventory.host(host)
        self._devices(host)
        if not force:
            self._refuse_needed(host)
        self._means.inventory.set_maintenance(host, on=True)
        try:
            policy = replace(policy, elsewhere=True)
            plan, policy = off(self._means, host, cannot_go, policy, None, self._say, choose, with_off=with_off)
        except BaseException:
            self._means.inventory.set_maintenance(host, on=entry.maintenance)
            raise
        return Emptying(KIND, host, plan, policy)

    def off(self, host: str, *, closed: bool) -> Switching:
        """Shut an empty host's system down, and see it off. ``closed``: whether it was closed to newcomers before.

        Raises BlockedError where VMs run there, or it takes no order; NeedsPersonError where it is not seen off.
        """
        self._devices(host)
        with self._right(host) as right:
            last = self._powers.last().get(host)
            going = last is not None and last.standing is Standing.GOING_OFF
            asleep = last is not None and last.standing is Standing.ASLEEP
            alive = answers(self._means, host)
            if asleep and not alive and last is not None:
                return last
            if alive:
                self._refuse_busy(host)
            elif not going:
                raise BlockedError(f"host {host} does not answer, and nobody has switched it off: it may be dead")
            closed = last.closed if going and last is not None else closed
            number = self._powers.begin(host, Wish.OFF, self._asked_by, right, closed=closed)
            self._means.inventory.set_maintenance(host, on=True)
            try:
                if alive:
                    self._shut_down(host)
            except MudanzaError as error:
                self._powers.ended(number, str(error), done=False)
                self._means.inventory.set_maintenance(host, on=closed)
                raise
            said = self._await_off(host)
            self._powers.ended(number, said or "it was not seen off in time", done=bool(said))
        if not said:
            raise NeedsPersonError(
                f"host {host} was told to shut down, and no device has seen it off within {self._settings.off:g} s",
                vm_state="no VM was on it",
                remedy=f"look at it; go on: mudanza power off {host}, or back: mudanza power on {host}",
            )
        self._say(f"{host} is off: {said}")
        return self._powers.last()[host]

    def on(self, host: str) -> Switching:
        """Wake a host, have it show that it is well, and open it. Raises UsageError where nothing can wake it,
        NeedsPersonError where it is not well in time: it stays closed."""
        entry = self._means.inventory.host(host)
        with self._right(host) as right:
            last = self._powers.last().get(host)
            closed = last.closed if last is not None and last.standing.away else entry.maintenance
            devices = self._wakers(host)
            number = self._powers.begin(host, Wish.ON, self._asked_by, right, closed=closed)
            try:
                if not answers(self._means, host):
                    self._wake(host, devices)
                why = self._await_well(host)
            except MudanzaError as error:
                self._powers.ended(number, str(error), done=False)
                raise
            said = "it answers, its pools are active, and nothing stands in the way of moves there"
            self._powers.ended(number, "; ".join(why) or said, done=not why)
            if not why:
                self._means.inventory.set_maintenance(host, on=closed)
        if why:
            raise NeedsPersonError(
                f"host {host} was woken, and is not well after {self._settings.boot:g} s: {'; '.join(why)}",
                vm_state="it gets no VMs",
                remedy=f"mend it, then: mudanza power on {host}",
            )
        self._say(f"{host} is well: {said}" + ("; it stays closed, as it was before" if closed else ""))
        return self._powers.last()[host]

    def wake(self, host: str) -> None:
        """Have a host's power come on, and no more: of one that nobody has switched off here nothing is written down.
        Raises UsageError where nothing can wake it, NeedsPersonError where no device has done so."""
        with self._right(host):
            self._wake(host, self._wakers(host))

    @contextmanager
    def _right(self, host: str) -> Iterator[DutyHandle]:
        """Be the only one who switches a host, for as long as the block runs."""
        from mudanza.journal.errors import JournalLostError, LeaseLostError
        from mudanza.journal.host_power import power_of_one

        right = power_of_one(self._means.database, host).take()
        try:
            with right.kept():
                yield right
        finally:
            with suppress(LeaseLostError, JournalLostError):
                right.let_go()

    def _devices(self, host: str) -> tuple[Device, ...]:
        from mudanza.journal.fences import Fences

        devices = Fences(self._means.database).own(host)
        if not devices:
            raise UsageError(
                f"host {host} has no fence device that switches it: nothing could see it off",
                remedy=f"name one: mudanza fence set {host} bmc --agent fence_ipmilan …",
            )
        return devices

    def _wakers(self, host: str) -> tuple[Device, ...]:
        """Return the devices that can switch a host on. Raises UsageError where there is none, nor Wake-on-LAN."""
        from mudanza.journal.fences import Fences

        devices = Fences(self._means.database).own(host)
        able = tuple(each for each in devices if Order.ON.value in self._agents.description(each.agent).actions)
        if not able and not self._powers.of(host).mac:
            raise UsageError(
                f"nothing can switch host {host} on: no fence device that could, and no address for Wake-on-LAN",
                remedy=f"say it: mudanza power set {host} --mac …, or mudanza fence set {host} …",
            )
        return able

    def _refuse_needed(self, host: str) -> None:
        with self._means.connections() as connections:
            cluster = self._means.read_cluster(connections)
        why = needed_hosts(self._means, cluster).get(host)
        if why:
            raise BlockedError(f"host {host} stays on: {why}", remedy="if it is to be off all the same: --force")

    def _refuse_busy(self, host: str) -> None:
        """Raise BlockedError where a VM runs on a host, or may be on its way there; how the host is now is kept, to be
        compared with how it wakes."""
        from mudanza.journal.sightings import Sightings
        from mudanza.operations.checking import arrivals_of

        with self._means.connections() as connections:
            cluster = self._means.read_cluster(connections)
        Sightings(self._means.database).keep(cluster)
        if not cluster.host(host).seen:
            raise BlockedError(f"host {host} was not seen: {cluster.host(host).error}", remedy="try again")
        there = [vm.name for vm in cluster.vms_on(host) if vm.state.active]
        coming = [each.name for each in arrivals_of(self._means).expected().values() if each.target == host]
        if there or coming:
            raise BlockedError(
                f"host {host} is not empty: {', '.join(sorted({*there, *coming}))}",
                remedy=f"empty it: mudanza power off {host} does, or mudanza drain {host}",
            )

    def _shut_down(self, host: str) -> None:
        """Tell a host's system to shut down. Raises BlockedError where that is not known to be the host's own."""
        from mudanza.hypervisor.shell import HostShell

        command = self._settings.shutdown
        values = {"command": command, "own": "no" if command == USUAL_COMMAND else "yes"}
        with HostShell(self._means.inventory.host(host)) as shell:
            answer = shell.run(_SHUT_DOWN, values, what=f"shutting {host} down", patience=SHUTTING)
        if [list(words) for words in answer] != [["ordered"]]:
            raise BlockedError(
                f"host {host} was not shut down: its first process is no systemd, so that it may be a container",
                remedy="say how it is shut down: power.shutdown of the settings",
            )
        self._say(f"{host} is told to shut down: {command}")

    def _await_off(self, host: str) -> str:
        from mudanza.availability.switching import seen_off

        devices, until = self._devices(host), clock.monotonic() + self._settings.off
        while True:
            said = seen_off(devices, [self._agents.tell(device, Order.STATUS) for device in devices])
            if said and not answers(self._means, host):
                return said
            if clock.monotonic() > until:
                return ""
            clock.sleep(LOOK_AGAIN)

    def _wake(self, host: str, devices: tuple[Device, ...]) -> None:
        for level in sorted({device.level for device in devices}):
            there = [device for device in devices if device.level == level]
            replies = [self._agents.tell(device, Order.ON) for device in there]
            for device, reply in zip(there, replies, strict=True):
                words = "done" if reply.done else "not done"
                self._say(f"{device.shown}: on: {words}" + (f" ({reply.said})" if reply.said else ""))
            if all(reply.done for reply in replies):
                return
        mac = self._powers.of(host).mac
        if mac is None:
            raise NeedsPersonError(f"no device of host {host} has switched it on", remedy="look at them")
        self._by_network(host, mac)

    def _by_network(self, host: str, mac: str) -> None:
        """Send a host's network card its wake-up word, from here and from hosts that are to be on. Raises
        NeedsPersonError where nobody could."""
        from mudanza.operations.waking import wake

        others = [each for each in self._means.inventory.hosts() if each.name != host and not each.maintenance]
        if not wake(mac, others, self._say):
            raise NeedsPersonError(
                f"nobody could tell the network card {mac} of host {host} to wake",
                vm_state="it gets no VMs",
                remedy=f"switch it on yourself, then: mudanza power on {host}",
            )

    def _await_well(self, host: str) -> tuple[str, ...]:
        """Wait until a host is well; return why it is not in the end."""
        until = clock.monotonic() + self._settings.boot
        while why := self._unfit(host):
            if clock.monotonic() > until:
                return why
            clock.sleep(LOOK_AGAIN)
        return ()

    def _unfit(self, host: str) -> tuple[str, ...]:
        from mudanza.availability.switching import unfit
        from mudanza.fleet.examining import examine_hosts
        from mudanza.hypervisor.reading.cluster import read_cluster
        from mudanza.journal.sightings import Sightings

        if not answers(self._means, host):
            return ("its libvirt does not answer",)
        entry = self._means.inventory.host(host)
        with self._means.connections() as connections:
            seen = read_cluster((entry,), timeout=self._means.limits.read, connections=connections).host(host)
            examined = examine_hosts(connections, (seen,)) if seen.seen else ()
        before = Sightings(self._means.database).last().get(host)
        findings = [finding for each in examined for finding in each.findings]
        return unfit(seen, before.host if before else None, findings)
