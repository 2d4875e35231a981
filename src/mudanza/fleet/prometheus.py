"""How busy everybody has been, as a Prometheus server tells: the same percentiles as of our own readings.

A series that is missing is told of, and never read as nothing used.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from mudanza import clock
from mudanza.hypervisor.bounded import Deadline, for_each
from mudanza.model.cluster import Cluster
from mudanza.model.errors import MetricsError
from mudanza.model.host import Host
from mudanza.model.load import HostLoad, Loads, Spread, VmLoad, spread_of
from mudanza.model.metrics import Server
from mudanza.model.vm import Vm
from mudanza.preflight.wording import listed

POINTS = 120
"""Values of each series that are asked for, at the most..."""
SHORTEST_STEP = 30.0
"""... and the seconds between two of them, at the least: servers look no more often, as a rule."""
STEPS_OF_RATE = 4
"""Rates are over so many steps: at least two looks of a server that looks seldom lie within."""
MOST_BYTES = 256 << 20
"""An answer that is longer is given up: 10,000 VMs are about 40 MB."""
CONNECTIONS = 4
FIGURES = ("cpus", "memory", "disk", "network")

Points = tuple[tuple[float, float], ...]
"""Times and values."""


class Prometheus:
    """One server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.name = f"Prometheus at {urlsplit(server.url).netloc}"

    def loads(self, cluster: Cluster, window: float) -> Loads:
        """Return how busy hosts and VMs of the cluster have been, within so many seconds until now.

        A VM, or a host, of which CPU or memory is not told is left out, and so is a VM that has disks or cards of which
        nothing is told; ``Loads.told`` names them. Raises MetricsError.
        """
        step = max(SHORTEST_STEP, window / POINTS)
        found = self._ask_all(window, step)
        vms = _Subjects("VM", {vm.uuid: (vm.name, vm.uuid) for vm in cluster.vms if vm.state.active})
        hosts = _Subjects("host", {host.name: tuple(_names_of(host)) for host in cluster.hosts if host.seen})
        of_vms = {figure: vms.sorted_out(found[f"vm_{figure}"], self._server.labels["vm"]) for figure in FIGURES}
        of_hosts = {
            figure: hosts.sorted_out(found[f"host_{figure}"], self._server.labels["host"]) for figure in FIGURES
        }
        told = [
            f"{self.name} has no series at all for {name}: {self._server.queries[name]}"
            for name, series in found.items()
            if not series
        ]
        running = [vm for vm in cluster.vms if vm.state.active]
        known_vms = {vm.uuid: of_vm for vm in running if (of_vm := _of_vm(vm, of_vms, step))}
        known_hosts = {name: of_host for name in hosts.names if (of_host := _of_host(name, of_hosts, step))}
        told += [*vms.missing(known_vms, self.name), *hosts.missing(known_hosts, self.name)]
        return Loads(known_vms, known_hosts, self.name, tuple(told))

    def _ask_all(self, window: float, step: float) -> dict[str, Sequence[tuple[Mapping[str, str], Points]]]:
        deadline, names = Deadline(self._server.timeout), list(self._server.queries)
        end = clock.time()
        answers = for_each(
            lambda name: self._ask(self._server.queries[name], end - window, end, step, deadline),
            names,
            workers=CONNECTIONS,
            timeout=self._server.timeout,
        )
        found = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, BaseException):
                why = answer if isinstance(answer, MetricsError) else MetricsError(f"{self.name}: {name}: {answer}")
                raise why
            found[name] = answer
        return found

    def _ask(
        self, query: str, start: float, end: float, step: float, deadline: Deadline
    ) -> Sequence[tuple[Mapping[str, str], Points]]:
        promql = query.replace("$range", f"{math.ceil(step * STEPS_OF_RATE)}s")
        words = {"query": promql, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        words["timeout"] = f"{max(deadline.left, 0.1):.1f}s"
        url = f"{self._server.url.rstrip('/')}/api/v1/query_range"
        request = urllib.request.Request(url, urlencode(words).encode(), self._headers())  # noqa: S310
        try:
            # The settings take http and https only.
            with urllib.request.urlopen(request, timeout=max(deadline.left, 0.1)) as answer:  # noqa: S310
                text = answer.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise MetricsError(f"{self.name} refused {promql!r}: {_reason(error)}", remedy=_REMEDY) from error
        except (OSError, ValueError) as error:
            raise MetricsError(f"{self.name} did not answer: {error}", remedy=_REMEDY) from error
        if len(text) > MOST_BYTES:
            raise MetricsError(f"{self.name} answered more than can be held: {promql!r}", remedy=_REMEDY)
        return self._read(text, promql)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self._server.token_file:
            try:
                headers["Authorization"] = f"Bearer {Path(self._server.token_file).read_text().strip()}"
            except OSError as error:
                raise MetricsError(f"the token of {self.name} cannot be read: {error}", remedy=_REMEDY) from error
        return headers

    def _read(self, text: bytes, promql: str) -> Sequence[tuple[Mapping[str, str], Points]]:
        try:
            data = json.loads(text)["data"]
            if data["resultType"] != "matrix":
                raise ValueError(f"a {data['resultType']}, and no series")
            return [(dict(each["metric"]), _points(each["values"])) for each in data["result"]]
        except (ValueError, KeyError, TypeError) as error:
            raise MetricsError(f"{self.name} answered what is no series to {promql!r}: {error!r}") from error


_REMEDY = "look at load.prometheus and load.metrics of the settings"


def _reason(error: urllib.error.HTTPError) -> str:
    """What the server says itself, as far as it does."""
    try:
        return str(json.loads(error.read(4096))["error"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"


def _points(values: Iterable[Sequence[Any]]) -> Points:
    """Values that are no numbers, or less than nothing, were not told."""
    pairs = ((float(at), float(value)) for at, value in values)
    return tuple((at, value) for at, value in pairs if math.isfinite(value) and value >= 0)


def _names_of(host: Host) -> Iterable[str]:
    yield from (host.name, host.hostname, host.hostname.partition(".")[0], host.entry.migration_address or "")
    yield urlsplit(host.entry.uri).hostname or ""


@dataclass
class _Subjects:
    """Who is looked for, and by which names."""

    kind: str
    names: Mapping[str, Sequence[str]]
    """Key → every name it may have in a label."""

    def sorted_out(self, series: Sequence[tuple[Mapping[str, str], Points]], label: str) -> Mapping[str, Points]:
        """Return whose each series is. A name that several have, or of which there are several series, says nothing."""
        owners: dict[str, set[str]] = {}
        for key, names in self.names.items():
            for name in filter(None, names):
                owners.setdefault(name, set()).add(key)
        found: dict[str, list[Points]] = {}
        for metric, points in series:
            told = metric.get(label, "")
            whose = owners.get(told) or owners.get(_without_port(told), set())
            if len(whose) == 1:
                found.setdefault(next(iter(whose)), []).append(points)
        return {key: points[0] for key, points in found.items() if len(points) == 1}

    def missing(self, known: Mapping[str, object], who: str) -> Iterable[str]:
        """Say of whom too little is known."""
        lacking = [self.names[key][0] for key in self.names if key not in known]
        if lacking:
            yield f"{who} does not tell all of {len(lacking)} {self.kind}s: {listed(lacking)}"


def _without_port(address: str) -> str:
    host, colon, port = address.rpartition(":")
    return host.strip("[]") if colon and port.isdecimal() else address


def _of_vm(vm: Vm, of: Mapping[str, Mapping[str, Points]], step: float) -> VmLoad | None:
    found = {figure: of[figure].get(vm.uuid, ()) for figure in FIGURES}
    # A guest that runs works a little: a counter that stands still was not read.
    found["cpus"] = tuple((at, value) for at, value in found["cpus"] if value > 0)
    if not (found["cpus"] and found["memory"]) or any(not found[figure] for figure in _has(vm)):
        return None
    return VmLoad(vm.uuid, *_spreads(found), *_extent(found["cpus"], step))


def _has(vm: Vm) -> Iterable[str]:
    """What there has to be a series of."""
    if any(disk.source for disk in vm.disks):
        yield "disk"
    if vm.nics:
        yield "network"


def _of_host(name: str, of: Mapping[str, Mapping[str, Points]], step: float) -> HostLoad | None:
    found = {figure: of[figure].get(name, ()) for figure in FIGURES}
    if not all(found.values()):
        return None
    return HostLoad(name, *_spreads(found), *_extent(found["cpus"], step))


def _spreads(found: Mapping[str, Points]) -> tuple[Spread, Spread, Spread, Spread]:
    cpus, memory, disk, network = (spread_of((value, 1) for _, value in found[figure]) for figure in FIGURES)
    return cpus, memory, disk, network


def _extent(points: Points, step: float) -> tuple[int, float]:
    """How many values there are, and the seconds that they are about."""
    return len(points), points[-1][0] - points[0][0] + step
