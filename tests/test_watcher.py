"""The daemon's figures of moves under way: what it carries out itself it does not ask hosts for."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.journal.jobs import Job, Jobs, NewJob
from mudanza.migration.looking import TRANSFERRING, look
from mudanza.migration.progress import Trend
from mudanza.model.migration import Progress
from mudanza.service.watcher import Watcher
from tests.twin.scene import Scene, scene

FIGURES = Progress("copying memory", 3.0, memory_total=100, memory_remaining=40)


def watched(the: Scene, watcher: Watcher, seconds: float) -> None:
    """Let a watcher look every second for a while."""

    def watching() -> None:
        stop = clock.new_event()
        clock.start_thread(lambda: watcher.run(1.0, stop), "watch")
        clock.sleep(seconds)
        stop.set()

    the.do(watching)


def transferring(jobs: Jobs) -> int:
    handle = jobs.begin(NewJob("live", "u-1", "web", "h1", "h2", {}, "ana"))
    handle.enter(TRANSFERRING)
    return handle.id


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the jobs whose hosts are asked."""
    found: list[int] = []

    def noting(connections: Connections, job: Job, trend: Trend) -> tuple[Progress, Trend]:
        found.append(job.id)
        return look(connections, job, trend)

    monkeypatch.setattr("mudanza.service.watcher.look", noting)
    return found


def test_what_is_carried_out_here_is_heard_of_and_no_host_is_asked(tmp_path: Path, asked: list[int]) -> None:
    with scene(Random(7).randrange, tmp_path) as the:
        number = the.do(lambda: transferring(the.jobs))
        watcher = Watcher(the.jobs, the.inventory.hosts, connect=5.0)
        watcher.hear(number, "h1 → h2", FIGURES)
        watched(the, watcher, 3.5)
        assert asked == []
        [sample] = watcher.course(number).samples
        assert (sample.phase, sample.memory_remaining) == ("copying memory", 40), "told once, it is one sample"
        assert watcher.shares() == {number: 0.6}


def test_what_tells_no_figures_is_no_sample(tmp_path: Path, asked: list[int]) -> None:
    with scene(Random(7).randrange, tmp_path) as the:
        number = the.do(lambda: transferring(the.jobs))
        watcher = Watcher(the.jobs, the.inventory.hosts, connect=5.0)
        watcher.hear(number, "h1 → h2", Progress("starting", 0.0))
        watched(the, watcher, 2.5)
        assert (asked, watcher.course(number).samples) == ([], ())


def test_of_what_another_controller_carries_out_its_source_is_asked(tmp_path: Path, asked: list[int]) -> None:
    with scene(Random(7).randrange, tmp_path) as the:
        number = the.do(lambda: transferring(the.jobs))
        watcher = Watcher(the.jobs, the.inventory.hosts, connect=5.0)
        watched(the, watcher, 1.5)
        assert set(asked) == {number}
