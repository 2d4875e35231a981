"""The dashboard: the API with all pages beside it."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute

from mudanza.journal.sessions import Sessions
from mudanza.service.api import Bounded
from mudanza.service.pages import cluster, console, entrance, history, jobs, plans, protection, talking, vm
from mudanza.service.pages.front import Front
from mudanza.service.pages.hands import Hands
from mudanza.service.pages.oidc import Oidc
from mudanza.service.pages.site import pages_of


def with_pages(api: FastAPI, sessions: Sessions, hands: Hands, oidc: Oidc | None = None) -> Front:
    """Return the API and the pages, as one application. ``oidc``: who lets people in besides their tokens."""
    pages = pages_of(api.state.desk, api.state.failures, sessions)
    pages.state.hands = hands
    pages.state.oidc = oidc
    pages.state.consoles = talking.Places()
    pages.state.proposals = plans.Proposals()
    pages.add_middleware(Bounded)
    pages.router.routes.extend(_routes())
    return Front(api, pages)


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """Return what all pages are; as the API does, once for all applications."""
    whole = APIRouter()
    for each in (cluster, console, entrance, history, jobs, plans, protection, vm):
        whole.include_router(each.router)
    return tuple(whole.routes)
