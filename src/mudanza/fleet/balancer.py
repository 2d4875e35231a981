"""Balancing again and again: by one controller at a time, from what is in the journal, so that another one goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from mudanza import clock
from mudanza.fleet.balancing import Act, Situation, Verdict, judge
from mudanza.fleet.experience import links, moved_of_late
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import READ_TIMEOUT, read_cluster
from mudanza.journal.balance import Balances, DutyHandle
from mudanza.journal.database import Database
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs
from mudanza.journal.plans import PlanHandle, Plans
from mudanza.journal.sightings import Sightings
from mudanza.migration.arrivals import Arrivals
from mudanza.model.balance import BALANCING, Round
from mudanza.model.carrying import RunState
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.load import Loads
from mudanza.model.plan import Goal, Plan

KEEP_EVERY = 2.0
"""Seconds between two looks whether the lease has to be renewed."""
STAND_BY = 10.0
"""Seconds between two looks whether the controller that balances is gone."""
THINKING = 30.0
"""Seconds that one plan may take; the best found so far is taken then."""
STILL_COUNTS = 3.0
"""Times the usual way from one round to the next, beyond which an earlier round does not count any more."""


class Balancer:
    """Looks at the cluster, judges, and has begun or proposed what follows."""

    def __init__(
        self,
        database: Database,
        connect: Callable[[], Connections],
        loads: Callable[[Cluster], Loads],
        asked_by: str,
        tell: Callable[[Verdict, int | None], None],
        say: Callable[[str], None] = lambda _: None,
        link: float | None = None,
    ) -> None:
        """``loads`` tells how busy everybody was; ``tell`` is told what came of each round, with the number of the plan
        it put down; ``link``: what links are taken to carry, bytes per second.
        """
        self._database = database
        self._connect = connect
        self._loads = loads
        self._asked_by = asked_by
        self._tell = tell
        self._say = say
        self._link = link
        self._inventory = Inventory(database)
        self._jobs = Jobs(database)
        self._plans = Plans(database)
        self._balances = Balances(database)
        self._sightings = Sightings(database)

    def run(self, every: float, stop: clock.Event, meanwhile: Callable[[clock.Event], None] = lambda _: None) -> None:
        """Balance until ``stop`` is set, a round every so many seconds; while another controller does, stand by.

        ``meanwhile`` runs beside it, while this controller balances, until the event it is given is set.
        """
        while not stop.is_set():
            handle = self._await_duty(stop)
            if handle is None:
                return
            over = clock.new_event()
            clock.start_thread(partial(meanwhile, over), "beside balance")
            try:
                with handle.kept():
                    self._rounds(handle, every, stop)
            except LeaseLostError as error:
                self._say(f"! {error}")
            finally:
                over.set()

    def once(self, every: float) -> PlanHandle | None:
        """Make one round, ``every`` so many seconds as somebody sees to, and return the plan that is to be carried out
        now. Raises BlockedError while another controller balances, and what kept it from judging."""
        handle = self._balances.take()
        try:
            with handle.kept():
                return self._round(handle, every)
        finally:
            with suppress(LeaseLostError):  # then nobody has to wait for it
                handle.let_go()

    def _await_duty(self, stop: clock.Event) -> DutyHandle | None:
        told = ""
        while not stop.is_set():
            try:
                return self._balances.take()
            except (BlockedError, JournalLostError) as error:
                if str(error) != told:
                    self._say(f"standing by: {error}")
                told = str(error)
            stop.wait(STAND_BY)
        return None

    def _rounds(self, handle: DutyHandle, every: float, stop: clock.Event) -> None:
        begun, told = clock.monotonic(), ""
        while not stop.is_set():
            try:
                plan = self._round(handle, every)
                told = ""
                if plan is not None:
                    plan.let_go()  # whoever carries plans out takes it
            except JournalLostError as error:
                told = self._say_once(error, told)
            except LeaseLostError:
                raise
            except MudanzaError as error:  # a host that did not answer, a rule that names nobody: the next round may do
                told = self._say_once(error, told)
            passed = clock.monotonic() - begun
            stop.wait(every - passed % every)
        handle.let_go()

    def _say_once(self, error: MudanzaError, told: str) -> str:
        if str(error) != told:
            self._say(f"! nothing is balanced this time: {error}")
        return str(error)

    def _round(self, handle: DutyHandle, every: float) -> PlanHandle | None:
        situation = self._situation(every)
        loads = self._loads(situation.cluster)
        recent = moved_of_late(self._database)
        known, usual = links(self._database, self._link)
        arrivals = tuple(Arrivals(self._jobs).expected().values())

        def propose(goal: Goal, still: Mapping[str, str]) -> Plan:
            # Imported where it is needed: it takes its time to load.
            from mudanza.planning.planner import Request, think
            from mudanza.planning.result import as_plan

            until = clock.monotonic() + THINKING
            return as_plan(
                think(
                    Request(goal, link=known, usual_link=usual),
                    situation.cluster,
                    situation.rules,
                    loads,
                    arrivals=arrivals,
                    recent=recent,
                    still=still,
                    stop=lambda: clock.monotonic() > until,
                )
            )

        return self._do(handle, judge(situation, propose))

    def _situation(self, every: float) -> Situation:
        rules = self._inventory.rules()
        return Situation(
            self._cluster(),
            rules,
            self._plans.unfinished(),
            counting(self._balances.rounds(max(rules.hold, 1)), STILL_COUNTS * every),
            self._plans.undone_within(BALANCING, rules.vm_rest),
            clock.time(),
        )

    def _cluster(self) -> Cluster:
        with self._connect() as connections:
            cluster = read_cluster(self._inventory.hosts(), timeout=READ_TIMEOUT, connections=connections)
        self._sightings.keep(cluster)
        return cluster

    def _do(self, handle: DutyHandle, verdict: Verdict) -> PlanHandle | None:
        begun, number = None, verdict.round.plan
        for each, why in verdict.withdrawn.items():
            self._plans.withdraw(each, why, under=handle)
            self._say(f"plan {each} is {RunState.WITHDRAWN.value}: {why}")
        found = verdict.round
        if verdict.plan is not None:
            asked = (verdict.plan, verdict.policy, self._asked_by)
            if verdict.act is Act.BEGIN:
                begun = self._plans.begin(*asked, kind=BALANCING, under=handle)
                number = begun.id
            else:
                number = self._plans.propose(*asked, kind=BALANCING, under=handle)
        handle.note(Round(found.said, found.asked, found.imbalance, number))
        self._tell(verdict, number)
        return begun


def counting(rounds: tuple[Round, ...], gap: float) -> tuple[Round, ...]:
    """Return the last of these rounds (the oldest first) that followed one another, and now, within so many seconds:
    what was asked for before a long gap says nothing of now."""
    counted: list[Round] = []
    after = 0.0
    for each in reversed(rounds):
        if each.ago - after > gap:
            break
        counted.append(each)
        after = each.ago
    return tuple(reversed(counted))
