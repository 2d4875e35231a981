"""What is said of an installation, from what was seen of it."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mudanza.fleet.examining import ALL_WAYS_UP_TO, ways_of
from mudanza.fleet.health import JournalState, of_cluster, of_host, of_journal, of_way, stand_in
from mudanza.model.finding import Level
from mudanza.model.host import Host
from mudanza.model.migration import Facts
from mudanza.model.units import GIB, MIB
from tests import factories as make

ROOT = Path(__file__).parent.parent
WELL = Facts(peer=make.YES, tls=make.YES, data_path=make.YES, clock_offset=0.0)
JOURNAL = JournalState("/var/lib/mudanza/mudanza.db", 10 * GIB, 0.0)


def well(name: str = "h1", **changes: object) -> Host:
    return make.host(name, **changes)


def told_of(host: Host, *, processes_seen: bool = True) -> list[tuple[Level, str]]:
    return [(each.level, each.code) for each in of_host(host, processes_seen=processes_seen)]


def test_nothing_is_said_where_all_is_well() -> None:
    hosts = [well("h1"), well("h2")]
    assert told_of(hosts[0]) == []
    assert of_cluster(hosts) == ()
    assert of_way(hosts[0], hosts[1], make.cluster(hosts), WELL) == ()
    assert of_journal(JOURNAL) == ()


@pytest.mark.parametrize(
    ("host", "level", "code"),
    [
        (well(error="timed out"), Level.BLOCKER, "host-unreachable"),
        (well(error="timed out", entry=make.entry("h1", maintenance=True)), Level.WARNING, "host-unreachable"),
        (well(libvirt_version=8_009_000), Level.WARNING, "version-untried"),
        (well(qemu_version=6_002_000), Level.WARNING, "version-untried"),
        (well(domain_types=frozenset({"qemu"})), Level.WARNING, "no-kvm"),
        (well(pools=()), Level.WARNING, "no-pool"),
        (well(pools=(make.pool(), make.pool(name="old", active=False))), Level.WARNING, "pool-off"),
        (well(pools=(make.pool(capacity=100 * GIB, available=4 * GIB),)), Level.WARNING, "pool-full"),
        (well(networks=(make.network(active=False),)), Level.WARNING, "network-off"),
        (
            make.host("h1", encrypted=False, entry=make.entry("h1", uri="qemu+tcp://h1/system")),
            Level.WARNING,
            "way-in-clear",
        ),
    ],
)
def test_what_is_the_matter_with_a_host_is_said(host: Host, level: Level, code: str) -> None:
    assert told_of(host) == [(level, code)]


def test_a_pool_is_full_below_its_bound_only() -> None:
    assert told_of(well(pools=(make.pool(capacity=100 * GIB, available=5 * GIB),))) == []


def test_processes_that_nobody_can_look_at_are_said() -> None:
    assert told_of(well(), processes_seen=False) == [(Level.WARNING, "no-root-login")]


def test_a_local_socket_needs_no_encryption() -> None:
    assert told_of(well(encrypted=False, entry=make.entry("h1", uri="qemu:///system"))) == []


def test_what_only_some_hosts_have_is_said_once() -> None:
    hosts = [
        well("h1"),
        well("h2", pools=(make.pool(), make.pool(name="fast"))),
        well("h3", networks=(make.network(name="blue"), make.network())),
        well("h4", error="off", pools=(), networks=()),
    ]
    found = of_cluster(hosts)
    assert [each.code for each in found] == ["pool-not-everywhere", "network-not-everywhere"]
    assert found[0].message == "pool fast is on h2, and not on h1, h3"


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (replace(WELL, peer=make.NO), "peer-unreachable"),
        (replace(WELL, data_path=make.NO), "data-path"),
        (replace(WELL, tls=make.NO), "tls-missing"),
        (replace(WELL, clock_offset=3.0), "clocks-apart"),
        (replace(WELL, same_machine=True), "same-machine"),
    ],
)
def test_a_way_is_judged_as_for_a_vm(facts: Facts, code: str) -> None:
    one, other = well("h1"), well("h2")
    assert code in [each.code for each in of_way(one, other, make.cluster([one, other]), facts)]


def test_a_guest_that_both_hosts_can_run_stands_in() -> None:
    emulating = well("h2", domain_types=frozenset({"qemu"}), machines=frozenset({"pc", "isapc"}))
    guest = stand_in(well("h1", machines=frozenset({"q35", "pc"})), emulating)
    assert (guest.host, guest.machine, guest.domain_type) == ("h1", "pc", "qemu")


def test_every_host_is_left_and_reached_whatever_their_number() -> None:
    few = [well(f"h{number}") for number in range(ALL_WAYS_UP_TO)]
    many = [*few, well("h-more"), well("h-off", error="off")]
    assert len(ways_of(few, every=False)) == ALL_WAYS_UP_TO * (ALL_WAYS_UP_TO - 1)
    some = ways_of(many, every=False)
    seen = {host.name for host in many if host.seen}
    assert len(some) == len(seen)
    assert {source.name for source, _ in some} == {target.name for _, target in some} == seen
    assert len(ways_of(many, every=True)) == len(seen) * (len(seen) - 1)
    assert ways_of([well("h1")], every=False) == ()


@pytest.mark.parametrize(
    ("journal", "code", "part"),
    [
        (replace(JOURNAL, room=10 * MIB), "journal-room", "10 MiB free"),
        (replace(JOURNAL, clock_offset=-4.0), "journal-clock", "4.0 s behind"),
        (replace(JOURNAL, for_a_person=(7, 9)), "jobs-for-a-person", "job 7, 9"),
        (replace(JOURNAL, abandoned=(8,)), "jobs-left-behind", "job 8"),
    ],
)
def test_what_is_the_matter_with_the_journal_is_said(journal: JournalState, code: str, part: str) -> None:
    (found,) = of_journal(journal)
    assert found.code == code
    assert part in found.message


def _codes_in(module: str, words: frozenset[str]) -> set[str]:
    """Return the codes of a module's findings; those made of a word and a name stand for themselves."""
    tree = ast.parse((ROOT / "src/mudanza/fleet" / module).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    codes = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id in words]
    return {str(code.value) for code in codes if isinstance(code, ast.Constant)}


def test_the_docs_name_each_finding() -> None:
    words = frozenset({"blocker", "warning", "level"})
    own = _codes_in("health.py", words) | _codes_in("examining.py", words)
    own |= {"pool-not-everywhere", "network-not-everywhere"}
    for module in ("../availability/health.py", "../availability/locking.py", "../operations/examining.py"):
        own |= _codes_in(module, words)
    rows = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/doctor.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(own)
