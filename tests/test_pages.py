"""The dashboard: who sees what, in which language; every page is sound, and no order comes from elsewhere."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from lxml import etree, html

from mudanza.journal.errors import JournalLostError
from mudanza.journal.jobs import NewJob
from mudanza.journal.sessions import LASTS, Sessions
from mudanza.model.access import Scope
from mudanza.model.carrying import MoveState, RunState
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.model.finding import Finding, Level
from mudanza.model.migration import Facts, Progress
from mudanza.model.plan import Goal, MoveMode, Plan
from mudanza.model.protection import Protection, Standing
from mudanza.model.vm import VmState
from mudanza.operations.checking import Check, Judged
from mudanza.operations.foreseeing import Outlook
from mudanza.service import pages, server
from mudanza.service.access import MOST_FAILURES
from mudanza.service.api import api_of
from mudanza.service.desk import Desk
from mudanza.service.pages import live
from mudanza.service.pages.dashboard import with_pages
from mudanza.service.pages.hands import Screen
from mudanza.service.pages.plans import GOALS
from mudanza.service.pages.session import COOKIE
from mudanza.service.pages.spanish import SPANISH, STATES, TEXTS
from mudanza.service.pages.words import language_of
from mudanza.service.picture import Picture
from tests import factories as make
from tests.test_service import MARKUP, asking, desk

__all__ = ["desk"]
SITE = "https://mudanza.example"
OURS = {"origin": SITE}
PAGES = Path(pages.__file__).parent


@dataclass
class Hands:
    """Notes what it is to do."""

    done: list[Any] = field(default_factory=list)
    error: MudanzaError | None = None
    samples: Sequence[Progress] = ()
    screen: Any = None
    protected: Sequence[Protection] = ()
    planned: Plan = field(default_factory=lambda: Plan(Goal.BALANCE, "nothing is worth doing"))

    def _do(self, *what: Any) -> None:
        if self.error is not None:
            raise self.error
        self.done.append(what)

    def add_host(self, name: str, uri: str, *, force: bool) -> None:
        self._do("add", name, uri, force)

    def start(self, uuid: str) -> None:
        self._do("start", uuid)

    def shut_down(self, uuid: str) -> None:
        self._do("shut down", uuid)

    def console(self, uuid: str, host: str) -> Screen:
        self._do("console", uuid, host)
        return self.screen  # type: ignore[no-any-return]

    def display(self, uuid: str, host: str) -> Screen:
        self._do("display", uuid, host)
        return self.screen  # type: ignore[no-any-return]

    def ways(self, uuid: str) -> tuple[Check, Outlook]:
        self._do("ways", uuid)
        against = Finding(Level.BLOCKER, "pool-missing", "disk vda", f"no pool {MARKUP}", "make one")
        judged = (Judged("h2", True, (), (), Facts()), Judged("h3", False, (against,), (), Facts()))
        return Check("web", uuid, "h1", judged), Outlook("web", uuid, "h1", (), ())

    def plan(self, goal: Goal, subject: str) -> Plan:
        self._do("plan", goal, subject)
        return self.planned

    def apply(self, plan: Plan, left_out: Collection[str], asked_by: str) -> int:
        self._do("apply", plan, set(left_out), asked_by)
        return 7

    def approve(self, number: int, asked_by: str) -> None:
        self._do("approve", number, asked_by)

    def protections(self) -> Sequence[Protection]:
        return self.protected

    def sync(self, uuid: str, asked_by: str, on: str, *, verify: bool) -> None:
        self._do("verify" if verify else "sync", uuid, asked_by, on)

    def pause(self, uuid: str, asked_by: str, on: str, *, paused: bool) -> None:
        self._do("pause" if paused else "resume", uuid, asked_by, on)

    def fail_over(self, uuid: str, asked_by: str, on: str, *, planned: bool) -> None:
        self._do("failover", uuid, asked_by, on, planned)

    def shares(self) -> Mapping[int, float]:
        return {1: 0.42}

    def course(self, number: int) -> Sequence[Progress]:
        return self.samples


@pytest.fixture
def hands() -> Hands:
    return Hands()


def site_of(desk: Desk, hands: Hands) -> TestClient:
    front = with_pages(api_of(desk), Sessions(desk.tokens._engine), hands)
    return TestClient(front, base_url=SITE, headers={"accept-language": "en"}, follow_redirects=False)


@pytest.fixture
def stranger(desk: Desk, hands: Hands) -> TestClient:
    return site_of(desk, hands)


def enter(client: TestClient, desk: Desk, *scopes: Scope, **limits: Any) -> TestClient:
    """Log in with a new token."""
    opens = desk.tokens.make(f"t{len(desk.tokens.all())}", scopes, "ana", **limits)
    answer = client.post("/login", data={"token": opens}, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return client


@pytest.fixture
def admin(stranger: TestClient, desk: Desk) -> TestClient:
    return enter(stranger, desk, Scope.ADMIN)


def sound(answer: httpx.Response, status: int = 200) -> Any:
    """Return a page's tree, once it is seen to be one that browsers need not guess at."""
    assert answer.status_code == status, answer.text
    assert answer.text.startswith("<!DOCTYPE html>")
    tree: Any = html.document_fromstring(answer.text, parser=etree.HTMLParser(recover=False, huge_tree=True))
    assert tree.get("lang") in ("en", "es")
    assert len(tree.xpath("//h1")) == 1
    assert tree.xpath("//title/text()")[0].strip(" ·")
    numbers = tree.xpath("//@id")
    assert len(numbers) == len(set(numbers))
    for wanted in tree.xpath("//input[not(@type='hidden')] | //select"):
        assert (
            wanted.get("aria-label")
            or wanted.xpath("ancestor::label")
            or wanted.get("id") in tree.xpath("//label/@for")
        )
    assert not tree.xpath("//@style | //script[not(@src)] | //@onclick | //style")
    assert "{" not in "".join(tree.itertext()), "a text is not filled"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    return tree


def words(tree: Any) -> str:
    return " ".join(" ".join(tree.itertext()).split())


# Who sees what.


@pytest.mark.parametrize(
    "path", ["/", "/vms", "/hosts/new", "/live/cluster", "/plans", "/protection", "/history", "/history.csv"]
)
def test_a_stranger_sees_the_log_in_page_only(stranger: TestClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login")
    seen = words(sound(stranger.get("/login")))
    assert "web" not in seen
    assert "h1" not in seen.split()


def test_one_logs_in_and_out(stranger: TestClient, desk: Desk) -> None:
    enter(stranger, desk, Scope.READ)
    assert "token t0" in words(sound(stranger.get("/")))
    cookie = stranger.cookies[COOKIE]
    assert stranger.post("/logout", headers=OURS).status_code == 303
    stranger.cookies.clear()
    again = stranger.get("/", headers={"cookie": f"{COOKIE}={cookie}"})
    assert again.status_code == 303, "what was kept from before opens nothing any more"


def test_the_cookie_is_for_browsers_at_this_host_by_tls_alone(stranger: TestClient, desk: Desk) -> None:
    opens = desk.tokens.make("ci", [Scope.READ], "ana")
    cookie = stranger.post("/login", data={"token": opens}, headers=OURS).headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    assert opens not in cookie


def test_a_session_ends_with_its_token(stranger: TestClient, desk: Desk) -> None:
    enter(stranger, desk, Scope.READ)
    desk.tokens.revoke("t0")
    assert stranger.get("/").status_code == 303


def test_a_session_ends_with_its_time(stranger: TestClient, desk: Desk) -> None:
    enter(stranger, desk, Scope.READ)
    assert stranger.get("/").status_code == 200
    with desk.tokens._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE session SET expires_at = expires_at - ?", (LASTS + 1,))
    assert stranger.get("/").status_code == 303


def test_bad_tokens_are_refused_and_many_have_to_wait(stranger: TestClient, desk: Desk) -> None:
    for _ in range(MOST_FAILURES):
        assert "not good" in words(sound(stranger.post("/login", data={"token": "x"}, headers=OURS), 401))
    good = desk.tokens.make("ci", [Scope.READ], "ana")
    answer = stranger.post("/login", data={"token": good}, headers=OURS)
    assert "Too many" in words(sound(answer, 429))
    assert COOKIE not in stranger.cookies


@pytest.mark.parametrize("where", ["//evil.example", "https://evil.example", "/\\evil.example", "evil"])
def test_nobody_is_sent_elsewhere_after_logging_in(stranger: TestClient, desk: Desk, where: str) -> None:
    opens = desk.tokens.make("ci", [Scope.READ], "ana")
    answer = stranger.post("/login", data={"token": opens, "next": where}, headers=OURS)
    assert answer.headers["location"] == "/"


def test_at_the_local_socket_one_need_not_log_in(desk: Desk, hands: Hands, tmp_path: Path) -> None:
    front = with_pages(api_of(desk), Sessions(desk.tokens._engine), hands)
    with asking(front, tmp_path / "local.sock") as client:
        assert "Cluster" in words(sound(client.get("/")))
        evil = client.get("/", headers={"host": "evil.example:8080"})
        assert evil.status_code == 403, "some site's name that leads to this machine is not this machine"
        assert client.get("/api/v1/health", headers={"host": "evil.example"}).status_code == 403
        assert client.get("/", headers={"host": "127.0.0.1:8080"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": SITE},
    ],
)
def test_no_order_comes_from_another_sites_page(admin: TestClient, hands: Hands, headers: dict[str, str]) -> None:
    order = {"name": "h4", "uri": "qemu:///system"}
    assert admin.post("/hosts/new", data=order, headers=headers).status_code == 403
    assert admin.post("/api/v1/jobs/1/cancel", headers=headers).status_code == 403
    assert hands.done == []
    assert admin.post("/hosts/new", data=order, headers=OURS).status_code == 303
    assert hands.done == [("add", "h4", "qemu:///system", False)]


def test_the_api_is_where_it_was(admin: TestClient) -> None:
    assert admin.get("/api/v1/nothing").headers["content-type"] == "application/problem+json"
    assert admin.delete("/api/v1/hosts").status_code == 405
    assert admin.get("/api/v1/hosts").status_code == 401, "a session is for pages"
    assert "Not Found" in words(sound(admin.get("/nothing"), 404))


# Cluster.


def test_the_cluster_is_drawn(admin: TestClient) -> None:
    tree = sound(admin.get("/"))
    seen = words(tree)
    assert "h3 was not seen: timed out" in seen
    labels = tree.xpath("//svg//a/@aria-label")
    assert {label.partition(",")[0] for label in labels} == {"web", "a", "b", MARKUP, "off"}
    assert tree.xpath("//a[@href='/hosts/new']")


def test_a_move_is_drawn_with_what_is_done_of_it(admin: TestClient, desk: Desk) -> None:
    opens = desk.tokens.make("mover", [Scope.MIGRATE], "ana")
    headers = {"authorization": f"Bearer {opens}"}
    assert admin.post("/api/v1/vms/web/moves", json={"to": "h2"}, headers=headers).status_code == 202
    tree = sound(admin.get("/"))
    assert [words(each) for each in tree.xpath("//g[@class='arrow']")] == ["web 42 %"]
    assert len(tree.xpath("//rect[@class='ghost']")) == 1


def test_a_vm_that_both_its_hosts_list_while_it_moves_is_drawn_on_its_way(desk: Desk, hands: Hands) -> None:
    both = [make.vm(), make.vm(host="h2", state=VmState.PAUSED)]
    picture = Picture(make.cluster([make.host("h1"), make.host("h2")], both), 1.0, 0.1)
    client = enter(site_of(replace(desk, newest=lambda: picture), hands), desk, Scope.ADMIN)
    desk.jobs.put_down(NewJob("move", make.UUID, "web", "h1", "h2", {}, "ana"))
    tree = sound(client.get("/"))
    assert [words(each) for each in tree.xpath("//g[@class='arrow']")] == ["web 42 %"]
    assert (len(tree.xpath("//rect[@class='ghost']")), len(tree.xpath("//svg//a"))) == (1, 1)
    assert "1 VMs" in words(tree)


def test_blocks_are_as_wide_as_memory(admin: TestClient, desk: Desk, hands: Hands) -> None:
    vms = [make.vm(name="big", memory=8 << 30), make.vm(name="small", uuid=make.OTHER_UUID, memory=4 << 30)]
    picture = Picture(make.cluster(vms=vms), 1.0, 0.1)
    client = enter(site_of(replace(desk, newest=lambda: picture), hands), desk, Scope.READ)
    tree = sound(client.get("/"))
    big, small = (
        float(tree.xpath(f"//svg//a[contains(@aria-label, '{name}')]//rect/@width")[0]) for name in ("big", "small")
    )
    assert (big + 2) / (small + 2) == pytest.approx(2, rel=0.01)


def test_a_token_for_some_hosts_shows_no_others(stranger: TestClient, desk: Desk) -> None:
    enter(stranger, desk, Scope.READ, hosts=["h2"])
    tree = sound(stranger.get("/"))
    assert tree.xpath("//text[@class='name']/text()") == ["h2"]
    assert "web" not in words(tree).split()
    assert not tree.xpath("//a[@href='/hosts/new']")
    assert stranger.get("/hosts/new").status_code == 403


def test_markup_in_names_is_text(admin: TestClient) -> None:
    for path in ("/", "/vms", "/vms?q=%3Cscript"):
        answer = admin.get(path)
        sound(answer)
        assert MARKUP not in answer.text
        assert "&lt;script&gt;" in answer.text


def test_vms_are_found_by_name_host_and_tag(admin: TestClient) -> None:
    def found(word: str) -> set[str]:
        return set(sound(admin.get("/vms", params={"q": word})).xpath("//tbody//a/text()"))

    assert found("WEB") == {"web"}
    assert found("gold") == {"a", MARKUP}
    assert found("h2") == {"b", MARKUP}
    assert found("nobody") == set()


def test_before_the_first_look_a_page_says_so(desk: Desk, hands: Hands) -> None:
    client = enter(site_of(replace(desk, newest=lambda: None), hands), desk, Scope.READ)
    assert "looked at yet" in words(sound(client.get("/"), 503))


def test_the_form_that_adds_a_host_is_empty_first(admin: TestClient) -> None:
    tree = sound(admin.get("/hosts/new"))
    assert tree.xpath("//input[@name='name']/@value") == [""]
    assert not tree.xpath("//input[@name='force']")


def test_a_host_that_cannot_be_added_is_told_with_what_was_given(admin: TestClient, hands: Hands) -> None:
    hands.error = UsageError("host h4 was not added", remedy="mend it")
    tree = sound(admin.post("/hosts/new", data={"name": "h4", "uri": "qemu+ssh://h4/system"}, headers=OURS), 409)
    assert "host h4 was not added" in words(tree)
    assert tree.xpath("//input[@name='uri']/@value") == ["qemu+ssh://h4/system"]
    assert tree.xpath("//input[@name='force']")


def test_adding_a_host_is_in_the_audit(admin: TestClient, desk: Desk) -> None:
    admin.post("/hosts/new", data={"name": "h4", "uri": "qemu:///system"}, headers=OURS)
    asked = desk.audit.since(None)[-1]
    assert (asked.command, asked.exit_code) == (("host add", "h4", "qemu:///system"), 0)
    assert asked.who["user"] == "token t0"


# What is drawn anew.


def test_a_part_is_sent_when_it_changes_and_the_page_loaded_anew_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY", 0.0)
    parts = ["one", "one", "two", "two", "two"]
    left = list(parts)

    async def sent() -> list[tuple[str | None, Any]]:
        return [(each.event, each.data) async for each in live.changes(lambda: left.pop(0), lambda: len(left) == 1)]

    assert asyncio.run(sent()) == [("drawn", "one"), ("drawn", "two"), ("anew", "")]
    assert left == []


@pytest.mark.parametrize("path", ["/live/jobs/1", "/live/cluster", "/api/v1/jobs/1/events"])
def test_what_is_followed_ends_with_the_daemon_and_cleanly(
    desk: Desk,
    hands: Hands,
    tmp_path: Path,
    path: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "END_LIMIT", 60)  # what ends by itself is not waited for so long
    monkeypatch.setattr(live, "LOOK_EVERY", 0.05)
    desk.jobs.put_down(NewJob("move", "u-1", "web", "h1", "h2", {"to": "h2"}, "ana"))
    place = tmp_path / "followed.sock"
    serving = server.LocalServer(with_pages(api_of(desk), Sessions(desk.tokens._engine), hands), place)
    serving.start()
    try:
        transport = httpx.HTTPTransport(uds=str(place))
        with (
            httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as client,
            client.stream("GET", path) as answer,
        ):
            lines = answer.iter_lines()
            assert next(lines).startswith(("event: ", "id: "))
            serving.stop()
            assert "data: " in "\n".join(lines)  # all of it: it was not cut off
    finally:
        serving.stop()
    assert [record.message for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


def test_nothing_is_drawn_while_its_mark_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY", 0.0)
    marks, drawn = [1, 1, 2, 2, 3], iter(["one", "two", "three"])
    left = list(marks)

    async def sent() -> list[Any]:
        found = live.changes(lambda: next(drawn), lambda: not left, lambda: left.pop(0))
        return [each.data async for each in found if each.event == "drawn"]

    assert asyncio.run(sent()) == ["one", "two", "three"]


def test_a_journal_that_does_not_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY", 0.0)
    tries = [1, 2, 3]

    def drawn() -> str:
        tries.pop()
        if tries:
            raise JournalLostError("the journal does not answer")
        return "there"

    async def first() -> Any:
        return await anext(live.changes(drawn, lambda: False))

    assert asyncio.run(first()).data == "there"


# Languages.


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("es", "es"),
        ("es-MX,es;q=0.9,en;q=0.8", "es"),
        ("en-GB,en;q=0.9,es;q=0.8", "en"),
        ("fr,es;q=0.5,en;q=0.4", "es"),
        ("fr", "en"),
        ("es;q=0,en;q=0.1", "en"),
        ("es;q=x", "en"),
    ],
)
def test_the_browser_says_which_language(accepted: str, language: str) -> None:
    assert language_of(accepted) == language


def test_pages_are_in_spanish_too(admin: TestClient) -> None:
    tree = sound(admin.get("/", headers={"accept-language": "es"}))
    assert tree.get("lang") == "es"
    seen = words(tree)
    assert "Clúster" in seen
    assert "no se ha visto" in seen
    assert "Add a host" not in seen


def texts_written() -> Iterator[str]:
    """Yield every text that a template or a page's code has translated, unless it is a variable."""
    for template in PAGES.glob("templates/*.html"):
        for quoted in re.findall(r'_\(("(?:[^"\\]|\\.)*")', template.read_text()):
            yield ast.literal_eval(quoted)


def test_every_text_has_its_spanish_and_no_spanish_is_left_over() -> None:
    written = set(texts_written())
    assert written
    assert written - set(TEXTS) - set(STATES) == set()
    assert set(TEXTS) - written == set()


def test_both_languages_are_filled_with_the_same() -> None:
    for text, spanish in SPANISH.items():
        assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", spanish)), text


def test_every_state_has_a_word() -> None:
    assert {state.value for state in (*VmState, *RunState, *MoveState, *MoveMode, *GOALS, *Standing)} <= set(STATES)
