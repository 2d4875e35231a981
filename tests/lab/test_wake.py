"""Wake-on-LAN on a wire: a host that was switched off hears its word, from the controller and from another host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mudanza.lab import layout, network
from mudanza.lab.cell import Cell
from mudanza.lab.lab import Lab, Via
from tests.lab.command import SeatedMudanza

pytestmark = [pytest.mark.lab, pytest.mark.soak, pytest.mark.timeout(600)]

LIMIT = 300.0
AGENT = "fence_seen"
# What a power strip behind which nobody may switch is like: it tells whether the host draws power, and no more.
_SCRIPT = """\
#!/bin/sh
if [ "$1" = -o ]; then
  echo '<resource-agent name="fence_seen"><parameters><parameter name="action"/><parameter name="plug"/></parameters>'
  echo '<actions><action name="off"/><action name="status"/></actions></resource-agent>'
  exit 0
fi
while read -r line; do
  case $line in action=*) action=${line#*=} ;; plug=*) plug=${line#*=} ;; esac
done
[ "$action" = status ] || exit 1
ping -n -q -c 1 -W 2 "$plug" >/dev/null && exit 0
exit 2
"""
# Raw packets: a card that waits for its word has no address, and no program listens at a port.
_LISTEN = """\
import socket, sys
word = b"\\xff" * 6 + bytes.fromhex(sys.argv[2].replace(":", "")) * 16
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
wire.bind((sys.argv[1], 0))
print("listening", flush=True)
while True:
    frame = wire.recv(4096)
    if word in frame:
        print(frame[6:12].hex(":"), flush=True)
"""


@contextmanager
def sleeping_card(lab: Lab, host: str, mac: str) -> Iterator[subprocess.Popen[str]]:
    """Have the network card of a host that is off listen on its wire; it prints who has sent its word."""
    switch = lab.cell(layout.SWITCH)
    card = Cell.create(host, within=switch)
    try:
        network.plug(switch, card)
        card.run(["ip", "link", "set", network.UPLINK, "address", mac, "up"])
        listener = card.popen(["python3", "-c", _LISTEN, network.UPLINK, mac], stdout=subprocess.PIPE)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        yield listener
    finally:
        card.kill()


def mac_of(lab: Lab, cell: str, interface: str) -> str:
    return lab.cell(cell).run(["cat", f"/sys/class/net/{interface}/address"]).stdout.strip()


@pytest.fixture
def seat(lab: Lab, tmp_path: Path) -> SeatedMudanza:
    """The command where no route leads anywhere but into the lab, and an agent that cannot switch on."""
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / AGENT).write_text(_SCRIPT)
    (agents / AGENT).chmod(0o755)
    config, cluster = tmp_path / "mudanza.toml", tmp_path / "cluster.toml"
    config.write_text(
        f'database = "{tmp_path}/own.db"\n[limits]\nconnect = 60\nread = 120\n[fencing]\nagents = ["{agents}"]\n'
        '[power]\nshutdown = "kill -TERM 1"\noff = 60\nboot = 240\n'
    )
    lines = []
    for host in lab.hosts:
        lines += [f"[hosts.{host}]", f'uri = "{lab.uri(host, Via.SSH)}"', f'peer_uri = "{lab.peer_uri(host)}"']
    cluster.write_text("\n".join(lines) + "\n")
    found = SeatedMudanza(lab, config)
    found("import", str(cluster))
    return found


def test_a_host_that_is_off_is_woken_by_its_network_card(lab: Lab, seat: SeatedMudanza) -> None:
    mac, controller, other = mac_of(lab, "h3", "uplink"), mac_of(lab, "controller", "uplink"), mac_of(lab, "h1", "br0")
    seat("fence", "set", "h3", "strip", "--agent", AGENT, "--option", "plug=h3", "--unmatched")
    seat("power", "set", "h3", "--mac", mac)
    seat("power", "off", "h3", limit=LIMIT)
    assert not lab.cell("h3").alive
    try:
        with sleeping_card(lab, "h3", mac) as card:
            waking = seat.start("power", "on", "h3")
            heard = set[str]()
            assert card.stdout is not None
            while not {controller, other} <= heard:
                line = card.stdout.readline()
                assert line, heard
                heard.add(line.strip())
            lab.boot_host("h3")
            told = waking.end(limit=LIMIT)
        assert f"{mac} is told to wake, from here (uplink)" in told.err
        assert f"{mac} is told to wake, from h1 (br0, br1)" in told.err
        assert "h3 is well" in told.err
        assert [row["is"] for row in seat("power", "show", "-o", "json").data if row["host"] == "h3"] == ["awake"]
    finally:
        if not lab.cell("h3").alive:
            lab.boot_host("h3")
