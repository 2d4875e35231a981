"""Writing down what others may want to hear of, in the transaction in which it happens: neither without the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, insert

from mudanza.journal.database import now
from mudanza.journal.job import CLOSED, NEEDS_PERSON
from mudanza.journal.schema import happening
from mudanza.journal.secrets import without_secrets
from mudanza.model.errors import MigrationFailedError, NeedsPersonError
from mudanza.model.notice import Kind


def write_down(connection: Connection, kind: Kind, subject: str, said: str, about: Mapping[str, Any]) -> int:
    """Write down what has happened; return its number."""
    values = {"kind": kind.value, "subject": subject, "said": without_secrets(said)}
    text = json.dumps(without_secrets(about))
    key = connection.execute(insert(happening).values(at=now(connection), about=text, **values)).inserted_primary_key
    return int(key[0]) if key else 0


def job_ended(connection: Connection, before: Row[Any], state: str, said: str, exit_code: int) -> None:
    """Write down that a job has come to nothing, unless somebody wanted that."""
    unwanted = exit_code == MigrationFailedError.exit_code and before.cancel_asked_by is not None
    if exit_code and state != CLOSED and not unwanted:
        write_down(connection, Kind.MOVE_FAILED, before.vm_name, said, {**_about(before), "exit_code": exit_code})


def job_left(connection: Connection, row: Row[Any], state: str) -> None:
    """Write down that a job was left to a person, if it was."""
    if state == NEEDS_PERSON:
        said = f"job {row.id} of VM {row.vm_name} needs a person: see mudanza job show {row.id}"
        about = {**_about(row), "exit_code": NeedsPersonError.exit_code}
        write_down(connection, Kind.NEEDS_PERSON, row.vm_name, said, about)


def plan_proposed(connection: Connection, number: int, kind: str, moves: int) -> None:
    """Write down that a plan waits for a yes."""
    said = f"plan {number} ({moves} moves) waits for a yes: see mudanza run show {number}"
    write_down(connection, Kind.PLAN_PROPOSED, str(number), said, {"plan": number, "kind": kind, "moves": moves})


def _about(row: Row[Any]) -> dict[str, Any]:
    about = {"job": row.id, "kind": row.kind, "vm": row.vm_name, "uuid": row.vm_uuid, "asked_by": row.asked_by}
    return {**about, "source": row.source, "target": row.target, "plan": row.plan}
