"""The installation is looked at: what is well is said to be, and what is not, with nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mudanza.lab import faults
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza, Result

pytestmark = pytest.mark.lab

OF_THE_LAB = {"network-not-everywhere"}
"""Each lab host has a network that others have not."""
if not os.access("/dev/kvm", os.R_OK | os.W_OK):
    OF_THE_LAB.add("no-kvm")
WAYS = {f"{one} → {other}" for one in ("h1", "h2", "h3") for other in ("h1", "h2", "h3") if one != other}


def codes(found: Result) -> dict[str, set[str]]:
    return {each["subject"]: {finding["code"] for finding in each["findings"]} for each in found.data}


def test_a_sound_installation_is_well(lab: Lab, by_ssh: Mudanza) -> None:
    found = by_ssh("doctor", "-o", "json")
    told = codes(found)
    assert set().union(*told.values()) <= OF_THE_LAB
    said = {each["subject"]: each["said"] for each in found.data}
    assert set(told) >= WAYS
    assert all(said[way].startswith("login, data, encrypted, clocks") for way in WAYS), said
    for host in lab.hosts:
        assert virsh(lab.cell(host), "list", "--all", "--name").split() == []


def test_each_fault_is_told_where_it_is(lab: Lab, mudanza: Mudanza) -> None:
    try:
        faults.part(lab, "h2", "h3")
        faults.fill(lab, "h1", "fast", leave=50 * MIB)
        told = codes(mudanza("doctor", "-o", "json", expect=3))
    finally:
        faults.join(lab, "h2", "h3")
        faults.unfill(lab, "h1", "fast")
    assert {way for way in WAYS if "peer-unreachable" in told[way]} == {"h2 → h3", "h3 → h2"}
    assert "pool-full" in told["host h1"]
    assert "no-root-login" in told["host h1"], "this controller reaches its hosts by their sockets"


def test_a_dead_libvirt_hides_nothing_else(lab: Lab, mudanza: Mudanza) -> None:
    try:
        faults.kill_daemon(lab, "h3")
        seen = mudanza("doctor", expect=3)
    finally:
        faults.start_daemon(lab, "h3")
    assert "✗ host h3" in seen.out
    assert "✓ h1 → h2: login, data" in seen.out
    assert "1 to be mended" in seen.err


def test_a_database_that_cannot_be_opened_is_an_error_of_its_own(mudanza: Mudanza, tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text('database = "/proc/nowhere/mudanza.db"\n')
    assert "cannot be opened" in mudanza("--config", str(config), "doctor", expect=2).err
