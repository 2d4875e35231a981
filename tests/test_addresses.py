"""What is written in a guest so that its other addresses last, and that all of it is taken back."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.protection import in_guest
from mudanza.protection.lasting import Card, Way, facts_of, files_for, ifcfg, keyfile, network_unit, way_of
from mudanza.protection.stanzas import DIRECTORY, MAIN, files_of, interfaces_with, without_stanza
from mudanza.protection.windows_addresses import giving, taking_back, words_for

CARD = Card("52:54:00:00:00:01", "10.9.0.5/24", "10.9.0.1", ("10.9.0.53", "fd00::53"))
CARD6 = Card("52:54:00:00:00:01", "fd00::5/64", "fd00::1", ("fd00::53",))
BARE = Card("52:54:00:00:00:01", "10.9.0.5/24", "")

# Golden: whole texts, as guests get them.

KEYFILE = """\
[connection]
id=mudanza-525400000001
uuid=UUID
type=ethernet
autoconnect=true
autoconnect-priority=999

[ethernet]
mac-address=52:54:00:00:00:01

[ipv4]
method=manual
address1=10.9.0.5/24,10.9.0.1
dns=10.9.0.53;

[ipv6]
method=auto
dns=fd00::53;
"""
KEYFILE6 = """\
[connection]
id=mudanza-525400000001
uuid=UUID
type=ethernet
autoconnect=true
autoconnect-priority=999

[ethernet]
mac-address=52:54:00:00:00:01

[ipv4]
method=auto

[ipv6]
method=manual
address1=fd00::5/64,fd00::1
dns=fd00::53;
"""
NETWORK = """\
[Match]
MACAddress=52:54:00:00:00:01
Type=ether

[Network]
Address=10.9.0.5/24
Gateway=10.9.0.1
DNS=10.9.0.53
DNS=fd00::53
"""
IFCFG = """\
DEVICE=ens3
HWADDR=52:54:00:00:00:01
TYPE=Ethernet
ONBOOT=yes
BOOTPROTO=none
IPADDR=10.9.0.5
PREFIX=24
GATEWAY=10.9.0.1
DNS1=10.9.0.53
DNS2=fd00::53
"""
IFCFG6 = """\
DEVICE=ens3
HWADDR=52:54:00:00:00:01
TYPE=Ethernet
ONBOOT=yes
BOOTPROTO=none
IPV6INIT=yes
IPV6_AUTOCONF=no
IPV6ADDR=fd00::5/64
IPV6_DEFAULTGW=fd00::1
DNS1=fd00::53
"""


def without_uuid(text: str) -> str:
    return "".join("uuid=UUID\n" if line.startswith("uuid=") else line for line in text.splitlines(keepends=True))


@pytest.mark.parametrize(("card", "text"), [(CARD, KEYFILE), (CARD6, KEYFILE6)])
def test_network_manager_gets_a_connection_that_goes_before_others(card: Card, text: str) -> None:
    [file] = files_for(Way.MANAGER, {"device": "ens3"}, card, {})
    assert file.path == "/etc/NetworkManager/system-connections/mudanza-525400000001.nmconnection"
    assert file.mode == "600", "it takes no others"
    assert without_uuid(file.text) == text
    assert keyfile(card) == keyfile(card), "it is the same one each time"


def test_systemd_networkd_gets_a_file_that_it_reads_before_those_of_netplan() -> None:
    [file] = files_for(Way.NETWORKD, {"device": "ens3"}, CARD, {})
    assert file.path == "/etc/systemd/network/05-mudanza-525400000001.network"
    assert file.path.rpartition("/")[2] < "10-netplan-ens3.network"
    assert (file.text, file.mode) == (NETWORK, "644")
    assert network_unit(BARE).splitlines()[-1] == "Address=10.9.0.5/24"


@pytest.mark.parametrize(("card", "text"), [(CARD, IFCFG), (CARD6, IFCFG6)])
def test_the_network_scripts_of_rhel_get_their_own_file_anew(card: Card, text: str) -> None:
    [file] = files_for(Way.IFCFG, {"device": "ens3"}, card, {})
    assert (file.path, file.text) == ("/etc/sysconfig/network-scripts/ifcfg-ens3", text)
    assert "GATEWAY" not in ifcfg("ens3", BARE)


DEBIAN = """\
# The loopback network interface
auto lo
iface lo inet loopback

allow-hotplug ens3
iface ens3 inet static
    address 10.1.0.5/24
    # at home
    gateway 10.1.0.1
iface ens3 inet6 auto

auto ens4
iface ens4 inet dhcp
"""
OURS = """\
auto ens3
iface ens3 inet static
    address 10.9.0.5
    netmask 255.255.255.0
    gateway 10.9.0.1
    dns-nameservers 10.9.0.53 fd00::53
"""
LEFT = """\
# The loopback network interface
auto lo
iface lo inet loopback

allow-hotplug ens3
    # at home
iface ens3 inet6 auto

auto ens4
iface ens4 inet dhcp

source /etc/network/interfaces.d/mudanza-ens3
"""


def test_ifupdown_gets_a_file_of_its_own_in_place_of_the_cards_stanza() -> None:
    files = files_for(Way.IFUPDOWN, {"device": "ens3", "resolv": "yes"}, CARD, {MAIN: DEBIAN})
    assert [(file.path, file.text) for file in files] == [
        (f"{DIRECTORY}/mudanza-ens3", OURS),
        (MAIN, LEFT),
        ("/etc/resolv.conf", "nameserver 10.9.0.53\nnameserver fd00::53\n"),
    ]


def test_a_stanza_in_a_file_that_is_taken_in_goes_from_there() -> None:
    cloud = f"{DIRECTORY}/50-cloud-init"
    files = {MAIN: f"source {DIRECTORY}/*\n", cloud: "auto ens3\niface ens3 inet dhcp\n"}
    changed = interfaces_with(files, "ens3", "inet", ["address 10.9.0.5/24"])
    assert set(changed) == {f"{DIRECTORY}/mudanza-ens3", cloud}
    assert changed[cloud] == "auto ens3\n"
    assert "auto" not in changed[f"{DIRECTORY}/mudanza-ens3"], "busybox's ifup takes none of them, if it is said twice"
    none = interfaces_with({**files, MAIN: ""}, "ens3", "inet", ["address 10.9.0.5/24"])
    assert none[f"{DIRECTORY}/mudanza-ens3"].startswith("auto ens3\n"), "nobody takes that file in"
    again = interfaces_with({**files, **changed}, "ens3", "inet", ["address 10.9.0.5/24"])
    assert set(again) == {f"{DIRECTORY}/mudanza-ens3"}, "done once more it changes nothing"


def test_a_line_that_goes_on_is_one_line() -> None:
    text = "iface \\\n  ens3 inet static\n  up echo a \\\n  iface x\n  down true\nauto lo\n"
    assert without_stanza(text, "ens3", "inet") == "auto lo\n"
    assert without_stanza(text, "ens4", "inet") == text


WORDS = st.sampled_from(
    (
        *("auto lo", "iface lo inet loopback", "iface ens3 inet static", "  address 10.1.0.5/24"),
        *("iface ens3 inet6 auto", "iface ens33 inet dhcp", "# a comment", "", "mapping eth*", "  up true \\"),
        "source-directory interfaces.d",
    )
)


@given(st.lists(WORDS, max_size=12))
def test_nothing_else_of_a_file_is_changed(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    left = without_stanza(text, "ens3", "inet")
    assert without_stanza(left, "ens3", "inet") == left
    rest = iter(text.splitlines())
    assert all(line in rest for line in left.splitlines()), "what is left is in its order"
    if "iface ens3 inet static" not in text:
        assert left == text


@pytest.mark.parametrize(
    ("told", "way"),
    [
        ("device=ens3\nown=yes\nmanager=yes", Way.OWN),
        ("device=ens3\nmaster=yes\nmanager=yes", Way.NONE),
        ("device=ens3\nmanager=yes\nifcfg=yes", Way.MANAGER),
        ("device=ens3\nnetworkd=yes\nifupdown=yes", Way.NETWORKD),
        ("device=ens3\nifupdown=yes\nresolv=yes", Way.IFUPDOWN),
        ("device=ens3\nifcfg=yes", Way.IFCFG),
        ("device=ens3", Way.NONE),
    ],
)
def test_who_looks_after_a_card_is_who_is_found_there(told: str, way: Way) -> None:
    assert way_of(facts_of(told)) is way


def test_who_is_not_known_gets_nothing_written() -> None:
    assert files_for(Way.NONE, {"device": "eth0"}, CARD, {}) == ()


# Windows.


def test_windows_gets_a_text_for_its_powershell() -> None:
    assert giving(CARD).splitlines()[:7] == [
        "$mac = '52-54-00-00-00-01'",
        "$family = 'IPv4'",
        "$all = '0.0.0.0/0'",
        "$address = '10.9.0.5'",
        "$prefix = 24",
        "$gateway = '10.9.0.1'",
        "$dns = @('10.9.0.53', 'fd00::53')",
    ]
    assert "New-NetIPAddress @new" in giving(CARD)
    assert "$all = '::/0'" in giving(CARD6)
    assert "$dns = @()" in giving(BARE)
    assert taking_back(CARD.mac).startswith("$mac = '52-54-00-00-00-01'\n")
    words = words_for(giving(CARD))
    assert base64.b64decode(words[-1]).decode("utf-16-le") == giving(CARD)
    assert len(" ".join(words)) < 30_000, "a command line has no more than 32,767 characters"


# What is run in Linux guests, run here upon files of the test's own.


class Here:
    """Runs scripts as a guest would, below a directory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, folder / "kept"

    def __call__(self, script: str, *words: str, given: str = "") -> str:
        text = script.replace(in_guest.KEPT, str(self.kept))
        done = subprocess.run(
            ["/bin/sh", "-c", text, "mudanza", *words], input=given, capture_output=True, text=True, check=True
        )
        return done.stdout

    def files(self) -> Mapping[str, str]:
        return {
            str(path.relative_to(self.folder)): path.read_text()
            for path in self.folder.rglob("*")
            if path.is_file() and self.kept not in path.parents
        }


def test_all_of_it_is_taken_back(tmp_path: Path) -> None:
    guest = Here(tmp_path)
    main = tmp_path / "etc/interfaces"
    main.parent.mkdir()
    main.write_text("home\n")
    main.chmod(0o640)
    before = guest.files()
    for text in ("there", "elsewhere"):  # once more, with another address
        guest(in_guest.REMEMBER, "IFUPDOWN")
        guest(in_guest.WRITE, str(main), "644", given=f"{text}\n")
        guest(in_guest.WRITE, str(tmp_path / "etc/more/ours"), "600", given="ours\n")
    assert guest.files() == {"etc/interfaces": "elsewhere\n", "etc/more/ours": "ours\n"}
    assert (tmp_path / "etc/more/ours").stat().st_mode & 0o777 == 0o600
    assert guest(in_guest.RECALL) == "IFUPDOWN\n"
    for _ in range(2):
        guest(in_guest.TAKE_BACK)
        assert guest.files() == before
        assert main.stat().st_mode & 0o777 == 0o640
    assert not guest.kept.exists()
    assert guest(in_guest.RECALL) == ""


def test_the_files_that_are_shown_are_read(tmp_path: Path) -> None:
    main = tmp_path / "interfaces"
    (tmp_path / "interfaces.d").mkdir()
    main.write_text(DEBIAN)
    (tmp_path / "interfaces.d/one").write_text("auto ens5")
    (tmp_path / "interfaces.d/two").write_text("\n")
    script = in_guest.INTERFACES.replace("/etc/network", str(tmp_path))
    told = Here(tmp_path)(script).replace(str(tmp_path), "/etc/network")
    assert files_of(told) == {MAIN: DEBIAN, f"{DIRECTORY}/one": "auto ens5\n", f"{DIRECTORY}/two": "\n"}


@pytest.mark.parametrize("name", ["LOOK", "INTERFACES", "WRITE", "REMEMBER", "RECALL", "TAKE_BACK", "NOW", "BY_OWN"])
def test_each_script_is_one_for_any_shell(name: str) -> None:
    subprocess.run(["/bin/sh", "-n", "-c", getattr(in_guest, name)], check=True)
