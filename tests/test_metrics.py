"""Figures for a Prometheus server: what is counted, and the alerts and pictures that are made of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from mudanza.journal.audit import Audit
from mudanza.journal.balance import Balances
from mudanza.journal.database import open_database, transaction
from mudanza.journal.fences import Fences
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.journal.plans import Plans
from mudanza.journal.standbys import Standbys
from mudanza.journal.tally import EDGES, count, tallies
from mudanza.journal.tokens import Tokens
from mudanza.model.fencing import Device
from mudanza.model.migration import MigrationReport
from mudanza.service.desk import Desk
from mudanza.service.metrics import exposition
from mudanza.service.picture import Picture
from tests import factories as make

HERE = Path(__file__).parent
RULES = HERE.parent / "contrib/prometheus/mudanza.rules.yml"
DASHBOARD = HERE.parent / "contrib/grafana/mudanza.json"
PROMTOOL = Path(sys.prefix, "bin/promtool")
"""Put there by scripts/setup."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "mudanza.db")
    found: str = request.getfixturevalue("postgresql").new_database()
    return found


def desk_at(database: str) -> Desk:
    engine = open_database(database)
    hosts = [make.host("h1"), make.host("h2", error="timed out")]
    picture = Picture(make.cluster(hosts, [make.vm()]), 1000.0, 0.5, 0.25)
    parts = (Jobs(engine), Plans(engine), Balances(engine), Audit(engine), Tokens(engine))
    return Desk(*parts, lambda: picture, "1.2.3")


def report(**told: Any) -> Mapping[str, Any]:
    known = MigrationReport("web", make.UUID, "h1", "h2", "live", 12.0, 0.2, 3 << 30, 1 << 30, 1e8, 3, False, "TCP")
    return {**asdict(known), "moving_time": 10.0, "forecast": {"total": 8.0}, **told}


def end(jobs: Jobs, kind: str, exit_code: int, told: Mapping[str, Any] | None = None) -> int:
    handle = jobs.begin(NewJob(kind, make.UUID, "web", "h1", "h2", {}, "ana"))
    handle.finish("done" if exit_code == 0 else "failed", "so it went", exit_code, told)
    return handle.id


def families(desk: Desk) -> dict[str, Metric]:
    return {each.name: each for each in text_string_to_metric_families(exposition(desk)[0].decode())}


def values(desk: Desk, name: str, **labels: str) -> list[float]:
    found = [sample for family in families(desk).values() for sample in family.samples if sample.name == name]
    return [sample.value for sample in found if labels.items() <= sample.labels.items()]


def test_moves_are_counted_as_they_end(database: str) -> None:
    desk = desk_at(database)
    end(desk.jobs, "live", 0, report())
    end(desk.jobs, "live", 0, report(downtime=None, moving_time=100.0))
    end(desk.jobs, "cold", 4)
    end(desk.jobs, "cpu", 0, {"warnings": []})
    ended = {
        (sample.labels["kind"], sample.labels["exit_code"]): sample.value
        for sample in families(desk)["mudanza_jobs_ended"].samples
    }
    assert ended == {("live", "0"): 2, ("cold", "4"): 1, ("cpu", "0"): 1}
    assert values(desk, "mudanza_migration_duration_seconds_sum") == [110]
    assert values(desk, "mudanza_migration_duration_seconds_count", kind="live") == [2]
    assert values(desk, "mudanza_migration_duration_seconds_bucket", le="5.0") == [0]
    assert values(desk, "mudanza_migration_duration_seconds_bucket", le="10.0") == [1]
    assert values(desk, "mudanza_migration_duration_seconds_bucket", le="120.0") == [2]
    assert values(desk, "mudanza_migration_downtime_seconds_count") == [1]
    assert values(desk, "mudanza_migration_transferred_bytes_sum") == [2 * (4 << 30)]
    assert values(desk, "mudanza_forecast_error_ratio_bucket", le="0.2") == [1]


def test_what_was_counted_stays_counted_when_jobs_are_forgotten_and_is_once_when_one_is_cleaned_up(
    database: str,
) -> None:
    desk = desk_at(database)
    number = end(desk.jobs, "live", 0, report())
    desk.jobs.reopen(number).finish("done", "cleaned up", 0, report())
    assert values(desk, "mudanza_jobs_ended_total") == [1]
    assert desk.jobs.forget(older_than=-1.0) == 1
    assert values(desk_at(database), "mudanza_jobs_ended_total") == [1]
    assert values(desk_at(database), "mudanza_migration_duration_seconds_count") == [1]


def test_a_bucket_that_another_version_had_is_not_lost(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction(open_database(database)) as connection:
        monkeypatch.setitem(EDGES, "migration_duration_seconds", (7.0, 11.0))
        count(connection, "live", 0, report())
        count(connection, "live", 0, report(moving_time=1e6))
        monkeypatch.undo()
        found = next(each for each in tallies(connection).histograms if each.name == "migration_duration_seconds")
    buckets = dict(found.buckets)
    assert (buckets["10.0"], buckets["20.0"], buckets["+Inf"]) == (0, 1, 2)


def test_it_says_which_fence_devices_answer(database: str) -> None:
    desk = desk_at(database)
    fences = Fences(open_database(database))
    device = Device("bmc", "fence_ipmilan")
    fences.put("h1", [device])
    fences.tested("h1", device, "does not say whether the power is on")
    desk = replace(desk, fence_tests=fences.tests)
    assert values(desk, "mudanza_fence_device_answers", host="h1", device="bmc") == [0]
    fences.tested("h1", device, "")
    assert values(desk, "mudanza_fence_device_answers", host="h1", device="bmc") == [1]
    assert values(desk, "mudanza_fence_device_tested_timestamp_seconds") == [fences.tests()[0].at]


def test_it_says_how_old_the_copies_of_the_journal_are(database: str) -> None:
    desk, standbys = desk_at(database), Standbys(open_database(database))
    standbys.put("h2", "/srv/standby", 3600.0, "ana")
    desk = replace(desk, standbys=standbys.all)
    assert values(desk, "mudanza_standby_late", standby="h2") == [0], "the first one has its time"
    assert values(desk, "mudanza_standby_age_seconds") == []
    standbys.sent("h2", 1, standbys.instant() - 7300.0, 4096)
    assert values(desk, "mudanza_standby_late", standby="h2") == [0], "there was no time for two copies yet"
    [age] = values(desk, "mudanza_standby_age_seconds", standby="h2")
    assert age >= 7300
    standbys.put("h2", "/srv/standby", 1e-9, "ana")
    assert values(desk, "mudanza_standby_late", standby="h2") == [1]
    assert values(desk, "mudanza_standby_failing", standby="h2") == [0]
    standbys.failed("h2", "no route to host")
    assert values(desk, "mudanza_standby_failing", standby="h2") == [1]


def test_it_says_what_waits_what_moves_and_who_leads(database: str) -> None:
    desk = desk_at(database)
    desk.jobs.put_down(NewJob("move", make.UUID, "web", "h1", "h2", {}, "ana"))
    Balances(open_database(database)).take()
    assert values(desk, "mudanza_jobs", state="queued") == [1]
    assert len(values(desk, "mudanza_queue_wait_seconds")) == 1
    assert values(desk, "mudanza_vm_job", domain="web", uuid=make.UUID, source="h1", target="h2", job="1") == [1]
    assert values(desk, "mudanza_lease_held", duty="balance") == [1]
    assert values(desk, "mudanza_lease_taken_total", duty="balance") == [1]
    assert values(desk, "mudanza_controller_lag_seconds") == [0.25]
    assert values(desk, "mudanza_host_info", host="h1", nodename="h1.example") == [1]
    assert values(desk, "mudanza_build_info", version="1.2.3") == [1]


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=["rules", "dashboard"])
def test_each_figure_that_is_looked_at_exists(file: Path, tmp_path: Path) -> None:
    desk = desk_at(str(tmp_path / "mudanza.db"))
    end(desk.jobs, "live", 0, report())
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}
    known = {family.name + suffix for family in families(desk).values() for suffix in suffixes.get(family.type, ("",))}
    wanted = set(re.findall(r"\bmudanza_\w+", file.read_text()))
    assert wanted
    assert wanted <= known


def test_the_page_tells_of_each_figure(tmp_path: Path) -> None:
    told = set(re.findall(r"`(mudanza_\w+)`", (HERE.parent / "docs/metrics.md").read_text()))
    known = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in families(desk_at(str(tmp_path / "mudanza.db"))).values()
    }
    known |= {"mudanza_vm_active"}
    assert told == known


def test_the_pictures_have_a_place_and_a_question_each() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 10
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert all(target["expr"] for panel in panels for target in panel["targets"])


def promtool(*words: str | Path, given: bytes = b"") -> str:
    assert PROMTOOL.exists(), "scripts/setup puts promtool there"
    done = subprocess.run([PROMTOOL, *words], input=given, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_prometheus_takes_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)


def test_the_rules_say_what_they_should() -> None:
    promtool("test", "rules", HERE / "promtool/mudanza.test.yml")


def test_prometheus_finds_nothing_to_say_against_the_names(tmp_path: Path) -> None:
    desk = desk_at(str(tmp_path / "mudanza.db"))
    end(desk.jobs, "live", 0, report())
    promtool("check", "metrics", given=exposition(desk)[0])
