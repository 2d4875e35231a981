"""Plans for recovery and VMs that are kept up, by a daemon: told as when it is done here, and for those who may."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza.journal.audit import Audit
from mudanza.journal.jobs import NewJob
from mudanza.journal.kept import KeptUps
from mudanza.journal.recovery_plans import RecoveryPlans
from mudanza.model.access import Scope
from mudanza.protection.recovery import KIND
from mudanza.service.api import api_of
from tests.program import Program
from tests.test_service import problem
from tests.twin.asking import InProcess, answered_in, asking, desk_over
from tests.twin.conftest import Ask
from tests.twin.scene import Scene
from tests.twin.test_protection_there import protected

PLAN = '[[group]]\nname = "all"\nvms = ["web"]\n'


@pytest.fixture
def client(the: Scene, tmp_path: Path) -> Iterator[httpx.Client]:
    with asking(the, tmp_path) as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "site.toml"
    path.write_text(PLAN)
    return str(path)


def test_a_plan_is_kept_shown_checked_and_forgotten_both_ways(
    the: Scene, asked: Ask, program: Program, file: str, tmp_path: Path
) -> None:
    protected(the)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[[group]")
    for words in (
        f"recovery import {wrong}",
        f"recovery check {file}",
        f"recovery check {file} --planned -o json",
        f"recovery import {file}",
        "recovery show site",
        "recovery show site -o json",
        "recovery check site",
        "failover plan check site --planned",
        "failover plan site --planned --source-is-dead",
    ):
        here = the.do(partial(program, *words.split()))
        assert asked(*words.split()) == here, words
        assert here.stdout or here.stderr
    stopped = asked("failover", "plan", "site", "--source-is-dead")
    assert (stopped.returncode, "plan 'site' has come to a stop: VM 'web' is not dead" in stopped.stderr) == (5, True)
    assert "mudanza job resume" in stopped.stderr
    assert asked("recovery", "show", "-o", "name").stdout == "site\n"
    assert asked("recovery", "remove", "site").stderr == "plan site is forgotten\n"
    assert RecoveryPlans(the.engine).all() == ()


def test_a_vm_is_kept_up_there(the: Scene, asked: Ask, program: Program) -> None:
    done = asked("ha", "enable", "web", "--priority", "1")
    assert done.returncode == 0
    assert done == the.do(lambda: program("ha", "enable", "web", "--priority", "1"))
    [kept] = KeptUps(the.engine).all().values()
    assert (kept.name, kept.priority, kept.most) == ("web", 1, 3)
    assert asked("ha", "status").stdout.count("web") == 1
    assert asked("ha", "disable", "web").stderr == "web is started elsewhere no more when its host dies\n"
    assert KeptUps(the.engine).all() == {}


@pytest.mark.parametrize(
    ("scopes", "limits", "status"),
    [
        ((Scope.READ,), {}, 403),
        ((Scope.MIGRATE, Scope.PLAN, Scope.FENCE), {}, 403),
        ((Scope.FAILOVER,), {"hosts": ["h1", "h2", "h3"]}, 403),
    ],
)
def test_nothing_of_it_is_for_those_who_may_not(
    the: Scene, tmp_path: Path, scopes: tuple[Scope, ...], limits: dict[str, Any], status: int
) -> None:
    RecoveryPlans(the.engine).keep("site", PLAN, "ana")
    job = the.jobs.put_down(NewJob(KIND, "recovery plan site", "site", "", "", {"plan": PLAN}, "ana"))
    desk = desk_over(the, tmp_path)
    headers = {"Authorization": f"Bearer {desk.tokens.make('t', scopes, 'ana', **limits)}"}
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1", headers=headers) as client:
        for method, path, order in (
            ("PUT", "/recovery/plans/site", {"text": PLAN}),
            ("DELETE", "/recovery/plans/site", None),
            ("POST", "/recovery/checks", {"name": "site"}),
            ("POST", "/recovery/plans/site/runs", {"source_is_dead": True}),
            ("PUT", "/vms/web/availability", {}),
        ):
            assert client.request(method, path, json=order).status_code == status, path
        seen = [client.get(path).status_code for path in ("/recovery/plans", "/availability", f"/jobs/{job}")]
        assert seen == ([403, 403, 404] if limits else [200, 200, 200])
    assert the.do(lambda: Audit(the.engine).since(None)) == ()


@pytest.mark.parametrize(
    ("path", "order", "status"),
    [
        ("/recovery/plans/site/runs", {}, 400),
        ("/recovery/plans/site/runs", {"planned": True, "source_is_dead": True}, 400),
        ("/recovery/plans/site/runs", {"planned": 7}, 422),
        ("/recovery/plans/none/runs", {"planned": True}, 404),
        ("/recovery/checks", {"name": "none"}, 404),
        ("/recovery/checks", {"name": "x", "text": "[[group]"}, 400),
        ("/recovery/checks", {"name": "x", "text": "x" * 49 * 1024}, 422),
        ("/recovery/checks", {}, 422),
    ],
)
def test_a_wrong_order_begins_nothing(the: Scene, client: httpx.Client, path: str, order: Any, status: int) -> None:
    RecoveryPlans(the.engine).keep("site", PLAN, "ana")
    problem(client.post(path, json=order), status, {400: "usage", 404: "not-there", 422: "input"}[status])
    assert the.do(lambda: Audit(the.engine).since(None)) == ()
    assert the.jobs.latest(1) == ()
