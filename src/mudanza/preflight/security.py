"""May QEMU at the target open what the VM needs: secrets, labels, owners?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mudanza.model.finding import Finding
from mudanza.model.vm import Disk
from mudanza.preflight.case import Case
from mudanza.preflight.wording import blocker, listed, start_driver, virsh, vm_key, warning

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CONFINING = frozenset({"apparmor", "selinux"})


def secrets(case: Case) -> Iterator[Finding]:
    """Every libvirt secret the VM refers to has a value at the target."""
    wanted = {*case.vm.secrets, *(disk.secret for disk in case.vm.disks if disk.secret)}
    if not wanted:
        return
    if case.target.secrets is None:
        yield warning(
            "secrets-unknown",
            f"host {case.target.name}",
            f"the VM needs libvirt secrets ({listed(wanted)}), and {case.target.name} could not be asked for its own",
            start_driver(case.target, "secret"),
        )
        return
    for secret in sorted(wanted - case.target.secrets):
        yield blocker(
            "secret-missing",
            f"secret {secret}",
            f"{case.target.name} has no value for the libvirt secret {secret}",
            _carry_over(case, secret),
        )


def _carry_over(case: Case, secret: str) -> str:
    """A secret may be named by what it is for (its usage); virsh wants its UUID."""
    known = bool(_UUID.fullmatch(secret))
    look = "" if known else f"{virsh(case.source, 'secret-list')} tells its UUID; "
    uuid = secret if known else "UUID"
    return (
        f"{look}{virsh(case.source, 'secret-dumpxml', uuid)} > FILE; {virsh(case.target, 'secret-define', 'FILE')}; "
        f"{virsh(case.target, 'secret-set-value', uuid)} --interactive"
    )


def static_labels(case: Case) -> Iterator[Finding]:
    """A static label is of one security model, and that model has to be in force at the target."""
    for model in case.vm.seclabels:
        if model not in case.target.security_models:
            yield blocker(
                "security-label",
                f"VM {case.vm.name}",
                f"it has a static {model} label, and {case.target.name} confines guests by "
                f"{listed(case.target.security_models)}",
                f"remove its <seclabel> (virsh edit {vm_key(case.vm)}), or set security_driver in "
                f"/etc/libvirt/qemu.conf of {case.target.name}",
            )


def confinement(case: Case) -> Iterator[Finding]:
    """A guest confined here and not there loses a wall."""
    lost = (case.source.security_models - case.target.security_models) & _CONFINING
    gained = case.target.security_models & _CONFINING
    if lost and not gained:
        yield warning(
            "confinement-lost",
            f"host {case.target.name}",
            f"{listed(lost)} confines QEMU on {case.source.name} and nothing of the kind does on {case.target.name}",
            f"set security_driver in /etc/libvirt/qemu.conf of {case.target.name} and restart libvirt",
        )


def disk_owners(case: Case) -> Iterator[Finding]:
    """The user QEMU runs as at the target can open the shared images. Unknown owners say nothing: QEMU would fail
    to start there, and the guest runs on."""
    owner = case.target.qemu_owner
    if owner is None:
        return
    for disk, _ in case.planned("shared"):
        if not _may_write(disk, owner):
            yield warning(
                "disk-owner",
                f"disk {disk.target}",
                f"{disk.source} belongs to {_ids(disk.owner)} with mode {disk.mode or 0:o}, and QEMU runs as "
                f"{_ids(owner)} on {case.target.name}: libvirt will try to change the owner, which root-squashing "
                "NFS refuses",
                "run QEMU as the same user on both hosts (user and group in /etc/libvirt/qemu.conf), "
                "or chmod the image",
            )


def _may_write(disk: Disk, owner: tuple[int, int]) -> bool:
    uid, gid = owner
    if disk.owner is None or disk.mode is None or uid == 0:
        return True
    wanted = 0o006
    if disk.owner[0] == uid:
        wanted = 0o600
    elif disk.owner[1] == gid:
        wanted = 0o060
    return disk.mode & wanted == wanted


def _ids(owner: tuple[int, int] | None) -> str:
    return f"{owner[0]}:{owner[1]}" if owner else "nobody known"
