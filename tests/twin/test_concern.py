"""A daemon's moves read the hosts that they concern, however many others there are: counted, on simulated hosts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest

from mudanza import clock
from mudanza.cli.context import App
from mudanza.cli.output import Format
from mudanza.cli.watching import LineView
from mudanza.cli.work import Errand
from mudanza.hypervisor.connection import lines_opened_by
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.hypervisor.twin.connect import Connect
from mudanza.journal.job import Job, NewJob
from mudanza.journal.protocol import QUEUED_MOVE
from mudanza.migration.asked import put_down
from mudanza.model.cluster import Known
from mudanza.model.migration import MigrationOptions
from mudanza.operations import checking
from mudanza.operations.checking import arrivals_of
from mudanza.operations.concern import MOST_AGE
from tests.twin.scene import Scene, scene

HOSTS = 12


@dataclass
class Counting:
    """A daemon's app over a scene, and which hosts it has connected to."""

    the: Scene
    app: App
    asked: set[str] = field(default_factory=set)

    def knows_all(self, age: float = 5.0) -> None:
        """Have it keep a picture of all hosts as they are now."""
        cluster = self.the.do(lambda: read_cluster(self.the.inventory.hosts()))
        self.app.keeps = lambda: Known(cluster, age)

    def move(self, uuid: str, source: str, target: str | None) -> Job:
        """Carry out a move from the queue, and return its job."""
        asked = put_down(MigrationOptions(), target)
        number = self.the.jobs.put_down(NewJob(QUEUED_MOVE, uuid, "vm", source, target or "", asked, "ana"))
        errand = Errand(self.app, arrivals_of(self.app), LineView(lambda _: None), Format.NAME, clock.new_event())
        with self.counted():
            self.the.do(lambda: errand.carry_out(self.app.jobs.get(number)))
        return self.the.jobs.get(number)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Note which hosts are connected to."""
        self.asked.clear()

        def open_line(uri: str) -> Connect:
            self.asked.add(urlsplit(uri).hostname or "")
            return self.the.twin.open(uri)

        with lines_opened_by(open_line):
            yield


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Counting]:
    with scene(Random(7).randrange, tmp_path, hosts=HOSTS) as the:
        the.twin.rate *= 8
        settings = tmp_path / "daemon.toml"
        settings.write_text(f"database = {the.database!r}\n")
        yield Counting(the, App(settings, debug=False))


def test_a_move_asks_the_hosts_that_it_concerns_and_tells_how_old_the_rest_is(many: Counting) -> None:
    uuid = many.the.make_vm("web", "h1")
    many.knows_all(age=5.0)
    done = many.move(uuid, "h1", "h2")
    assert (done.state, many.asked) == ("done", {"h1", "h2"})
    [decided] = done.steps_named("decide")
    assert decided.outcome is not None
    assert decided.outcome["announced"]["others_as_of"] == 5.0


@pytest.mark.parametrize("age", [None, MOST_AGE + 1])
def test_without_a_fresh_picture_it_asks_all(many: Counting, age: float | None) -> None:
    uuid = many.the.make_vm("web", "h1")
    if age is not None:
        many.knows_all(age)
    done = many.move(uuid, "h1", "h2")
    assert (done.state, len(many.asked)) == ("done", HOSTS)


def test_to_the_best_host_it_asks_all(many: Counting) -> None:
    uuid = many.the.make_vm("web", "h1")
    many.knows_all()
    assert (many.move(uuid, "h1", None).state, len(many.asked)) == ("done", HOSTS)


def test_one_that_has_gone_elsewhere_since_is_found_there(many: Counting) -> None:
    uuid = many.the.make_vm("web", "h1", shared=True)
    many.knows_all()
    many.the.finish(many.the.migrate(uuid, "h3"))
    done = many.move(uuid, "h1", "h2")
    assert (done.state, done.source, len(many.asked)) == ("done", "h3", HOSTS)


def test_a_source_that_does_not_answer_has_nobody_else_asked(many: Counting) -> None:
    uuid = many.the.make_vm("web", "h1")
    many.knows_all()
    many.the.twin.hosts["h1"].isolated = True
    refused = many.move(uuid, "h1", "h2")
    assert (refused.state, many.asked) == ("refused", {"h1", "h2"})
    assert "not seen: h1" in refused.outcome


def test_a_check_of_one_target_asks_the_two(many: Counting) -> None:
    many.the.make_vm("web", "h1")
    many.knows_all()
    with many.counted():
        found = many.the.do(lambda: checking.check(many.app, "web", "h2", MigrationOptions()))
    assert found.is_possible
    assert many.asked == {"h1", "h2"}
