"""Where everything is in the picture of the cluster: pure, from what was seen to places in a drawing 1200 wide."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mudanza.journal.job import Job
from mudanza.model.host import Host
from mudanza.model.vm import Vm

WIDTH = 1200.0
LEFT = 190.0
"""Where the bars begin; before them stand the hosts' names."""
BAR = 760.0
"""How wide the bar of the largest host is; behind it stand figures."""
ROW = 104.0
LETTER = 7.2
"""How wide a letter is, about."""
LEAST = 6.0
"""How wide the block of the smallest VM is..."""
NAMED = 84.0
"""... and where all have room for that: wide enough for a name."""
CHIP = 92.0
MOST_CHIPS = 8
"""VMs that are off and shown by name."""


@dataclass(frozen=True, slots=True)
class Block:
    """A VM within its host's bar."""

    vm: Vm
    x: float
    width: float
    label: str
    """Its name, as far as it has room."""
    job: Job | None = None
    """The one that works on it."""


@dataclass(frozen=True, slots=True)
class Ghost:
    """Where a VM that is on its way will be."""

    job: Job
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Lane:
    """One host. Memory in bytes."""

    host: Host
    y: float
    bar: float
    """How wide its memory is; its blocks may go beyond where more is promised."""
    blocks: tuple[Block, ...]
    ghosts: tuple[Ghost, ...]
    chips: tuple[Block, ...]
    """VMs that are off."""
    more_off: int
    promised: int
    vcpus: int
    cpu_used: float
    """How wide the promised CPUs are, of the bar."""
    cpu_over: bool
    """Whether more CPUs are promised than there are."""
    running: int
    off: int


@dataclass(frozen=True, slots=True)
class Arrow:
    """A move under way, from its VM's block to where it will be."""

    job: Job
    path: str
    x: float
    y: float
    """Where its name stands."""
    share: float | None
    """How much of it is done, 0 to 1; None: not known."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """The whole picture."""

    height: float
    lanes: tuple[Lane, ...]
    arrows: tuple[Arrow, ...]


def draw(hosts: Sequence[Host], vms: Sequence[Vm], jobs: Sequence[Job], shares: Mapping[int, float]) -> Drawing:
    """Return the picture of these hosts, the VMs on them, and the unfinished jobs; ``shares``: what is done of them."""
    per_pixel = max((_span(host, vms) for host in hosts), default=1.0) / BAR
    busy = {job.vm_uuid: job for job in jobs}
    memory = {vm.uuid: vm.memory for vm in vms}
    there = {(vm.uuid, vm.host) for vm in vms}
    vms = [vm for vm in vms if not _arrives(vm, busy.get(vm.uuid), there)]
    lanes = []
    for number, host in enumerate(hosts):
        mine = sorted((vm for vm in vms if vm.host == host.name), key=lambda vm: (-vm.memory, vm.name))
        coming = [job for job in jobs if job.target == host.name and not any(vm.uuid == job.vm_uuid for vm in mine)]
        lanes.append(_lane(host, number * ROW, mine, coming, busy, memory, max(per_pixel, 1.0)))
    return Drawing(max(len(lanes), 1) * ROW, tuple(lanes), tuple(_arrows(lanes, shares)))


def _arrives(vm: Vm, job: Job | None, there: Collection[tuple[str, str]]) -> bool:
    """Whether this is a copy that is still being filled: libvirt lists a VM that moves live at both its hosts."""
    return job is not None and vm.host == job.target != job.source and (vm.uuid, job.source) in there


def _span(host: Host, vms: Sequence[Vm]) -> float:
    promised = sum(vm.memory for vm in vms if vm.host == host.name and vm.state.active)
    return float(max(host.memory_total, promised))


def _lane(
    host: Host,
    y: float,
    vms: Sequence[Vm],
    coming: Sequence[Job],
    busy: Mapping[str, Job],
    memory: Mapping[str, int],
    per_pixel: float,
) -> Lane:
    on, off = [vm for vm in vms if vm.state.active], [vm for vm in vms if not vm.state.active]
    x, blocks, ghosts, bar = LEFT, [], [], host.memory_total / per_pixel
    all_here = [*(vm.memory for vm in on), *(memory.get(job.vm_uuid, 0) for job in coming)]
    least = NAMED if sum(max(each / per_pixel, NAMED) for each in all_here) <= bar else LEAST
    for vm in on:
        width = max(vm.memory / per_pixel, least)
        blocks.append(Block(vm, x, width - 2, _label(vm.name, width - 10), busy.get(vm.uuid)))
        x += width
    for job in coming:
        width = max(memory.get(job.vm_uuid, 0) / per_pixel, least)
        ghosts.append(Ghost(job, x, width - 2))
        x += width
    chips = tuple(
        Block(vm, LEFT + n * CHIP, CHIP - 4, _label(vm.name, CHIP - 12), busy.get(vm.uuid))
        for n, vm in enumerate(off[:MOST_CHIPS])
    )
    vcpus = sum(vm.vcpus for vm in on)
    return Lane(
        host=host,
        y=y,
        bar=bar,
        blocks=tuple(blocks),
        ghosts=tuple(ghosts),
        chips=chips,
        more_off=len(off) - len(chips),
        promised=sum(vm.memory for vm in on),
        vcpus=vcpus,
        cpu_used=bar * min(vcpus / host.cpus, 1.0) if host.cpus else 0.0,
        cpu_over=vcpus > host.cpus,
        running=len(on),
        off=len(off),
    )


def _label(name: str, room: float) -> str:
    letters = int(room / LETTER)
    if len(name) <= letters:
        return name
    return name[: letters - 1] + "…" if letters > 2 else ""


def _arrows(lanes: Sequence[Lane], shares: Mapping[int, float]) -> list[Arrow]:
    """Return an arrow for each move of which both ends are in the picture."""
    begins = {
        block.job.id: (block.x + block.width / 2, lane.y)
        for lane in lanes
        for block in (*lane.blocks, *lane.chips)
        if block.job is not None and block.job.source == lane.host.name
    }
    arrows = []
    for lane in lanes:
        for ghost in lane.ghosts:
            if ghost.job.id not in begins:
                continue
            (x, from_y), to_x = begins[ghost.job.id], ghost.x + ghost.width / 2
            down = lane.y > from_y
            start, end = (from_y + 46, lane.y + 10) if down else (from_y + 12, lane.y + 50)
            middle = (start + end) / 2
            path = f"M{x:.0f} {start:.0f} C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {end:.0f}"
            arrows.append(Arrow(ghost.job, path, (x + to_x) / 2, middle, shares.get(ghost.job.id)))
    return arrows
