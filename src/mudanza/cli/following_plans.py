"""Plans that a daemon carries out for an order, told of as if they were carried out here: how each stands, and how each
of their moves goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mudanza.cli.errors import error_fields, show_error
from mudanza.cli.following import Followed, MovesThere
from mudanza.cli.migrate import print_report
from mudanza.cli.output import Format, say
from mudanza.cli.watching import View, emit, view_for
from mudanza.remote.asking import DaemonLostError

if TYPE_CHECKING:
    from mudanza.remote.there import There


class PlansThere:
    """Hears what goes on while an order is followed (see ``remote.asking.Listener``)."""

    def __init__(self, there: There, output: Format, view: View) -> None:
        self._there = there
        self._output = output
        self._view = view
        self._moves = MovesThere(there, output)
        self._plans: set[int] = set()
        """Those that have got on since they were looked at."""
        self._known: set[int] = set()
        self._under_way: list[Followed] = []

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tell programs what has happened; of a plan, its moves are looked at."""
        if self._output is Format.JSON:
            emit(**event)
        if event["event"] == "plan":
            self._plans.add(int(event["plan"]))

    def look(self) -> None:
        """Look at each move under way. A daemon that does not answer is asked again with the order."""
        try:
            for number in tuple(self._plans):
                self._begin(number)
                self._plans.discard(number)
        except DaemonLostError:
            return
        for each in tuple(self._under_way):
            if not self._moves.goes_on(each, self._view):
                self._under_way.remove(each)
                self._ended(each)

    def _begin(self, number: int) -> None:
        """Follow those moves of a plan that are not followed yet. Raises DaemonLostError."""
        for move in self._there.run(number).moves:
            if move.job is not None and move.job not in self._known:
                self._known.add(move.job)
                self._under_way.append(Followed(move.about.vm, move.about.uuid, move.job))

    def _ended(self, followed: Followed) -> None:
        if followed.report is not None:
            print_report(followed.report, self._output)
        if followed.error is None or isinstance(followed.error, DaemonLostError):  # its order tells of that
            return
        if self._output is Format.JSON:
            emit("error", vm=followed.vm, job=followed.job, **error_fields(followed.error))
        say(f"job {followed.job} ({followed.vm}):")
        show_error(followed.error)


@contextmanager
def plans_there(there: There, output: Format) -> Iterator[PlansThere]:
    """Show how plans go for as long as the block runs."""
    with view_for(output) as view:
        yield PlansThere(there, output, view)
