"""What a simulated host's libvirt says of guests' CPUs, by the one that QEMU emulates: recorded from libvirt 9.0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

import libvirt
from lxml import etree

from mudanza.hypervisor.twin import errors

_MODEL, _VENDOR = "EPYC", "AMD"
_LEFT_OUT = ("disable", "forbid")


def recorded(name: str) -> str:
    """Return what a real host said."""
    return resources.files("mudanza.hypervisor.twin").joinpath("recorded", name).read_text(encoding="utf-8")


def capabilities(lacks: frozenset[str], vendor: str) -> str:
    """Return domain capabilities in which ``host-model`` lacks some features."""
    root = etree.fromstring(recorded("domain_capabilities.xml"))
    mode = root.find("cpu/mode[@name='host-model']")
    assert mode is not None
    made = mode.find("vendor")
    assert made is not None
    made.text = vendor or _VENDOR
    for name in sorted(lacks):
        for feature in mode.findall(f"feature[@name='{name}']"):
            mode.remove(feature)
        if name in _of_model():
            etree.SubElement(mode, "feature", policy="disable", name=name)
    return etree.tostring(root, encoding="unicode")


def baseline(cpus: Iterable[str], flags: int, lacks: frozenset[str]) -> str:
    """Return what CPUs have in common that this host can give. Raises libvirtError where they have two makers."""
    roots = [etree.fromstring(cpu) for cpu in cpus]
    vendors = {vendor for root in roots if (vendor := root.findtext("vendor"))}
    if len(vendors) > 1:
        raise errors.refusal(
            libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_CPU, "operation failed: CPU vendors do not match"
        )
    common = frozenset.intersection(*(_all_of(root) for root in roots)) - lacks
    whole = flags & libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
    return _written(common, vendors, common if whole else common - _of_model())


def assert_gives(cpu: str, lacks: frozenset[str]) -> int:
    """Return libvirt's figure for a CPU that a host can give. Raises libvirtError for another one."""
    root = etree.fromstring(cpu)
    asked = _all_of(root)
    missing = sorted(asked & lacks | _beyond_all(asked))
    if missing:
        raise errors.refusal(
            libvirt.VIR_ERR_CPU_INCOMPATIBLE,
            libvirt.VIR_FROM_CPU,
            f"the CPU is incompatible with host CPU: Host CPU does not provide required features: {', '.join(missing)}",
        )
    return int(libvirt.VIR_CPU_COMPARE_SUPERSET)


@cache
def _of_model() -> frozenset[str]:
    """The features that the model stands for."""
    whole, named = etree.fromstring(recorded("emulated_cpu.xml")), _offered()
    given = {f.get("name", "") for f in whole.iterfind("feature") if f.get("policy") not in _LEFT_OUT}
    disabled = {f.get("name", "") for f in whole.iterfind("feature")} - given
    beyond = {f.get("name", "") for f in named if f.get("policy") not in _LEFT_OUT}
    return frozenset(given - beyond | disabled)


def _offered() -> Sequence[etree._Element]:
    return etree.fromstring(recorded("domain_capabilities.xml")).findall("cpu/mode[@name='host-model']/feature")


def _all_of(cpu: etree._Element) -> frozenset[str]:
    named = {f.get("name", ""): f.get("policy", "require") for f in cpu.iterfind("feature")}
    model = _of_model() if cpu.findtext("model") == _MODEL else frozenset()
    left_out = {name for name, policy in named.items() if policy in _LEFT_OUT}
    return (model | frozenset(named)) - left_out


def _beyond_all(features: frozenset[str]) -> frozenset[str]:
    """What no simulated host has."""
    offered = {f.get("name", "") for f in _offered() if f.get("policy") not in _LEFT_OUT}
    return features - _of_model() - offered


def _written(common: frozenset[str], vendors: Iterable[str], named: frozenset[str]) -> str:
    root = etree.Element("cpu", mode="custom", match="exact")
    etree.SubElement(root, "model", fallback="forbid").text = _MODEL
    for vendor in vendors:
        etree.SubElement(root, "vendor").text = vendor
    for name in sorted(named):
        etree.SubElement(root, "feature", policy="require", name=name)
    for name in sorted(_of_model() - common):
        etree.SubElement(root, "feature", policy="disable", name=name)
    return etree.tostring(root, encoding="unicode")
