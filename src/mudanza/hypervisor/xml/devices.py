"""From ``<interface>``, ``<graphics>`` and ``<tpm>`` to the model's nouns."""

from __future__ import annotations

from lxml import etree

from mudanza.hypervisor.xml.disks import pci_address
from mudanza.hypervisor.xml.parsing import attribute, every, first, integer
from mudanza.model.vm import Graphics, Nic, Tpm

_NIC_SOURCE = {
    "network": "network",
    "bridge": "bridge",
    "direct": "dev",
    "vdpa": "dev",
    "vhostuser": "path",
    "internal": "name",
    "vds": "switchid",
}


def parse_nic(nic: etree._Element) -> Nic:
    """Read one ``<interface>``."""
    kind = nic.get("type") or ""
    if attribute(nic, "source", "network"):
        # While it runs, libvirt shows what stands behind a network (a bridge, a device) as the card's own type.
        kind = "network"
    return Nic(
        mac=attribute(nic, "mac", "address") or "",
        kind=kind,
        source=_nic_source(kind, first(nic, "source")),
        model=attribute(nic, "model", "type"),
        virtualport=attribute(nic, "virtualport", "type"),
        vlans=tuple(number for tag in every(nic, "vlan/tag") if (number := integer(tag.get("id"))) is not None),
        nwfilter=attribute(nic, "filterref", "filter"),
        portgroup=attribute(nic, "source", "portgroup"),
        mode=attribute(nic, "source", "mode") if kind == "direct" else None,
        teaming=attribute(nic, "teaming", "type"),
    )


def _nic_source(kind: str, source: etree._Element | None) -> str | None:
    if source is None:
        return None
    if kind == "hostdev":
        return pci_address(first(source, "address"))
    return source.get(_NIC_SOURCE.get(kind, "dev")) or None


def parse_graphics(display: etree._Element) -> Graphics:
    """Read one ``<graphics>``. A display on a socket, or on nothing, listens on no address."""
    addresses = [listen.get("address") for listen in every(display, "listen") if listen.get("address")]
    port = integer(display.get("port"))
    return Graphics(
        kind=display.get("type") or "",
        listen=addresses[0] if addresses else display.get("listen") or None,
        port=port if port and port > 0 else None,
        autoport=display.get("autoport", "no" if port and port > 0 else "yes") == "yes",
    )


def parse_tpm(tpm: etree._Element | None) -> Tpm | None:
    """Read ``<tpm>``."""
    backend = first(tpm, "backend")
    if tpm is None or backend is None:
        return None
    return Tpm(tpm.get("model") or "", backend.get("type") or "", backend.get("version") or None)
