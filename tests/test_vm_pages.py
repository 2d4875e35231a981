"""The pages of one VM and of one move: what they show, and what is asked for from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from mudanza.journal.handle import JobHandle
from mudanza.migration.progress import Trend
from mudanza.model.access import Scope
from mudanza.model.errors import BlockedError
from mudanza.model.migration import Progress
from mudanza.model.units import MIB
from mudanza.model.vm import VmState
from mudanza.service.desk import Desk
from mudanza.service.pages.plot import HEIGHT, WIDTH, plot
from mudanza.service.picture import Picture
from mudanza.service.watcher import MOST_SAMPLES, Course, share_of
from tests import factories as make
from tests.test_pages import OURS, Hands, admin, enter, hands, site_of, sound, stranger, words
from tests.test_service import MARKUP, desk

__all__ = ["admin", "desk", "hands", "stranger"]
WEB = f"/vms/{make.UUID}"
SAMPLES = [
    Progress("copying memory", 1.0, memory_total=100 * MIB, memory_remaining=100 * MIB, memory_rate=10.0 * MIB),
    Progress(
        "copying memory",
        2.0,
        memory_total=100 * MIB,
        memory_remaining=25 * MIB,
        memory_rate=20.0 * MIB,
        dirty_rate=5.0 * MIB,
        outlook="done in about 2.0 s",
    ),
]


def begun(client: TestClient, desk: Desk) -> JobHandle:
    """Ask for a move from the page, and begin it."""
    assert client.post(f"{WEB}/move", data={"to": "h2"}, headers=OURS).headers["location"] == "/jobs/1"
    handle = desk.jobs.claim([1])
    assert handle is not None
    return handle


@pytest.mark.parametrize("language", ["en", "es"])
def test_a_vm_is_shown(admin: TestClient, language: str) -> None:
    tree = sound(admin.get(WEB, headers={"accept-language": language}))
    seen = words(tree)
    assert "/var/lib/libvirt/images/web.qcow2" in seen
    assert tree.xpath("//select[@name='to']/option/@value") == ["", "h2", "h3"]
    assert tree.xpath("//option[@value='h3']/@disabled"), "it was not seen"


def test_what_runs_is_shut_down_and_what_is_off_is_started(hands: Hands, desk: Desk) -> None:
    cluster = make.cluster(vms=[make.vm(), make.vm(name="off", uuid=make.OTHER_UUID, state=VmState.SHUTOFF)])
    client = enter(site_of(replace(desk, newest=lambda: Picture(cluster, 1.0, 0.1)), hands), desk, Scope.MIGRATE)
    off = f"/vms/{make.OTHER_UUID}"
    assert sound(client.get(WEB)).xpath("//form/@action")[1:] == [f"{WEB}/shutdown", f"{WEB}/move"]
    assert sound(client.get(off)).xpath("//form/@action")[1:] == [f"{off}/start", f"{off}/move"]
    where = client.post(f"{WEB}/shutdown", headers=OURS).headers["location"]
    assert "asked to shut down" in words(sound(client.get(where)))
    assert client.post(f"{off}/start", headers=OURS).status_code == 303
    assert hands.done == [("shut down", make.UUID), ("start", make.OTHER_UUID)]
    commands = [asked.command for asked in desk.audit.since(None)]
    assert commands == [("shutdown", make.UUID), ("start", make.OTHER_UUID)]


def test_why_a_vm_was_not_started_is_told(admin: TestClient, hands: Hands) -> None:
    hands.error = BlockedError("VM 'web' was not started: h2 has it too", remedy="look where it is")
    seen = words(sound(admin.post(f"{WEB}/start", headers=OURS), 409))
    assert "h2 has it too" in seen
    assert "look where it is" in seen


def test_where_it_may_go_is_told_with_every_blocker(admin: TestClient) -> None:
    answer = admin.get(f"{WEB}/ways")
    tree = sound(answer)
    assert MARKUP not in answer.text
    assert [words(each) for each in tree.xpath("//li[@class='blocker']")] == [f"no pool {MARKUP} What to do: make one"]
    assert tree.xpath("//input[@name='to']/@value") == ["h2"], "one cannot ask for what is not possible"


def test_who_may_only_look_is_offered_nothing_else(stranger: TestClient, desk: Desk, hands: Hands) -> None:
    enter(stranger, desk, Scope.READ)
    assert not sound(stranger.get(WEB)).xpath("//main//form")
    for order in ("move", "start", "shutdown"):
        assert stranger.post(f"{WEB}/{order}", headers=OURS).status_code == 403
    assert stranger.get(f"{WEB}/ways").status_code == 403
    assert (hands.done, desk.jobs.unfinished()) == ([], ())


def test_a_vm_of_other_hosts_is_not_there(stranger: TestClient, desk: Desk) -> None:
    enter(stranger, desk, Scope.ADMIN, hosts=["h2"])
    assert stranger.get(WEB).status_code in (404, 409)
    assert stranger.post(f"{WEB}/shutdown", headers=OURS).status_code in (404, 409)


def test_a_move_is_asked_for_watched_and_cancelled(admin: TestClient, desk: Desk, hands: Hands) -> None:
    begun(admin, desk)
    hands.samples = SAMPLES
    tree = sound(admin.get("/jobs/1"))
    seen = words(tree)
    assert "75 %" in seen
    assert "25 MiB left" in seen
    assert "20 MiB/s sent" in seen
    assert "done in about 2.0 s" in seen
    assert tree.xpath("//@data-live") == ["/live/jobs/1"]
    assert tree.xpath("//path[@class='rate']/@d")
    assert sound(admin.get(WEB)).xpath("//a[@href='/jobs/1']")
    assert admin.post("/jobs/1/cancel", headers=OURS).headers["location"] == "/jobs/1"
    assert desk.jobs.get(1).cancel_asked_by == "token t0"
    assert not sound(admin.get("/jobs/1")).xpath("//form[contains(@action, 'cancel')]")


def test_a_move_that_has_ended_tells_what_it_came_to(admin: TestClient, desk: Desk) -> None:
    report = {
        "total_time": 12.5, "downtime": 0.14, "memory_bytes": 512 * MIB, "disk_bytes": 0, "tls": True,
        "blackout": None, "warnings": ["slow"], "forecast": {"total": 11.0},
    }  # fmt: skip
    begun(admin, desk).finish("done", "moved", 0, report)
    tree = sound(admin.get("/jobs/1", headers={"accept-language": "es"}))
    seen = words(tree)
    assert "12,5 s en total (previsto 11 s)" in seen or "12,5 s en total (previsto 11,0 s)" in seen
    assert "140 ms vCPU paradas" in seen
    assert not tree.xpath("//@data-live")
    assert sound(admin.get("/jobs/1")).xpath("//svg/@aria-label")[0].endswith("100 %")


def test_a_move_that_has_failed_is_not_drawn_as_done(admin: TestClient, desk: Desk) -> None:
    begun(admin, desk).finish("failed", "the way was cut", 4)
    tree = sound(admin.get("/jobs/1"))
    assert tree.xpath("//svg/@aria-label")[0].endswith(" 0 %")
    assert "the way was cut" in words(tree)


def test_a_move_that_nobody_could_make_starts_nothing(admin: TestClient, desk: Desk) -> None:
    assert admin.post(f"{WEB}/move", data={"mode": "beamed"}, headers=OURS).status_code == 400
    assert admin.post(f"{WEB}/move", data={"to": "h9"}, headers=OURS).status_code == 404
    for probe in ("shout:h2", "x" * 301, "tcp:10.0.0.7"):
        assert admin.post(f"{WEB}/move", data={"to": "h2", "probe": probe}, headers=OURS).status_code == 400
    assert desk.jobs.unfinished() == ()


def test_a_move_may_be_asked_to_see_how_long_nobody_answers(admin: TestClient, desk: Desk) -> None:
    assert sound(admin.get(WEB)).xpath("//input[@name='probe']")
    assert admin.post(f"{WEB}/move", data={"to": "h2", "probe": " ping:10.0.0.7 "}, headers=OURS).status_code == 303
    assert "ping:10.0.0.7" in str(desk.jobs.get(1).asked)


def test_a_plot_is_as_wide_as_time_and_as_high_as_the_most() -> None:
    assert plot(SAMPLES[:1]) is None
    found = plot(SAMPLES)
    assert found is not None
    assert found.rate == f"M0.0 {HEIGHT / 2:.1f} L{WIDTH:.1f} 0.0"
    assert found.dirty == f"M0.0 {HEIGHT:.1f} L{WIDTH:.1f} {HEIGHT * 0.75:.1f}"
    assert (found.most_rate, found.most_left) == (20.0 * MIB, 100.0 * MIB)


def test_the_course_of_a_long_move_is_kept_from_its_begin() -> None:
    course = Course()
    for number in range(3 * MOST_SAMPLES):
        course = course.after(Progress("copying memory", float(number)), Trend())
        assert len(course.samples) <= MOST_SAMPLES
    assert course.samples[0].elapsed == 0.0
    assert course.samples[-1].elapsed == 3 * MOST_SAMPLES - 1


def test_what_is_done_is_never_more_than_all() -> None:
    assert share_of(Progress("setting up", 0.0)) == 0.0
    assert share_of(Progress("x", 0.0, memory_total=10, memory_remaining=20)) == 0.0
    assert share_of(Progress("x", 0.0, memory_total=10, memory_remaining=4, disk_total=10)) == pytest.approx(0.8)
