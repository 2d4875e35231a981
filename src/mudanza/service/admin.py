"""What only those may ask for who may do everything: which hosts there are, tokens, the rules, the audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from mudanza.model.errors import UsageError
from mudanza.model.host import HostEntry
from mudanza.model.plain import plain
from mudanza.model.rules import rules_as_data
from mudanza.operations import access, cluster_file, hosts
from mudanza.operations import rules as rules_one_by_one
from mudanza.service.access import Admin
from mudanza.service.desk import Desk
from mudanza.service.orders import ClusterOrder, HostChange, HostOrder, RuleOrder, TokenOrder
from mudanza.service.parameters import MOST_NUMBER, PROBLEMS, AtDesk, Key, Limit
from mudanza.service.problems import NotThereError
from mudanza.service.sight import audited

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


@router.get("/entries", tags=["hosts"])
def entries(desk: AtDesk, _asker: Admin) -> Any:
    """Return what was said of each host: how it is reached, and what it is tagged with."""
    with desk.at_work() as means:
        return plain(means.inventory.hosts())


@router.post("/hosts", status_code=201, tags=["hosts"])
def add_host(desk: AtDesk, asker: Admin, order: HostOrder, response: Response) -> Any:
    """Add a host to the cluster, after a look whether it answers. It is seen with the next picture of the cluster."""
    entry = HostEntry(**order.model_dump(exclude={"force", "tags"}), tags=tuple(order.tags))
    with desk.at_work() as means, audited(desk, asker, "add host", order.name, order.uri):
        said = hosts.add(means, entry, force=order.force)
    response.headers["Location"] = f"/api/v1/hosts/{order.name}"
    return {"said": [said]}


@router.patch("/hosts/{name}", tags=["hosts"])
def change_host(desk: AtDesk, asker: Admin, name: Key, order: HostChange) -> Any:
    """Change what was said of a host; null takes a setting back."""
    given = order.model_dump(exclude_unset=True)
    if not given:
        raise UsageError("nothing to change was given")
    with desk.at_work() as means:
        entry = _entry(desk, name)
        lists = {"tags": tuple(given["tags"] or ())} if "tags" in given else {}
        if "uri" in given and given["uri"] is None:
            raise UsageError("a host has a URI", remedy="leave uri out, or say what it is")
        with audited(desk, asker, "edit host", name, order.model_dump_json(exclude_unset=True)):
            return {"said": [hosts.change(means, replace(entry, **{**given, **lists}))]}


@router.delete("/hosts/{name}", tags=["hosts"])
def remove_host(desk: AtDesk, asker: Admin, name: Key) -> Any:
    """Forget a host. Nothing on it is touched."""
    _entry(desk, name)
    with desk.at_work() as means, audited(desk, asker, "remove host", name):
        return {"said": [hosts.remove(means, name)]}


def _entry(desk: Desk, name: str) -> HostEntry:
    with desk.at_work() as means:
        try:
            return means.inventory.host(name)
        except UsageError as error:
            raise NotThereError(str(error), remedy=error.remedy) from error


@router.get("/cluster", tags=["hosts"])
def export(desk: AtDesk, _asker: Admin) -> Mapping[str, str]:
    """Return hosts, their fence devices and the rules as `mudanza export` prints them: TOML."""
    with desk.at_work() as means:
        return {"text": cluster_file.exported(means)}


@router.post("/cluster", tags=["hosts"])
def take_in(desk: AtDesk, asker: Admin, order: ClusterOrder) -> Mapping[str, list[str]]:
    """Have hosts, their fence devices and the rules be as a TOML text says; what it says nothing of stays as it is."""
    with desk.at_work() as means, audited(desk, asker, "import", f"{len(order.text)} characters"):
        return {"said": [*cluster_file.take_in(means, order.text)]}


@router.get("/rules", tags=["plans"])
def rules(desk: AtDesk, _asker: Admin) -> Any:
    """Return the rules that plans go by, as they stand in the file that `mudanza export` prints."""
    with desk.at_work() as means:
        return plain(rules_as_data(means.inventory.rules()))


@router.post("/rules", status_code=201, tags=["plans"])
def add_rule(desk: AtDesk, asker: Admin, order: RuleOrder) -> Any:
    """Add a rule of places. Nothing is moved by it; plans go by it from now on."""
    with desk.at_work() as means, audited(desk, asker, "add rule", order.model_dump_json(exclude_defaults=True)):
        return {"said": [rules_one_by_one.add(means, order.rule())]}


@router.delete("/rules/{name}", tags=["plans"])
def remove_rule(desk: AtDesk, asker: Admin, name: Key) -> Any:
    """Take a rule away. Nothing is moved."""
    with desk.at_work() as means:
        if name not in {each.name for each in means.inventory.rules().rules}:
            raise NotThereError(f"there is no rule {name!r}", remedy="see them: mudanza rule list")
        with audited(desk, asker, "remove rule", name):
            return {"said": [rules_one_by_one.remove(means, name)]}


@router.get("/tokens", tags=["access"])
def tokens(desk: AtDesk, _asker: Admin) -> Any:
    """Return all tokens that there are and were; what opens is not among it."""
    return [{**plain(each), "state": each.state} for each in desk.tokens.all()]


@router.post("/tokens", status_code=201, tags=["access"])
def make_token(desk: AtDesk, asker: Admin, order: TokenOrder, response: Response) -> Mapping[str, str]:
    """Make a token, and return it: this once, for only its hash is kept."""
    words = order.model_dump_json(exclude_defaults=True)
    with desk.at_work() as means, audited(desk, asker, "make token", words):
        limits = {"hosts": order.hosts, "tags": order.tags}
        made = access.make_token(means, order.name, order.scopes, asker.name, **limits, lasts=order.lasts)
    response.headers["Cache-Control"] = "no-store"
    return {"name": order.name, "token": made}


@router.delete("/tokens/{name}", tags=["access"])
def revoke_token(desk: AtDesk, asker: Admin, name: Key) -> Mapping[str, str]:
    """Let a token open nothing any more, at once: streams that it has opened end, too."""
    if name not in {each.name for each in desk.tokens.all()}:
        raise NotThereError(f"there is no token {name!r}", remedy="see them: mudanza token list")
    with audited(desk, asker, "revoke token", name):
        desk.tokens.revoke(name)
    return {"name": name, "state": "revoked"}


@router.get("/audit", tags=["access"])
def audit(
    desk: AtDesk,
    _asker: Admin,
    within: Annotated[float, Query(ge=0, le=366 * 86400, description="Of so many seconds; 0: ever.")] = 7 * 86400,
    before: Annotated[int, Query(ge=1, le=MOST_NUMBER, description="Only those below this number.")] = MOST_NUMBER,
    limit: Limit = 50,
) -> Mapping[str, Any]:
    """Return who asked for what, and what came of it, the newest first; ``next``: what the next page is ``before``."""
    found = [each for each in reversed(desk.audit.since(within or None)) if each.n < before]
    return {"asked": plain(found[:limit]), "next": found[limit - 1].n if len(found) > limit else None}
