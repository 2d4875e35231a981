"""What paths, queries and headers of requests hold."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request

from mudanza.service.desk import Desk
from mudanza.service.problems import MEDIA_TYPE, Problem

MOST_ROWS = 500
MOST_NUMBER = 2**31 - 1
"""Of a job or plan: PostgreSQL counts no further."""

Number = Annotated[int, Path(ge=1, le=MOST_NUMBER, description="Its number.", examples=[17])]
Key = Annotated[str, Path(min_length=1, max_length=255, description="A name or a UUID.", examples=["web"])]
Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="How many at the most.")]

OnceKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="A word of your own: sent again with it, this is done once.",
        examples=["night-shift-7"],
    ),
]


async def desk_of(request: Request) -> Desk:
    """Return what this API works on; without a thread's help, for there is nothing to wait for."""
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(desk_of)]

_PROBLEMS = {
    400: "It cannot be done as it was asked.",
    401: "This needs a token that is good.",
    403: "Whoever asks may not.",
    404: "What the path names does not exist, or whoever asks may not know of it.",
    409: "Something stands in the way, or the VM is not as it should be; see `findings` and `vm_state`.",
    413: "The body is too large, or of unknown length.",
    422: "The request is not as it should be; see `errors`.",
    429: "Too many requests; try again.",
    431: "The headers are too large.",
    500: "Something unexpected happened.",
    502: "A host, or libvirt there, did not do it.",
    503: "The journal does not answer, or the hosts have not been looked at yet.",
}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    for status, words in _PROBLEMS.items()
}
"""What any request may be answered with, as OpenAPI has it."""
