"""libvirt's files in a host's /etc/libvirt: settings, storage pools and networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from uuid import UUID, uuid4

from lxml import etree

from mudanza.lab import layout, network

FIRST_HOST = "h1"
POOLS = {
    "default": layout.IMAGES_DIRECTORY,
    "fast": layout.FAST_DIRECTORY,
    "shared": layout.SHARED_DIRECTORY,
}

_DAEMON = """\
host_uuid = "{host_uuid}"
listen_addr = "{address}"
listen_tcp = 1
listen_tls = {tls:d}
auth_tcp = "none"
auth_tls = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
# Without systemd, D-Bus and cgroups: a lab host has none of them to offer.
_QEMU = """\
user = "{user}"
group = "{user}"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
migration_address = "{address}"
migration_host = "{address}"
"""
_QEMU_TLS = """\
default_tls_x509_verify = 1
migrate_tls_x509_verify = 1
"""
_LOCK_MANAGER = 'lock_manager = "lockd"\n'
_LOCKSPACE = """\
file_lockspace_dir = "{directory}"
"""
LOCKSPACE = f"{layout.SHARED_DIRECTORY}/lockspace"
"""Where hosts with virtlockd keep their locks: one directory for all."""


def networks_of(host: str) -> Mapping[str, str]:
    """Return the host's libvirt networks with their bridges: one name is the first host's only, one the others'."""
    own = "blue" if host == FIRST_HOST else "green"
    return {"lan": network.HOST_BRIDGE, "lan2": network.SECOND_BRIDGE, own: network.HOST_BRIDGE}


def write(
    directory: Path, host: str, address: str, host_uuid: UUID, *, tls: bool, qemu_user: str, virtlockd: bool = False
) -> None:
    """Make a host's /etc/libvirt. ``qemu_user``: the account, and group, that QEMU runs as; ``virtlockd``: whether it
    locks disks."""
    directory.mkdir()
    (directory / "libvirtd.conf").write_text(_DAEMON.format(host_uuid=host_uuid, address=address, tls=tls))
    settings = _QEMU.format(address=address, user=qemu_user) + (_QEMU_TLS if tls else "")
    (directory / "qemu.conf").write_text(settings + (_LOCK_MANAGER if virtlockd else ""))
    if virtlockd:
        (directory / "qemu-lockd.conf").write_text(_LOCKSPACE.format(directory=LOCKSPACE))
    for name, path in POOLS.items():
        pool = etree.Element("pool", type="dir")
        etree.SubElement(etree.SubElement(pool, "target"), "path").text = path
        _define(directory / "storage", name, pool)
    for name, bridge in networks_of(host).items():
        net = etree.Element("network")
        etree.SubElement(net, "forward", mode="bridge")
        etree.SubElement(net, "bridge", name=bridge)
        _define(directory / "qemu/networks", name, net)


def has_virtlockd(directory: Path) -> bool:
    """Whether a host with this /etc/libvirt locks disks."""
    return _LOCK_MANAGER in (directory / "qemu.conf").read_text()


def host_uuid(directory: Path) -> str:
    """Return the UUID that a host with this /etc/libvirt goes by."""
    line = next(each for each in (directory / "libvirtd.conf").read_text().splitlines() if each.startswith("host_uuid"))
    return line.partition("=")[2].strip().strip('"')


def _define(directory: Path, name: str, definition: etree._Element) -> None:
    """Write a definition, marked for autostart, the way libvirt does itself."""
    etree.SubElement(definition, "name").text = name
    etree.SubElement(definition, "uuid").text = str(uuid4())
    (directory / "autostart").mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.xml").write_bytes(etree.tostring(definition, pretty_print=True))
    (directory / "autostart" / f"{name}.xml").symlink_to(f"../{name}.xml")
