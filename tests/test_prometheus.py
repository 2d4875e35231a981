"""Load as a Prometheus server tells it: a little server of our own, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from mudanza.cli.context import App
from mudanza.cli.settings import MetricsSettings, load_settings
from mudanza.fleet.prometheus import FIGURES, Prometheus
from mudanza.journal.load import LoadKeeper
from mudanza.model.cluster import Cluster
from mudanza.model.counters import HostReading, Reading, VmReading
from mudanza.model.errors import MetricsError, UsageError
from mudanza.model.load import LEAST_SAMPLES, Loads, Spread
from mudanza.model.plan import Goal
from mudanza.model.rules import Rules
from mudanza.model.units import GIB, MIB
from mudanza.planning.planner import Request, think
from tests.factories import OTHER_UUID, cluster, host, vm

Series = list[tuple[dict[str, str], list[float | str]]]


@dataclass
class Metrics:
    """What the server says of each query, and what it was asked."""

    series: dict[str, Series] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    answer: tuple[int, bytes] | None = None
    held: threading.Event = field(default_factory=threading.Event)
    holds: bool = False
    url: str = ""

    def body(self, asked: Mapping[str, str]) -> bytes:
        start, step = float(asked["start"]), float(asked["step"])
        found = [
            {"metric": labels, "values": [[start + n * step, str(value)] for n, value in enumerate(values)]}
            for labels, values in self.series.get(asked["query"], [])
        ]
        return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": found}}).encode()


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    told = Metrics()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            words = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            asked = {name: values[0] for name, values in words.items()}
            told.asked.append(asked)
            told.tokens.append(self.headers.get("Authorization", ""))
            if told.holds:
                told.held.wait(30)
            code, body = told.answer or (200, told.body(asked))
            self.send_response(code if self.path == "/api/v1/query_range" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_about: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield told
    finally:
        told.held.set()
        server.shutdown()
        server.server_close()
        serving.join()


def asking(metrics: Metrics, folder: Path, more: str = "") -> Prometheus:
    path = folder / "m.toml"
    path.write_text(f'database = "{folder / "m.db"}"\n[load]\nprometheus = "{metrics.url}/"\n[load.metrics]\n{more}')
    return Prometheus(load_settings(path).settings.load.server())


def query(name: str, seconds: int = 120) -> str:
    return str(getattr(MetricsSettings(), name)).replace("$range", f"{seconds}s")


def usual(metrics: Metrics, **of_vms: list[float | str]) -> None:
    """Have it tell all of host h1 and of VM web, but what is given otherwise."""
    for figure, value in zip(FIGURES, (2.0, 4.0 * GIB, 5.0 * MIB, MIB), strict=True):
        metrics.series[query(f"host_{figure}")] = [({"instance": "h1.example:9100"}, [value] * 10)]
        metrics.series[query(f"vm_{figure}")] = [({"domain": "web"}, of_vms.get(figure) or [value / 2] * 10)]


def one_vm() -> Cluster:
    return cluster([host("h1")], [vm()])


def test_percentiles_are_those_of_our_own_readings(metrics: Metrics, tmp_path: Path) -> None:
    values = [float(n) for n in range(1, 101)]
    usual(metrics, cpus=list(values))
    found = asking(metrics, tmp_path).loads(one_vm(), 3600.0)
    keeper = LoadKeeper(App(tmp_path / "m.toml", debug=False).database)
    for value in values:
        used = Reading(30.0, value, GIB, 1.0, 1.0, 0.0)
        keeper.keep([HostReading("h1", used, (VmReading(vm().uuid, "web", used),))])
    own = keeper.loads(3600.0)
    assert found.vms[vm().uuid].cpus == own.vms[vm().uuid].cpus == Spread(50.0, 95.0, 100.0)
    assert found.hosts["h1"].memory == Spread(4.0 * GIB, 4.0 * GIB, 4.0 * GIB)
    assert found.vms[vm().uuid].samples == 100 > LEAST_SAMPLES
    assert found.vms[vm().uuid].span == pytest.approx(3000.0)
    assert found.source == f"Prometheus at {metrics.url.removeprefix('http://')}"
    assert found.told == ()


def test_it_is_asked_for_the_window_and_told_how_long_it_may_take(metrics: Metrics, tmp_path: Path) -> None:
    usual(metrics)
    token = tmp_path / "token"
    token.write_text("secret\n")
    asking(metrics, tmp_path, f'timeout = 5\ntoken_file = "{token}"').loads(one_vm(), 7200.0)
    assert len(metrics.asked) == 8
    for asked in metrics.asked:
        assert float(asked["end"]) - float(asked["start"]) == pytest.approx(7200.0)
        assert float(asked["step"]) == 60.0
        assert "$range" not in asked["query"]
        assert 0 < float(asked["timeout"].removesuffix("s")) <= 5
    assert any("[240s]" in asked["query"] for asked in metrics.asked)
    assert set(metrics.tokens) == {"Bearer secret"}


@pytest.mark.parametrize("missing", ["vm_cpus", "vm_memory", "vm_disk", "vm_network"])
def test_a_missing_series_is_told_and_is_no_zero(metrics: Metrics, tmp_path: Path, missing: str) -> None:
    usual(metrics)
    del metrics.series[query(missing)]
    found = asking(metrics, tmp_path).loads(one_vm(), 3600.0)
    assert found.vms == {}
    assert any(f"no series at all for {missing}" in line for line in found.told)
    assert any("does not tell all of 1 VMs: web" in line for line in found.told)


def test_of_a_vm_without_cards_no_series_of_cards_is_missed(metrics: Metrics, tmp_path: Path) -> None:
    usual(metrics)
    metrics.series[query("vm_network")] = [({"domain": "other"}, [1.0])]
    found = asking(metrics, tmp_path).loads(cluster([host("h1")], [vm(nics=())]), 3600.0)
    assert found.vms[vm().uuid].network == Spread()
    assert found.told == ()


def test_what_is_no_number_and_a_cpu_that_stands_still_were_not_told(metrics: Metrics, tmp_path: Path) -> None:
    usual(metrics, cpus=["NaN", 0.0, "+Inf", 1.5, -1.0, 0.5], disk=["NaN"])
    found = asking(metrics, tmp_path).loads(one_vm(), 3600.0)
    assert found.vms == {}, "nothing of its disks was told"
    usual(metrics, cpus=["NaN", 0.0, "+Inf", 1.5, -1.0, 0.5])
    load = asking(metrics, tmp_path).loads(one_vm(), 3600.0).vms[vm().uuid]
    assert (load.cpus, load.samples) == (Spread(0.5, 1.5, 1.5), 2)


def test_of_two_vms_of_one_name_nothing_is_known(metrics: Metrics, tmp_path: Path) -> None:
    usual(metrics)
    two = cluster([host("h1"), host("h2")], [vm(), vm(uuid=OTHER_UUID, host="h2")])
    found = asking(metrics, tmp_path).loads(two, 3600.0)
    assert found.vms == {}
    assert "2 VMs: web, web" in found.told[0]
    assert "1 hosts: h2" in found.told[1]


def test_a_vm_is_known_by_its_uuid_too(metrics: Metrics, tmp_path: Path) -> None:
    usual(metrics)
    for figure in FIGURES:
        labels, values = metrics.series[query(f"vm_{figure}")][0]
        metrics.series[query(f"vm_{figure}")] = [({**labels, "domain": "x", "uuid": vm().uuid}, values)]
    assert vm().uuid in asking(metrics, tmp_path, 'vm_label = "uuid"').loads(one_vm(), 3600.0).vms


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((400, json.dumps({"status": "error", "error": "parse error at char 3"}).encode()), "parse error at char 3"),
        ((503, b"busy"), "503"),
        ((200, b"<html>"), "no series"),
        ((200, json.dumps({"data": {"resultType": "vector", "result": []}}).encode()), "a vector"),
        ((200, json.dumps({"data": {"resultType": "matrix", "result": [{"metric": {}}]}}).encode()), "no series"),
    ],
)
def test_an_answer_that_is_none_is_an_error(
    metrics: Metrics, tmp_path: Path, answer: tuple[int, bytes], why: str
) -> None:
    metrics.answer = answer
    with pytest.raises(MetricsError, match=why):
        asking(metrics, tmp_path).loads(one_vm(), 3600.0)


def test_a_server_that_hangs_is_waited_for_so_long_and_no_longer(metrics: Metrics, tmp_path: Path) -> None:
    metrics.holds = True
    with pytest.raises(MetricsError, match=r"did not answer|no answer within"):
        asking(metrics, tmp_path, "timeout = 0.3").loads(one_vm(), 3600.0)


def test_without_an_answer_our_own_readings_are_gone_by_and_that_is_said(
    metrics: Metrics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics.answer = (503, b"")
    asking(metrics, tmp_path)
    app = App(tmp_path / "m.toml", debug=False)
    for _ in range(4):
        used = Reading(30.0, 1.0, GIB, 1.0, 1.0, 0.0)
        LoadKeeper(app.database).keep([HostReading("h1", used, (VmReading(vm().uuid, "web", used),))])
    found = app.loads(one_vm())
    assert found.source == "libvirt"
    assert found.vms[vm().uuid].samples == 4
    assert "our own readings are gone by instead" in found.told[0]
    assert "503" in capsys.readouterr().err


def notes(loads: Loads) -> list[str]:
    return think(Request(Goal.BALANCE), one_vm(), Rules(), loads).problem.notes


def test_the_plan_says_whose_figures_it_goes_by(metrics: Metrics, tmp_path: Path) -> None:
    usual(metrics)
    found = asking(metrics, tmp_path).loads(one_vm(), 3600.0)
    assert any(f"measured by {found.source} over" in note for note in notes(found))
    assert any("measured over" in note for note in notes(replace(found, source="libvirt")))
    assert "h9 is missing" in notes(replace(found, told=("h9 is missing",)))


@pytest.mark.parametrize("url", ["ftp://x", "http://ana:secret@prom:9090", "prom:9090", "file:///etc/passwd"])
def test_only_http_without_passwords(tmp_path: Path, url: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(f'[load]\nprometheus = "{url}"\n')
    with pytest.raises(UsageError, match=r"load\.prometheus"):
        load_settings(path)


def test_the_page_names_every_setting() -> None:
    page = Path(__file__).parents[1].joinpath("docs/settings.md").read_text()
    for name in MetricsSettings.model_fields:
        assert f"`{name}`" in page, name
        default = MetricsSettings.model_fields[name].default
        assert f"`{default}`".replace("|", "\\|") in page or default in ("", 20.0), name
