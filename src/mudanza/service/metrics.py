"""Figures for a Prometheus server, by its conventions; ``domain`` and ``uuid`` are as libvirt's exporters name them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from mudanza.journal.jobs import Filter, Job
from mudanza.journal.standbys import Standby
from mudanza.journal.tally import DOWNTIME, DURATION, ERROR, TRAVELLED, Tallies
from mudanza.model.balance import OnDuty
from mudanza.model.fencing import DeviceTest
from mudanza.model.host import Host
from mudanza.model.vm import Vm
from mudanza.service.desk import Desk
from mudanza.service.picture import Picture

MOST_JOBS = 1000
"""Unfinished ones that are counted, at the most."""
_HISTOGRAMS = {
    DURATION: "How long moves took that went well, without their checks.",
    DOWNTIME: "How long the vCPUs stood still in moves that went well.",
    TRAVELLED: "What of memory and disks travelled in moves that went well.",
    ERROR: "By what share of their real duration moves were misjudged beforehand.",
}


def exposition(desk: Desk) -> tuple[bytes, int, None, str]:
    """Return the text, and what is to be said of it: status, headers and its type."""
    registry = CollectorRegistry()
    registry.register(_Figures(desk))
    return generate_latest(registry), 200, None, CONTENT_TYPE_LATEST


class _Figures(Collector):
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def collect(self) -> Iterator[Metric]:
        """Yield every figure."""
        info = GaugeMetricFamily("mudanza_build_info", "The daemon's version.", labels=["version"])
        info.add_metric([self._desk.version], 1)
        yield info
        picture = self._desk.newest()
        if picture is not None:
            yield from _of_picture(picture)
            yield from _of_hosts(picture.cluster.hosts)
            yield from _of_vms(picture.cluster.vms)
        yield from _of_jobs(self._desk.jobs.latest(MOST_JOBS, Filter(state="unfinished"), brief=True))
        plans = Counter(run.state.value for run in self._desk.plans.unfinished())
        yield _by_state("mudanza_plans", "Plans that have not ended.", plans)
        yield from _counted(self._desk.jobs.counted())
        yield from _of_duties(self._desk.balances.everybody())
        yield from _of_fences(self._desk.fence_tests())
        yield from _of_standbys(self._desk.standbys())


def _by_state(name: str, what: str, counted: Counter[str]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=["state"])
    for state, number in sorted(counted.items()):
        family.add_metric([state], number)
    return family


def _of_jobs(jobs: Iterable[Job]) -> Iterator[Metric]:
    jobs = tuple(jobs)
    states = Counter("abandoned" if job.abandoned and not job.is_queued else job.state for job in jobs)
    yield _by_state("mudanza_jobs", "Jobs that have not ended.", states)
    waiting = [job.read_at - job.queued_at for job in jobs if job.is_queued and job.queued_at is not None]
    longest = max((*waiting, 0.0))
    yield GaugeMetricFamily("mudanza_queue_wait_seconds", "How long the oldest job in the queue has waited.", longest)
    labels = ["domain", "uuid", "source", "target", "job"]
    moving = GaugeMetricFamily("mudanza_vm_job", "What is being done to a VM: its unfinished job.", labels=labels)
    for job in jobs:
        moving.add_metric([job.vm_name, job.vm_uuid, job.source, job.target, str(job.id)], 1)
    yield moving


def _counted(found: Tallies) -> Iterator[Metric]:
    ended = CounterMetricFamily("mudanza_jobs_ended", "Jobs that have ended.", labels=["kind", "exit_code"])
    for labels, number in found.ended:
        ended.add_metric([labels["kind"], labels["exit_code"]], number)
    yield ended
    for name, what in _HISTOGRAMS.items():
        family = HistogramMetricFamily(f"mudanza_{name}", what, labels=["kind"])
        for each in found.histograms:
            if each.name == name:
                family.add_metric([each.labels["kind"]], list(each.buckets), each.total)
        yield family


def _of_duties(duties: Iterable[OnDuty]) -> Iterator[Metric]:
    held = GaugeMetricFamily("mudanza_lease_held", "Whether a controller does what only one may do.", labels=["duty"])
    taken = CounterMetricFamily("mudanza_lease_taken", "How often a controller has begun to do it.", labels=["duty"])
    for duty in duties:
        held.add_metric([duty.name], duty.alive)
        taken.add_metric([duty.name], duty.epoch)
    yield from (held, taken)


def _of_fences(tests: Iterable[DeviceTest]) -> Iterator[Metric]:
    labels = ["host", "device"]
    answers = GaugeMetricFamily(
        "mudanza_fence_device_answers", "Whether what switches a host's power answered as it should.", labels=labels
    )
    tested = GaugeMetricFamily(
        "mudanza_fence_device_tested_timestamp_seconds", "When it was asked last.", labels=labels
    )
    for each in tests:
        answers.add_metric([each.host, each.device], not each.fault)
        tested.add_metric([each.host, each.device], each.at)
    yield from (answers, tested)


def _of_standbys(standbys: Iterable[Standby]) -> Iterator[Metric]:
    labels = ["standby"]
    age = GaugeMetricFamily(
        "mudanza_standby_age_seconds", "How old the newest copy of the journal at a standby is.", labels=labels
    )
    late = GaugeMetricFamily("mudanza_standby_late", "Whether that is older than it should be.", labels=labels)
    failing = GaugeMetricFamily(
        "mudanza_standby_failing", "Whether the last copy was not brought there.", labels=labels
    )
    for each in standbys:
        if each.lag is not None:
            age.add_metric([each.name], each.lag)
        late.add_metric([each.name], each.overdue)
        failing.add_metric([each.name], bool(each.said))
    yield from (age, late, failing)


def _of_picture(picture: Picture) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "mudanza_inventory_timestamp_seconds", "When the hosts were last looked at.", picture.taken_at
    )
    yield GaugeMetricFamily("mudanza_inventory_duration_seconds", "How long that look took.", picture.took)
    yield GaugeMetricFamily(
        "mudanza_controller_lag_seconds", "By how much that look began later than it should have.", picture.late
    )


def _of_hosts(hosts: tuple[Host, ...]) -> Iterator[Metric]:
    up = GaugeMetricFamily("mudanza_host_up", "Whether a host answered.", labels=["host"])
    rests = GaugeMetricFamily("mudanza_host_maintenance", "Whether a host is closed to newcomers.", labels=["host"])
    whole = GaugeMetricFamily("mudanza_host_memory_bytes", "A host's memory.", labels=["host"])
    free = GaugeMetricFamily("mudanza_host_memory_free_bytes", "What a new guest could take.", labels=["host"])
    cpus = GaugeMetricFamily("mudanza_host_cpus", "A host's CPUs.", labels=["host"])
    info = GaugeMetricFamily("mudanza_host_info", "What else a host is called.", labels=["host", "nodename", "uuid"])
    for host in hosts:
        up.add_metric([host.name], host.seen)
        rests.add_metric([host.name], host.entry.maintenance)
        if host.seen:
            whole.add_metric([host.name], host.memory_total)
            free.add_metric([host.name], host.memory_free)
            cpus.add_metric([host.name], host.cpus)
            info.add_metric([host.name, host.hostname, host.host_uuid], 1)
    yield from (up, rests, whole, free, cpus, info)


def _of_vms(vms: tuple[Vm, ...]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "mudanza_vm_active", "Whether a VM has a QEMU on that host.", labels=["domain", "uuid", "host"]
    )
    for vm in vms:
        family.add_metric([vm.name, vm.uuid, vm.host], vm.state.active)
    yield family
