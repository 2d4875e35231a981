"""Messages and remedies say which of several things is the matter, and commands can be pasted."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import typer

from mudanza.cli.main import app
from mudanza.model.finding import Finding
from mudanza.model.migration import Answer, Probe
from mudanza.model.vm import Backing, Firmware
from mudanza.preflight.wording import listed, reachable_from_elsewhere, uri_transport, virsh, vm_key
from tests import factories as make
from tests.factories import IMAGES, NO, UNKNOWN
from tests.preflight_scenes import (
    NETWORK_CARD,
    PATHS,
    SHARED,
    Change,
    Scene,
    all_of,
    device,
    disk,
    facts,
    iso,
    lookup,
    nic,
    options,
    target,
    target_entry,
    vm,
)
from tests.test_preflight_examples import EXAMPLES


def the_one(change: Change) -> Finding:
    (finding,) = change(Scene()).findings()
    return finding


CHAINED = all_of(SHARED, disk(backing=(Backing(PATHS["base"], "qcow2"),)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (facts(tls=NO), "does not work"),
        (facts(tls=UNKNOWN), "was not proven to work"),
        (facts(tls=Probe(Answer.NO, "certificate expired")), "does not work: certificate expired"),
        (facts(clock_offset=2.0), "2.0 s ahead of"),
        (facts(clock_offset=-2.0), "2.0 s behind"),
        (all_of(CHAINED, lookup(base=NO)), f"has no {PATHS['base']}"),
        (all_of(CHAINED, lookup(base=UNKNOWN)), f"was not proven to have {PATHS['base']}"),
        (target(pools=()), f"no pool at {IMAGES}, nor one named 'images' of the same type (it has: none)"),
        (all_of(disk(pool=None), target(pools=())), f"no pool at {IMAGES} (it has: none)"),
        (options(map_storage={"images": "fast"}), "no pool named 'fast' (it has: images)"),
        (facts(occupied={"vda": Probe(Answer.YES, "/elsewhere/web")}), "already has /elsewhere/web"),
        (facts(occupied={"vda": Probe(Answer.YES)}), f"already has {IMAGES}/web.qcow2"),
        (all_of(nic(**NETWORK_CARD), target(networks=(make.network(forward="nat"),))), "network lan is nat"),
        (all_of(nic(**NETWORK_CARD), target(networks=(make.network(forward=None),))), "network lan is isolated"),
    ],
)
def test_the_message_tells_cases_apart(change: Change, words: str) -> None:
    assert words in the_one(change).message


@pytest.mark.parametrize(
    ("daemon", "uri", "unit", "credential"),
    [
        ("libvirtd", "qemu+tls://h2/system", "libvirtd-tls.socket", "clientcert.pem"),
        ("libvirtd", "qemu://h2/system", "libvirtd-tls.socket", "clientcert.pem"),
        ("virtqemud", "qemu+tls://h2/system", "virtproxyd-tls.socket", "clientcert.pem"),
        ("virtqemud", "qemu+tcp://h2/system", "virtproxyd-tcp.socket", ""),
        ("virtqemud", "qemu+ssh://h2/system", "virtqemud.socket virtproxyd.socket", "key without a passphrase"),
        ("libvirtd", "qemu+ssh://h2/system", "libvirtd.socket", "known hosts"),
        ("", "qemu+tls://h2/system", "(virtproxyd-tls.socket where virtqemud runs)", "cacert.pem"),
    ],
)
def test_the_way_in_depends_on_daemon_and_transport(daemon: str, uri: str, unit: str, credential: str) -> None:
    remedy = the_one(all_of(target(daemon=daemon), target_entry(uri=uri), facts(peer=NO))).remedy
    assert unit in remedy
    assert credential in remedy


def test_a_driver_that_is_missing_is_started_as_its_host_does_it() -> None:
    assert "virtstoraged.socket" in the_one(target(pools=None, daemon="virtqemud")).remedy
    assert "systemctl restart libvirtd" in the_one(target(pools=None, daemon="libvirtd")).remedy


def test_the_way_to_mend_a_missing_file_depends_on_what_it_is() -> None:
    image = the_one(all_of(iso(), lookup(iso=NO))).remedy
    assert "rsync -S -- /var/lib/libvirt/images/debian.iso h2.example:/var/lib/libvirt/images/debian.iso" in image
    assert "--path sda --eject" in image
    serial = the_one(all_of(device("char", path=PATHS["serial"]), lookup(serial=NO))).remedy
    assert serial == "give h2 that device; or take it out of the VM: virsh edit web"
    firmware = vm(firmware=Firmware(PATHS["loader"], PATHS["nvram"], PATHS["template"]))
    assert the_one(all_of(firmware, lookup(loader=NO))).remedy.startswith("install the firmware there")


def test_long_lists_are_cut() -> None:
    assert listed([]) == "none"
    assert listed("cab") == "a, b, c"
    assert listed("abcdefgh") == "a, b, c, d, e, f, g, h"
    assert listed("abcdefghij") == "a, b, c, d, e, f, g, h and 2 more"


@pytest.mark.parametrize(
    ("name", "key"), [("web", "web"), ("web-1.example_2", "web-1.example_2"), ("--help", make.UUID), ("a b", make.UUID)]
)
def test_a_vm_is_named_where_its_name_is_harmless(name: str, key: str) -> None:
    assert vm_key(make.vm(name=name)) == key


def test_commands_are_quoted() -> None:
    host = replace(make.host("h2"), entry=make.entry("h2", uri="qemu+ssh://h2/system?no_tty=1&x='"))
    assert virsh(host, "pool-start", "--pool", "a;reboot") == (
        """virsh -c 'qemu+ssh://h2/system?no_tty=1&x='"'"'' pool-start --pool 'a;reboot'"""
    )


@pytest.mark.parametrize(
    ("uri", "transport", "is_reachable"),
    [
        ("qemu:///system", "unix", False),
        ("qemu://h2/system", "tls", True),
        ("qemu+ssh://root@h2:22/system", "ssh", True),
        ("qemu+ssh://root@localhost/system", "ssh", False),
        ("qemu+tls://127.0.0.1/system", "tls", False),
        ("qemu+tls://[::1]:16514/system", "tls", False),
        ("qemu+tcp://[2001:db8::1]:16509/system", "tcp", True),
        ("qemu+unix://h2/system?socket=/run/x", "unix", False),
        ("nonsense", "", False),
    ],
)
def test_uris(uri: str, transport: str, is_reachable: bool) -> None:
    assert uri_transport(uri) == transport
    assert reachable_from_elsewhere(make.entry("h2", uri=uri)) is is_reachable
    assert reachable_from_elsewhere(make.entry("h2", uri=uri, peer_uri="qemu+tls://h2/system"))


def test_commands_of_ours_in_remedies_exist() -> None:
    program = typer.main.get_command(app)
    found = set()
    for code, _, change in EXAMPLES:
        for finding in change(Scene()).findings():
            for words in re.findall(r"\bmudanza((?: [^\s;,):]+)+)", finding.remedy):
                found.add(_command(program, words.split(), code))
    assert {("host", "edit"), ("show",), ("hosts",)} <= found


def _command(program: Any, words: list[str], code: str) -> tuple[str, ...]:
    """Follow the words through the program's commands; every option among them must be one."""
    path: tuple[str, ...] = ()
    while hasattr(program, "commands"):
        path, program, words = (*path, words[0]), program.get_command(None, words[0]), words[1:]
        assert program, f"{code}: there is no command mudanza {' '.join(path)}"
    known = {option for parameter in program.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, code
    return path
