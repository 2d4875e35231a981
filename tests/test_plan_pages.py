"""The pages of plans and of what was done: what was shown is what is applied, and names are text in every file."""

from __future__ import annotations

import csv
import io

import pytest
from fastapi.testclient import TestClient

from mudanza.model.access import Scope
from mudanza.model.carrying import RunPolicy, RunState, Wish
from mudanza.model.errors import BlockedError
from mudanza.model.plan import Goal, HostFigures, HostOutlook, MoveMode, Plan, PlannedMove
from mudanza.model.units import GIB
from mudanza.service.desk import Desk
from mudanza.service.pages.plans import MOST_KEPT, Proposals
from mudanza.service.pages.timeline import WIDTH, bars, timeline
from mudanza.service.problems import NotThereError
from tests import factories as make
from tests.test_pages import OURS, Hands, admin, enter, hands, site_of, sound, stranger, words
from tests.test_service import MARKUP, desk

__all__ = ["admin", "desk", "hands", "stranger"]


def move(number: int, uuid: str, start: float, finish: float, reason: str = "h1 is fuller") -> PlannedMove:
    way = ("h1", "h2", reason, MoveMode.LIVE, GIB)
    return PlannedMove(number, f"vm{number}", uuid, *way, seconds=finish - start, start=start, finish=finish)


PLAN = Plan(
    Goal.BALANCE,
    "2 moves even it out",
    moves=(move(1, make.UUID, 0.0, 10.0), move(2, make.OTHER_UUID, 5.0, 20.0, MARKUP)),
    outlooks=(HostOutlook("h1", 4.0, 8 * GIB, HostFigures(3, 2.0, 6 * GIB), HostFigures(1, 1.0, 2 * GIB)),),
)


def proposed(client: TestClient, hands: Hands) -> str:
    """Have the plan made from its page; return where it is shown."""
    hands.planned = PLAN
    where: str = client.post("/plans/new", data={"goal": "balance", "host": "h1"}, headers=OURS).headers["location"]
    assert hands.done.pop() == ("plan", Goal.BALANCE, "")
    return where


def test_a_plan_is_shown_with_reasons_and_pictures(admin: TestClient, hands: Hands) -> None:
    answer = admin.get(proposed(admin, hands))
    tree = sound(answer)
    assert MARKUP not in answer.text
    assert "h1 is fuller" in words(tree)
    assert len(tree.xpath("//input[@type='checkbox'][@checked]")) == 2
    assert len(tree.xpath("//svg")) == 2


def test_what_was_shown_is_what_is_applied(admin: TestClient, hands: Hands, desk: Desk) -> None:
    where = proposed(admin, hands)
    hands.planned = Plan(Goal.BALANCE, "another one")
    ticked = {f"vm-{make.UUID}": "yes"}
    assert admin.post(f"{where}/apply", data=ticked, headers=OURS).headers["location"] == "/plans/7"
    assert hands.done == [("apply", PLAN, {make.OTHER_UUID}, "token t0")]
    assert desk.audit.since(None)[-1].command == ("apply", PLAN.summary, make.OTHER_UUID)


def test_where_nothing_is_ticked_nothing_is_applied(admin: TestClient, hands: Hands) -> None:
    sound(admin.post(f"{proposed(admin, hands)}/apply", data={}, headers=OURS), 400)
    assert hands.done == []


def test_a_world_that_has_changed_is_told(admin: TestClient, hands: Hands) -> None:
    where = proposed(admin, hands)
    hands.error = BlockedError("the world is not as the plan found it")
    ticked = {f"vm-{make.UUID}": "yes"}
    assert "not as the plan found it" in words(sound(admin.post(f"{where}/apply", data=ticked, headers=OURS), 409))


def test_a_plan_is_his_who_had_it_made(admin: TestClient, hands: Hands, desk: Desk) -> None:
    where = proposed(admin, hands)
    admin.cookies.clear()
    sound(enter(admin, desk, Scope.ADMIN).get(where), 404)


def test_only_so_many_plans_are_remembered() -> None:
    kept = Proposals()
    keys = [kept.keep("ana", PLAN) for _ in range(MOST_KEPT + 1)]
    assert kept.find("ana", keys[-1]) is PLAN
    with pytest.raises(NotThereError):
        kept.find("ana", keys[0])


def test_a_drain_is_of_the_host_that_is_named(admin: TestClient, hands: Hands) -> None:
    admin.post("/plans/new", data={"goal": "drain", "host": "h2"}, headers=OURS)
    assert hands.done == [("plan", Goal.DRAIN, "h2")]
    sound(admin.post("/plans/new", data={"goal": "evacuate"}, headers=OURS), 400)


def test_who_may_not_plan_may_look(stranger: TestClient, desk: Desk, hands: Hands) -> None:
    enter(stranger, desk, Scope.READ)
    assert not sound(stranger.get("/plans")).xpath("//main//form")
    assert stranger.post("/plans/new", data={"goal": "balance"}, headers=OURS).status_code == 403
    assert hands.done == []


def test_a_plan_that_is_carried_out_is_followed_paused_and_cancelled(admin: TestClient, desk: Desk) -> None:
    number = desk.plans.begin(PLAN, RunPolicy(), "ana", kind="apply").id
    for language in ("en", "es"):
        tree = sound(admin.get(f"/plans/{number}", headers={"accept-language": language}))
        assert tree.xpath("//@data-live") == [f"/plans/{number}/live"]
    assert sound(admin.get("/plans")).xpath(f"//a[@href='/plans/{number}']")
    for order, wish in (("pause", Wish.PAUSE), ("resume", Wish.GO_ON), ("cancel", Wish.CANCEL)):
        assert admin.post(f"/plans/{number}/{order}", headers=OURS).headers["location"] == f"/plans/{number}"
        assert desk.plans.get(number).wish is wish


def test_the_cluster_shows_a_plan_that_is_open_before_and_after(
    admin: TestClient, stranger: TestClient, desk: Desk
) -> None:
    assert not sound(admin.get("/")).xpath("//section[@class='open-plan']")
    handle = desk.plans.begin(PLAN, RunPolicy(), "ana", kind="apply")
    tree = sound(admin.get("/"))
    [shown] = tree.xpath("//section[@class='open-plan']")
    assert "running · 0 of 2 moves are over · 2 moves even it out" in words(shown)
    assert shown.xpath(f".//a[@href='/plans/{handle.id}']")
    assert shown.xpath(".//text[@class='name']/text()") == ["h1"]
    assert "0 de 2 mudanzas han terminado" in words(sound(admin.get("/", headers={"accept-language": "es"})))
    handle.finish(RunState.DONE, "done", 0)
    assert not sound(admin.get("/")).xpath("//section[@class='open-plan']")
    desk.plans.begin(PLAN, RunPolicy(), "ana", kind="apply")
    admin.cookies.clear()
    limited = enter(admin, desk, Scope.READ, hosts=["h1"])
    assert not sound(limited.get("/")).xpath("//section[@class='open-plan']"), "plans are about all hosts"


def test_one_says_yes_to_a_plan_that_waits_for_it(admin: TestClient, desk: Desk, hands: Hands) -> None:
    duty = desk.balances.take()
    number = desk.plans.propose(PLAN, RunPolicy(), "balance", kind="balance", under=duty)
    tree = sound(admin.get(f"/plans/{number}", headers={"accept-language": "es"}))
    assert "Llevarlo a cabo" in words(tree)
    assert tree.xpath(f"//form[@action='/plans/{number}/approve']")
    assert admin.post(f"/plans/{number}/approve", headers=OURS).headers["location"] == f"/plans/{number}"
    assert hands.done == [("approve", number, "token t0")]
    assert desk.audit.since(None)[-1].command == ("approve plan", str(number))
    sound(admin.post(f"/plans/{number}/pause", headers=OURS), 409)
    sound(admin.post(f"/plans/{number + 1}/approve", headers=OURS), 404)
    admin.cookies.clear()
    reader = enter(admin, desk, Scope.READ)
    sound(reader.post(f"/plans/{number}/approve", headers=OURS), 403)
    assert not sound(reader.get(f"/plans/{number}")).xpath("//main//form")
    assert len(hands.done) == 1


def test_moves_lie_in_time_as_long_as_they_take() -> None:
    found = timeline(PLAN)
    assert found is not None
    assert [round(each.width / WIDTH, 3) for each in found.spans] == [0.5, 0.75]
    assert timeline(Plan(Goal.BALANCE, "nothing")) is None
    (bar,) = bars(PLAN.outlooks)
    assert (bar.before / WIDTH, bar.after / WIDTH) == (0.75, 0.25)


def asked(client: TestClient, count: int) -> None:
    for _ in range(count):
        assert client.post(f"/vms/{make.UUID}/move", data={"to": "h2"}, headers=OURS).status_code == 303


def test_what_was_done_is_found_and_taken_away(admin: TestClient, desk: Desk) -> None:
    asked(admin, 1)
    tree = sound(admin.get("/history", params={"q": "web"}))
    assert [words(each) for each in tree.xpath("//tbody/tr/td[2]")] == ["web"]
    assert not sound(admin.get("/history", params={"q": "other"})).xpath("//tbody/tr")
    (row,) = admin.get("/history.json").json()
    assert (row["vm_name"], row["source"], row["target"], row["state"]) == ("web", "h1", "h2", "queued")
    answer = admin.get("/history.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert next(csv.DictReader(io.StringIO(answer.text)))["vm_name"] == "web"


def test_a_name_is_no_formula_in_a_spreadsheet(desk: Desk, hands: Hands) -> None:
    from dataclasses import replace

    from mudanza.service.picture import Picture

    cluster = make.cluster(vms=[make.vm(name="=1+1")])
    client = enter(site_of(replace(desk, newest=lambda: Picture(cluster, 1.0, 0.1)), hands), desk, Scope.ADMIN)
    asked(client, 1)
    assert next(csv.DictReader(io.StringIO(client.get("/history.csv").text)))["vm_name"] == "'=1+1"


def test_history_shows_only_what_one_may_see(admin: TestClient, desk: Desk) -> None:
    asked(admin, 1)
    admin.cookies.clear()
    enter(admin, desk, Scope.READ, hosts=["h2"])
    assert admin.get("/history.json").json() == []
