"""Telling others of what happens, by webhooks that are signed as https://www.standardwebhooks.com has it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mudanza import clock
from mudanza.journal.database import Database
from mudanza.journal.duty import Duties, DutyHandle
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.outbox import NOTIFY, Outbox
from mudanza.journal.standbys import Standby, Standbys
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.notice import Delivery, DeliveryState, Happening, Kind, Webhook
from mudanza.model.units import format_duration
from mudanza.service.picture import Picture

LOOK_EVERY = 2.0
"""Seconds between two looks whether somebody is to be told of something."""
FIRST_WAIT, MOST_WAIT, FACTOR = 10.0, 3600.0, 3.0
"""Seconds after the first try that was not taken, and at the most; how much longer each one is than the one before."""
MOST_TRIES = 12
"""After so many, some seven hours in all, a receiver is not told of that any more."""
_SECRET = "whsec_"  # noqa: S105 - what stands before one
_MOST_ANSWER = 200


def wait_after(tries: int) -> float | None:
    """Return for how many seconds a delivery rests that was tried so often; None: it is given up."""
    if tries >= MOST_TRIES:
        return None
    return min(FIRST_WAIT * FACTOR ** (tries - 1), MOST_WAIT)


@dataclass
class HostWatch:
    """Notices hosts that do not answer for longer than a moment."""

    patience: float
    """Seconds."""
    _silent_since: dict[str, float] = field(default_factory=dict)

    def notice(self, cluster: Cluster, told: Mapping[str, Kind], instant: float) -> list[tuple[Kind, str, str]]:
        """Return what is to be told of hosts: kind, host, sentence. ``told``: what was told last of whom."""
        found = []
        for host in cluster.hosts:
            name, is_told = host.name, told.get(host.name) is Kind.HOST_DOWN
            if host.seen:
                self._silent_since.pop(name, None)
                if is_told:
                    found.append((Kind.HOST_BACK, name, f"host {name} answers again"))
                continue
            since = self._silent_since.setdefault(name, instant)
            if not is_told and not host.entry.maintenance and instant - since >= self.patience:
                found.append((Kind.HOST_DOWN, name, f"host {name} does not answer: {host.error}"))
        return found


def standby_news(
    standbys: Iterable[Standby], told: Mapping[str, Kind]
) -> list[tuple[Kind, str, str, Mapping[str, Any]]]:
    """Return what is to be told of standbys: kind, name, sentence, figures. Pure. ``told``: what was told last of
    whom."""
    found: list[tuple[Kind, str, str, Mapping[str, Any]]] = []
    for each in standbys:
        is_told = told.get(each.name) is Kind.STANDBY_LATE
        if each.overdue == is_told or (is_told and each.late):
            continue
        about = {"standby": each.name, "age": each.lag, "every": each.every, "generation": each.generation}
        age = "there is none yet" if each.lag is None else f"the newest is {format_duration(each.lag)} old"
        if each.overdue:
            why = f": {each.said}" if each.said else "; nobody sends them: mudanza serve, or mudanza standby run"
            said = f"standby {each.name} has no copy of the journal that is new enough, {age}{why}"
            found.append((Kind.STANDBY_LATE, each.name, said, about))
        else:
            said = f"standby {each.name} has a copy of the journal again that is new enough, {age}"
            found.append((Kind.STANDBY_BACK, each.name, said, about))
    return found


def key_of(webhook: Webhook) -> bytes:
    """Return the key that a receiver knows: the file's text, or of one that begins with ``whsec_`` what its base64
    stands for. Raises UsageError."""
    remedy = f"see notify.webhooks.{webhook.name}.secret_file of the settings: openssl rand -base64 32 makes a secret"
    try:
        text = Path(webhook.secret_file).read_text().strip()
        key = base64.b64decode(text.removeprefix(_SECRET), validate=True) if text.startswith(_SECRET) else text.encode()
    except (OSError, UnicodeDecodeError, binascii.Error) as error:
        raise UsageError(f"the secret of the webhook {webhook.name} cannot be read: {error}", remedy=remedy) from error
    if not key:
        raise UsageError(f"the secret of the webhook {webhook.name} is empty", remedy=remedy)
    return key


def signed(key: bytes, number: str, instant: int, body: bytes) -> dict[str, str]:
    """Return the headers that say which message it is, when it was sent, and who has sent it."""
    digest = hmac.new(key, f"{number}.{instant}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": number, "webhook-timestamp": str(instant), "webhook-signature": signature}


def body_of(happening: Happening) -> bytes:
    """Return what a receiver is told."""
    data: dict[str, Any] = {"subject": happening.subject, "said": happening.said, **happening.about}
    told = {"type": happening.kind, "id": happening.id, "timestamp": happening.at, "data": data}
    return json.dumps(told, ensure_ascii=False).encode()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_named: Any) -> None:
        """Go nowhere else: what is signed is for one receiver."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def send(webhook: Webhook, what: Delivery) -> tuple[bool, str]:
    """Tell a receiver; return whether it has taken it, and its answer in words. Never raises for its sake."""
    body = body_of(what.happening)
    try:
        headers = signed(key_of(webhook), f"mudanza-{what.id}", int(clock.time()), body)
        headers |= {"Content-Type": "application/json", "User-Agent": "mudanza"}
        # The settings take http and https only.
        request = urllib.request.Request(webhook.url, body, headers, method="POST")  # noqa: S310
        with _OPENER.open(request, timeout=webhook.timeout) as answer:
            return True, f"{answer.status} {answer.reason}"
    except urllib.error.HTTPError as error:
        with error:
            return False, f"{error.code} {error.reason}"[:_MOST_ANSWER]
    except UsageError as error:
        return False, str(error)
    except (OSError, ValueError, urllib.error.URLError) as error:
        return False, str(getattr(error, "reason", error) or type(error).__name__)[:_MOST_ANSWER]
    except Exception as error:  # whatever a broken server makes http.client say
        return False, f"{type(error).__name__}: {error}"[:_MOST_ANSWER]


class Notifier:
    """Tells the receivers of the settings, as the one controller that does."""

    def __init__(
        self,
        database: Database,
        webhooks: Iterable[Webhook],
        newest: Callable[[], Picture | None],
        patience: float,
        say: Callable[[str], None],
    ) -> None:
        """``patience``: seconds that a host may be silent before that is told."""
        self._outbox = Outbox(database)
        self._standbys = Standbys(database)
        self._duties = Duties(database, NOTIFY)
        self._webhooks = tuple(webhooks)
        self._newest = newest
        self._hosts = HostWatch(patience)
        self._say = say

    def run(self, stop: clock.Event) -> None:
        """Do so until ``stop`` is set, whenever no other controller does."""
        handle: DutyHandle | None = None
        while not stop.is_set():
            try:
                handle = handle or self._duties.take()
                self.round(handle, stop)
            except (BlockedError, LeaseLostError, JournalLostError):
                handle = None  # another one does, or nobody knows: it is tried again
            stop.wait(LOOK_EVERY)
        if handle is not None:
            try:
                handle.let_go()
            except (LeaseLostError, JournalLostError):
                return

    def round(self, handle: DutyHandle, stop: clock.Event) -> None:
        """Look at the hosts, hand out what has happened, and tell whom it is time for. Raises LeaseLostError."""
        handle.keep()
        self._notice()
        self._outbox.hand_out(self._webhooks, handle)
        for webhook in self._webhooks:
            self._tell(webhook, handle, stop)

    def _notice(self) -> None:
        self._notice_standbys()
        picture = self._newest()
        if picture is None:
            return
        told = self._outbox.last_about((Kind.HOST_DOWN, Kind.HOST_BACK))
        for kind, host, said in self._hosts.notice(picture.cluster, told, clock.monotonic()):
            self._outbox.write_down(kind, host, said, {"host": host})

    def _notice_standbys(self) -> None:
        standbys = self._standbys.all()
        if not standbys or self._standbys.reign().replaced:
            return
        told = self._outbox.last_about((Kind.STANDBY_LATE, Kind.STANDBY_BACK))
        for kind, name, said, about in standby_news(standbys, told):
            self._outbox.write_down(kind, name, said, about)

    def _tell(self, webhook: Webhook, handle: DutyHandle, stop: clock.Event) -> None:
        """Tell one receiver all that is due, until it does not take something: what is behind that waits with it."""
        for delivery in self._outbox.due(webhook.name):
            if stop.is_set():
                return
            handle.keep()
            taken, answer = send(webhook, delivery)
            if taken:
                self._outbox.ended(delivery.id, DeliveryState.DELIVERED, answer, handle)
                continue
            wait = wait_after(delivery.tries + 1)
            if wait is None:
                self._outbox.ended(delivery.id, DeliveryState.DEAD, answer, handle)
                self._say(f"! the webhook {webhook.name} was not told of {delivery.happening.said!r}: {answer}")
                continue
            self._outbox.put_off(delivery.id, wait, answer, handle)
            return
