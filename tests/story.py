"""Stories of hosts that die, or only seem to: what befalls them is told in a text, and beside it, second by second,
what is made of it. The world is simulated; what is decided is decided by the product's own pure functions.

    python -m tests.story tests/scenarios/availability/*.txt        prints each story with the log as it is now
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mudanza.availability.deciding import running_last_on
from mudanza.availability.fencing import Command, next_step
from mudanza.availability.observing import MOST_WITNESSES
from mudanza.availability.watching import Act, Round, Signs, Taken, Terms, decide
from mudanza.model.fencing import Order, Reply
from mudanza.model.vm import VmState
from tests.story_hosts import Host
from tests.story_uplinks import Uplinks
from tests.story_vms import Seen, Vm, Vms, befalls

EVERY = 5
"""Seconds between two rounds of looking."""
_EVENT = re.compile(r" *(\d+) s - (.*)")


@dataclass
class World:
    """All hosts, the controller, and what is between them."""

    hosts: dict[str, Host]
    terms: Terms
    with_ssh: bool = True
    with_beat: bool = False
    with_router: bool = False
    we_are_cut_off: bool = False
    router_is_dead: bool = False
    vms: Vms = field(default_factory=Vms)
    uplinks: Uplinks = field(default_factory=Uplinks)
    log: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def reached(self, host: Host) -> bool:
        return host.on_the_network and not host.cut_from_us and not self.we_are_cut_off

    def answers(self, host: Host) -> bool:
        return self.reached(host) and host.libvirtd and not host.hangs

    def signs(self, host: Host) -> Signs:
        reached = self.reached(host)
        others = [each for each in self.hosts.values() if each is not host and self.answers(each) and self.with_ssh]
        beat = host.power and not host.hangs and not host.loses_storage and not self.we_are_cut_off
        return Signs(
            libvirt=self.answers(host),
            ping=reached and not host.drops_pings,
            ssh=reached and not host.hangs if self.with_ssh else None,
            beat=beat if self.with_beat else None,
            witnesses={
                other.name: host.on_the_network and other.name not in host.cut_from for other in others[:MOST_WITNESSES]
            },
            maintenance=host.maintenance,
            proven_off=host.proven_off,
        )

    def look(self, at: int) -> Round:
        for host in self.hosts.values():  # a proof ends when anybody sees the host alive
            host.proven_off &= not self.answers(host)
        anchors = {"router": not (self.we_are_cut_off or self.router_is_dead)} if self.with_router else {}
        return Round(float(at), {host.name: self.signs(host) for host in self.hosts.values()}, anchors)

    def tell(self, at: int, words: str) -> None:
        self.log.append(f"{at:4} s   {words}")

    def mend(self, at: int, host: Host) -> None:
        """Restart its libvirtd, by ssh."""
        if host.hangs or not self.reached(host):
            self.tell(at, f"libvirtd of {host.name} cannot be restarted: nobody gets in by ssh")
            return
        self.tell(at, f"libvirtd of {host.name} is restarted")
        host.libvirtd = True

    def fence(self, at: int, host: Host) -> None:
        """As ``availability.fencer`` does it: proven is only what the devices prove, while the host does not answer."""
        if self.vms.vms and not running_last_on(host.name, self.vms.kept):
            self.tell(at, f"{host.name} is left as it is: no VM that is kept up ran there")
            return
        if signs := [*self.signs(host).alive, *(["libvirt"] if self.answers(host) else [])]:
            self.faults.append(f"{at} s: {host.name} is fenced, which lives: {', '.join(signs)}")
        if host.maintenance:
            self.faults.append(f"{at} s: {host.name} is fenced, which is in maintenance")
        devices = host.switches
        replies: list[Reply] = []
        while isinstance(step := next_step(devices, replies), Command):
            replies.append(self.obey(host, step))
        proven = step.proven and not self.answers(host)
        self.tell(at, f"fence {host.name}: {'proven off' if proven else 'NOT PROVEN'}: {step.said}")
        if proven:
            host.proven_off, host.proven_at = True, at
            self.restart(at, host)

    def obey(self, host: Host, step: Command) -> Reply:
        name, order = step.device.name, step.order
        agent = host.mood(name)
        if agent in ("hanging", "one supply hangs"):
            return Reply(name, order, None)
        if agent == "failing":
            return Reply(name, order, 1, "Unable to connect")
        if agent == "lying":
            return Reply(name, order, 0 if order is Order.OFF else 2)
        if order is Order.OFF:
            if agent == "honest":
                host.lose_power()
                self.vms.lose(host.name)
            return Reply(name, order, 0)
        return Reply(name, order, 0 if host.power else 2)

    def restart(self, at: int, host: Host) -> None:
        """Start its VMs elsewhere: the very thing that must not be while it runs them."""
        if not host.proven_off:
            self.faults.append(f"{at} s: VMs of {host.name} were started without proof")
        if host.power:
            self.faults.append(f"{at} s: VMs of {host.name} run in two places")
        if self.vms.vms:  # told one by one
            return
        if host.restarted:  # it came back without them
            self.tell(at, f"nothing is to be started: no VMs were on {host.name}")
            return
        host.restarted = True
        self.tell(at, f"the VMs of {host.name} start elsewhere")

    def mind_vms(self, at: int) -> None:
        """Do what a round does about VMs, and see that none runs twice."""
        answer = [host.name for host in self.hosts.values() if self.answers(host)]
        proven = [host.name for host in self.hosts.values() if host.proven_off]
        proven_at = {host.name: host.proven_at for host in self.hosts.values() if host.proven_off}
        without_storage = [host.name for host in self.hosts.values() if host.loses_storage]
        there = [name for name in answer if not self.hosts[name].maintenance and name not in self.uplinks.closed]
        seen = Seen(answer, proven, there, list(self.hosts), without_storage, proven_at)
        before = {vm.name: set(vm.running) for vm in self.vms.vms.values()}
        is_whole = self.vms.round(at, seen, lambda words: self.tell(at, words))
        for vm in self.vms.vms.values():
            if begun := set(vm.running) - before[vm.name]:
                self.faults += [f"{at} s: {vm.name} was started: {why}" for why in self.wrongs(vm, begun)]
        if is_whole:
            dark = {name: self.hosts[name].dark for name in answer}
            self.uplinks.round(at, seen, dark, self.vms, lambda words: self.tell(at, words))
        self.faults += [f"{at} s: {words}" for words in self.vms.two_copies()]

    def wrongs(self, vm: Vm, begun: set[str]) -> list[str]:
        """Return why a VM should not have been started that just was."""
        elsewhere = [host for host in vm.states if host not in begun and not self.answers(self.hosts[host])]
        wrongs = [f"nothing proves that {host} is off" for host in elsewhere if not self.hosts[host].proven_off]
        if vm.kept is None:
            return [*wrongs, "nobody wants that"]
        if self.vms.past[vm.uuid].within_a_day > vm.kept.most:
            wrongs.append("too often")
        return [*wrongs, "it was seen shut down"] if vm.seen_shut_down else wrongs

    def confirm(self, at: int, host: Host, who: str) -> None:
        """A person's word, as ``availability.fencer`` takes it."""
        if self.answers(host):
            self.tell(at, f"{who} is not believed: {host.name} answers")
        else:
            host.proven_off, host.proven_at = True, at


def _set(**values: bool) -> Callable[[World, Host], None]:
    def change(_world: World, host: Host) -> None:
        for name, value in values.items():
            setattr(host, name, value)

    return change


def _loses_power(world: World, host: Host) -> None:
    host.lose_power()
    world.vms.lose(host.name)


def _loses_storage(world: World, host: Host) -> None:
    """Whoever reads or writes there stands still."""
    host.loses_storage = True
    for vm in world.vms.vms.values():
        if host.name in vm.running:
            vm.states[host.name] = (VmState.PAUSED, "I/O error")


def _comes_back(_world: World, host: Host) -> None:
    """Its power is on again. What was restarted elsewhere is disarmed here, and does not start."""
    host.power, host.libvirtd = True, True


def _agent(mood: str) -> Callable[[World, Host], None]:
    def change(_world: World, host: Host) -> None:
        host.agent = mood

    return change


def _refuses(world: World, host: Host) -> None:
    world.vms.refusing.add(host.name)


def _refuses_no_more(world: World, host: Host) -> None:
    world.vms.refusing.discard(host.name)


EVENTS: dict[str, Callable[[World, Host], None]] = {
    "loses its power": _loses_power,
    "hangs": _set(hangs=True),
    "wakes up": _set(hangs=False),
    "drops pings": _set(drops_pings=True),
    "'s agent is honest": _agent("honest"),
    "'s agent hangs": _agent("hanging"),
    "refuses to start VMs": _refuses,
    "starts VMs again": _refuses_no_more,
    "comes back": _comes_back,
    "'s libvirtd dies": _set(libvirtd=False),
    "'s libvirtd is back": _set(libvirtd=True),
    "is cut from us": _set(cut_from_us=True),
    "is cut from everybody": _set(cut_from_all=True),
    "is reached again": _set(cut_from_us=False, cut_from_all=False),
    "loses the storage": _loses_storage,
    "has the storage again": _set(loses_storage=False),
    "goes into maintenance": _set(maintenance=True),
    "leaves maintenance": _set(maintenance=False),
    "'s uplink dies": _set(dark=True),
    "'s uplink is back": _set(dark=False),
}
OF_US = {"we are cut off": True, "we are back": False}
OF_THE_ROUTER = {"the router dies": True, "the router is back": False}
WE_ARE_REPLACED = "another controller takes over"
_SAYS = re.compile(r"(\w+) says that (\w+) is off")
_CUT = re.compile(r"(\w+) is cut from (h\d+)")


@dataclass(frozen=True)
class Story:
    """A text: a title, settings, events, and the log that is expected."""

    title: str
    text: str

    @classmethod
    def read(cls, path: Path) -> Story:
        text = path.read_text(encoding="utf-8")
        return cls(text.partition("\n")[0], text)

    @property
    def settings(self) -> dict[str, str]:
        head = self.text.partition("\n\n")[2].partition("\n\n")[0]
        return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in head.splitlines())}

    @property
    def events(self) -> list[tuple[int, str]]:
        return [(int(found[1]), found[2]) for line in self.text.splitlines() if (found := _EVENT.fullmatch(line))]

    def world(self) -> World:
        settings = self.settings
        has = settings.get("with", "").replace(",", " ").split()
        hosts = {name: Host(name) for name in settings["hosts"].split()}
        for key, value in settings.items():
            if key.startswith("agent of "):
                hosts[key.removeprefix("agent of ")].agent = value
            if key.startswith("power supplies of "):
                hosts[key.removeprefix("power supplies of ")].supplies = int(value)
            if key.startswith("devices of "):
                for each in value.split(";"):
                    name, level, mood = each.split(maxsplit=2)
                    hosts[key.removeprefix("devices of ")].devices[name] = (int(level), mood)
        vms = Vms()
        for key, value in settings.items():
            if key.startswith("vm "):
                vms.add(key.removeprefix("vm "), value)
        known = {"heartbeat", "router", "mending"}
        assert set(has) <= known, f"{set(has) - known}"
        return World(
            hosts,
            Terms(
                float(settings.get("confirm", "15 s").removesuffix(" s")),
                brake=float(settings.get("brake", "0.5")),
                may_mend="mending" in has,
            ),
            with_ssh=settings.get("without", "") != "ssh",
            with_beat="heartbeat" in has,
            with_router="router" in has,
            vms=vms,
            uplinks=Uplinks(settings.get("uplink", "off")),
        )

    def play(self) -> World:
        """Let it all happen; return the world, with its log."""
        world, taken, said = self.world(), dict[str, Taken](), ""
        events = self.events
        last = int(self.settings["until"].removesuffix(" s"))
        for at in range(0, last + 1, EVERY):
            for _, what in (each for each in events if at - EVERY < each[0] <= at):
                befall(world, what, at)
                if what == WE_ARE_REPLACED:
                    taken, world.vms.listened, world.uplinks.lines = {}, {}, {}
            decision = decide(taken, world.look(at), world.terms)
            taken = dict(decision.hosts)
            if decision.said != said:
                world.tell(at, decision.said)
            said = decision.said
            for act, name in decision.acts:
                if act is Act.FENCE:
                    world.fence(at, world.hosts[name])
                elif act is Act.MEND:
                    world.mend(at, world.hosts[name])
            world.mind_vms(at)
        return world

    def told(self, world: World) -> str:
        """Return the story with this log: what happens stands before what is made of it."""
        settings = self.text.partition("\n\n")[2].partition("\n\n")[0]
        happened = [(at, 0, f"{at:4} s - {what}") for at, what in self.events]
        made = [(int(line.split()[0]), 1, line) for line in world.log]
        lines = [line for *_, line in sorted([*happened, *made], key=lambda each: each[:2])]
        return "\n".join([self.title, "", settings, "", *lines, ""])


def befall(world: World, what: str, at: int) -> None:
    """Let something happen."""
    if what in OF_US:
        world.we_are_cut_off = OF_US[what]
        return
    if what in OF_THE_ROUTER:
        world.router_is_dead = OF_THE_ROUTER[what]
        return
    if what == WE_ARE_REPLACED or befalls(world.vms, what):
        return
    if said := _SAYS.fullmatch(what):
        world.confirm(at, world.hosts[said[2]], said[1])
        return
    if cut := _CUT.fullmatch(what):
        world.hosts[cut[1]].cut_from.add(cut[2])
        return
    for host in world.hosts.values():
        if what.startswith(host.name):
            event = what.removeprefix(host.name)
            EVENTS[event if event.startswith("'") else event.strip()](world, host)
            return
    raise AssertionError(f"nobody knows what happens: {what!r}")


def stories() -> list[Path]:
    """Return the stories' files."""
    return sorted((Path(__file__).parent / "scenarios/availability").glob("*.txt"))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        story = Story.read(Path(name))
        played = story.play()
        sys.stdout.write(f"{story.told(played)}{played.faults or ''}\n")
