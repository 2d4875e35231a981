"""What becomes another format is compared by what a guest finds on it, and let go only then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab import kinds
from tests.lab.cold import FAST, IMAGES, content, definition, exists, image, look, off, spoiling, states
from tests.lab.command import Mudanza
from tests.lab.domains import disk
from tests.lab.test_cold_disks import move

pytestmark = pytest.mark.lab

WRITES = ("write -q -P 0xa1 0 64k", "write -q -P 0xa2 20M 2M", "write -q -P 0xa3 63M 1M", "write -q -P 0 30M 1M")


@pytest.fixture
def made(lab: Lab) -> Iterator[ExitStack]:
    """Takes what a test makes away again, the last first."""
    with ExitStack() as stack:
        yield stack


def test_it_holds_the_same_there_and_back(lab: Lab, by_ssh: Mudanza) -> None:
    path, raw = image(lab, f"{IMAGES}/shape.qcow2", "64M", *WRITES), f"{IMAGES}/shape.raw"
    holds = content(lab, "h1", path, "qcow2")
    with off(lab, "shape", disk(path, "vda")) as uuid:
        report = move(by_ssh, "shape", "--format", "raw")
        assert "1 file compared in full, 64 MiB, holes included, 1 of them by what a guest finds there" in str(
            report["verified"]
        )
        assert (report["removed"], report["kept"]) == ([f"h1:{path}"], [])
        assert look(lab, "h2", raw).size == 64 * MIB
        assert content(lab, "h2", raw, "raw") == holds
        assert "type='raw'" in definition(lab, "h2", "shape")
        report = move(by_ssh, "shape", "--format", "qcow2", to="h1")
        assert report["removed"] == [f"h2:{raw}"]
        assert content(lab, "h1", path, "qcow2") == holds
        assert states(lab, uuid) == {"h1": "shut off"}


def test_a_chain_that_becomes_one_image_is_let_go_and_what_it_was_built_upon_stays(
    lab: Lab, by_ssh: Mudanza, made: ExitStack
) -> None:
    made.callback(kinds.sweep, lab, "tower")
    base = image(lab, f"{IMAGES}/tower-base.qcow2", "64M", *WRITES)
    top = image(lab, f"{IMAGES}/tower.qcow2", "", "write -q -P 0xb2 20M 1M", backing=base)
    holds = content(lab, "h1", top, "qcow2")
    with off(lab, "tower", disk(top, "vda")):
        report = move(by_ssh, "tower", "--chain", "flatten")
        assert "by what a guest finds there" in str(report["verified"])
        assert report["removed"] == [f"h1:{top}"]
        assert exists(lab, "h1", base)
        assert content(lab, "h2", top, "qcow2") == holds


def test_one_wrong_byte_is_seen_and_the_source_stays(lab: Lab, by_ssh: Mudanza) -> None:
    path, raw = image(lab, f"{IMAGES}/warped.qcow2", "64M", *WRITES), f"{IMAGES}/warped.raw"
    with off(lab, "warped", disk(path, "vda")) as uuid:
        before = look(lab, "h1", path)
        for how in ("full", "sample"):
            with spoiling(lab, "h2", raw, 40 * MIB):
                refused = by_ssh("migrate", "warped", "--to", "h2", "--format", "raw", "--verify", how, expect=4)
            assert f"{path} is not the same on both hosts after it was carried" in refused.err
            assert look(lab, "h1", path) == before
            assert states(lab, uuid) == {"h1": "shut off"}
        assert move(by_ssh, "warped", "--format", "raw")["removed"] == [f"h1:{path}"]


@pytest.mark.soak
def test_within_one_host_too(lab: Lab, mudanza: Mudanza, by_ssh: Mudanza) -> None:
    path, raw = image(lab, f"{IMAGES}/inner.qcow2", "64M", *WRITES), f"{FAST}/inner.raw"
    holds = content(lab, "h1", path, "qcow2")
    with off(lab, "inner", disk(path, "vda")):
        to_fast = ("inner", "--map-storage", "default=fast", "--format", "raw")
        with spoiling(lab, "h1", raw, 40 * MIB):
            refused = by_ssh("migrate", *to_fast, "--to", "h1", expect=4)
        assert "is not the same on both hosts" in refused.err
        assert path in definition(lab, "h1", "inner")
        assert move(by_ssh, *to_fast, to="h1")["removed"] == [f"h1:{path}"]
        assert content(lab, "h1", raw, "raw") == holds
        # Without ssh nobody can see it: what it came from stays.
        report = move(mudanza, "inner", "--map-storage", "fast=default", "--format", "qcow2", to="h1")
        assert (report["removed"], report["kept"]) == ([], [f"h1:{raw}"])
        assert "was not compared" in str(report["warnings"])
        assert content(lab, "h1", path, "qcow2") == holds
        virsh(lab.cell("h1"), "start", "--paused", "inner")


@pytest.mark.soak
def test_a_chain_comes_back_onto_its_own_old_layers(lab: Lab, by_ssh: Mudanza, made: ExitStack) -> None:
    """They name each other by other paths than those that come back; what a guest finds in them is the same."""
    made.callback(kinds.sweep, lab, "storey")
    base = image(lab, f"{IMAGES}/storey-base.qcow2", "64M", *WRITES)
    middle = image(lab, f"{IMAGES}/storey-middle.qcow2", "", "write -q -P 0xb1 1M 1M", backing=base)
    top = image(lab, f"{IMAGES}/storey.qcow2", "", "write -q -P 0xb2 2M 1M", backing=middle)
    holds = content(lab, "h1", top, "qcow2")
    left = {path: look(lab, "h1", path).sha256 for path in (base, middle)}
    with off(lab, "storey", disk(top, "vda")) as uuid:
        move(by_ssh, "storey", "--map-storage", "default=fast")
        assert {path: look(lab, "h1", path).sha256 for path in left} == left, "others may be built upon them"
        # One byte of the guest's in the layer there, and it is another one.
        h1 = lab.cell("h1")
        h1.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 0xb0 1M 512", middle])
        refused = by_ssh("migrate", "storey", "--to", "h1", "--map-storage", "fast=default", expect=4)
        assert f"h1 has a {middle} of its own" in refused.err
        h1.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 0xb1 1M 512", middle])
        # It is to stand on its base as the other one does.
        h1.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", base, "-F", "raw", middle])
        by_ssh("migrate", "storey", "--to", "h1", "--map-storage", "fast=default", expect=4)
        h1.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", middle])
        report = move(by_ssh, "storey", "--map-storage", "fast=default", to="h1")
        assert "1 of them by what a guest finds there" in str(report["verified"])
        assert content(lab, "h1", top, "qcow2") == holds
        assert states(lab, uuid) == {"h1": "shut off"}


def test_a_chain_that_goes_on_where_libvirt_does_not_look_is_refused(
    lab: Lab, by_ssh: Mudanza, made: ExitStack
) -> None:
    """What is not known to lie below would be missing from the one image, and from the comparison too."""
    h1, hidden = lab.cell("h1"), "/srv/hidden"
    made.callback(kinds.sweep, lab, "deep")
    h1.run(["mkdir", hidden])
    made.callback(h1.run, ["rm", "-r", hidden])
    ground = image(lab, f"{hidden}/ground.qcow2", "64M", *WRITES)
    base = image(lab, f"{hidden}/base.qcow2", "", "write -q -P 0xb1 1M 1M", backing=ground)
    top = image(lab, f"{IMAGES}/deep.qcow2", "", "write -q -P 0xb2 2M 1M", backing=base)
    with off(lab, "deep", disk(top, "vda")) as uuid:
        refused = by_ssh("migrate", "deep", "--to", "h2", "--chain", "flatten", expect=4)
        assert f"{base} is built upon {ground}, which libvirt of h1 does not know" in refused.err
        assert not exists(lab, "h2", top)
        assert states(lab, uuid) == {"h1": "shut off"}
