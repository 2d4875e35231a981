"""The CPUs that hosts give to guests, and what they have in common: libvirt's own arithmetic, as virsh's
``hypervisor-cpu-baseline`` has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import libvirt

from mudanza.hypervisor.bounded import for_each
from mudanza.hypervisor.connection import HostConnection, Raw
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.probing.cpus import probe_cpu
from mudanza.hypervisor.xml.cpus import features_of, model_of, offered_cpu
from mudanza.model.cluster import Cluster
from mudanza.model.cpu import Baseline, CpuOffer, CpuSurvey, Kept, baseline_of, families
from mudanza.model.errors import HypervisorError, MudanzaError
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Probe
from mudanza.model.vm import Vm

SURVEY_TIMEOUT = 60.0
"""Seconds that all hosts together may take to tell of their CPUs."""
WORKERS = 16
"""Hosts that are asked at once."""
_MOVABLE = libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE
_ALL_OF_IT = _MOVABLE | libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
_SAY_WHY = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE


Key = tuple[object, ...]
"""What a question to a host is about: its name first, and all that its answer hangs on."""


def survey(connections: Connections, cluster: Cluster) -> CpuSurvey:
    """Return the baselines of the hosts that were seen, and which VMs their CPUs keep from which of them.

    What could not be found out is said in ``unknown``, and nothing is concluded of it. Never raises.
    """
    hosts = [host for host in cluster.hosts if host.seen]
    unknown = [f"{host.name} was not seen: {host.error}" for host in cluster.hosts if not host.seen]
    connections.open_all([host.name for host in hosts])
    wanted = [(host, kind) for host in hosts for kind in _kinds(host, cluster)]
    offers: list[CpuOffer] = []
    told = for_each(lambda each: _offer(connections, *each), wanted, workers=WORKERS, timeout=SURVEY_TIMEOUT)
    for (host, kind), answer in zip(wanted, told, strict=True):
        if isinstance(answer, CpuOffer):
            offers.append(answer)
        else:
            unknown.append(f"what {host.name} can give to guests of type {kind} was not found out: {answer}")
    baselines: list[Baseline] = []
    for family in families(offers):
        try:
            baselines.append(_common(connections, family))
        except MudanzaError as error:
            names = ", ".join(offer.host for offer in family)
            unknown.append(f"what {names} have in common was not found out: {error}")
    kept, unclear = _kept(connections, cluster, hosts)
    return CpuSurvey(tuple(baselines), tuple(kept), tuple(dict.fromkeys([*unknown, *unclear])))


def _kinds(host: Host, cluster: Cluster) -> Iterable[str]:
    """What guests of the cluster are, as far as the host can run them; its best kind where there are none."""
    asked = {vm.domain_type for vm in cluster.vms} & host.domain_types
    return sorted(asked) or sorted(host.domain_types & {"kvm"} or host.domain_types)[:1]


def _offer(connections: Connections, host: Host, kind: str) -> CpuOffer:
    connection = connections.get(host.name)
    told = connection.ask(lambda raw: str(raw.getDomainCapabilities(None, host.arch, None, kind, 0)))
    cpu = offered_cpu(told, host.name)
    if not cpu:
        raise HypervisorError(host.name, "its libvirt offers no CPU by a model (host-model)")
    return _read(connection, host.arch, kind, [cpu])


def _read(connection: HostConnection, arch: str, kind: str, cpus: Sequence[str]) -> CpuOffer:
    """Have a host work out what CPUs have in common. Raises HypervisorError, HostUnreachableError."""

    def common(raw: Raw, flags: int) -> str:
        return str(raw.baselineHypervisorCPU(None, arch, None, kind, list(cpus), flags))

    short = connection.ask(partial(common, flags=_MOVABLE))
    whole = connection.ask(partial(common, flags=_ALL_OF_IT))
    model, vendor = model_of(short, connection.name)
    return CpuOffer(connection.name, arch, kind, model, vendor, features_of(whole, connection.name), short)


def _common(connections: Connections, family: Sequence[CpuOffer]) -> Baseline:
    """Have one host after the other work it out until every one of them can give what came of it.

    A libvirt leaves out what its own QEMU cannot give, and may name a model that an older one does not know.
    """
    best: Baseline | None = None
    failure: MudanzaError | None = None
    cpus = list(dict.fromkeys(offer.xml for offer in family))
    for offer in family:
        try:
            found = _checked(connections, family, _read(connections.get(offer.host), offer.arch, offer.kind, cpus))
        except MudanzaError as error:
            failure = error
            continue
        if not found.refused:
            return found
        best = found if best is None or len(found.refused) < len(best.refused) else best
    if best is None:
        raise failure or HypervisorError(family[0].host, "nothing was worked out")
    return best


def _checked(connections: Connections, family: Sequence[CpuOffer], common: CpuOffer) -> Baseline:
    names = [offer.host for offer in family]
    answers = for_each(
        lambda host: _gives(connections.get(host), common), names, workers=WORKERS, timeout=SURVEY_TIMEOUT
    )
    refused = {
        host: answer.detail if isinstance(answer, Probe) else str(answer)
        for host, answer in zip(names, answers, strict=True)
        if not isinstance(answer, Probe) or answer.answer is not Answer.YES
    }
    return baseline_of(family, common, refused, given=frozenset(names) - refused.keys())


def _gives(connection: HostConnection, cpu: CpuOffer) -> Probe:
    def compare(raw: Raw) -> int:
        return int(raw.compareHypervisorCPU(None, cpu.arch, None, cpu.kind, cpu.xml, _SAY_WHY))

    try:
        outcome = connection.ask(compare)
    except HypervisorError as error:
        return Probe(Answer.NO, error.reason)
    no = outcome == libvirt.VIR_CPU_COMPARE_INCOMPATIBLE
    return Probe(Answer.NO, f"{connection.name} says that it is incompatible") if no else Probe(Answer.YES)


def _kept(connections: Connections, cluster: Cluster, hosts: Sequence[Host]) -> tuple[list[Kept], list[str]]:
    """Ask each host once for each kind of CPU among the VMs."""
    about = {host.name: host for host in hosts}
    examples: dict[Key, Vm] = {}
    keys: list[tuple[Vm, Host, Key]] = []
    for vm in cluster.vms:
        for target in hosts:
            if vm.host in about and vm.host != target.name and vm.domain_type in target.domain_types:
                key: Key = (target.name, vm.arch, vm.domain_type, vm.cpu_mode, vm.cpu_xml, _class(about[vm.host]))
                examples.setdefault(key, vm)
                keys.append((vm, target, key))

    def ask(key: Key) -> Probe:
        vm = examples[key]
        return probe_cpu(connections.get(str(key[0])), vm, about[vm.host])

    asked = list(examples)
    answers = dict(zip(asked, for_each(ask, asked, workers=WORKERS, timeout=SURVEY_TIMEOUT), strict=True))
    kept, unclear = [], []
    for vm, target, key in keys:
        answer = answers[key]
        if not isinstance(answer, Probe) or answer.answer is Answer.UNKNOWN:
            detail = answer.detail if isinstance(answer, Probe) else str(answer)
            unclear.append(f"whether {target.name} can give {vm.name} its CPU was not found out: {detail}")
        elif answer.answer is Answer.NO:
            kept.append(Kept(vm.name, vm.uuid, vm.host, target.name, answer.detail))
    return kept, unclear


def _class(host: Host) -> tuple[object, ...]:
    return host.cpu_xml, host.qemu_version
