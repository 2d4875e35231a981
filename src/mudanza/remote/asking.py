"""Asking a daemon: once where it is to be done once, patiently where one is started anew, and reading its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import uuid4

import httpx
from pydantic import TypeAdapter, ValidationError

from mudanza import clock
from mudanza.model.errors import BlockedError, MudanzaError, NeedsPersonError
from mudanza.model.plain import plain
from mudanza.model.telling import error_from_data

if TYPE_CHECKING:
    from mudanza.model.carrying import RunPolicy

Kind = TypeVar("Kind")
Say = Callable[[str], None]

TRIES = 3
"""How often something is asked for that is done once."""
TRY_AGAIN = 1.0
"""Seconds between two of these."""
SILENCE = 60.0
"""Seconds for which a daemon may be silent whose work somebody follows: one that is started anew takes its time."""
PACE = ("on_failure", "out", "into", "total", "not_before", "windows")
"""Fields of ``RunPolicy`` that may be asked for."""
JOBS = "mudanza jobs"
AGAIN = "asked for again, it goes on from where it is"
"""Where what a daemon does is seen, and how it is gone on with, where nothing else is said."""
LOOK_EVERY = 0.5
"""Seconds between two looks at an order that the daemon carries out."""


class DaemonLostError(MudanzaError):
    """The daemon does not answer, or not as one does: nothing is known of what was asked last."""

    exit_code = 3


class Listener(Protocol):
    """Hears for programs what goes on while an order is followed."""

    def tell(self, event: Mapping[str, Any]) -> None:
        """Something has happened."""

    def look(self) -> None:
        """Time has passed: look at whatever else goes on."""


class Deaf:
    """Hears nothing."""

    def tell(self, event: Mapping[str, Any]) -> None:
        """Do nothing."""

    def look(self) -> None:
        """Do nothing."""


class Followed:
    """An order that a daemon carries out, as far as it was heard of."""

    def __init__(self, see: str, go_on: str, listener: Listener) -> None:
        """``see``: the command that shows what becomes of it; ``go_on``: how it is gone on with."""
        self.see = see
        self.go_on = go_on
        self.told: Any = {}
        self.heard = 0
        self.to_be_stopped = False
        self.to_be_stopped_again = False
        """Whether somebody wanted it stopped, and whoever carries it out by now has not heard of that."""
        self._listener = listener
        self._carrier = ""

    def take(self, told: Any, say: Say) -> bool:
        """Hear how it stands, and tell what was said; return whether it is to be asked once more at once, for another
        daemon carries it out by now, and tells of it anew. Raises the problem that came in its place."""
        carrier = told.get("carrier", "")
        if carrier and self._carrier and carrier != self._carrier:
            self._carrier, self.heard = carrier, 0
            self.to_be_stopped_again |= self.to_be_stopped
            self.to_be_stopped = False
            return True
        self._carrier = carrier or self._carrier
        for each in told.get("said", ()):
            say(str(each))
        for event in told.get("events", ()):
            self._listener.tell(event)
        if "state" not in told:  # the problem itself
            raise _without_words(told)
        self.told, self.heard = told, max(told["heard"], self.heard)
        self._listener.look()
        return False

    @property
    def number(self) -> int:
        """Its number."""
        return int(self.told["number"])

    @property
    def state(self) -> str:
        """How it stands."""
        return str(self.told["state"])

    @property
    def command(self) -> str:
        """What was asked for."""
        return " ".join(self.told["command"])

    @property
    def may_be_stopped(self) -> bool:
        """Whether it stops halfway where somebody wants that, and nobody has said so yet."""
        return bool(self.told.get("may_stop")) and not self.to_be_stopped and self.state == "running"


class Asking:
    """Asks a daemon."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def _said(self, method: str, path: str, **what: Any) -> str:
        return "\n".join(self._ask(method, path, **what)["said"])

    def _ask_once(self, method: str, path: str, key: str, **what: Any) -> Any:
        """Ask for what is to be done once; asked again where no answer came, for the first order may be lost."""
        for _ in range(TRIES - 1):
            with suppress(DaemonLostError):
                return self._ask(method, path, headers={"Idempotency-Key": key}, **what)
            clock.sleep(TRY_AGAIN)
        return self._ask(method, path, headers={"Idempotency-Key": key}, **what)

    def _order(
        self,
        path: str,
        say: Say,
        body: Any = None,
        see: str = JOBS,
        go_on: str = AGAIN,
        listener: Listener | None = None,
    ) -> Any:
        """Have the daemon carry out what takes its time, and return what came of it; ``say`` is told what it says.

        Ctrl-C: one that can stop halfway is told to, and followed until it has; else, and once more, it goes on without
        us. ``see``, ``go_on``: what shows what becomes of it, and how it is gone on with if the daemon dies;
        ``listener``: hears for programs.
        Raises what that has raised; NeedsPersonError where the daemon is gone over it.
        """
        followed = Followed(see, go_on, listener or Deaf())
        followed.take(
            self._problem_too("POST", path, TRIES * TRY_AGAIN, json=body, headers={"Idempotency-Key": new_key()}), say
        )
        while True:
            try:
                return self._followed(followed, say)
            except KeyboardInterrupt:
                if followed.may_be_stopped and self._stopped(followed):
                    say("beginning nothing more; ending when what is under way has ended (once more: it goes on)")
                    continue
                say(f"the daemon goes on with it; see what comes of it: {followed.see}")
                raise

    def _stopped(self, followed: Followed) -> bool:
        """Have an order stop; return whether it will."""
        followed.to_be_stopped = True
        try:
            self._ask("POST", f"/orders/{followed.number}/stop")
        except BlockedError:  # it has just ended, or is about to
            return True
        except MudanzaError:
            return False
        return True

    def _followed(self, followed: Followed, say: Say) -> Any:
        """Look at an order until it has ended; return what came of it."""
        until = clock.monotonic() + SILENCE
        while followed.state != "ended":
            if followed.state == "running":
                until = clock.monotonic() + SILENCE
            elif clock.monotonic() >= until:
                raise NeedsPersonError(
                    f"the daemon that carried out order {followed.number} is gone: {followed.command}",
                    vm_state="nobody has looked since",
                    remedy=f"see what became of it: {followed.see}; {followed.go_on}",
                )
            clock.sleep(LOOK_EVERY)
            while followed.take(self._looked(followed), say):
                pass
            if followed.to_be_stopped_again and followed.may_be_stopped:
                followed.to_be_stopped_again = not self._stopped(followed)
        return _result(followed.told)

    def _looked(self, followed: Followed) -> Any:
        """Return how an order stands, with what is not heard of it yet."""
        heard = {"after": followed.heard}
        try:
            return self._problem_too("GET", f"/orders/{followed.number}", SILENCE, params=heard)
        except DaemonLostError as error:
            error.vm_state = f"nobody has looked since; what becomes of it: {followed.see}"
            error.remedy = f"{error.remedy}; {followed.go_on}"
            raise

    def _problem_too(self, method: str, path: str, patience: float, **what: Any) -> Any:
        """Return the answer, which may be a problem; while no daemon answers, ask again for ``patience`` seconds."""
        until = clock.monotonic() + patience
        while True:
            try:
                answer, body = self._answer(method, path, **what)
            except DaemonLostError:
                if clock.monotonic() >= until:
                    raise
            else:
                return body if isinstance(body, dict) else {"status": answer.status_code}
            clock.sleep(TRY_AGAIN)

    def _ask(self, method: str, path: str, **what: Any) -> Any:
        answer, body = self._answer(method, path, **what)
        if answer.is_success:
            return body
        raise _error(body if isinstance(body, dict) else {}, answer.status_code)

    def _answer(self, method: str, path: str, **what: Any) -> tuple[httpx.Response, Any]:
        try:
            answer = self._client.request(method, path, **what)
            return answer, answer.json()
        except httpx.TransportError as error:
            raise DaemonLostError(
                f"the daemon at {self._where} does not answer: {error}",
                remedy="see whether it runs: systemctl status mudanza; without --server commands work by themselves",
            ) from error
        except ValueError as error:
            raise DaemonLostError(f"what answers at {self._where} is no daemon of mudanza") from error

    @property
    def _where(self) -> str:
        return str(self._client.base_url.copy_with(path="/"))


def pace_of(policy: RunPolicy) -> dict[str, Any]:
    """Return how a plan is carried out, as a daemon is told."""
    return {name: plain(getattr(policy, name)) for name in PACE}


def new_key() -> str:
    """Return a word under which something is asked for once."""
    return str(uuid4())


def read(kind: type[Kind], body: Any) -> Kind:
    """Return what a daemon tells of as what it is. Raises DaemonLostError where it is not that."""
    try:
        return TypeAdapter(kind).validate_python(body)
    except ValidationError as error:
        raise DaemonLostError(
            f"the daemon answers in words that are not known here: {error.errors()[0]['msg']}",
            remedy="use the same version of mudanza on both sides",
        ) from error


def _error(body: dict[str, Any], status: int) -> MudanzaError:
    """Return the error that a problem tells of, as the operation has raised it there."""
    message = str(body.get("detail") or body.get("title") or f"the daemon answers with {status}")
    error = error_from_data({**body, "message": message})
    if isinstance(error, BlockedError):
        error.said = tuple(map(str, body.get("said", ())))
    return error


def _result(order: Any) -> Any:
    """Return what came of an order that has ended. Raises what it has raised."""
    if order["problem"] is not None:
        raise _without_words(order["problem"])
    if order["result"] is None:
        raise DaemonLostError(
            f"order {order['number']} went well, and the daemon that could tell more is gone",
            remedy="see what came of it: mudanza jobs",
        )
    return order["result"]


def _without_words(problem: Any) -> MudanzaError:
    """Return the error that a problem tells of, where what was said on the way is told already."""
    error = _error(problem, int(problem.get("status", 0)))
    if isinstance(error, BlockedError):
        error.said = ()
    return error
