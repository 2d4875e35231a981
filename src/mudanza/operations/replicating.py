"""Rounds of replication: one that is asked for, and all those that are due."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.journal.errors import JournalLostError
from mudanza.journal.outbox import Outbox
from mudanza.journal.protections import Protections
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.notice import Kind
from mudanza.model.protection import Consistency, Protection, RestorePoint, Standing
from mudanza.model.units import format_duration, format_size
from mudanza.operations.coming_home import settle, way_is_over
from mudanza.operations.grouping import sync_together
from mudanza.operations.means import Means, Say
from mudanza.operations.own_addresses import AddressesOwed
from mudanza.operations.reigning import refuse_replaced
from mudanza.operations.testing import BootTrials
from mudanza.protection.copies import copy_of
from mudanza.protection.rounds import Rounds
from mudanza.protection.telling import how_consistent

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections

LOOK_EVERY = 1.0
"""Seconds between two looks whether a round is due."""
AT_ONCE = 3
"""Rounds that one controller makes at the same time. Each logs in at its hosts twice, and an sshd as it comes turns
some away where more than ten are at it."""
ROUND_LIMIT = 7 * 86400.0
"""Seconds that a round may take before nobody waits for it any more: a large disk over a slow link takes days."""
SETTLE_AGAIN = 30.0
"""Seconds after which it is tried again to find out where a VM is whose way home has ended."""
LATE = 2
"""Of how many intervals a restore point may be old before it is said to be late."""


def sync(
    means: Means, connections: Connections, protection: Protection, asked_by: str, *, verify: bool = False
) -> RestorePoint:
    """Make one round, of a VM's whole group if it has one; return its restore point. Raises as ``Rounds.sync``, and
    BlockedError where nobody has the VM."""
    if protection.group and protection.standing is Standing.ON:
        points = sync_together(means, connections, protection.group, asked_by, verify=verify)
        return points[protection.vm_uuid]
    found = copy_of(means.read_cluster(connections, resources=False), protection)
    if found is None:
        raise BlockedError(
            f"no host that answers has VM {protection.vm_name!r}",
            remedy=f"if its host is lost: mudanza failover {protection.vm_name} --source-is-dead",
        )
    rounds = Rounds(connections, means.jobs, Protections(means.database))
    return rounds.sync(protection, found, asked_by, verify=verify)


def _by_group(protections: Sequence[Protection]) -> list[Sequence[Protection]]:
    """Return those who share rounds: the members of each group, and each of the others by itself."""
    shared: dict[str, list[Protection]] = {}
    for each in protections:
        shared.setdefault(f"group {each.group}" if each.group else f"alone {each.id}", []).append(each)
    return list(shared.values())


def vms_of(members: Sequence[Protection]) -> frozenset[str]:
    """Return the UUIDs of the VMs whose rounds these are."""
    return frozenset(each.vm_uuid for each in members)


def apart(due: Sequence[Sequence[Protection]], busy: frozenset[str] = frozenset()) -> list[Sequence[Protection]]:
    """Return what of that can be done side by side, in this order: no two of them with a VM in common, and none with
    one that is ``busy`` (UUIDs): pure."""
    found: list[Sequence[Protection]] = []
    for members in due:
        if not vms_of(members) & busy:
            found.append(members)
            busy |= vms_of(members)
    return found


def is_late(protection: Protection) -> bool:
    """Whether the newest restore point is older than it should be."""
    return protection.standing is Standing.ON and (protection.lag is None or protection.lag > LATE * protection.every)


def state_of(protection: Protection) -> str:
    """Return what becomes of a replica, in a word or two: pure."""
    if protection.standing is not Standing.ON:
        return str(protection.standing)
    if protection.is_stale:
        return "stale"
    if protection.paused_by:
        return "paused"
    return "late" if is_late(protection) else str(protection.standing)


class Replicator:
    """Makes the rounds of all replicas when they are due, those first that have waited longest, some at once: one that
    takes long holds up no other, but those of the same VM: libvirt keeps one instant of a VM at a time. Has it tried,
    too, whether they boot, and guests that have come home have their own addresses again.

    Several controllers may do so at once: a VM that one of them makes a round of is left alone by the others.
    """

    def __init__(self, means: Means, asked_by: str, say: Say, failed: Callable[[MudanzaError], None]) -> None:
        """``failed`` is told why a round was not made."""
        self._means = means
        self._asked_by = asked_by
        self._say = say
        self._failed = failed
        self._store = Protections(means.database)
        self._lock = threading.Lock()
        self._held: list[Connections] = []
        """What rounds are made by; the last one is to the hosts that there are now."""
        self._tried: dict[int, float] = {}
        self._looked: dict[int, float] = {}
        self._late: set[int] = set()
        self._unfrozen: set[int] = set()
        self._tester = BootTrials(means, asked_by, say, failed)
        self._addresses = AddressesOwed(means, say, failed)

    def run(self, stop: clock.Event) -> None:
        """Make rounds until ``stop`` is set; those that are under way then are brought to their end."""
        under_way: dict[frozenset[str], Task[int]] = {}
        try:
            self._run(stop, under_way)
            for task in under_way.values():
                task.wait(ROUND_LIMIT)
            self._tester.end()
            self._addresses.end()
        finally:
            self._close()

    def _run(self, stop: clock.Event, under_way: dict[frozenset[str], Task[int]]) -> None:
        """``under_way``: the UUIDs of the VMs that something is done with → that."""
        while not stop.wait(LOOK_EVERY):
            for vms in [vms for vms, task in under_way.items() if task.ended]:
                under_way.pop(vms).wait(0)  # a failure that nobody foresaw is one of this loop
            busy = frozenset[str]().union(*under_way)
            try:
                gone = [each for each in self._gone() if each.vm_uuid not in busy]
                due = apart(self._due(), busy)
                self._tester.look(stop)
                self._addresses.look()
            except JournalLostError as error:
                self._say(f"! no replicas are brought up to date: {error}")
                continue
            for each in gone:
                under_way[frozenset([each.vm_uuid])] = self._begin_to_settle(each)
            for members in due[: max(AT_ONCE - len(under_way), 0)]:
                under_way[vms_of(members)] = self._begin(members)

    def turn(self, stop: clock.Event) -> list[int]:
        """Make the rounds that are due now; return their exit codes. Raises JournalLostError."""
        codes = list[int]()
        try:
            codes += [self._begin_to_settle(each).wait(ROUND_LIMIT) for each in self._gone()]
            due = self._due()
            while due and not stop.is_set():
                now = apart(due)[:AT_ONCE]
                due = [members for members in due if members not in now]
                codes += [task.wait(ROUND_LIMIT) for task in [self._begin(members) for members in now]]
            codes += self._tester.turn(stop)
            codes += self._addresses.turn()
        finally:
            self._close()
        return codes

    def _due(self) -> list[Sequence[Protection]]:
        """Return what a round is due of, by those who share it, what was tried longest ago first; tell what is late."""
        everything = self._store.all()
        protections = [each for each in everything if each.standing is Standing.ON]
        self._tell_late(protections)
        going_home = {each.vm_uuid for each in everything if each.standing is Standing.GOING_HOME}
        due = [
            members
            for members in _by_group(protections)
            if all(map(self._is_due, members)) and not vms_of(members) & going_home
        ]
        return sorted(due, key=lambda members: min(each.tried_at or 0.0 for each in members))

    def _gone(self) -> list[Protection]:
        """Return those whose way home is over, of whom nobody has written down yet where they are."""
        now = clock.monotonic()
        return [
            each
            for each in self._store.all()
            if each.standing is Standing.GOING_HOME
            and now - self._looked.get(each.id, -SETTLE_AGAIN) >= SETTLE_AGAIN
            and way_is_over(each, self._means.jobs.newest_of(each.vm_uuid))
        ]

    def _begin_to_settle(self, protection: Protection) -> Task[int]:
        self._looked[protection.id] = clock.monotonic()
        return Task(lambda: self._settle(protection))

    def _settle(self, protection: Protection) -> int:
        try:
            found = settle(self._means, self._connections(), self._store, protection.vm_uuid, self._say)
        except MudanzaError as error:
            self._failed(error)
            return error.exit_code
        self._say(f"{found.vm_name}: {found.said or found.standing}")
        return 0

    def _begin(self, members: Sequence[Protection]) -> Task[int]:
        self._tried |= {each.id: clock.monotonic() for each in members}
        return Task(lambda: self._try(members))

    def _is_due(self, protection: Protection) -> bool:
        """Whether so long has gone by since the last round began, whoever tried it and however it went."""
        if not protection.is_kept:
            return False
        mine, every = self._tried.get(protection.id), protection.every
        if mine is not None and clock.monotonic() - mine < every:
            return False
        if protection.tried_at is not None and protection.read_at - protection.tried_at < every:
            return False
        job = self._means.jobs.unfinished_of(protection.vm_uuid)
        return job is None or job.abandoned

    def _try(self, members: Sequence[Protection]) -> int:
        protection, verify = members[0], any(each.is_to_be_verified for each in members)
        try:
            refuse_replaced(self._means)  # what it connected to long ago would do as well as ever
            point = sync(self._means, self._connections(), protection, self._asked_by, verify=verify)
        except MudanzaError as error:
            self._failed(error)
            return error.exit_code
        whose = f"group {protection.group}: " if protection.group else ""
        brought = f"restore point {point.number}, {format_size(point.carried)} brought"
        same = ", and all of the replica is the same as the source" if verify else ""
        self._say(f"{whose}{protection.vm_name}{self._where(protection)}: {brought}{how_consistent(point)}{same}")
        self._tell_unfrozen(members)
        return 0

    def _where(self, protection: Protection) -> str:
        """Return which of several replicas of a VM one is, in words."""
        return f" at {protection.target}" if len(self._store.replicas(protection.vm_uuid)) > 1 else ""

    def _tell_unfrozen(self, members: Sequence[Protection]) -> None:
        """Tell once of a guest that was to be frozen and was not, until it is again."""
        numbers = {member.id for member in members}
        for each in [each for each in self._store.all() if each.id in numbers]:
            point = each.newest
            if point is None:
                continue
            if point.consistency is Consistency.APPLICATION:
                self._unfrozen.discard(each.id)
            elif point.why_not and each.id not in self._unfrozen:
                self._unfrozen.add(each.id)
                said = f"restore point {point.number} of {each.vm_name} is crash-consistent only: {point.why_not}"
                about = {"vm": each.vm_name, "target": each.target, "point": point.number}
                Outbox(self._means.database).write_down(Kind.NOT_FROZEN, each.vm_name, said, about)
                self._say(f"! {said}")

    def _connections(self) -> Connections:
        """Return connections that last: to log in anew for each round takes longer than most rounds. Raises as
        ``Means.connections``."""
        with self._lock:
            if not self._held or self._held[-1].entries != self._means.inventory.hosts():
                self._held.append(self._means.connections())  # rounds that are under way need the others still
            return self._held[-1]

    def _close(self) -> None:
        while self._held:
            self._held.pop().close()

    def _tell_late(self, protections: list[Protection]) -> None:
        """Have it told once of each replica that is older than it should be."""
        late = {each.id: each for each in protections if is_late(each) and each.newest is not None}
        for number in late.keys() - self._late:
            each = late[number]
            old = format_duration(each.lag or 0.0)
            said = f"the replica of {each.vm_name} at {each.target} is {old} old, and was to be {each.every:g} s"
            about = {"vm": each.vm_name, "target": each.target, "lag": each.lag, "every": each.every}
            Outbox(self._means.database).write_down(Kind.RPO_BROKEN, each.vm_name, said, about)
            self._say(f"! {said}")
        self._late = set(late)
