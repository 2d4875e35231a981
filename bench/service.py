"""The daemon with 1,000 simulated hosts and 10,000 guests: looking at all of them, the first page, the API, memory.

It answers by TLS at a port of this machine, and whoever asks has a token, as from elsewhere. The moves are asked for by
the API and carried out from the daemon's queue. The hosts live in the process that works and answer at once; what they
take of CPU is left out where a figure says so, what they take of memory is told beside it. What fails is counted, and
said by what.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

import httpx

from bench.figures import Figure, print_figures
from bench.served import memory_of
from mudanza.model.units import MIB

CASES = {"full": (1_000, 10_000, 100), "small": (100, 1_000, 20)}
"""Hosts, guests, and how many of these move at once; the goals are those of the full size."""
RATE = 50
"""Requests per second."""
ASKING = 20.0
"""Seconds for which is asked."""
PICTURES = 2
"""Looks at all hosts that are measured."""
METER_EVERY = 2.0
"""Seconds between two looks at how much memory it takes up."""
LIMIT = 90.0
"""Seconds that anything may take to begin."""
CLIENTS = 100
"""Connections that may ask at one time; one that has its answer is used again."""
KEPT = 3.0
"""Seconds for which one may rest between; the daemon hangs up after five."""
PATIENCE = 30.0
"""Seconds that an answer is waited for."""
WAYS = (
    "/api/v1/vms/vm00442", "/api/v1/jobs?limit=50", "/api/v1/vms?limit=100", "/api/v1/health", "/api/v1/hosts/h7",
    "/api/v1/vms/vm00777", "/api/v1/jobs/1", "/api/v1/vms?host=h12", "/api/v1/jobs?state=unfinished&limit=100",
    "/api/v1/vms?limit=100&after=vm005",
)  # fmt: skip
"""What is asked for, in turn; of guests that rest."""


@dataclass(frozen=True)
class Served:
    """A daemon that answers."""

    process: subprocess.Popen[str]
    orders: IO[str]
    site: str
    token: str
    hosts_take: int
    trust: ssl.SSLContext
    certificate: str

    def client(self) -> httpx.Client:
        """Return who asks with a token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.site, headers=headers, verify=self.trust, timeout=60)

    def simulated(self) -> float:
        """Return the CPU-seconds that its simulated hosts have used to answer."""
        assert self.process.stdout
        self.orders.write("spent\n")
        self.orders.flush()
        for line in self.process.stdout:  # moves that have ended are told there, too
            if line.startswith('{"spent"'):
                return float(json.loads(line)["spent"])
        raise RuntimeError("the daemon has ended")

    def processes(self) -> list[int]:
        """Return its processes: the one that has started the others, the one that answers, and those that work."""
        whole = [self.process.pid]
        with suppress(OSError):
            whole += map(int, Path(f"/proc/{whole[0]}/task/{whole[0]}/children").read_text().split())
        return whole

    def cpu(self) -> float:
        """Return the CPU-seconds they have used."""
        return sum(map(_cpu_of, self.processes()))

    def memory(self) -> int:
        """Return what they take up, in bytes: what several have in common counts once."""
        return sum(memory_of(str(pid), "Pss", "smaps_rollup") for pid in self.processes())


def _cpu_of(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Meter:
    """Looks how much memory a daemon takes up, again and again, and remembers the most."""

    def __init__(self, daemon: Served) -> None:
        self.most = 0
        self._daemon = daemon
        self._over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._over.wait(METER_EVERY):
            self.most = max(self.most, self._daemon.memory())

    def stop(self) -> None:
        """Look no more."""
        self._over.set()


@dataclass
class Asked:
    """What came of asking."""

    times: list[float] = field(default_factory=list)
    """Seconds until each good answer."""
    failures: Counter[str] = field(default_factory=Counter)
    """How many there were of each other kind."""

    @property
    def what_failed(self) -> str:
        """What it was, in words; empty where nothing was."""
        return ", ".join(f"{count} × {what}" for what, count in self.failures.most_common())

    def within(self, share: float) -> float:
        """Return the seconds within which that share of all were answered; infinite where fewer were at all."""
        whole = len(self.times) + self.failures.total()
        at = min(int(whole * share), whole - 1)
        return sorted(self.times)[at] if at < len(self.times) else math.inf


def measure(_runs: int, *, only: str = "full") -> list[Figure]:
    """Measure everything once."""
    return measured(*CASES[only])


def measured(hosts: int, guests: int, moves: int) -> list[Figure]:
    """Measure with so many."""
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), hosts, guests, moves) as daemon,
        daemon.client() as ask,
    ):
        meter = Meter(daemon)
        found = [
            *_tried("CPU of a look at all hosts", lambda: _refreshes(daemon, ask)),
            *_tried("the dashboard's first page", lambda: _first_page(daemon)),
            *_tried("API while guests move", lambda: _while_moving(daemon, ask, hosts, moves)),
        ]
        meter.stop()
        mib = meter.most / MIB
        return [
            *found,
            Figure("memory at the most, simulated hosts too", mib, "MiB", "<= 600", mib <= 600),
            Figure("of that the simulated hosts, before it began", daemon.hosts_take / MIB, "MiB"),
        ]


def _tried(name: str, work: Callable[[], list[Figure]]) -> list[Figure]:
    sys.stderr.write(f"{name} …\n")
    try:
        return work()
    except (httpx.HTTPError, RuntimeError, OSError) as error:
        return [Figure(name, 0.0, "", f"not measured: {type(error).__name__}: {error}", met=False)]


@contextmanager
def served(folder: Path, hosts: int, guests: int, moves: int) -> Iterator[Served]:
    """Have a daemon answer while the block runs."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", str(certificate),
         "-keyout", str(key)],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "mudanza.toml").write_text(
        f'database = "{folder}/mudanza.db"\n[service]\nsocket = "{folder}/socket"\nlisten = "127.0.0.1:0"\n'
        f'certificate = "{certificate}"\nkey = "{key}"\n'
    )
    said = folder / "said"
    with said.open("w") as errors:
        argv = [sys.executable, "-m", "bench.served", str(folder), *map(str, (hosts, guests, moves))]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdin
    assert process.stdout
    try:
        told = json.loads(process.stdout.readline() or "{}")
        found = re.search(r"https://127\.0\.0\.1:(\d+)", said.read_text())
        if not told or not found:
            raise RuntimeError(f"the daemon did not begin: {said.read_text()}")
        site, trust = f"https://localhost:{found[1]}", ssl.create_default_context(cafile=str(certificate))
        yield Served(process, process.stdin, site, told["token"], told["hosts_take"], trust, str(certificate))
    finally:
        process.kill()
        process.wait()
        sys.stderr.write("".join(line for line in said.open() if line.startswith(("!", "a move"))))


def _picture(ask: httpx.Client) -> dict[str, float]:
    answer = ask.get("/api/v1/health")
    return dict(answer.json()["picture"]) if answer.status_code == 200 else {"taken_at": 0.0, "took": 0.0}


def _next_picture(ask: httpx.Client, after: float) -> dict[str, float]:
    """Wait for a newer picture, and return when it was taken and what it took."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        found = _picture(ask)
        if found["taken_at"] > after:
            return found
        time.sleep(0.1)
    raise RuntimeError(f"the hosts were not looked at within {LIMIT:g} s")


def _refreshes(daemon: Served, ask: httpx.Client) -> list[Figure]:
    """Measure looks at all hosts, once all are connected."""
    newest = _next_picture(ask, 0.0)
    newest = _next_picture(ask, newest["taken_at"])
    before, simulated, took = daemon.cpu(), daemon.simulated(), []
    for _ in range(PICTURES):
        newest = _next_picture(ask, newest["taken_at"])
        took.append(newest["took"])
    whole, simulated = daemon.cpu() - before, daemon.simulated() - simulated
    cpu = (whole - simulated) / PICTURES
    return [
        Figure("CPU of a look at all hosts", cpu, "s", "<= 5", cpu <= 5),
        Figure("what the simulated hosts took meanwhile", simulated / PICTURES, "s"),
        Figure("that look, from begin to end", median(took), "s"),
    ]


def _first_page(daemon: Served) -> list[Figure]:
    """Measure the longest time of some, and the size, of the page that one sees first once logged in."""
    with httpx.Client(base_url=daemon.site, verify=daemon.trust, timeout=60) as browser:
        browser.post("/login", data={"token": daemon.token})
        times, size = [], 0
        for _ in range(5):
            begun = time.monotonic()
            answer = browser.get("/")
            times.append(time.monotonic() - begun)
            answer.raise_for_status()
            size = len(answer.content)
    page = max(times)
    return [
        Figure("the dashboard's first page", page, "s", "<= 1", page <= 1),
        Figure("that page", size / 1024, "KiB"),
    ]


def _under_way(ask: httpx.Client) -> int:
    return len(ask.get("/api/v1/jobs", params={"state": "transferring", "limit": 500}).json()["jobs"])


def _while_moving(daemon: Served, ask: httpx.Client, hosts: int, moves: int) -> list[Figure]:
    """Ask while guests move."""
    began, before = time.monotonic(), daemon.cpu()
    begun = _moving(ask, hosts, moves)
    starting, cpu, simulated = time.monotonic() - began, daemon.cpu(), daemon.simulated()
    answering = _cpu_of(daemon.processes()[1])
    sys.stderr.write(f"{begun} guests move: asking …\n")
    asked = asyncio.run(_asked(daemon))
    spent, simulated = daemon.cpu() - cpu, daemon.simulated() - simulated
    answering = _cpu_of(daemon.processes()[1]) - answering
    load, p50, p99 = os.getloadavg()[0], asked.within(0.5), asked.within(0.99)
    ran = f"{begun}-{_under_way(ask)} jobs ran, load {load:.1f}"
    failed, (command, told) = asked.failures.total(), _command(daemon)
    return [
        Figure("until all of them moved", starting, "s"),
        Figure("CPU until then", cpu - before, "s"),
        Figure("CPU while it was asked, of a second", (spent - simulated) / ASKING, "s"),
        Figure("of that the process that answers", answering / ASKING, "s"),
        Figure("what the simulated hosts took besides", simulated / ASKING, "s"),
        Figure("API, half of the answers within", p50 * 1000, "ms"),
        Figure(f"API, 99 of 100 within, {RATE}/s", p99 * 1000, "ms", f"<= 200; {ran}", p99 <= 0.2),
        Figure("requests that failed", failed, "", f"0; {asked.what_failed}".rstrip("; "), not failed),
        Figure("mudanza --server … vms meanwhile", command, "s", f"it comes back{told}", not told),
    ]


def _command(daemon: Served) -> tuple[float, str]:
    """Return the seconds that a command takes which asks the daemon for all guests, and what went wrong with it."""
    argv = [sys.executable, "-m", "mudanza", "--server", daemon.site, "--cacert", daemon.certificate, "vms"]
    begun = time.monotonic()
    try:
        env = {**os.environ, "MUDANZA_TOKEN": daemon.token}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return time.monotonic() - begun, f"; it did not within {LIMIT:g} s"
    return time.monotonic() - begun, "" if done.returncode == 0 else f"; {done.stderr.strip()}"


def _moving(ask: httpx.Client, hosts: int, moves: int) -> int:
    """Have guests moved from one half of the hosts to the other; return how many are on their way once most are."""
    half = hosts // 2
    for number in range(moves):
        guest = number % half + hosts * (number // half)
        order = {"to": f"h{half + number % half + 1}"}
        ask.post(f"/api/v1/vms/vm{guest:05d}/moves", json=order).raise_for_status()
    until = time.monotonic() + LIMIT
    while (found := _under_way(ask)) < moves and time.monotonic() < until:
        time.sleep(0.5)
    return found


async def _asked(daemon: Served) -> Asked:
    """Ask so often per second, whether earlier questions are answered or not.

    One pool of connections for all would go through all of them for each question, and take longer than the daemon.
    """
    headers = {"Authorization": f"Bearer {daemon.token}"}
    idle: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
    limits = httpx.Limits(max_connections=1, keepalive_expiry=KEPT)
    found = Asked()
    async with AsyncExitStack() as stack:
        for _ in range(CLIENTS):
            client = httpx.AsyncClient(
                base_url=daemon.site, headers=headers, verify=daemon.trust, timeout=PATIENCE, limits=limits
            )
            idle.put_nowait(await stack.enter_async_context(client))
        begun = time.monotonic()

        async def one(number: int) -> None:
            due = begun + number / RATE
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            client = await idle.get()
            try:
                answer = await client.get(WAYS[number % len(WAYS)])
            except httpx.HTTPError as error:
                found.failures[type(error).__name__] += 1
                return
            finally:
                idle.put_nowait(client)
            if answer.is_success:
                found.times.append(time.monotonic() - due)
            else:
                found.failures[f"{answer.status_code} {answer.reason_phrase}"] += 1

        await asyncio.gather(*map(one, range(int(RATE * ASKING))))
    return found


if __name__ == "__main__":  # other sizes, to try it out: python -m bench.service HOSTS GUESTS MOVES
    print_figures(measured(*map(int, sys.argv[1:4])), "table")
