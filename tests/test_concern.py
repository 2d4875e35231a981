"""Which hosts a move is judged by as they are now, and which as they were seen last. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from mudanza.model.cluster import Cluster, Known
from mudanza.operations.concern import MOST_AGE, About, concerned
from mudanza.preflight.arrivals import Arrival
from tests import factories as make

HOSTS = tuple(make.host(f"h{n}") for n in range(1, 7))
ENTRIES = [host.entry for host in HOSTS]
WEB = make.vm(host="h1")
MAIL = make.vm(name="mail", uuid=make.OTHER_UUID, host="h3")
CLUSTER = Cluster(HOSTS, (WEB, MAIL))
MOVE = About("web", "h2")


def asked(
    move: About = MOVE, cluster: Cluster = CLUSTER, age: float = 5.0, arriving: Mapping[str, str] | None = None
) -> str:
    """Return the hosts that are asked; ``arriving``: who is on the way, by UUID, and where to."""
    expected = {uuid: Arrival(uuid, "other", to) for uuid, to in (arriving or {}).items()}
    found = concerned(move, Known(cluster, age), ENTRIES, expected)
    return "all" if found is None else " ".join(sorted(found))


def test_where_it_is_and_where_it_goes_are_asked() -> None:
    assert asked() == asked(About(make.UUID, "h2")) == "h1 h2"


def test_so_is_where_it_was_when_it_was_asked_for() -> None:
    assert asked(About("web", "h2", source="h4")) == "h1 h2 h4"


def test_so_is_every_host_that_lists_one_of_its_name_or_uuid() -> None:
    twice = replace(CLUSTER, vms=(WEB, MAIL, replace(WEB, host="h5"), replace(MAIL, name="web", host="h6")))
    assert asked(cluster=twice) == "h1 h2 h5 h6"


def test_so_is_every_host_of_which_something_else_was_said_since() -> None:
    moved = replace(HOSTS[4], entry=replace(HOSTS[4].entry, uri="qemu+ssh://root@elsewhere/system"))
    before = replace(CLUSTER, hosts=(*HOSTS[:4], moved))
    assert asked(cluster=before) == "h1 h2 h5 h6"


def test_one_that_is_known_no_more_is_not() -> None:
    gone = make.host("h9")
    listing = replace(CLUSTER, hosts=(*HOSTS, gone), vms=(WEB, MAIL, replace(WEB, host="h9")))
    assert asked(cluster=listing) == "h1 h2"


@pytest.mark.parametrize("to", [None, "h1"])
def test_all_are_asked_where_all_are_concerned(to: str | None) -> None:
    assert asked(About("web", to)) == "all"


def test_all_are_asked_where_too_little_is_known() -> None:
    assert concerned(MOVE, None, ENTRIES, {}) is None
    assert asked(age=MOST_AGE + 1) == "all"
    assert asked(About("nobody", "h2")) == "all"


def test_what_others_take_to_the_target_has_to_be_known() -> None:
    assert asked(arriving={make.OTHER_UUID: "h2"}) == "h1 h2"
    assert asked(arriving={"never-seen": "h2"}) == "all"
    assert asked(arriving={"never-seen": "h3"}) == "h1 h2"
