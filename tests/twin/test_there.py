"""The same commands, done here and by a daemon, say the same and end the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from mudanza.journal.audit import Audit
from mudanza.journal.jobs import NewJob
from mudanza.journal.load import LoadKeeper
from mudanza.journal.tokens import Tokens
from mudanza.model.access import Scope
from mudanza.model.errors import UsageError
from mudanza.remote import reach
from mudanza.remote.reach import Server, client_of
from mudanza.service.api import api_of
from tests.program import Done, Program
from tests.test_load import kept
from tests.twin.asking import InProcess, answered_in, asking, desk_over
from tests.twin.scene import Scene

Both = Callable[..., tuple[Done, Done]]


@pytest.fixture
def both(the: Scene, mudanza: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Both]:
    """Have a command done here, and then by a daemon."""
    mudanza.config.write_text(f'database = "{the.database}"\n')
    app = api_of(desk_over(the, tmp_path))
    client = httpx.Client(transport=InProcess(app), base_url="http://d/api/v1")
    monkeypatch.setattr(reach, "client_of", lambda _: client)

    def run(*words: str) -> tuple[Done, Done]:
        return the.do(lambda: mudanza(*words)), mudanza("--server", "/run/d.sock", *words)

    with answered_in(the):
        yield run


@pytest.mark.parametrize(
    "words",
    [
        "hosts",
        "hosts -o json",
        "vms",
        "vms --host h2 -o yaml",
        "vms --host h9",
        "vms --tag gold",
        "show web",
        "show off -o json",
        "show nobody",
        "check web --to h2",
        "check web",
        "check web --to h1",
        "check db --to h2 -o json --mode cold",
        "start web",
        "start nobody",
        "shutdown off",
        "jobs",
        "job show 7",
        "host edit h9 --tag gold",
        "host edit h1",
        "host edit h1 --uri nonsense",
        "host edit h1 --tag gold --tls-name h1.example",
        "host remove h9",
        "host add h1 qemu+tls://h1/system",
        "token list",
        "token make ci --scope read --host h9",
        "token revoke ci",
        "runs",
        "runs -o json",
        "run show 7",
        "run pause 7",
        "audit --since 0.001s",
        "plan drain h1 --limit 1s",
        "plan place web -o json --explain web",
        "plan balance --explain nobody",
        "plan balance --what-if dies:h3 --exit-code",
        "plan evacuate h9",
        "run resume 7",
        "run cancel 7",
        "run approve 7",
        "run watch 7",
        "job close 7",
        "job close 7 --yes",
        "wish",
        "wish web -o json",
        "wish nobody --policy gentle",
        "wish web --policy gentel",
        "wish web --policy=",
        "export",
        "load",
        "load --window 1h",
    ],
)
def test_both_ways_say_the_same(both: Both, words: str) -> None:
    here, there = both(*words.split())
    assert there == here
    assert here.stdout or here.stderr


def test_what_is_done_there_is_done(the: Scene, both: Both, mudanza: Program) -> None:
    done = mudanza("--server", "/run/d.sock", "start", "off")
    assert (done.returncode, done.stderr) == (0, "off started on h2\n")
    assert "running" in the.do(lambda: mudanza("show", "off")).stdout
    done = mudanza("--server", "/run/d.sock", "shutdown", "off", "web")
    assert (done.returncode, done.stderr) == (0, "off is off\nweb is off\n")


@pytest.mark.parametrize(
    ("words", "undo"),
    [
        ("host remove h3", "host add h3 qemu+tls://h3/system --migration-address h3"),
        ("host edit h3 --tag gold", "host edit h3 --tag="),
    ],
)
def test_what_is_changed_is_changed_both_ways(both: Both, the: Scene, mudanza: Program, words: str, undo: str) -> None:
    before = the.inventory.hosts()
    here = the.do(lambda: mudanza(*words.split()))
    changed = the.inventory.hosts()
    undone = mudanza("--server", "/run/d.sock", *undo.split())
    assert undone.returncode == 0
    assert the.inventory.hosts() == before != changed
    assert mudanza("--server", "/run/d.sock", *words.split()) == here
    assert the.inventory.hosts() == changed
    assert the.do(lambda: mudanza(*undo.split())) == undone


def test_loads_are_told_both_ways(the: Scene, both: Both) -> None:
    for _ in range(3):
        LoadKeeper(the.engine).keep([kept(1.0)])
    for words in ("load", "load -o json", "load --window 2h -o yaml"):
        here, there = both(*words.split())
        assert here == there
        assert "h1" in here.stdout


def test_wishes_are_written_there(the: Scene, both: Both, mudanza: Program) -> None:
    server = ("--server", "/run/d.sock")
    done = mudanza(*server, "wish", "web", "off", "--policy", "gentle", "--deadline", "10m")
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == "web wishes now: policy gentle, deadline 10m"
    here, there = both("wish", "-o", "json")
    assert here == there
    assert [each["wishes"]["policy"] for each in json.loads(there.stdout) if each["wishes"]] == ["gentle"] * 2
    assert mudanza(*server, "wish", "web", "--deadline=").stderr == "web wishes now: policy gentle\n"
    assert mudanza(*server, "wish", "web", "--clear").stderr == "web has no wishes any more\n"
    the.do(lambda: mudanza("migrate", "off", "--to", "h3", "--detach"))
    assert mudanza(*server, "wish", "off", "web", "--policy", "now").returncode == 0, "it waits, and nobody has it yet"


def test_the_cluster_goes_out_and_in_there(the: Scene, both: Both, mudanza: Program, tmp_path: Path) -> None:
    server = ("--server", "/run/d.sock")
    file = tmp_path / "cluster.toml"
    file.write_text(mudanza(*server, "export").stdout)
    assert mudanza(*server, "import", str(file)).stderr == "nothing to change\n"
    mudanza(*server, "host", "remove", "h3")
    assert mudanza(*server, "import", str(file)).stderr == "hosts changed: h3\n"
    assert {entry.name for entry in the.inventory.hosts()} == {"h1", "h2", "h3"}
    file.write_text("[hosts.h4]")
    here, there = both("import", str(file))
    assert here == there
    assert (there.returncode, "hosts.h4.uri" in there.stderr) == (2, True)


def test_a_job_is_closed_there(the: Scene, both: Both, mudanza: Program) -> None:
    server = ("--server", "/run/d.sock")
    handle = the.do(lambda: the.jobs.begin(NewJob("live", "u", "gone", "h1", "h2", {}, "ana")))
    alive = mudanza(*server, "job", "close", "1", "--yes")
    assert (alive.returncode, "a controller that lives" in alive.stderr) == (3, True), alive.stderr
    the.do(lambda: handle.let_go("abandoned"))
    assert mudanza(*server, "job", "close", "1").returncode == 2, "nobody can be asked"
    done = mudanza(*server, "job", "close", "1", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("job 1 is closed by somebody@localhost, who has looked")
    assert the.jobs.get(1).state == "closed"
    assert mudanza(*server, "job", "close", "1").stderr.startswith("job 1 has ended already")


def test_a_job_about_a_replica_is_for_those_who_may_bring_vms_up(the: Scene, tmp_path: Path) -> None:
    the.jobs.put_down(NewJob("failover", "u1", "web", "h1", "h2", {}, "ana"))
    the.jobs.put_down(NewJob("move", "u2", "db", "h1", "h2", {}, "ana"))
    desk = desk_over(the, tmp_path)
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1") as client:
        for scope, may in ((Scope.MIGRATE, {2}), (Scope.FAILOVER, {1}), (Scope.READ, set())):
            headers = {"Authorization": f"Bearer {desk.tokens.make(scope.value, [scope], 'ana')}"}
            for verb, body in (("resume", None), ("close", {"looked": True}), ("cleanup", None)):
                answers = {n: client.post(f"/jobs/{n}/{verb}", json=body, headers=headers).status_code for n in (1, 2)}
                assert {n for n, status in answers.items() if status != 403} == may, (scope, verb, answers)


@pytest.mark.parametrize(
    ("method", "path", "order", "status"),
    [
        ("POST", "/jobs/1/close", {}, 422),
        ("POST", "/jobs/1/close", {"looked": False}, 422),
        ("POST", "/jobs/9/close", {"looked": True}, 404),
        ("PATCH", "/vms/web/wishes", {}, 422),
        ("PATCH", "/vms/web/wishes", {"wishes": {"policy": "gentel"}}, 400),
        ("PATCH", "/vms/web/wishes", {"wishes": {"command": "reboot"}}, 400),
        ("PATCH", "/vms/web/wishes", {"wishes": {"hooks": "a;b"}}, 400),
        ("PATCH", "/vms/web/wishes", {"wishes": {"policy": 7}}, 422),
        ("PATCH", "/vms/nobody/wishes", {"wishes": {"policy": "now"}}, 404),
        ("POST", "/cluster", {"text": "[hosts.h4]"}, 400),
        ("POST", "/cluster", {"text": "[hosts.h4]\nuri = 7"}, 400),
        ("POST", "/cluster", {"text": "x = ["}, 400),
        ("POST", "/cluster", {}, 422),
    ],
)
def test_a_wrong_order_changes_nothing(
    the: Scene, tmp_path: Path, method: str, path: str, order: object, status: int
) -> None:
    before = the.inventory.hosts()
    with asking(the, tmp_path) as client:
        answer = client.request(method, path, json=order)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert all(vm["wishes"] is None for vm in client.get("/vms").json()["vms"])
    assert the.inventory.hosts() == before


def test_tokens_are_made_and_taken_away_both_ways(both: Both, the: Scene, mudanza: Program) -> None:
    server = ("--server", "/run/d.sock")
    make = ("token", "make", "{}", "--scope", "migrate", "--host", "h1", "--expires", "90d")
    here = the.do(lambda: mudanza(*(word.format("one") for word in make)))
    there = mudanza(*server, *(word.format("two") for word in make))
    assert (here.returncode, here.stderr) == (there.returncode, there.stderr.replace("two", "one"))
    assert Tokens(the.engine).whose(there.stdout.strip()) is not None
    listed = both("token", "list", "-o", "json")
    assert listed[0] == listed[1]
    assert mudanza(*server, "token", "revoke", "two").returncode == 0
    assert Tokens(the.engine).whose(there.stdout.strip()) is None


def test_the_whole_audit_is_told_however_long(both: Both, the: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mudanza.remote.there.PAGE", 2)
    audit = Audit(the.engine)
    for n in range(5):
        audit.ended(audit.asked({"user": "root", "host": "c"}, ("start", f"vm{n}")), 0, "")
    here, there = both("audit", "-o", "json")
    assert here == there
    assert [each["command"][1] for each in json.loads(there.stdout)] == [f"vm{n}" for n in range(5)]


@pytest.mark.parametrize("words", ["doctor", "work", "rebuild"])
def test_what_cannot_be_done_there_is_said_so_and_not_done_here(both: Both, mudanza: Program, words: str) -> None:
    done = mudanza("--server", "/run/d.sock", *words.split())
    assert done.returncode == 2, done
    assert "through a daemon" in done.stderr


def test_a_daemon_that_is_not_there_is_said_so(mudanza: Program, tmp_path: Path) -> None:
    done = mudanza("--server", str(tmp_path / "nobody.sock"), "vms")
    assert done.returncode == 3
    assert "does not answer" in done.stderr
    assert mudanza("--server", "http://h1:80", "vms").returncode == 2


def test_a_token_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        client_of(Server("https://d:8443", file))
    file.chmod(0o600)
    assert client_of(Server("https://d:8443", file)).headers["authorization"] == "Bearer secret"
    assert client_of(Server("https://d:8443"), {"MUDANZA_TOKEN": "t"}).headers["authorization"] == "Bearer t"
    with pytest.raises(UsageError, match="cannot be read"):
        client_of(Server("https://d:8443", tmp_path / "none"))
