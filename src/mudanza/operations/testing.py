"""Whether replicas boot, tried on schedule: a double comes up, cut off, its guest answers, and it is taken away.

Who tries it may die in the middle: how long it takes at the most is written down with the double, and whoever makes
rounds takes away what is left of it after that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal.outbox import Outbox
from mudanza.journal.protections import Protections
from mudanza.model.errors import BlockedError, MigrationFailedError, MudanzaError
from mudanza.model.notice import Kind
from mudanza.model.protection import Protection
from mudanza.model.units import format_duration
from mudanza.model.vm import VmState
from mudanza.operations import trying
from mudanza.operations.reigning import refuse_replaced
from mudanza.protection.trial import Report

if TYPE_CHECKING:
    from mudanza.operations.means import Means, Say

ENDS = "ends"
"""What is written down with a double: after how many seconds it is taken away by whoever makes rounds."""
RUNS = 30.0
"""Seconds that the double of a guest without an agent has to run for; nobody knows more of it."""
TAKING_AWAY = 600.0
"""Seconds beyond its limit that whoever tries it has for starting the double and taking it away."""
TRY_AGAIN = 300.0
"""Seconds after which what could not be done is tried again."""
LOOK_EVERY = 10.0
"""Seconds between two looks what is due."""
TEST_LIMIT = 86400.0
"""Seconds after which nobody waits for a test any more."""


def is_left(protection: Protection) -> bool:
    """Whether a double that was tried on schedule should have been taken away by now: pure."""
    trial = protection.trial
    ends = trial.times.get(ENDS) if trial is not None else None
    return trial is not None and ends is not None and protection.read_at - trial.begun_at > ends


def has_agent(protection: Protection) -> bool:
    """Whether a VM has a channel for a guest agent, by its newest restore point: pure."""
    assert protection.newest is not None
    return parse_vm(protection.newest.definition, host=protection.target, state=VmState.SHUTOFF).guest_agent


def test(means: Means, protection: Protection, asked_by: str, stop: clock.Event) -> str:
    """Try whether a replica boots; return what is to be told; empty: it was stopped before that was known.

    Raises MigrationFailedError where it does not, or something is not as it was before; and as ``trying.begin`` and
    ``trying.end``.
    """
    vm, host, store = protection.vm_uuid, protection.target, Protections(means.database)
    limit = protection.test_limit if has_agent(protection) else RUNS
    report = trying.begin(means, vm, None, asked_by, digests=False, networks={}, on=host)
    store.tell_trial(protection.id, **{ENDS: limit + TAKING_AWAY})
    try:
        if has_agent(protection):
            came = trying.await_agent(means, vm, limit, stop, host)
        else:
            stop.wait(limit)
            came = trying.runs(means, vm, host)
    finally:
        ended = trying.end(means, vm, asked_by, host)
    if stop.is_set() and not came:
        return ""
    return f"{protection.vm_name} at {host}: restore point {report.point} {outcome(ended, came=came, limit=limit)}"


def outcome(report: Report, *, came: bool, limit: float) -> str:
    """Return what came of a test in words: pure. Raises MigrationFailedError where the replica is of no use."""
    if not came:
        raise MigrationFailedError(
            f"the double of VM {report.vm!r} from its replica at {report.host}, restore point {report.point}, did not "
            f"come up within {format_duration(limit)}",
            vm_state="production and replica are as before; the double is taken away",
            remedy=f"look at it while it runs: mudanza test-failover {report.vm} --on {report.host}, mudanza console",
        )
    if report.different:
        raise MigrationFailedError(
            f"not as before the test of the replica of VM {report.vm!r} at {report.host}: "
            + ", ".join(each.what for each in report.different),
            vm_state="the double is taken away",
            remedy="compare the replica with the source: mudanza protection verify",
        )
    if report.answered is None:
        return "starts; it has no guest agent that could tell more"
    return f"boots: its guest answered after {format_duration(report.answered)}"


class BootTrials:
    """Tries replicas when that is due, one at a time, and takes away what others have left of it."""

    def __init__(self, means: Means, asked_by: str, say: Say, failed: Callable[[MudanzaError], None]) -> None:
        """``failed`` is told of one that does not boot."""
        self._means = means
        self._asked_by = asked_by
        self._say = say
        self._failed = failed
        self._store = Protections(means.database)
        self._under_way: Task[int] | None = None
        self._looked: dict[int, float] = {}
        self._refused: set[int] = set()
        self._look_at = 0.0

    def look(self, stop: clock.Event) -> None:
        """Begin what is due, unless one is under way. Raises JournalLostError."""
        if self._under_way is not None:
            if not self._under_way.ended:
                return
            self._under_way.wait(0)  # a failure that nobody foresaw is one of whoever asks
            self._under_way = None
        if clock.monotonic() < self._look_at:
            return
        self._look_at = clock.monotonic() + LOOK_EVERY
        if (work := self._due(stop)) is not None:
            self._under_way = Task(work)

    def turn(self, stop: clock.Event) -> list[int]:
        """Do all that is due now; return exit codes. Raises JournalLostError."""
        codes = list[int]()
        while not stop.is_set() and (work := self._due(stop)) is not None:
            codes.append(Task(work).wait(TEST_LIMIT))
        return codes

    def end(self) -> None:
        """Wait until what is under way has ended."""
        if self._under_way is not None:
            self._under_way.wait(TEST_LIMIT)

    def _due(self, stop: clock.Event) -> Callable[[], int] | None:
        now = clock.monotonic()
        for each in self._store.all():
            if now - self._looked.get(each.id, -TRY_AGAIN) < TRY_AGAIN:
                continue
            if is_left(each):
                self._looked[each.id] = now
                return partial(self._take_away, each)
            if each.is_to_be_tested:
                self._looked[each.id] = now
                return partial(self._test, each, stop)
        return None

    def _take_away(self, protection: Protection) -> int:
        try:
            refuse_replaced(self._means)
            ended = trying.end(self._means, protection.vm_uuid, self._asked_by, protection.target)
        except MudanzaError as error:
            self._failed(error)
            return error.exit_code
        self._say(f"{ended.double}, which a controller had left, is taken away from {ended.host}")
        return 0

    def _test(self, protection: Protection, stop: clock.Event) -> int:
        try:
            refuse_replaced(self._means)
            said, code = test(self._means, protection, self._asked_by, stop), 0
        except MudanzaError as error:
            self._failed(error)
            said, code = str(error), error.exit_code
            if isinstance(error, BlockedError) and protection.id not in self._refused:
                self._refused.add(protection.id)  # points may have been thinned just then: it is tried once more
                return code
            about = {"vm": protection.vm_name, "target": protection.target}
            Outbox(self._means.database).write_down(Kind.TEST_FAILED, protection.vm_name, said, about)
        else:
            if not said:
                return code
            self._say(said)
        self._refused.discard(protection.id)
        self._store.change(protection.id, tested_at=self._store.instant(), tested=said)
        return code
