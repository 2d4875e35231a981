"""Telling others of what happens: what is written down, who is told, how often, and what a receiver can check."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import Engine

from mudanza.journal.database import open_database
from mudanza.journal.duty import Duties
from mudanza.journal.errors import LeaseLostError
from mudanza.journal.handle import LEASE
from mudanza.journal.job import NEEDS_PERSON
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.journal.outbox import KEPT, NOTIFY, STALE, Outbox
from mudanza.journal.standbys import Standbys
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.notice import DeliveryState, Happening, Kind, Webhook
from mudanza.service.notifying import (
    MOST_TRIES,
    MOST_WAIT,
    HostWatch,
    Notifier,
    body_of,
    key_of,
    send,
    signed,
    wait_after,
)
from mudanza.service.picture import Picture
from tests import factories as make
from tests.program import Program
from tests.timekeeping import SetClock, set_clock


class Receiver:
    """A server that answers as it is told to, and keeps what it was sent."""

    def __init__(self, place: Path) -> None:
        self.status, self.got = 204, list[tuple[Message, bytes]]()
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                mine.got.append((self.headers, body))
                self.send_response(mine.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        secret = place / "secret"
        secret.write_text("a secret\n")
        url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.webhook = Webhook("chat", url, str(secret), frozenset(), 60.0)

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    found = Receiver(tmp_path)
    thread = Thread(target=found.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.fixture
def passing() -> Iterator[SetClock]:
    with set_clock() as clock:
        yield clock


@pytest.fixture
def engine(passing: SetClock, tmp_path: Path) -> Engine:
    return open_database(str(tmp_path / "mudanza.db"))


def seen(*silent: str) -> Cluster:
    return make.cluster([make.host(name, error="timed out" if name in silent else None) for name in ("h1", "h2")], [])


class House:
    """A daemon that tells others, whose hosts are as the test says."""

    def __init__(self, engine: Engine, *webhooks: Webhook) -> None:
        self.cluster, self.said = seen(), list[str]()
        self.notifier = Notifier(
            engine, webhooks, lambda: Picture(self.cluster, 0.0, 0.0), patience=60.0, say=self.said.append
        )
        self.handle = Duties(engine, NOTIFY).take()

    def round(self) -> None:
        self.notifier.round(self.handle, Event())


def begin(engine: Engine) -> JobHandle:
    return Jobs(engine).begin(NewJob("live", make.UUID, "web", "h1", "h2", {}, "ana"))


# What is written down.


def test_a_job_that_fails_is_told_of_and_one_that_goes_well_is_not(engine: Engine, receiver: Receiver) -> None:
    house = House(engine, receiver.webhook)
    begin(engine).finish("done", "moved", 0)
    begin(engine).finish("failed", "the way was cut: qemu://u:hunter2@h1/", 4)
    house.round()
    [told] = receiver.told()
    assert told["type"] == "migration.failed"
    data = told["data"]
    assert (data["vm"], data["job"], data["exit_code"], data["source"], data["target"]) == ("web", 2, 4, "h1", "h2")
    assert "the way was cut" in data["said"]
    assert "hunter2" not in data["said"]


def test_what_somebody_cancels_is_not_told_but_a_vm_that_is_down_is(engine: Engine, receiver: Receiver) -> None:
    house = House(engine, receiver.webhook)
    for exit_code in (4, 6):
        handle = begin(engine)
        Jobs(engine).ask_to_cancel(handle.id, "bo")
        handle.finish("failed", "cancelled", exit_code)
    house.round()
    assert [told["data"]["exit_code"] for told in receiver.told()] == [6]


def test_a_job_that_is_cleaned_up_is_not_told_of_again(engine: Engine, receiver: Receiver) -> None:
    house = House(engine, receiver.webhook)
    handle = begin(engine)
    handle.finish("failed", "no", 4)
    Jobs(engine).reopen(handle.id).finish("failed", "no", 4)
    house.round()
    assert len(receiver.got) == 1


def test_a_job_that_needs_a_person_is_told_of(engine: Engine, receiver: Receiver) -> None:
    house = House(engine, receiver.webhook)
    begin(engine).let_go(NEEDS_PERSON)
    house.round()
    assert [(told["type"], told["data"]["exit_code"]) for told in receiver.told()] == [("migration.needs-person", 5)]


def test_what_comes_to_nothing_in_the_journal_is_not_told(engine: Engine, receiver: Receiver) -> None:
    house = House(engine, receiver.webhook)
    handle = begin(engine)
    Jobs(engine).claim([handle.id])
    with pytest.raises(LeaseLostError):
        JobHandle(engine, handle.id, handle.epoch + 7, "another", 0.0).finish("failed", "no", 4)
    house.round()
    assert receiver.got == []


# Hosts.


def test_a_host_is_down_once_it_was_silent_for_long_and_back_when_it_answers(
    engine: Engine, receiver: Receiver, passing: SetClock
) -> None:
    house = House(engine, receiver.webhook)
    house.cluster = seen("h2")
    house.round()
    passing.pass_time(59.0)
    house.round()
    assert receiver.got == []
    passing.pass_time(1.0)
    for _ in range(3):
        house.round()
    assert [(told["type"], told["data"]["host"]) for told in receiver.told()] == [("host.down", "h2")]
    house.cluster = seen()
    for _ in range(3):
        house.round()
    assert [told["type"] for told in receiver.told()] == ["host.down", "host.back"]


def test_silence_that_ends_in_time_counts_from_the_beginning_again() -> None:
    watch = HostWatch(60.0)
    assert watch.notice(seen("h1"), {}, 0.0) == []
    assert watch.notice(seen(), {}, 50.0) == []
    assert watch.notice(seen("h1"), {}, 55.0) == []
    assert watch.notice(seen("h1"), {}, 114.0) == []
    assert [kind for kind, *_ in watch.notice(seen("h1"), {}, 115.0)] == [Kind.HOST_DOWN]


def test_another_daemon_tells_no_second_time_of_a_host_and_nobody_of_one_in_maintenance() -> None:
    watch = HostWatch(0.0)
    assert watch.notice(seen("h1"), {"h1": Kind.HOST_DOWN}, 0.0) == []
    resting = [
        replace(host, entry=replace(host.entry, maintenance=True)) if host.name == "h1" else host
        for host in seen("h1").hosts
    ]
    assert watch.notice(Cluster(tuple(resting), ()), {}, 100.0) == []


# Standbys.


def test_a_standby_is_late_once_its_copy_is_too_old_and_well_again_when_a_newer_one_is_there(
    engine: Engine, receiver: Receiver, passing: SetClock
) -> None:
    house, standbys = House(engine, receiver.webhook), Standbys(engine)
    standbys.put("h2", "/srv/standby", 60.0, "ana")
    house.round()
    passing.pass_time(119.0)
    house.round()
    assert receiver.got == [], "the first one has its time"
    passing.pass_time(2.0)
    standbys.failed("h2", "no route to host")
    for _ in range(3):
        house.round()
    [late] = receiver.told()
    assert (late["type"], late["data"]["standby"], late["data"]["age"]) == ("standby.late", "h2", None)
    assert "there is none yet: no route to host" in late["data"]["said"]
    standbys.sent("h2", 1, standbys.instant(), 4096)
    for _ in range(3):
        house.round()
    assert [told["type"] for told in receiver.told()] == ["standby.late", "standby.back"]
    passing.pass_time(121.0)
    house.round()
    assert receiver.told()[-1]["type"] == "standby.late"
    assert "the newest is 2 min 1 s old; nobody sends them" in receiver.told()[-1]["data"]["said"]


def test_one_who_was_replaced_tells_of_no_standby(engine: Engine, receiver: Receiver, passing: SetClock) -> None:
    house, standbys = House(engine, receiver.webhook), Standbys(engine)
    standbys.put("h2", "/srv/standby", 60.0, "ana")
    standbys.replaced("taken over at h2")
    passing.pass_time(600.0)
    house.round()
    assert receiver.got == []


# Deliveries.


def test_it_is_tried_again_ever_more_seldom_and_given_up_in_the_end(
    engine: Engine, receiver: Receiver, passing: SetClock
) -> None:
    house, outbox = House(engine, receiver.webhook), Outbox(engine)
    receiver.status = 503
    begin(engine).finish("failed", "no", 4)
    waits = []
    while (found := outbox.latest(1)) == () or found[0].state is DeliveryState.WAITING:
        house.handle = Duties(engine, NOTIFY).take() if found else house.handle
        house.round()
        tries = len(receiver.got)
        [now] = outbox.latest(1)
        house.round()
        assert len(receiver.got) == tries, "not before its time"
        assert now.answer.startswith("503")
        if now.state is DeliveryState.WAITING:
            waits.append(now.due_in)
            passing.pass_time(max(now.due_in, LEASE + 1))
    assert len(receiver.got) == MOST_TRIES
    assert waits[:3] == pytest.approx([10, 30, 90], abs=1e-3)
    assert max(waits) == pytest.approx(MOST_WAIT, abs=1e-3)
    assert [each.state for each in outbox.latest(9, DeliveryState.DEAD)] == [DeliveryState.DEAD]
    assert any("was not told" in words for words in house.said)
    receiver.status = 200
    outbox.again(found[0].id)
    house.round()
    assert outbox.latest(1)[0].state is DeliveryState.DELIVERED
    with pytest.raises(UsageError):
        outbox.again(found[0].id)


def test_a_receiver_is_told_in_order_and_another_one_does_not_wait_for_it(
    engine: Engine, receiver: Receiver, passing: SetClock, tmp_path: Path
) -> None:
    other = Receiver(tmp_path)
    thread = Thread(target=other.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    house = House(engine, receiver.webhook, replace(other.webhook, name="pager"))
    receiver.status = 500
    for said in ("first", "second"):
        begin(engine).finish("failed", said, 4)
    house.round()
    receiver.status = 200
    passing.pass_time(10.0)
    house.round()
    other.server.shutdown()
    thread.join()
    other.server.server_close()
    assert [told["data"]["said"] for told in receiver.told()] == ["first", "first", "second"]
    assert [told["data"]["said"] for told in other.told()] == ["first", "second"]


def test_each_is_told_what_it_wants_to_hear(engine: Engine, receiver: Receiver) -> None:
    house = House(engine, replace(receiver.webhook, events=frozenset({"host.down"})))
    begin(engine).finish("failed", "no", 4)
    house.round()
    assert receiver.got == []


def test_what_is_old_is_no_news_and_is_forgotten(engine: Engine, receiver: Receiver, passing: SetClock) -> None:
    begin(engine).finish("failed", "no", 4)
    passing.pass_time(STALE + 1)
    house, outbox = House(engine, receiver.webhook), Outbox(engine)
    house.round()
    assert receiver.got == []
    begin(engine).finish("failed", "no", 4)
    house.round()
    assert len(outbox.latest(9)) == len(receiver.got) == 1
    passing.pass_time(KEPT + 1)
    outbox.forget()
    assert outbox.latest(9) == ()


def test_one_daemon_tells_and_another_one_goes_on_when_it_is_gone(
    engine: Engine, receiver: Receiver, passing: SetClock
) -> None:
    first = House(engine, receiver.webhook)
    with pytest.raises(BlockedError, match="another controller"):
        House(engine, receiver.webhook)
    passing.pass_time(LEASE + 1)
    second = House(engine, receiver.webhook)
    begin(engine).finish("failed", "no", 4)
    with pytest.raises(LeaseLostError):
        first.round()
    assert receiver.got == []
    second.round()
    assert len(receiver.got) == 1


# What is sent.


def test_a_message_can_be_checked_by_who_has_the_secret(engine: Engine, receiver: Receiver) -> None:
    house = House(engine, receiver.webhook)
    begin(engine).finish("failed", "no", 4)
    house.round()
    [(headers, body)] = receiver.got
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    right = base64.b64encode(hmac.new(b"a secret", text, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{right}"
    assert headers["content-type"] == "application/json"


def test_the_signature_is_that_of_the_standard(tmp_path: Path) -> None:
    # The example of the specification's reference libraries.
    file = tmp_path / "secret"
    file.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    key = key_of(Webhook("x", "http://x", str(file), frozenset(), 1.0))
    found = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 410, 500])
def test_nothing_but_2xx_is_an_answer_and_no_redirect_is_followed(
    engine: Engine, receiver: Receiver, status: int
) -> None:
    receiver.status = status
    house = House(engine, receiver.webhook)
    begin(engine).finish("failed", "no", 4)
    house.round()
    assert len(receiver.got) == 1
    [found] = Outbox(engine).latest(1)
    assert (found.state, found.answer[:3]) == (DeliveryState.WAITING, str(status))


def test_a_receiver_that_is_not_there_and_a_secret_that_is_not_are_told_as_such(
    engine: Engine, receiver: Receiver, tmp_path: Path
) -> None:
    begin(engine).finish("failed", "no", 4)
    house = House(engine, receiver.webhook)
    house.round()
    [found] = Outbox(engine).latest(1)
    with socket.socket() as nobody:  # has an address, and does not listen at it
        nobody.bind(("127.0.0.1", 0))
        gone = replace(receiver.webhook, url=f"http://127.0.0.1:{nobody.getsockname()[1]}/hook")
        taken, why = send(gone, found)
    assert not taken
    assert "refused" in why
    taken, why = send(replace(receiver.webhook, secret_file=str(tmp_path / "none")), found)
    assert not taken
    assert "secret" in why
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match="empty"):
        key_of(replace(receiver.webhook, secret_file=str(tmp_path / "empty")))


def test_names_with_markup_arrive_as_they_are() -> None:
    happening = Happening(1, 2.0, "test", 'a;"\n<b>é', "said", {"n": 1})
    assert json.loads(body_of(happening))["data"] == {"subject": 'a;"\n<b>é', "said": "said", "n": 1}


def test_waits_grow_and_end() -> None:
    waits = [wait_after(tries) for tries in range(1, MOST_TRIES + 1)]
    assert waits[:3] == [10, 30, 90]
    assert waits[-1] is None
    assert None not in waits[:-1]


# Commands.


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(tmp_path, monkeypatch, capsys)


def test_somebody_can_try_a_webhook_see_what_was_given_up_and_have_it_tried_again(
    program: Program, receiver: Receiver
) -> None:
    none = program("notify", "test")
    assert (none.returncode, "no webhook" in none.stderr) == (2, True)
    hook = receiver.webhook
    told = f'[notify.webhooks.chat]\nurl = "{hook.url}"\nsecret_file = "{hook.secret_file}"\nevents = "host.down"\n'
    program.config.write_text(program.config.read_text() + told.replace('"host.down"', '["host.down"]'))
    assert program("notify", "test").returncode == 0
    assert receiver.told()[0]["type"] == "test"
    receiver.status = 404
    refused = program("notify", "test", "chat")
    assert refused.returncode == 3
    assert "404" in refused.stderr
    [dead] = json.loads(program("notify", "list", "--state", "dead", "-o", "json").stdout)
    assert (dead["webhook"], dead["tries"]) == ("chat", 1)
    assert program("notify", "retry", str(dead["id"])).returncode == 0
    assert program("notify", "retry", str(dead["id"])).returncode == 2
    assert "now" in program("notify", "list").stdout
    assert program("notify", "test", "nobody").returncode == 2


@pytest.mark.parametrize(
    "wrong", ['url = "http://a:b@x/"', 'url = "file:///etc/passwd"', 'events = ["nothing"]', 'secret_file = "x"']
)
def test_wrong_settings_are_refused(program: Program, wrong: str) -> None:
    right = {"url": 'url = "http://x/"', "secret_file": 'secret_file = "/x"', wrong.partition(" ")[0]: wrong}
    told = "\n".join(["[notify.webhooks.chat]", *right.values(), ""])
    program.config.write_text(program.config.read_text() + told)
    assert program("notify", "list").returncode == 2
