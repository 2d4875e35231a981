"""Questions that a job asks of people, and what they have answered: kept with what is asked of the job, under the
number of the step that asks. Whoever answers need not be where the job's controller is, nor while it lives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Engine, select, update

from mudanza.journal.database import reading, transaction
from mudanza.journal.handle import as_text, tell
from mudanza.journal.job import Job, Step
from mudanza.journal.schema import job

ASK = "ask"
"""The step in the journal."""
_ANSWERS = "answers"


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody has answered."""

    word: str
    by: str


def open_question(found: Job) -> Step | None:
    """Return the step of a job that waits for an answer; None: it asks nothing now."""
    asked = found.steps_named(ASK)
    return asked[-1] if asked and asked[-1].outcome is None and found.ended_at is None else None


def answer(engine: Engine, job_id: int, step: int, word: str, by: str) -> Answer | None:
    """Write an answer down, if the job is unfinished; return the one that counts, which is the first. Raises
    JournalLostError."""
    with transaction(engine) as connection:
        unfinished = (job.c.id == job_id) & job.c.ended_at.is_(None)
        row = connection.execute(select(job.c.asked, job.c.epoch).where(unfinished).with_for_update()).first()
        if row is None:
            return None
        before = json.loads(row.asked)
        given = {str(step): {"word": word, "by": by}, **before.get(_ANSWERS, {})}
        connection.execute(update(job).where(unfinished).values(asked=as_text({**before, _ANSWERS: given})))
        tell(connection, job_id, row.epoch, by, "answered", word)
        return Answer(**given[str(step)])


def answer_to(engine: Engine, job_id: int, step: int) -> Answer | None:
    """Return what was answered to a step of a job; None: nothing yet. Raises JournalLostError."""
    with reading(engine) as connection:
        asked = connection.scalar(select(job.c.asked).where(job.c.id == job_id))
    given = json.loads(asked or "{}").get(_ANSWERS, {}).get(str(step))
    return Answer(**given) if given else None
