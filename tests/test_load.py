"""How busy hosts and VMs are: what two looks say, what is kept of it, and that no wrong figure comes of any mishap."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, insert, select, update

from mudanza import clock
from mudanza.fleet.readings import LONGEST_SPAN, between
from mudanza.fleet.sampling import Sampler
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.load import read_busy, read_used, read_vm
from mudanza.journal.database import now, open_database
from mudanza.journal.folding import ACCURACY, count_of, fold, values_of
from mudanza.journal.load import LoadKeeper
from mudanza.journal.schema import reading
from mudanza.model.counters import HostCounters, HostReading, Reading, VmCounters, VmReading
from mudanza.model.load import Spread, VmLoad, spread_of
from mudanza.model.units import GIB, KIB, MIB
from tests.twin.scene import Scene, scene

# As libvirt 9.0 gave them.
FIGURES: dict[str, Any] = {
    "state.state": 1, "state.reason": 1, "cpu.time": 17000000000, "balloon.current": 262136, "balloon.maximum": 262144,
    "balloon.rss": 316532, "vcpu.current": 2, "vcpu.0.state": 1, "vcpu.0.time": 9000000000, "vcpu.0.delay": 250000000,
    "vcpu.1.delay": 50000000, "net.count": 1, "net.0.name": "vnet0", "net.0.rx.bytes": 700, "net.0.tx.bytes": 300,
    "block.count": 2, "block.0.name": "vda", "block.0.rd.bytes": 5, "block.0.wr.bytes": 1000, "block.1.name": "vdb",
    "block.1.rd.bytes": 0, "block.1.wr.bytes": 24,
}  # fmt: skip


def vm(**changes: Any) -> VmCounters:
    return replace(VmCounters("u-1", "web", 4, True, 100.0, 1.0, GIB, 1000, 500), **changes)


def host(at: float, *vms: VmCounters, **changes: Any) -> HostCounters:
    return replace(HostCounters("h1", at, 8, 1000.0 + at, 16 * GIB, 4 * GIB, vms), **changes)


def test_libvirts_figures_are_read() -> None:
    found = read_vm("u-1", "web", 4, FIGURES)
    assert found == VmCounters("u-1", "web", 4, True, 17.0, 0.3, 316532 * KIB, 1029, 1000)
    assert read_busy({"kernel": 2 * 10**9, "user": 3 * 10**9, "idle": 9, "iowait": 9, "intr": 0}) == 5.0
    assert read_used({"total": 100, "free": 20, "buffers": 10, "cached": 30}) == 40 * KIB


def test_what_a_busy_qemu_does_not_tell_is_not_known() -> None:
    told = {name: value for name, value in FIGURES.items() if ".bytes" not in name and "balloon" not in name}
    found = read_vm("u-1", "web", 4, told)
    assert (found.disk_bytes, found.network_bytes, found.memory) == (None, None, None)
    assert read_vm("u-1", "web", 4, {"block.count": 0, "net.count": 0}).disk_bytes == 0


def test_zeros_are_no_answer() -> None:
    assert read_vm("u-1", "web", 4, {"cpu.time": 0, "balloon.rss": 0}).cpu_seconds is None
    assert read_busy({"user": 0, "kernel": 0}) is None
    assert read_used({"total": 0, "free": 0}) is None


def test_two_looks_make_a_reading() -> None:
    before = host(0.0, vm())
    after = host(10.0, vm(cpu_seconds=115.0, waited=2.0, disk_bytes=3000, network_bytes=1500), busy_seconds=1030.0)
    used = Reading(10.0, 1.5, GIB, 200.0, 100.0, 0.1)
    assert between(before, after) == HostReading(
        "h1", Reading(10.0, 3.0, 4 * GIB, 200.0, 100.0, 0.1), (VmReading("u-1", "web", used),)
    )


@pytest.mark.parametrize(
    ("mishap", "changes"),
    [
        ("it was restarted: libvirt numbers the run anew", {"run": 5, "cpu_seconds": 200.0}),
        ("its counter ran backwards", {"cpu_seconds": 3.0}),
        ("its counter was not told", {"cpu_seconds": None}),
        ("its counter stands still while it runs", {}),
        ("it occupies nothing", {"cpu_seconds": 101.0, "memory": None}),
    ],
)
def test_a_wrong_figure_is_none(mishap: str, changes: dict[str, Any]) -> None:
    assert between(host(0.0, vm()), host(10.0, vm(**changes))).vms == (), mishap


def test_a_paused_guest_works_nothing() -> None:
    paused = vm(running=False)
    assert between(host(0.0, paused), host(10.0, paused)).vms[0].used.cpus == 0.0


def test_a_vm_that_has_just_come_has_no_reading_yet() -> None:
    assert between(host(0.0), host(10.0, vm())).vms == ()


@pytest.mark.parametrize("at", [0.2, LONGEST_SPAN + 1, -5.0])
def test_looks_too_close_or_too_far_apart_say_nothing(at: float) -> None:
    found = between(host(0.0, vm()), host(at, vm(cpu_seconds=200.0)))
    assert (found.whole, found.vms) == (None, ())


def test_a_host_that_has_booted_meanwhile_has_no_reading() -> None:
    assert between(host(0.0), host(10.0, busy_seconds=3.0)).whole is None


counters = st.builds(
    vm,
    run=st.integers(1, 2),
    running=st.booleans(),
    cpu_seconds=st.none() | st.floats(0, 1e6),
    waited=st.none() | st.floats(0, 1e6),
    memory=st.none() | st.integers(1, 2**40),
    disk_bytes=st.none() | st.integers(0, 2**50),
    network_bytes=st.none() | st.integers(0, 2**50),
)


@given(counters, counters, st.floats(-10, 1000), st.none() | st.floats(0, 1e9), st.none() | st.floats(0, 1e9))
def test_whatever_is_told_no_figure_is_negative_or_beyond_the_host(
    one: VmCounters, other: VmCounters, at: float, busy: float | None, later: float | None
) -> None:
    found = between(host(0.0, one, busy_seconds=busy), host(at, other, busy_seconds=later))
    every = [vm.used for vm in found.vms] + ([found.whole] if found.whole else [])
    for each in every:
        assert each.span > 0
        assert min(each.cpus, each.memory, each.disk or 0.0, each.network or 0.0, each.steal) >= 0
    assert found.whole is None or found.whole.cpus <= 8


def test_percentiles_are_values_that_were_there() -> None:
    found = spread_of((float(number), 1) for number in range(1, 101))
    assert (found.median, found.p95, found.peak) == (50.0, 95.0, 100.0)
    assert spread_of([(7.0, 1)]) == Spread(7.0, 7.0, 7.0)
    assert spread_of([(1.0, 94), (2.0, 1), (9.0, 5)]) == Spread(1.0, 2.0, 9.0)
    assert spread_of([]) == Spread()


# Keeping.


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


def kept(cpus: float, *, disk: float | None = 10.0) -> HostReading:
    used = Reading(30.0, cpus, GIB, disk, 5.0, 0.01)
    return HostReading("h1", replace(used, cpus=2 * cpus), (VmReading("u-1", "web", used),))


def set_back(engine: Engine, seconds: float) -> None:
    """Have every reading be so many seconds older."""
    with engine.begin() as connection:
        connection.execute(update(reading).values(at=reading.c.at - seconds))


def test_loads_are_percentiles_over_a_window(engine: Engine) -> None:
    keeper = LoadKeeper(engine)
    for number in range(10):
        set_back(engine, 30.0)
        assert keeper.keep([kept(float(number + 1), disk=None if number % 2 else 10.0)]) == 2
    found = keeper.loads(3600.0)
    load = found.vms["u-1"]
    assert (load.cpus.median, load.cpus.p95, load.cpus.peak, load.samples) == (5.0, 10.0, 10.0, 10)
    assert load.disk.median == 10.0, "what was not told counts as nothing, and not as zero"
    assert load.span == pytest.approx(300.0, abs=5.0)
    assert load.means_something
    assert found.hosts["h1"].cpus.peak == 20.0
    assert keeper.loads(70.0).vms["u-1"].samples == 3
    assert keeper.names(3600.0) == {"u-1": ("web", "h1")}


def test_one_reading_means_nothing(engine: Engine) -> None:
    keeper = LoadKeeper(engine)
    keeper.keep([kept(8.0)])
    assert not keeper.loads(3600.0).vms["u-1"].means_something
    assert not keeper.loads(3600.0).hosts["h1"].means_something


def test_old_readings_go_and_so_do_those_from_a_future_that_was_taken_away(engine: Engine) -> None:
    keeper = LoadKeeper(engine)
    keeper.keep([kept(1.0)])
    set_back(engine, 1000.0)
    keeper.keep([kept(2.0)])
    set_back(engine, -5000.0)  # the clock was put back
    keeper.keep([kept(3.0)])
    assert keeper.loads(3600.0).vms["u-1"].samples == 1
    assert keeper.forget(3600.0) == 4
    assert keeper.loads(1e6).vms["u-1"].cpus.median == 3.0
    set_back(engine, 4000.0)
    assert keeper.forget(3600.0) == 2


def test_nothing_is_written_where_nothing_was_read(engine: Engine) -> None:
    assert LoadKeeper(engine).keep([HostReading("h1", None, ())]) == 0


# Folding.


def put(
    engine: Engine, values: list[tuple[float, float, float | None]], uuid: str = "u-1", at_host: str = "h1"
) -> None:
    """Have readings of so many seconds ago, with these CPUs and this disk."""
    with engine.begin() as connection:
        instant = connection.scalar(select(now(connection))) or 0.0
        rows = [
            {"kind": "vm", "subject": "u-1", "name": "web", "host": at_host, "at": instant - ago, "span": 30.0,
             "cpus": cpus, "memory": float(GIB), "disk": disk, "network": None, "steal": 0.0}
            for ago, cpus, disk in values
        ]  # fmt: skip
        connection.execute(insert(reading), rows)


def rows_of(engine: Engine) -> int:
    with engine.begin() as connection:
        return connection.scalar(select(func.count()).select_from(reading)) or 0


def test_old_readings_become_fewer_and_percentiles_stay_within_the_bound(engine: Engine) -> None:
    keeper, random = LoadKeeper(engine), Random(4)
    put(engine, [(30.0 * n, random.expovariate(1.0), random.choice((None, 0.0, 1e6))) for n in range(2880)])
    before, rows = keeper.loads(86400.0 * 2), rows_of(engine)
    for _ in range(20):  # as often as it takes, some spans each time
        gone = keeper.fold(7200.0)
        assert rows_of(engine) == rows - gone
        rows -= gone
    assert gone == 0
    assert 241 <= rows <= 245 + 24 * 12, "two hours as they were, then one for five minutes"
    after = keeper.loads(86400.0 * 2)
    assert_within(before.vms["u-1"], after.vms["u-1"])
    assert after.vms["u-1"].samples == 2880
    assert after.vms["u-1"].span == pytest.approx(before.vms["u-1"].span)
    young = keeper.loads(3600.0).vms["u-1"]
    assert young.samples in (120, 121), "what is young is as it was"
    assert keeper.names(86400.0) == {"u-1": ("web", "h1")}


def test_what_is_older_still_becomes_coarser(engine: Engine) -> None:
    keeper = LoadKeeper(engine)
    put(engine, [(30.0 * n, 1.0 + n % 7, 5.0) for n in range(5760)])  # two days
    before = keeper.loads(1e6)
    while keeper.fold(600.0):
        pass
    with engine.begin() as connection:
        found = connection.execute(select(reading.c.fold, func.count()).group_by(reading.c.fold))
        widths: dict[float | None, int] = {row[0]: row[1] for row in found}
    assert 20 <= widths[None] <= 41
    assert 22 <= widths[300.0] <= 37
    assert 45 <= widths[3600.0] <= 48
    assert_within(before.vms["u-1"], keeper.loads(1e6).vms["u-1"])


def assert_within(before: VmLoad, after: VmLoad) -> None:
    for figure in ("cpus", "memory", "disk", "network", "steal"):
        for name in ("median", "p95", "peak"):
            was, now_is = getattr(getattr(before, figure), name), getattr(getattr(after, figure), name)
            assert now_is == pytest.approx(was, rel=ACCURACY * 1.000001, abs=1e-9), (figure, name)


def test_where_a_vm_was_is_kept_through_folding(engine: Engine) -> None:
    keeper = LoadKeeper(engine)
    put(engine, [(9000.0 + 30.0 * n, 1.0, None) for n in range(10)])
    put(engine, [(8000.0 + 30.0 * n, 1.0, None) for n in range(10)], at_host="h2")
    put(engine, [(60.0, 3.0, None)], at_host="h3")
    assert keeper.fold(7200.0) > 0
    assert keeper.names(1e5) == {"u-1": ("web", "h3")}
    assert keeper.loads(1e5).vms["u-1"].disk == Spread(), "what was not told stays so"


def test_of_two_that_fold_at_once_nothing_is_lost_or_doubled(database: str) -> None:
    engines = [open_database(database), open_database(database)]
    put(engines[0], [(7300.0 + 30.0 * n, float(n % 5), 1.0) for n in range(2000)])
    before = LoadKeeper(engines[0]).loads(1e6).vms["u-1"]
    gone: list[int] = []
    threads = [
        threading.Thread(target=lambda each=each: gone.extend(LoadKeeper(each).fold(7200.0) for _ in range(3)))
        for each in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = LoadKeeper(engines[1]).loads(1e6).vms["u-1"]
    assert after.samples == before.samples == 2000
    assert rows_of(engines[0]) == 2000 - sum(gone)
    assert_within(before, after)


def test_a_row_that_took_the_number_of_one_that_went_is_not_taken_for_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest have the highest numbers here, which SQLite gives to the rows that the other one makes of them."""
    slow, quick = LoadKeeper(open_database(database)), LoadKeeper(open_database(database))
    put(slow._engine, [(7300.0 + 30.0 * n, float(n % 5), 1.0) for n in range(200)])
    before, replace = slow.loads(1e6).vms["u-1"].samples, slow._replace
    others: list[int] = []

    def late(*told: Any) -> int:
        if not others:
            others.append(quick.fold(7200.0))
        return replace(*told)

    monkeypatch.setattr(slow, "_replace", late)
    slow.fold(7200.0)
    assert others != [0]
    assert slow.loads(1e6).vms["u-1"].samples == before == 200


@dataclass(frozen=True)
class Row:
    at: float
    cpus: float
    span: float = 30.0
    memory: float = 1.0
    disk: float | None = None
    network: float | None = None
    steal: float = 0.0
    folded: str | None = None


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=200), st.integers(1, 40), st.integers(1, 5))
def test_folding_what_was_folded_adds_no_error(values: list[float], wide: int, again: int) -> None:
    rows = [Row(30.0 * n, value) for n, value in enumerate(values)]
    once = [Row(**fold(rows[n : n + wide])) for n in range(0, len(rows), wide)]
    twice = [Row(**fold(once[n : n + again])) for n in range(0, len(once), again)]
    before = spread_of(values_of(rows, "cpus"))
    for each in (once, twice):
        after = spread_of(values_of(each, "cpus"))
        for name in ("median", "p95", "peak"):
            assert getattr(after, name) == pytest.approx(getattr(before, name), rel=ACCURACY * 1.000001, abs=1e-9)
        assert sum(map(count_of, each)) == len(values)
        assert each[-1].at == rows[-1].at
        assert each[0].at - each[0].span == -30.0


# Looking, on simulated hosts.


@pytest.fixture
def the(tmp_path: Path) -> Iterator[Scene]:
    with scene(Random(3).randrange, tmp_path) as found:
        yield found


def sample(the: Scene, seconds: float, told: list[str] | None = None, meanwhile: Any = None) -> Sampler:
    """Look every 10 s for so long."""

    def looking() -> Sampler:
        with Connections(the.inventory.hosts()) as connections:
            names = tuple(the.twin.hosts)
            said = told if told is not None else []
            sampler = Sampler(connections, LoadKeeper(the.engine), lambda: names, 3600.0, said.append)
            stop = clock.new_event()
            if meanwhile is not None:
                clock.start_thread(meanwhile, "meanwhile")
            sampler.run(10.0, seconds, stop)
            return sampler

    found: Sampler = the.do(looking, "sampler")
    return found


def test_a_hot_guest_is_seen_beside_a_calm_one(the: Scene) -> None:
    hot, calm = the.make_vm("hot", "h1"), the.make_vm("calm", "h1")
    the.twin.works[hot] = 1.5
    sampler = sample(the, 120.0)
    assert sampler.rounds == 13
    found = LoadKeeper(the.engine).loads(3600.0)
    assert found.vms[hot].cpus.median == pytest.approx(1.5, rel=0.02)
    assert found.vms[calm].cpus.median == pytest.approx(0.1, rel=0.05)
    assert found.vms[hot].memory.median == 16 * MIB
    assert found.vms[hot].samples == 12
    assert found.vms[hot].means_something
    assert found.hosts["h1"].cpus.median == pytest.approx(1.65, rel=0.02), "what the host needs for itself counts"
    assert found.hosts["h2"].cpus.median == pytest.approx(0.05, rel=0.1)


def test_a_host_that_is_away_for_a_while_leaves_a_gap_and_is_told_of_once(the: Scene) -> None:
    the.make_vm("calm", "h1")
    told: list[str] = []

    def away() -> None:
        clock.sleep(15.0)
        the.twin.hosts["h1"].stop_libvirtd()
        clock.sleep(40.0)
        the.twin.hosts["h1"].start_libvirtd()

    sample(the, 150.0, told, away)
    found = LoadKeeper(the.engine).loads(3600.0)
    assert len(told) == 1
    assert "h1" in told[0]
    assert found.hosts["h1"].samples < found.hosts["h2"].samples
    assert found.hosts["h1"].cpus.peak == pytest.approx(0.15, rel=0.1)


def test_a_guest_that_is_restarted_gives_no_wrong_figure(the: Scene) -> None:
    uuid = the.make_vm("calm", "h1")
    the.twin.works[uuid] = 1.0

    def restart() -> None:
        clock.sleep(45.0)
        line = the.twin.open("qemu+tls://h1/system")
        domain = line.lookupByUUIDString(uuid)
        domain.destroy()
        domain.create()
        line.close()

    sample(the, 120.0, meanwhile=restart)
    found = LoadKeeper(the.engine).loads(3600.0).vms[uuid]
    assert found.samples == 11
    assert found.cpus.peak == pytest.approx(1.0, rel=0.02)
