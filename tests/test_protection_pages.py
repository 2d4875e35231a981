"""The pages of protected VMs: how old replicas are, and what it takes to have one brought up."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mudanza.model.access import Scope
from mudanza.model.errors import BlockedError
from mudanza.model.protection import Protection, ReplicaDisk, RestorePoint, Standing
from mudanza.operations.replicating import LATE
from mudanza.service.desk import Desk
from mudanza.service.pages import protection as pages
from mudanza.service.pages.strip import LEFT, WIDTH, strip
from tests import factories as make
from tests.test_pages import OURS, Hands, admin, desk, enter, hands, site_of, sound, stranger, words
from tests.test_service import MARKUP

__all__ = ["admin", "desk", "hands", "stranger"]

EVERY = 60.0
PATH = f"/protection/{make.UUID}"


def protected(*ages: float, **changes: Any) -> Protection:
    """The VM ``web`` with restore points of these ages, the oldest first."""
    points = tuple(
        RestorePoint(number, 1000.0 - age, {"vda": ReplicaDisk("vda.qcow2", 1 << 30)}, "<domain/>", 7 << 20)
        for number, age in enumerate(ages, start=1)
    )
    base = Protection(
        id=1, vm_uuid=make.UUID, vm_name="web", target="h2", directory="/replicas", every=EVERY, keep=5, scratch=1,
        standing=Standing.ON, epoch=0, autostart=False, checkpoint="", rounds=len(ages), made_by="ana", made_at=0.0,
        tried_at=None, said="", read_at=1000.0, points=points, seed={},
    )  # fmt: skip
    return replace(base, **changes)


# The strip.


def test_points_stand_where_they_are_in_time() -> None:
    drawn = strip(protected(150.0, 90.0, 30.0), LATE * EVERY)
    assert [dot.point.number for dot in drawn.dots] == [1, 2, 3]
    assert [dot.x for dot in drawn.dots] == sorted(dot.x for dot in drawn.dots)
    oldest, middle, newest = (dot.x for dot in drawn.dots)
    assert LEFT <= oldest < drawn.late < middle < drawn.due < newest <= LEFT + WIDTH


def test_a_point_that_is_too_old_stands_before_where_it_should_be() -> None:
    drawn = strip(protected(500.0), LATE * EVERY)
    assert drawn.dots[0].x < drawn.late
    assert drawn.span > 500.0


def test_without_a_point_there_is_a_strip_still() -> None:
    drawn = strip(protected(), LATE * EVERY)
    assert drawn.dots == ()
    assert drawn.span > LATE * EVERY


# What is shown.


def test_all_are_shown_with_what_is_lost_now(admin: TestClient, hands: Hands) -> None:
    hands.protected = [protected(70.0, 10.0), protected(500.0, vm_uuid=make.OTHER_UUID, vm_name=MARKUP, said="no room")]
    tree = sound(admin.get("/protection"))
    seen = words(tree)
    assert "web" in seen
    assert "h1 → h2" in seen
    assert "its host is not seen → h2" in seen
    assert "no room" in seen
    assert [each.text for each in tree.xpath("//section//span[contains(@class, 'state')]")] == ["on", "late"]
    assert len(tree.xpath("//circle")) == 3
    assert len(tree.xpath("//circle[@class='point bad']")) == 1


def test_the_strip_is_told_in_words_too(admin: TestClient, hands: Hands) -> None:
    hands.protected = [protected(10.0)]
    label = sound(admin.get("/protection")).xpath("//svg/@aria-label")[0]
    assert "web is 10" in label
    assert "older than 1" in label


def test_they_are_shown_in_spanish(admin: TestClient, hands: Hands) -> None:
    hands.protected = [protected(10.0)]
    for path in ("/protection", PATH):
        seen = words(sound(admin.get(path, headers={"accept-language": "es"})))
        assert "Protección" in seen
        assert "restore" not in seen


def test_where_nothing_is_protected_it_says_how(admin: TestClient) -> None:
    assert "mudanza protect" in words(sound(admin.get("/protection")))
    assert "no such" in words(sound(admin.get(PATH), 404))


def test_who_may_not_see_a_vm_sees_not_its_protection(stranger: TestClient, desk: Desk, hands: Hands) -> None:
    hands.protected = [protected(10.0)]
    enter(stranger, desk, Scope.ADMIN, hosts=["h1"])
    assert "web" not in words(sound(stranger.get("/protection"))).split()
    assert stranger.get(PATH).status_code == 404
    assert stranger.post(f"{PATH}/sync", headers=OURS).status_code == 404
    assert hands.done == []


# What is asked for.


def test_a_round_is_made_and_in_the_audit(admin: TestClient, desk: Desk, hands: Hands) -> None:
    hands.protected = [protected(10.0)]
    answer = admin.post(f"{PATH}/sync", headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PATH}?said=sync")
    assert hands.done == [("sync", make.UUID, "token t0", "h2")]
    asked = desk.audit.since(None)[-1]
    assert (asked.command, asked.exit_code) == (("protection sync", make.UUID), 0)


def buttons(tree: Any) -> list[str]:
    return [each.text for each in tree.xpath("//div[@class='top']//button")]


def test_it_is_compared_and_paused_and_goes_on(admin: TestClient, desk: Desk, hands: Hands) -> None:
    hands.protected = [protected(10.0)]
    assert buttons(sound(admin.get(PATH))) == ["Pause", "Compare with the source", "Bring it up to date now"]
    answer = admin.post(f"{PATH}/verify", headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PATH}?said=verify")
    assert "byte for byte" in words(sound(admin.get(f"{PATH}?said=verify")))
    assert admin.post(f"{PATH}/pause", headers=OURS).headers["location"] == PATH
    hands.protected = [protected(10.0, paused_by="ana")]
    tree = sound(admin.get(PATH))
    assert buttons(tree)[0] == "Go on by itself"
    assert "ana has paused it" in words(tree)
    assert admin.post(f"{PATH}/resume", headers=OURS).status_code == 303
    assert [each[0] for each in hands.done] == ["verify", "pause", "resume"]
    assert [each.command for each in desk.audit.since(None)][-3:] == [
        ("protection verify", make.UUID),
        ("protection pause", make.UUID),
        ("protection resume", make.UUID),
    ]


def test_what_stands_against_it_is_told_and_in_the_audit(admin: TestClient, desk: Desk, hands: Hands) -> None:
    hands.protected, hands.error = [protected(10.0)], BlockedError("VM 'web' has an unfinished job", remedy="wait")
    assert "unfinished job" in words(sound(admin.post(f"{PATH}/sync", headers=OURS), 409))
    assert desk.audit.since(None)[-1].exit_code == BlockedError.exit_code


def test_what_takes_long_goes_on_by_itself(
    admin: TestClient, desk: Desk, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "AT_ONCE", 0.0)
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def sync(_uuid: str, _asked_by: str, _on: str, *, verify: bool) -> None:
        assert not verify
        begun.set()
        go_on.wait(60)
        over.set()

    monkeypatch.setattr(hands, "sync", sync)
    hands.protected = [protected(10.0)]
    assert admin.post(f"{PATH}/sync", headers=OURS).status_code == 303
    assert begun.wait(60)
    assert desk.audit.since(None)[-1].exit_code is None
    go_on.set()
    assert over.wait(60)


@pytest.mark.parametrize(
    ("fields", "status", "done"),
    [
        ({"name": "web", "planned": "yes"}, 303, [("failover", make.UUID, "token t0", "h2", True)]),
        ({"name": "web", "word": "dead"}, 303, [("failover", make.UUID, "token t0", "h2", False)]),
        ({"name": "web", "word": " MUERTO "}, 303, [("failover", make.UUID, "token t0", "h2", False)]),
        ({"name": "web"}, 400, []),
        ({"name": "web", "word": "alive"}, 400, []),
        ({"name": "mail", "word": "dead"}, 400, []),
        ({"name": "", "planned": "yes"}, 400, []),
        ({}, 400, []),
    ],
)
def test_a_failover_takes_the_vms_name_and_the_word_that_its_host_is_dead(
    admin: TestClient, hands: Hands, fields: dict[str, str], status: int, done: list[Any]
) -> None:
    hands.protected = [protected(10.0)]
    assert admin.post(f"{PATH}/failover", data=fields, headers=OURS).status_code == status
    assert hands.done == done


@pytest.mark.parametrize(
    ("scope", "shown", "sync", "failover"),
    [
        (Scope.READ, set(), 403, 403),
        (Scope.MIGRATE, {"sync", "verify"}, 303, 403),
        (Scope.FAILOVER, {"failover", "pause"}, 403, 303),
        (Scope.ADMIN, {"sync", "verify", "failover", "pause"}, 303, 303),
    ],
)
def test_each_takes_its_own_scope(
    desk: Desk, hands: Hands, scope: Scope, shown: set[str], sync: int, failover: int
) -> None:
    hands.protected = [protected(10.0)]
    client = enter(site_of(desk, hands), desk, scope)
    forms = sound(client.get(PATH)).xpath("//main//form/@action")
    assert {action.rpartition("/")[2] for action in forms} == shown
    assert [client.post(f"{PATH}/{each}", headers=OURS).status_code for each in ("sync", "verify")] == [sync] * 2
    assert [client.post(f"{PATH}/{each}", headers=OURS).status_code for each in ("pause", "resume")] == [failover] * 2
    answer = client.post(f"{PATH}/failover", data={"name": "web", "word": "dead"}, headers=OURS)
    assert answer.status_code == failover


def test_no_other_site_orders_a_failover(admin: TestClient, hands: Hands) -> None:
    hands.protected = [protected(10.0)]
    evil = {"origin": "https://evil.example"}
    fields = {"name": "web", "word": "dead"}
    assert admin.post(f"{PATH}/failover", data=fields, headers=evil).status_code == 403
    assert hands.done == []


def test_what_was_failed_over_cannot_be_again(admin: TestClient, hands: Hands) -> None:
    hands.protected = [protected(10.0, standing=Standing.FAILED_OVER)]
    assert sound(admin.get(PATH)).xpath("//main//form") == []


def test_of_several_replicas_each_has_a_page_of_its_own(admin: TestClient, hands: Hands) -> None:
    stale = replace(protected(10.0, epoch=1), id=2, target="h3")
    hands.protected = [protected(10.0, epoch=0), stale]
    tree = sound(admin.get("/protection"))
    assert [each.text for each in tree.xpath("//section//span[contains(@class, 'state')]")] == ["on", "stale"]
    assert tree.xpath("//section//h2/a/@href") == [f"{PATH}?on=h2", f"{PATH}?on=h3"]
    shown = sound(admin.get(f"{PATH}?on=h3"))
    assert f"{PATH}/sync?on=h3" in shown.xpath("//main//form/@action")
    answer = admin.post(f"{PATH}/sync?on=h3", headers=OURS)
    assert answer.headers["location"] == f"{PATH}?on=h3&said=sync"
    fields = {"name": "web", "planned": "yes"}
    assert admin.post(f"{PATH}/failover?on=h3", data=fields, headers=OURS).status_code == 303
    assert hands.done == [("sync", make.UUID, "token t0", "h3"), ("failover", make.UUID, "token t0", "h3", True)]
    assert admin.post(f"{PATH}/sync?on=h9", headers=OURS).status_code == 404
