"""BMCs as they are on a wire: IPMI by Debian's fence agent and ipmitool, from the controller's seat."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mudanza.lab import faults, fence_agent
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest
from mudanza.lab.lab import Lab, Via
from mudanza.model.units import MIB
from tests.lab.bmc import PASSWORD, Bmc, as_ipmi, as_smbios, as_written, bmcs
from tests.lab.command import SeatedMudanza
from tests.lab.conftest import await_true

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(900)]

PLUS = ("lanplus=1", "cipher=3")
"""IPMI 2.0. The simulator does not say which cipher suites it has; ipmitool would ask for 12 s, each time."""
LIMIT = 240.0
"""Seconds that a command may take that speaks to BMCs which do not answer."""


@dataclass(frozen=True)
class Site:
    """The command in the controller's seat, and the hosts' BMCs."""

    mudanza: SeatedMudanza
    bmcs: dict[str, Bmc]
    secrets: Path

    def knows(self, host: str, *more: str) -> str:
        """Have it known that a host's BMC switches it; return what was said."""
        words = self.bmcs[host].words(f"{host}-bmc", *more)
        return self.mudanza("fence", "set", host, "bmc", *words, limit=LIMIT).err


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """BMCs that send their GUIDs in three orders of bytes, as those of three vendors do."""
    orders = dict(zip(lab.hosts, (as_written, as_ipmi, as_smbios), strict=True))
    guids = {host: order(lab.host_uuid(host)) for host, order in orders.items()}
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for host in lab.hosts:
        (secrets / f"{host}-bmc").write_text(PASSWORD + "\n")
    config, cluster = tmp_path / "mudanza.toml", tmp_path / "cluster.toml"
    config.write_text(
        f'database = "{tmp_path}/own.db"\n[limits]\nconnect = 60\nread = 120\n[fencing]\nsecrets = "{secrets}"\n'
        "[availability]\nconfirm = 5\nevery = 2\n[power]\nboot = 180\n"
    )
    lines = ["[planning]", 'shared_pools = ["shared"]']
    for host in lab.hosts:
        lines += [f"[hosts.{host}]", f'uri = "{lab.uri(host, Via.SSH)}"', f'peer_uri = "{lab.peer_uri(host)}"']
    cluster.write_text("\n".join(lines) + "\n")
    mudanza = SeatedMudanza(lab, config)
    mudanza("import", str(cluster))
    with bmcs(lab, guids, tmp_path) as found:
        yield Site(mudanza, found, secrets)
    for host in lab.hosts:
        fence_agent.fence_mood(lab, host, "honest")


def power_of(site: Site, host: str, expect: int) -> tuple[str, str]:
    """Ask a host's BMC; return what it says of the power, and the rest that is told."""
    done = site.mudanza("fence", "test", host, "-o", "json", expect=expect, limit=LIMIT)
    [row] = done.data
    return row["power"], f"{row['machine']} {row['said']} {done.err}"


def test_a_bmc_tells_which_machine_it_switches_in_whatever_order_its_bytes_come(lab: Lab, site: Site) -> None:
    for host in lab.hosts:
        assert lab.host_uuid(host) in site.knows(host, *PLUS)
        assert power_of(site, host, 0)[0] == "on"
    words = site.bmcs["h2"].words("h2-bmc", *PLUS)
    refused = site.mudanza("fence", "set", "h1", "other", *words, expect=3, limit=LIMIT)
    assert "switches another machine than h1" in refused.err
    assert "UUID" in site.knows("h1"), "by IPMI 1.5 as well"
    assert power_of(site, "h1", 0)[0] == "on"


def test_a_bmc_that_cannot_be_spoken_to_proves_nothing(lab: Lab, site: Site) -> None:
    site.knows("h1", *PLUS)
    (site.secrets / "h1-bmc").write_text("wrong\n")
    power, said = power_of(site, "h1", 3)
    assert power == "unknown", said
    assert "wrong" not in said
    assert "not proven off" in site.mudanza("fence", "off", "h1", "--yes", "--force", expect=5, limit=LIMIT).err
    (site.secrets / "h1-bmc").write_text(PASSWORD + "\n")
    assert power_of(site, "h1", 0)[0] == "on"
    site.bmcs["h1"].hang()
    power, said = power_of(site, "h1", 3)
    assert power == "unknown", said
    assert "not proven off" in site.mudanza("fence", "off", "h1", "--yes", "--force", expect=5, limit=LIMIT).err
    assert lab.cell("h1").alive
    assert not [row for row in site.mudanza("fence", "show", "-o", "json").data if row["proven off"]]


def test_a_host_that_is_cut_off_is_switched_off_by_its_bmc_and_its_vm_runs_elsewhere_once(lab: Lab, site: Site) -> None:
    """It lives, and its guest with it, until its BMC cuts its power; and its BMC gives it power again."""
    site.knows("h1", *PLUS)
    guest = create_guest(lab, GuestSpec("fenced", memory=128 * MIB, beat=0.05, disk=32 * MIB, pool="shared"), "h1")
    try:
        site.mudanza("ha", "enable", "fenced")
        site.mudanza("ha", "run", "--once", limit=LIMIT)
        watching, working = site.mudanza.start("ha", "run"), site.mudanza.start("work")
        try:
            faults.cut(lab, "h1")
            await_true(lambda: not lab.cell("h1").alive, "its power is cut", limit=LIMIT)
            await_true(lambda: "running" in guest.states().values(), "it runs elsewhere", limit=LIMIT)
        finally:
            for each in (working, watching):
                each.send(signal.SIGTERM)
            working.end(expect=None, limit=LIMIT)
            told = watching.end(expect=None, limit=LIMIT)
        assert "h1 is confirmed dead" in told.err
        assert "bmc (fence_ipmilan): status: off" in told.err
        guest.await_answer()
        assert list(guest.states().values()).count("running") == 1
        guest.verify()
        again = site.mudanza("fence", "off", "h1", "--yes", limit=LIMIT)
        assert "h1 is proven off" in again.err, "one that is off already is proven so"
        assert "h1 is well" in site.mudanza("power", "on", "h1", limit=LIMIT).err
        assert lab.cell("h1").alive
        assert guest.states()["h1"] == "shut off", "it does not start there a second time"
    finally:
        if not lab.cell("h1").alive:
            faults.boot_host(lab, "h1")
        faults.heal(lab, "h1")
        guest.remove()
