"""The VMs of a story: where each one truly runs, what was seen of it, and what is made of that by the product's own
functions. Where it is started is simple here, and where the planner would put it is not told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mudanza.availability.deciding import due, in_groups, loss_of
from mudanza.availability.hanging import Listened, hangs, listen
from mudanza.availability.mending import Act, Mend, mends
from mudanza.model.cluster import Cluster
from mudanza.model.host import Host as SeenHost
from mudanza.model.kept import Care, KeptUp, OnHang, Past, ran_on
from mudanza.model.plan import MoveMode, PlannedMove
from mudanza.model.pulse import Pulse, Voice
from mudanza.model.vm import Vm as SeenVm
from mudanza.model.vm import VmState
from tests import factories as make

REMEMBER_EVERY = 15
"""Seconds between two times that it is written down what is where, as of ``operations.guarding``."""
Tell = Callable[[str], None]


@dataclass
class Vm:
    """The truth about one VM: where it is defined, and in which state."""

    name: str
    states: dict[str, tuple[VmState, str]]
    """Host → state and reason."""
    kept: KeptUp | None
    replica: str = ""
    """The host that its replica is on: its disks are on its own host alone, then."""
    rounds: int = 60
    """Seconds between two rounds of it."""
    point: int = 0
    """When its newest restore point was taken."""
    guest: str = "works"
    """What its guest does: it works; hangs; is busy, and its agent does not come to answer; has no agent any more."""
    done: int = 0
    """What its guest has read, written and sent."""
    spent: float = 0.0
    """CPU seconds of it."""
    run: int = 1
    barked: bool = False
    """Whether its watchdog has run out, and done no more than say so; its guest has not answered since."""
    seen_shut_down: bool = False
    """Whether somebody shut it down, and it was written down then that it was off."""

    @property
    def uuid(self) -> str:
        return f"u-{self.name}"

    @property
    def running(self) -> list[str]:
        return [host for host, (state, _) in self.states.items() if state.active]

    def end(self, host: str, reason: str) -> None:
        """Let it be off there, if it was not."""
        if host in self.states and self.states[host][0].active:
            self.states[host] = (VmState.SHUTOFF, reason)

    def end_everywhere(self, reason: str) -> None:
        for host in self.running:
            self.end(host, reason)

    def stand_still(self, reason: str) -> None:
        for host in self.running:
            self.states[host] = (VmState.PAUSED, reason)

    def boot(self, host: str) -> None:
        """Start there, with a guest that works."""
        self.states[host], self.guest, self.barked = (VmState.RUNNING, "booted"), "works", False
        self.run += 1

    def live(self, at: int, last: int, reached: Sequence[str]) -> None:
        """Do what it does from one look to the next."""
        for host in self.running:
            runs = self.states[host][0] is VmState.RUNNING
            if runs and self.guest != "hangs":
                self.done += 1
                self.spent += (at - last) * 0.3
            if self.replica in reached and host in reached and at // self.rounds > self.point // self.rounds:
                self.point = at

    def pulse(self, host: str) -> Pulse:
        voices = {"works": Voice.ANSWERS, "has no agent": Voice.NOT_THERE}
        voice = voices.get(self.guest, Voice.SILENT)
        runs = self.states[host][0] is VmState.RUNNING
        return Pulse(self.run, runs, voice, self.spent, self.done, self.done)

    def as_seen(self, host: str) -> SeenVm:
        state, reason = self.states[host]
        return make.vm(name=self.name, uuid=self.uuid, host=host, state=state, reason=reason)


@dataclass(frozen=True)
class Seen:
    """Which hosts answer a round, which are proven off, and which may take VMs."""

    answer: Sequence[str]
    proven: Sequence[str]
    open: Sequence[str]
    every: Sequence[str]
    without_storage: Sequence[str] = ()
    proven_at: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Vms:
    """All VMs, and what the controllers know of them."""

    vms: dict[str, Vm] = field(default_factory=dict)
    refusing: set[str] = field(default_factory=set)
    """Hosts at which nothing can be started."""
    past: dict[str, Past] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    """UUID → when its last restart ended."""
    plan: list[PlannedMove] = field(default_factory=list)
    remembered: int | None = None
    told: set[str] = field(default_factory=set)
    gone_on: dict[str, float] = field(default_factory=dict)
    listened: dict[str, Listened] = field(default_factory=dict)
    """What the controller has heard of guests."""
    lived: int = 0

    def add(self, name: str, words: str) -> None:
        """Read ``on h1, priority 1, restarts 2, after db``, or ``on h1, not kept``; besides ``replica h3`` (to be
        started from it), ``copy h3`` (not so), ``rounds 60``, ``loss 90`` and ``hang 60``, in seconds."""
        parts = [part.strip() for part in words.split(",")]
        host = parts[0].removeprefix("on ")
        told = [part.split() for part in parts[1:] if part != "not kept"]
        numbers = {key: int(value) for key, value in told if key not in ("after", "replica", "copy")}
        places = {key: value for key, value in told if key in ("replica", "copy")}
        after = tuple(f"u-{value}" for key, value in told if key == "after")
        kept = KeptUp(
            f"u-{name}",
            name,
            numbers.get("priority", 5),
            numbers.get("restarts", 3),
            False,
            "ana",
            0.0,
            "",
            after,
            Care(
                "replica" in places,
                numbers.get("loss"),
                OnHang.RESTART if "hang" in numbers else OnHang.TELL,
                float(numbers.get("hang", 120)),
            ),
        )
        vm = Vm(name, {host: (VmState.RUNNING, "booted")}, None if "not kept" in parts else kept)
        vm.replica, vm.rounds = next(iter(places.values()), ""), numbers.get("rounds", 60)
        self.vms[name] = vm

    @property
    def kept(self) -> dict[str, KeptUp]:
        return {vm.uuid: vm.kept for vm in self.vms.values() if vm.kept is not None}

    def of(self, uuid: str) -> Vm:
        return next(vm for vm in self.vms.values() if vm.uuid == uuid)

    def lose(self, host: str) -> None:
        """A host has lost its power: everything on it is off."""
        for vm in self.vms.values():
            vm.end(host, "unknown")

    def two_copies(self) -> list[str]:
        return [f"{vm.name} runs on {' and '.join(vm.running)}" for vm in self.vms.values() if len(vm.running) > 1]

    def round(self, at: int, seen: Seen, tell: Tell) -> bool:
        """Do what a round of the guard does about VMs, and what its plans do meanwhile; return whether it was one that
        looks at everything."""
        cluster = self.cluster(seen)
        self._live(at, seen)
        is_whole = self.remembered is None or at >= self.remembered + REMEMBER_EVERY
        if is_whole:
            self.remembered = at
            self._see(seen)
            self._mend(at, cluster, seen, tell)
        if self.plan:
            self._carry_on(at, seen, tell)
            return is_whole
        replicated = [vm.uuid for vm in self.vms.values() if vm.replica]
        decision = due(self.kept, self.cluster(seen), sorted(seen.proven), self._past(at), replicated)
        for word in decision.told:
            self._once(word, tell)
        for host, revived in decision.replicas.items():
            for uuid in revived:
                self._revive(at, self.of(uuid), host, seen, tell)
        for host, due_there in decision.hosts.items():
            for uuid in (uuid for uuid in due_there if uuid in replicated):
                self._once(f"{self.of(uuid).name} has no other place than {host}: it has a replica", tell)
            self._plan(host, [uuid for uuid in due_there if uuid not in replicated], seen, tell)
        if self.plan:
            self._carry_on(at, seen, tell)
        return is_whole

    def _live(self, at: int, seen: Seen) -> None:
        for vm in self.vms.values():
            vm.live(at, self.lived, seen.answer)
        self.lived = at

    def _see(self, seen: Seen) -> None:
        for host in seen.answer:
            for vm in self.vms.values():
                if host in vm.states:
                    vm.seen_shut_down = vm.states[host] == (VmState.SHUTOFF, "shutdown")

    def _plan(self, host: str, uuids: Sequence[str], seen: Seen, tell: Tell) -> None:
        if uuids and not self._target(host, seen):
            self._once(f"nothing of {host} can be started elsewhere", tell)
            return
        moves: list[PlannedMove] = []
        for n, uuid in enumerate(uuids, 1):
            target = self._target(host, seen, moves)
            moves.append(PlannedMove(n, self.of(uuid).name, uuid, host, target, "", MoveMode.RESTART, 1))
        self.plan += in_groups(moves, self.kept)

    def _mend(self, at: int, cluster: Cluster, seen: Seen, tell: Tell) -> None:
        """Bring those back that have stopped by themselves, as ``operations.mending`` does."""
        for vm in self.vms.values():
            if vm.kept is not None:
                vm.kept = replace(vm.kept, ran_on=ran_on(vm.kept, cluster))
        hung, barked = self._hung(), [vm.uuid for vm in self.vms.values() if vm.barked and vm.running]
        wanted, told = mends(self.kept, cluster, self._past(at), self.gone_on, float(at), hung, barked)
        for word in told:
            self._once(word, tell)
        for each in wanted:
            self._do(at, each, seen, tell)
        self._listen(at, seen)

    def _hung(self) -> dict[str, str]:
        found = {}
        for uuid, known in self.listened.items():
            kept = self.of(uuid).kept
            if kept is not None and (why := hangs(known, kept.care.hang_after)):
                found[uuid] = why
        return found

    def _listen(self, at: int, seen: Seen) -> None:
        """As ``availability.listening``."""
        for vm in self.vms.values():
            if vm.kept is None or vm.kept.care.on_hang is not OnHang.RESTART:
                continue
            there = [host for host in vm.running if host in seen.answer]
            if there:
                self.listened[vm.uuid] = listen(self.listened.get(vm.uuid), vm.pulse(there[0]), float(at))
            else:
                self.listened.pop(vm.uuid, None)

    def _revive(self, at: int, vm: Vm, host: str, seen: Seen, tell: Tell) -> None:
        """As ``operations.reviving``."""
        assert vm.kept is not None
        loss, most = loss_of(vm.point, seen.proven_at[host]), vm.kept.care.max_loss
        if vm.replica not in seen.open:
            self._once(f"{vm.name} cannot come up on {vm.replica}, where its replica is", tell)
            return
        if most is not None and loss > most:
            self._once(f"{vm.name} stays down: {loss:.0f} s would be lost, and it may lose {most} s", tell)
            return
        before, self.ended[vm.uuid] = self.past.get(vm.uuid, Past()), at
        move = PlannedMove(1, vm.name, vm.uuid, host, vm.replica, "", MoveMode.RESTART, 1)
        if doubts := self._doubts(vm, move, seen):
            self.past[vm.uuid] = replace(before, failed=before.failed + 1)
            tell(f"{vm.name} is not started on {vm.replica}: {', '.join(doubts)}")
            return
        self.past[vm.uuid] = replace(before, within_a_day=before.within_a_day + 1, failed=0)
        target, vm.replica = vm.replica, ""  # until it is protected the other way
        vm.boot(target)
        tell(f"{vm.name} starts on {target} from its replica: at most {loss:.0f} s are lost")

    def _do(self, at: int, wanted: Mend, seen: Seen, tell: Tell) -> None:
        vm, host = self.of(wanted.vm.uuid), wanted.vm.host
        if wanted.act is Act.GO_ON:
            self.gone_on[vm.uuid] = float(at)
            tell(f"{vm.name} on {host} is to go on: {wanted.why}")
            if host not in seen.without_storage:
                vm.states[host] = (VmState.RUNNING, "unpaused")
            return
        before, self.ended[vm.uuid] = self.past.get(vm.uuid, Past()), at
        unseen = [each for each in seen.every if each != host and each not in (*seen.answer, *seen.proven)]
        if unseen:
            self.past[vm.uuid] = replace(before, failed=before.failed + 1)
            tell(f"{vm.name} is not started again on {host}: {', '.join(unseen)} could not be asked")
            return
        self.past[vm.uuid] = replace(before, within_a_day=before.within_a_day + 1, failed=0)
        vm.boot(host)
        self.listened.pop(vm.uuid, None)
        tell(f"{vm.name} starts {'anew' if wanted.act is Act.RESET else 'again'} on {host}: {wanted.why}")

    def _once(self, words: str, tell: Tell) -> None:
        if words not in self.told:
            tell(f"! {words}")
        self.told.add(words)

    def _carry_on(self, at: int, seen: Seen, tell: Tell) -> None:
        """Begin what waits for nobody; the next ones come with the next round."""
        coming = {(move.source, move.number) for move in self.plan}
        now = [move for move in self.plan if not any((move.source, number) in coming for number in move.after)]
        self.plan = [move for move in self.plan if move not in now]
        for move in now:
            self._start(at, move, seen, tell)

    def _start(self, at: int, move: PlannedMove, seen: Seen, tell: Tell) -> None:
        """As ``availability.restarting``: nobody else may have it, and the proof must hold."""
        vm, before = self.of(move.uuid), self.past.get(move.uuid, Past())
        doubts = self._doubts(vm, move, seen)
        self.ended[vm.uuid] = at
        if doubts:
            self.past[vm.uuid] = replace(before, failed=before.failed + 1)
            tell(f"{vm.name} is not started on {move.target}: {', '.join(doubts)}")
            return
        self.past[vm.uuid] = replace(before, within_a_day=before.within_a_day + 1, failed=0)
        vm.boot(move.target)
        tell(f"{vm.name} starts on {move.target}")

    def _doubts(self, vm: Vm, move: PlannedMove, seen: Seen) -> list[str]:
        if move.source not in seen.proven:
            return [f"nobody has shown that {move.source} is off"]
        others = [host for host in seen.every if host not in (move.source, move.target)]
        doubts = [f"{host} has it" for host in others if host in seen.answer and host in vm.states]
        unseen = [host for host in others if host not in seen.answer and host not in seen.proven]
        doubts += [f"{host} could not be asked, and is not proven off" for host in unseen]
        return doubts or ([f"{move.target} refuses"] if move.target in self.refusing else [])

    def _target(self, source: str, seen: Seen, moves: Sequence[PlannedMove] = ()) -> str:
        """Return the host that has least to do, those promised to it counted."""
        promised = [move.target for move in (*self.plan, *moves)]
        busy = {host: sum(host in vm.running for vm in self.vms.values()) + promised.count(host) for host in seen.open}
        return min((host for host in seen.open if host != source), key=lambda host: (busy[host], host), default="")

    def _past(self, at: int) -> Mapping[str, Past]:
        return {
            uuid: replace(past, ago=float(at - self.ended[uuid]) if uuid in self.ended else None)
            for uuid, past in self.past.items()
        }

    def cluster(self, seen: Seen) -> Cluster:
        hosts = [
            make.host(host, entry=make.entry(host, maintenance=host not in seen.open))
            if host in seen.answer
            else SeenHost(make.entry(host), error="timed out")
            for host in seen.every
        ]
        vms = [vm.as_seen(host) for host in seen.answer for vm in self.vms.values() if host in vm.states]
        return make.cluster(hosts, vms)


def _answers(vm: Vm) -> None:
    """It works again; whoever asks its agent hears so."""
    vm.guest, vm.barked = "works", False


def _barks(vm: Vm) -> None:
    """Its guest hangs, and its watchdog says so, and nothing else."""
    vm.guest, vm.barked = "has no agent", vm.kept is not None and vm.kept.care.on_hang is OnHang.RESTART


VM_EVENTS: dict[str, Callable[[Vm], None]] = {
    "is shut down": lambda vm: vm.end_everywhere("shutdown"),
    "crashes": lambda vm: vm.end_everywhere("crashed"),
    "hangs": lambda vm: vm.stand_still("watchdog"),
    "does nothing any more": lambda vm: setattr(vm, "guest", "hangs"),
    "is too busy to answer": lambda vm: setattr(vm, "guest", "busy"),
    "stops its agent": lambda vm: setattr(vm, "guest", "has no agent"),
    "answers again": _answers,
    "has a watchdog that only barks": _barks,
}


def befalls(vms: Vms, what: str) -> bool:
    """Let something happen to a VM; return whether it was one that it happened to."""
    name, _, event = what.partition(" ")
    if name not in vms.vms:
        return False
    vm = vms.vms[name]
    if event.startswith("moves to "):
        vm.states = {event.removeprefix("moves to "): (VmState.RUNNING, "migrated")}
    elif event.startswith("is started by hand on "):
        vm.states[event.removeprefix("is started by hand on ")] = (VmState.RUNNING, "booted")
    elif event.startswith("is defined on "):
        vm.states.setdefault(event.removeprefix("is defined on "), (VmState.SHUTOFF, "unknown"))
    else:
        VM_EVENTS[event](vm)
    return True
