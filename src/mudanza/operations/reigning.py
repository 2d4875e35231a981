"""One copy of a journal is carried on: where it was taken over at another machine, the older one does nothing more.

A controller whose journal is copied to a standby, or was taken over itself, asks its hosts and the standby, before it
connects to anybody, whether somebody else carries on since. Who does not answer says nothing. Once found out it is
written down for good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mudanza.hypervisor.bounded import Deadline, Task
from mudanza.journal.standbys import Reign, Standby, Standbys
from mudanza.model.errors import BlockedError, MudanzaError

if TYPE_CHECKING:
    from mudanza.model.host import HostEntry
    from mudanza.operations.means import Means

PATIENCE = 12.0
"""Seconds for which answers are waited for, from all of them together: longer than logging in may take."""


class ReplacedError(BlockedError):
    """This controller's journal is carried on elsewhere: nothing was touched."""


def refuse_replaced(means: Means) -> None:
    """Raise ReplacedError where this journal was taken over at another machine."""
    store = Standbys(means.database)
    found = store.reign()
    if not found.replaced and found.due:
        if how := _replaced(means, found):
            store.replaced(how)
            raise _error(how)
        store.looked()
    if found.replaced:
        raise _error(found.replaced)


def _error(how: str) -> ReplacedError:
    return ReplacedError(
        f"this controller does nothing any more, for its journal is carried on elsewhere: {how}",
        remedy="work with the controller that took it over; what this one knows can be read still: mudanza jobs",
    )


def _replaced(means: Means, found: Reign) -> str:
    """Return who says that a later reign has begun; empty: nobody who answers."""
    asks: dict[str, Callable[[], int]] = {
        f"host {entry.name}": partial(_ask, entry, found.journal) for entry in means.inventory.hosts()
    }
    for each in Standbys(means.database).all():
        asks[f"standby {each.name}"] = partial(_ask_standby, means, each)
    tasks, until = {name: Task(ask) for name, ask in asks.items()}, Deadline(PATIENCE)
    for name, task in tasks.items():
        try:
            reign = task.wait(until.left)
        except (MudanzaError, TimeoutError):
            continue
        if reign > found.number:
            return f"{name} knows of reign {reign}, and this one's is {found.number}"
    return ""


def _ask(entry: HostEntry, journal: str) -> int:
    from mudanza.hypervisor.reigns import reign_at

    return reign_at(entry, journal)


def _ask_standby(means: Means, place: Standby) -> int:
    from mudanza.hypervisor.parcel import hand_in

    script = 'echo "@ taken $(cat "$directory/taken" 2>/dev/null || echo 0)"'
    about = {"directory": place.directory}
    answer = hand_in(place.name, login_of(means, place.name), script, about, Path(os.devnull), limit=PATIENCE)
    return int(answer[0][1])


def login_of(means: Means, place: str) -> tuple[str, ...]:
    """Return the command by which the controller logs in where a copy is kept. Raises UsageError, BlockedError."""
    from mudanza.hypervisor.parcel import way_to
    from mudanza.hypervisor.shell import login

    return way_to(place) if "://" in place else login(means.inventory.host(place))


def mark_hosts(means: Means) -> Mapping[str, str]:
    """Have all hosts know of this journal's reign; return, by host, why one does not: empty where it does."""
    from mudanza.hypervisor.reigns import mark

    found = Standbys(means.database).reign()
    tasks = {entry.name: Task(partial(mark, entry, found.journal, found.number)) for entry in means.inventory.hosts()}
    told, until = {}, Deadline(PATIENCE)
    for name, task in tasks.items():
        try:
            task.wait(until.left)
            told[name] = ""
        except (MudanzaError, TimeoutError) as error:
            told[name] = str(error)
    return told
