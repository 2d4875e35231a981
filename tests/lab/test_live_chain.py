"""A running guest whose disk stands on others moves with all of them, as files of their own."""

from __future__ import annotations

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab import kinds
from tests.lab.command import Mudanza

pytestmark = pytest.mark.lab

IMAGES = "/var/lib/libvirt/images"
SPEC = {"memory": 128 * MIB, "disk": 64 * MIB, "beat": 0.05}


def sha256(lab: Lab, host: str, path: str) -> str:
    return lab.cell(host).run(["sha256sum", "--", path]).stdout.split()[0]


def test_a_chain_is_kept_and_its_snapshots_with_it(lab: Lab, mudanza: Mudanza) -> None:
    with kinds.base_image(lab, "ground.qcow2") as base:
        guest = create_guest(lab, GuestSpec("tower", backing="ground.qcow2", **SPEC), on="h1")  # type: ignore[arg-type]
        try:
            virsh(lab.cell("h1"), "snapshot-create-as", guest.uuid, "one", "--disk-only", "--atomic")
            before = {path: sha256(lab, "h1", path) for path in (base, f"{IMAGES}/tower.qcow2")}
            blocked = mudanza("check", "tower", "--to", "h2", expect=3)
            assert "--chain keep" in blocked.out
            mudanza("migrate", "tower", "--to", "h2", "--chain", "keep")
            assert guest.states() == {"h2": "running"}
            guest.verify()
            assert {path: sha256(lab, "h2", path) for path in before} == before, "what lies below came byte for byte"
            assert virsh(lab.cell("h2"), "snapshot-list", "--name", guest.uuid).split() == ["one"]
            top = f"{IMAGES}/tower.one"
            chain = lab.cell("h2").run(["qemu-img", "info", "-U", "--backing-chain", "-f", "qcow2", top]).stdout
            assert [line.split()[2] for line in chain.splitlines() if line.startswith("backing file:")] == [
                f"{IMAGES}/tower.qcow2",
                base,
            ]
            left = lab.cell("h1").run(["ls", IMAGES]).stdout.split()
            assert "ground.qcow2" in left, "a base image is nobody's to delete"
            assert not [name for name in left if name.startswith("tower")], "the VM's own images went with it"
        finally:
            guest.remove()
            lab.cell("h2").run(["rm", "-f", "--", base, f"{IMAGES}/tower.qcow2"])
