"""A cold move of a 10 GiB disk with 1 GiB in it over a capped link, beside what people do by hand.

The controller sits in a seat of its own with nothing but ssh to the hosts, and bytes are counted at the switch. Ours
reads and checks both hosts, carries the disk encrypted, compares both sides in full, hands the definition over and
deletes the source's disk; the peers copy the file and do nothing else: ``qemu-img convert`` to an NBD export (not
encrypted), ``rsync --sparse`` and ``scp``. All go from h1 to h2; between the runs the copy is deleted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

from bench.figures import Figure
from mudanza.lab.cell import Cell
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import GIB, MIB

RATE = 25 * MIB
"""Bytes per second that each host's uplink takes: 200 Mbit/s, 41 s for the disk."""
SIZE, ALLOCATED = 10 * GIB, GIB
FASTEST_PEER, FLOOR = 1.0, 1.1
"""Ours may take as long as the fastest peer, and 1.1 times what the link needs for what is allocated."""
IMAGE = "/var/lib/libvirt/images/bench.qcow2"
NBD_PORT = "10809"
LIMIT = 600.0
"""Seconds one copy may take."""
_DOMAIN = f"""<domain type='qemu'><name>bench</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>
<driver name='qemu' type='qcow2'/><source file='{IMAGE}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""


def measure(runs: int) -> Sequence[Figure]:
    """Measure as many copies with each tool, one after the other by turns."""
    lab = Lab.up(f"bench{os.getpid() % 100000}", hosts=2, tied=True)
    try:
        _make_disk(lab)
        _introduce_hosts(lab)
        for name in lab.hosts:
            lab.set_uplink(name, RATE)
        ways: dict[str, Callable[[Lab], None]] = {
            "mudanza": _with_mudanza,
            "qemu-img": _with_qemu_img,
            "rsync": _with_rsync,
            "scp": _with_scp,
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        sent: dict[str, list[int]] = {name: [] for name in ways}
        through_controller: list[int] = []
        for _ in range(runs):
            for name, copy in ways.items():
                before, begun = lab.switch_bytes(), time.monotonic()
                copy(lab)
                taken[name].append(time.monotonic() - begun)
                after = lab.switch_bytes()
                sent[name].append(after["h1"].received - before["h1"].received)
                if name == "mudanza":
                    first, second = (each["controller"] for each in (before, after))
                    through_controller.append(second.received + second.sent - first.received - first.sent)
                _clear(lab, moved=name == "mudanza")
        return _figures(taken, sent, through_controller)
    finally:
        lab.down()


def _figures(
    taken: dict[str, list[float]], sent: dict[str, list[int]], through_controller: Sequence[int]
) -> list[Figure]:
    ours = median(taken["mudanza"])
    peers = {name: median(times) for name, times in taken.items() if name != "mudanza"}
    best, floor = min(peers.values()), ALLOCATED / RATE
    rows = [Figure("mudanza, comparison in full included", ours, "s", peer=best)]
    rows += [Figure(f"{name}, nothing compared", seconds, "s") for name, seconds in peers.items()]
    rows += [Figure(f"{name}: left h1", median(sizes) / MIB, "MiB") for name, sizes in sent.items()]
    rows += [
        Figure("mudanza: through the controller", median(through_controller) / MIB, "MiB"),
        Figure("over the fastest peer", ours / best, "ratio", f"≤ {FASTEST_PEER}", met=ours / best <= FASTEST_PEER),
        Figure("over allocated ÷ link rate", ours / floor, "ratio", f"≤ {FLOOR}", met=ours / floor <= FLOOR),
    ]
    return rows


def _make_disk(lab: Lab) -> None:
    source = lab.cell("h1")
    source.run(["qemu-img", "create", "-q", "-f", "qcow2", IMAGE, str(SIZE)])
    # Noise, so that nothing on the way makes it smaller: over the whole disk in pieces of 64 MiB.
    source.run(["sh", "-c", "head -c 64M /dev/urandom >/tmp/noise"])
    for piece in range(ALLOCATED // (64 * MIB)):
        at = piece * (SIZE // 16)
        source.run(["qemu-io", "-f", "qcow2", "-c", f"write -s /tmp/noise {at} 64M", IMAGE])
    virsh(source, "pool-refresh", "default")
    virsh(source, "define", "/dev/stdin", stdin=_DOMAIN)


def _introduce_hosts(lab: Lab) -> None:
    for name in lab.hosts:
        _mudanza(lab, "host", "add", name, f"qemu+ssh://root@{name}/system", "--peer-uri", lab.peer_uri(name))
    # The first use of a pair tries TLS once, and ssh's and Python's files are read from the disk.
    _mudanza(lab, "check", "bench", "--to", "h2")


def _mudanza(lab: Lab, *arguments: str) -> None:
    lab.cell("controller").run([sys.executable, "-m", "mudanza", *arguments], timeout=LIMIT)


def _with_mudanza(lab: Lab) -> None:
    _mudanza(lab, "migrate", "bench", "--to", "h2", "--mode", "cold", "--keep-source")


def _with_qemu_img(lab: Lab) -> None:
    source, target = lab.cell("h1"), lab.cell("h2")
    target.run(["qemu-img", "create", "-q", "-f", "qcow2", IMAGE, str(SIZE)])
    serve = ["qemu-nbd", "-f", "qcow2", "-p", NBD_PORT, "-b", "h2", "--fork", "--pid-file=/run/bench-nbd.pid", IMAGE]
    target.run(serve)
    source.run(
        ["qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "qcow2", "-O", "raw", IMAGE, f"nbd://h2:{NBD_PORT}"],
        timeout=LIMIT,
    )


def _with_rsync(lab: Lab) -> None:
    lab.cell("h1").run(["rsync", "--sparse", "--", IMAGE, f"h2:{IMAGE}"], timeout=LIMIT)


def _with_scp(lab: Lab) -> None:
    lab.cell("h1").run(["scp", "-O", "-q", "--", IMAGE, f"h2:{IMAGE}"], timeout=LIMIT)


def _clear(lab: Lab, *, moved: bool) -> None:
    target: Cell = lab.cell("h2")
    if moved:
        virsh(target, "undefine", "bench")
    target.run(["rm", "-f", "--", IMAGE])
    virsh(target, "pool-refresh", "default")
