"""Asking a daemon: once where it is to be done once, patiently where one is started anew, and reading its answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

import httpx
from pydantic import TypeAdapter, ValidationError

from mudanza import clock
from mudanza.model.errors import BlockedError, MudanzaError, NeedsPersonError
from mudanza.model.telling import error_from_data

Kind = TypeVar("Kind")
Say = Callable[[str], None]

TRIES = 3
"""How often something is asked for that is done once."""
TRY_AGAIN = 1.0
"""Seconds between two of these."""
SILENCE = 60.0
"""Seconds for which a daemon may be silent whose work somebody follows: one that is started anew takes its time."""
LOOK_EVERY = 0.5
"""Seconds between two looks at an order that the daemon carries out."""


class DaemonLostError(MudanzaError):
    """The daemon does not answer, or not as one does: nothing is known of what was asked last."""

    exit_code = 3


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

    def _order(self, path: str, say: Say, body: Any = None) -> Any:
        """Have the daemon carry out what takes its time, and return what came of it; ``say`` is told what it says.

        Raises what that has raised; NeedsPersonError where the daemon is gone over it.
        """
        told = self._problem_too("POST", path, TRIES * TRY_AGAIN, json=body, headers={"Idempotency-Key": new_key()})
        try:
            return self._followed(told, say)
        except KeyboardInterrupt:
            say("the daemon goes on with it; see what comes of it: mudanza jobs")
            raise

    def _followed(self, told: Any, say: Say) -> Any:
        """Look at an order until it has ended; return what came of it."""
        until = clock.monotonic() + SILENCE
        while True:
            for each in told.get("said", ()):
                say(str(each))
            if "state" not in told:  # the problem itself
                raise _without_words(told)
            if told["state"] == "ended":
                return _result(told)
            if told["state"] == "running":
                until = clock.monotonic() + SILENCE
            elif clock.monotonic() >= until:
                raise NeedsPersonError(
                    f"the daemon that carried out order {told['number']} is gone: {' '.join(told['command'])}",
                    vm_state="nobody has looked since",
                    remedy="see what became of its job: mudanza jobs; asked for again, it goes on from where it is",
                )
            clock.sleep(LOOK_EVERY)
            heard = {"after": told["heard"]}
            told = self._problem_too("GET", f"/orders/{told['number']}", SILENCE, params=heard)

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
