"""Saving power, round by round: one host at a time is emptied and switched off, or woken, by one controller at a time.

Each round goes by the journal and by what hosts say, so that another controller goes on: a plan that has emptied a
host, a host that is shutting down, one that is waking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mudanza import clock
from mudanza.journal.duty import Duties, Duty, DutyHandle
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.plans import Plans
from mudanza.model.carrying import CannotGo, MoveState, RunPolicy, RunState
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.host_power import Standing
from mudanza.model.watts import PowerModel, straight
from mudanza.operations.host_power import needed_hosts
from mudanza.operations.switching import KIND, Switcher
from mudanza.planning.problem import Floats
from mudanza.planning.saving.advising import Advice, advise
from mudanza.planning.saving.forecast import expected
from mudanza.planning.saving.park import Park
from mudanza.planning.saving.terms import Terms

if TYPE_CHECKING:
    from mudanza.model.carrying import Run
    from mudanza.model.cluster import Cluster
    from mudanza.model.host import Host
    from mudanza.model.host_power import Switching
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say

SAVING = Duty("power", "power is saved", "saves power", "mudanza power show")
SPANS, STEP = 24, 300.0
"""Two hours, five minutes each, are looked back upon."""
HOURS = 5 * 7 * 24
"""And so many, to tell what is wanted at an hour of a weekday."""
OFF, ADVISE, MANUAL, AUTO = "off", "advise", "manual", "auto"
"""How far it goes by itself: not at all, it is said, a plan waits for a yes, it is done."""
STILL_COUNTS = 3600.0
"""Seconds for which a plan that has emptied a host counts, where nothing came of it."""
STAND_BY = 10.0
"""Seconds between two tries to be the one who saves."""
UNKNOWN = straight(100, 200)
"""What a host is taken to draw of which nobody has said it: enough to compare hosts alike."""


class Settings(Protocol):
    """How power is saved. Seconds."""

    @property
    def saving(self) -> str:
        """One of OFF, ADVISE, MANUAL and AUTO."""

    @property
    def every(self) -> float:
        """Between two rounds."""

    @property
    def boot(self) -> float:
        """A host to start: what is wanted until then, it has to be woken for now."""

    def terms(self) -> Terms:
        """Return how careful it is."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a round judges by."""

    park: Park
    names: Mapping[int, str]
    rested: Mapping[str, float]


def scene_of(
    cluster: Cluster,
    known: Mapping[str, Host],
    asleep: Sequence[str],
    course: Mapping[str, Sequence[float | None]],
    rested: Mapping[str, float],
    fixed: Mapping[str, str],
    models: Mapping[str, PowerModel | None],
) -> Scene:
    """Return the cluster as saving sees it: hosts that are on and open, and those that sleep, as they were last seen
    (``known``). ``course``: what each VM used; one that was not measured is taken to use all it was promised."""
    from mudanza.planning.needs import promised
    from mudanza.preflight.memory import reserve

    awake = [host for host in cluster.hosts if host.seen and not host.entry.maintenance]
    hosts = [*awake, *(known[name] for name in asleep if name in known)]
    number = {host.name: each for each, host in enumerate(hosts)}
    places = {host.name for host in awake}
    vms = [vm for vm in cluster.vms if vm.state.active and vm.host in places]
    park = Park(
        np.array([float(max(host.cpus, 1)) for host in hosts]),
        [models.get(host.name) or UNKNOWN for host in hosts],
        np.arange(len(hosts)) < len(awake),
        np.array([number[vm.host] for vm in vms], dtype=np.int64),
        recent_of(vms, course),
        (
            np.array([float(max(host.memory_total - reserve(host), 1)) for host in hosts]),
            np.array([float(promised(vm)) for vm in vms]),
        ),
        np.array([host.name in fixed for host in hosts], dtype=np.bool_),
    )
    return Scene(park, {each: name for name, each in number.items()}, rested)


def recent_of(vms: Sequence[Vm], course: Mapping[str, Sequence[float | None]]) -> Floats:
    """Return what VMs used, span by span, from the first one on in which anybody was measured."""
    told = [[*course.get(vm.uuid, ())] for vm in vms]
    lengths = [len(each) - next((n for n, used in enumerate(each) if used is not None), len(each)) for each in told]
    spans = max(max(lengths, default=1), 1)
    recent = np.zeros((len(vms), spans))
    for row, (vm, each) in enumerate(zip(vms, told, strict=True)):
        recent[row] = max((used for used in each if used is not None), default=float(vm.vcpus))
        for back, used in enumerate(reversed(each[-spans:]), 1):
            if used is not None:
                recent[row, -back] = used
    return recent


class Saver:
    """Makes rounds of saving."""

    def __init__(self, means: Means, settings: Settings, switcher: Switcher, asked_by: str, say: Say) -> None:
        from mudanza.journal.host_power import HostPowers

        self._means = means
        self._settings = settings
        self._switcher = switcher
        self._asked_by = f"{asked_by} (power)"
        self._say = say
        self._powers = HostPowers(means.database)
        self._plans = Plans(means.database)
        self._duties = Duties(means.database, SAVING)
        self._told = ""

    def run(self, stop: clock.Event) -> None:
        """Save until ``stop`` is set; while another controller does, stand by."""
        handle: DutyHandle | None = None
        while not stop.is_set():
            handle = handle or self._take()
            if handle is not None:
                try:
                    with handle.kept():  # to wake a host takes longer than a lease lasts
                        self._once(self.round(handle))
                except (LeaseLostError, JournalLostError) as error:
                    handle = None
                    self._once(f"standing by: {error}")
                except MudanzaError as error:
                    self._once(f"! power is not saved this time: {error}")
            stop.wait(self._settings.every if handle else STAND_BY)
        if handle is not None:
            with suppress(LeaseLostError, JournalLostError):
                handle.let_go()

    def once(self) -> str:
        """Make one round; return what came of it. Raises BlockedError while another controller saves, MudanzaError."""
        handle = self._duties.take()
        try:
            with handle.kept():
                return self.round(handle)
        finally:
            with suppress(LeaseLostError, JournalLostError):
                handle.let_go()

    def _take(self) -> DutyHandle | None:
        try:
            return self._duties.take()
        except (BlockedError, JournalLostError) as error:
            self._once(f"standing by: {error}")
        return None

    def round(self, handle: DutyHandle) -> str:
        """Take one look, and do, or say, what follows; return it in a sentence. Raises MudanzaError."""
        handle.keep()
        last = self._powers.last()
        if said := self._went_on_with(last):
            return said
        unfinished = self._plans.unfinished()
        waiting = next((run for run in unfinished if run.kind == KIND and run.state is RunState.ASKED), None)
        busy = next((run for run in unfinished if run.state is not RunState.ASKED), None)
        if busy is not None:
            return f"nothing is switched while plan {busy.id} ({busy.kind}) is not done"
        scene, ahead = self._scene(last)
        if not len(scene.park.place):
            return "no VM runs on hosts that are on and open"
        rested = np.array([scene.rested.get(scene.names[each], np.inf) for each in range(len(scene.names))])
        advice = advise(scene.park, scene.names, rested, self._settings.terms(), ahead)
        return self._done_with(advice, scene.names, waiting, handle)

    def _done_with(self, advice: Advice, names: Mapping[int, str], waiting: Run | None, handle: DutyHandle) -> str:
        off = None if advice.off is None else names[advice.off]
        if waiting is not None and waiting.subject != off:
            self._plans.withdraw(waiting.id, f"it is not wanted any more: {advice.said}", under=handle)
            waiting = None
        if waiting is not None:
            return f"plan {waiting.id} waits for a yes ({advice.said}): mudanza run approve {waiting.id}"
        if self._settings.saving in (OFF, ADVISE):
            return f"{advice.said}{_by_hand(advice, names)}"
        if advice.wake is not None:  # VMs wait for it: nobody is asked
            self._once(advice.said)
            self._switcher.on(names[advice.wake])
        if off is not None:
            return f"{advice.said}; {self._empty(off, handle)}"
        return advice.said

    def _went_on_with(self, last: Mapping[str, Switching]) -> str:
        """Go on with what a controller that died has begun, and with a host that a plan of ours has emptied; return
        what was done, or an empty word. One that did not wake well is left to a person."""
        if self._settings.saving in (OFF, ADVISE):
            return ""
        for host, each in last.items():
            if each.ended_at is not None:
                continue
            if each.standing is Standing.GOING_OFF:
                self._switcher.off(host, closed=each.closed)
                return f"{host} is off"
            if each.standing is Standing.WAKING:
                self._switcher.on(host)
                return f"{host} is awake"
        for run in self._plans.latest(20):
            if self._is_emptied(run, last) and (said := self._after(run)):
                return said
        return ""

    def _is_emptied(self, run: Run, last: Mapping[str, Switching]) -> bool:
        """Whether a plan of saving has ended a short while ago, and nothing came of it yet."""
        if run.kind != KIND or run.ended_at is None or run.asked_by != self._asked_by:
            return False
        switched = last.get(run.subject)
        fresh = run.read_at - run.ended_at < STILL_COUNTS
        return fresh and (switched is None or switched.at < run.started_at)

    def _after(self, run: Run) -> str:
        host = run.subject
        if run.moves and run.count(MoveState.DONE) == len(run.moves):
            self._switcher.off(host, closed=False)
            return f"{host} is off"
        if self._means.inventory.host(host).maintenance:
            self._means.inventory.set_maintenance(host, on=False)
            return f"{host} could not be emptied, and is open again: {run.outcome}"
        return ""

    def _scene(self, last: Mapping[str, Switching]) -> tuple[Scene, float | None]:
        from mudanza.journal.course import by_hour, by_vm
        from mudanza.journal.sightings import Sightings

        with self._means.connections() as connections:
            cluster = self._means.read_cluster(connections)
        engine, sightings = self._means.database, Sightings(self._means.database)
        sightings.keep(cluster)
        known = {name: each.host for name, each in sightings.last().items()}
        asleep = [host for host, each in last.items() if each.standing is Standing.ASLEEP]
        rested = {host: clock.time() - each.ended_at for host, each in last.items() if each.ended_at is not None}
        models = {name: power.watts for name, power in self._powers.all().items()}
        fixed = needed_hosts(self._means, cluster)
        scene = scene_of(cluster, known, asleep, by_vm(engine, SPANS, STEP), rested, fixed, models)
        return scene, expected(by_hour(engine, HOURS), clock.time(), 2 * self._settings.boot)

    def _empty(self, host: str, handle: DutyHandle) -> str:
        """Have a host emptied, or ask for it; where nobody is on it, switch it off. Return what was done."""
        manual = self._settings.saving == MANUAL
        wanted = self._switcher.empty(
            host, CannotGo.REFUSE, RunPolicy(), lambda _: CannotGo.REFUSE, with_off=False, force=False
        )
        if wanted.stay or manual:
            self._means.inventory.set_maintenance(host, on=False)
        if wanted.stay:
            return f"{host} cannot be emptied: {wanted.plan.unmoved[0].why}"
        if manual:
            if not wanted.plan.moves:
                return f"nobody is on it; do it: mudanza power off {host}"
            asked = (wanted.plan, wanted.policy, self._asked_by)
            number = self._plans.propose(*asked, kind=KIND, under=handle, subject=host)
            return f"plan {number} waits for a yes: mudanza run approve {number}"
        if not wanted.plan.moves:
            self._switcher.off(host, closed=False)
            return f"{host} is off"
        asked = (wanted.plan, wanted.policy, self._asked_by)
        number = self._plans.put_down(*asked, kind=KIND, subject=host, request=None)
        return f"plan {number} empties it: {len(wanted.plan.moves)} moves"

    def _once(self, words: str) -> None:
        if words != self._told:
            self._say(words)
        self._told = words


def _by_hand(advice: Advice, names: Mapping[int, str]) -> str:
    if advice.wake is not None:
        return f"; do it: mudanza power on {names[advice.wake]}"
    return f"; do it: mudanza power off {names[advice.off]}" if advice.off is not None else ""


def saver_of(means: Means, asked_by: str, say: Say) -> Saver:
    """Return who saves power."""
    from mudanza.operations.host_off import switcher_of

    return Saver(means, means.saving, switcher_of(means, asked_by, say), asked_by, say)
