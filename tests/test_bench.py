"""What the benchmark of live moves makes of what a client and a job told."""

from __future__ import annotations

import math
from pathlib import Path

from bench.comparison import Goal, rows_of
from bench.crowd import Crowd, remembering_definitions
from bench.moves import Moved, switchover_of
from bench.plot import course
from bench.service import Asked
from mudanza import clock
from mudanza.cli.context import App
from mudanza.cli.output import Format
from mudanza.cli.watching import LineView
from mudanza.cli.work import Errand
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.journal.job import NewJob
from mudanza.journal.protocol import QUEUED_MOVE
from mudanza.lab.series import Beat, Ping, Recording
from mudanza.migration.arrivals import Arrivals
from mudanza.migration.asked import put_down
from mudanza.model.migration import MigrationOptions
from mudanza.model.units import GIB, MIB

MS = 1_000_000


def recording(
    dark: list[tuple[int, int]], beats: list[tuple[int, int]], until: int = 5000, step: int = 10
) -> Recording:
    """Replies every ``step`` ms but for the dark times; beats by the client's clock and the guest's. Milliseconds."""
    times = [at for at in range(0, until, step) if not any(begin < at < end for begin, end in dark)]
    return Recording(
        replies=tuple(Ping(at * MS, number) for number, at in enumerate(times)),
        beats=tuple(Beat(at * MS, seq, clock * MS, 0, 0, 1) for seq, (at, clock) in enumerate(beats)),
    )


def test_the_switchover_is_where_the_guests_clock_stood_still_and_not_where_it_was_dark_for_longest() -> None:
    clocks = [(0, 0), (900, 900), (1600, 1600), (3000, 3000), (3500, 3250), (4500, 4250)]
    seen = recording([(1000, 1600), (3100, 3350)], clocks)
    assert switchover_of(seen) == 0.25


def moved(took: float, *, done: bool = True, switchover: float | None = 0.1, content: int = 100 * MIB) -> Moved:
    return Moved(took, done, 0.3, switchover, 0.2, 1.0, 0.1, 100 * MIB, content)


def test_the_floor_is_that_of_the_case_whichever_tool_told_it() -> None:
    rows = rows_of("case", {"told": [moved(10.0)], "silent": [moved(8.0, content=0)]}, 25 * MIB)
    assert {row.floor for row in rows.values()} == {4.0}
    assert rows["silent"].ratio == 2.0


def test_what_never_got_there_has_no_switchover_and_no_ratio() -> None:
    row = rows_of("case", {"tool": [moved(60.0, done=False, switchover=None)]}, 25 * MIB)["tool"]
    assert (row.done, row.ratio, row.switchover, row.worst_switchover) == (0, None, None, None)


def test_a_row_has_the_median_and_the_worst() -> None:
    row = rows_of("case", {"tool": [moved(9.0), moved(30.0, switchover=0.5), moved(10.0)]}, 25 * MIB)["tool"]
    assert (row.total, row.worst_total, row.switchover, row.worst_switchover) == (10.0, 30.0, 0.1, 0.5)


def test_a_goal_is_met_up_to_its_limit() -> None:
    assert Goal("case", "what", 1.0, "s", 1.0).met
    assert not Goal("case", "what", math.inf, "s", 1.0).met


def test_the_course_is_that_of_memory() -> None:
    figures = {"elapsed": 1.234, "iteration": 2, "memory_remaining": MIB, "memory_rate": 2.0 * MIB, "dirty_rate": 0.0}
    told = {"event": "progress", "phase": "copying memory", "memory_total": MIB, **figures}
    assert course([{"event": "start"}, {**told, "memory_total": 0}, told]) == [
        (1.23, "copying memory", 2, 1.0, 2.0, 0.0)
    ]


def test_what_failed_is_counted_by_what_it_was_and_answered_by_nothing() -> None:
    asked = Asked([0.1 * number for number in range(98)])
    asked.failures.update({"503 Service Unavailable": 1, "ReadTimeout": 1})
    assert asked.what_failed == "1 × 503 Service Unavailable, 1 × ReadTimeout"
    assert math.isclose(asked.within(0.5), 5.0)
    assert asked.within(0.99) == math.inf
    assert Asked().what_failed == ""


def test_a_crowd_of_simulated_hosts_is_read_and_its_guests_move(tmp_path: Path) -> None:
    crowd = Crowd(2, 4)
    crowd.rate = float(GIB)
    first, second = crowd.entries()
    (tmp_path / "mudanza.toml").write_text(f'database = "{tmp_path}/mudanza.db"\n')
    app = App(tmp_path / "mudanza.toml", debug=False)
    app.inventory.put_hosts((first, second))
    with crowd.answering(), remembering_definitions():
        before = read_cluster((first, second))
        uuid = before.vms_on("h1")[0].uuid
        asked = put_down(MigrationOptions(), "h2")
        number = app.jobs.put_down(NewJob(QUEUED_MOVE, uuid, "vm", "h1", "h2", asked, "bench"))
        errand = Errand(app, Arrivals(app.jobs), LineView(lambda _: None), Format.NAME, clock.new_event())
        errand.carry_out(app.jobs.get(number))
        after = read_cluster((first, second))
    assert [host.error for host in (*before.hosts, *after.hosts)] == [None] * 4
    assert [vm.error for vm in (*before.vms, *after.vms)] == [None] * 8
    assert all(disk.capacity for vm in before.vms for disk in vm.disks)
    assert [job.state for job in app.jobs.latest(9)] == ["done"]
    assert after.find(uuid).host == "h2"
