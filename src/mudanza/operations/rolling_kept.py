"""What is kept of maintenance that rolls over hosts: listed and told of, stopped and given up, by whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mudanza.hypervisor.host_command import HostCommand
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.identity import journal_id
from mudanza.journal.rollings import Rollings
from mudanza.model.errors import MudanzaError
from mudanza.model.rolling import CommandState, Lap, Rolling, RollingState, Stage

if TYPE_CHECKING:
    from mudanza.journal.duty import DutyHandle
    from mudanza.model.host import HostEntry
    from mudanza.operations.means import Means, Say

NewCommand = Callable[["HostEntry", str], HostCommand]


class Telling:
    """Tells how it stands, whenever that changes."""

    def __init__(self, say: Say, changed: Callable[[Rolling], None] = lambda _: None) -> None:
        self._say = say
        self._changed = changed
        self._told = ""

    def __call__(self, found: Rolling) -> None:
        """Tell, if there is something new."""
        words = found.in_words
        if not words or words == self._told:
            return
        if not self._told:
            self._say(f"rolling maintenance {found.id}: {found.order.shown}, on {', '.join(found.order.hosts)}")
        self._told = words
        self._say(words)
        self._changed(found)


def as_event(found: Rolling) -> dict[str, Any] | None:
    """Return what programs are told when another host is under way, or it gets on with one; None: all are done."""
    lap = found.current
    if lap is None:
        return None
    about = {"host": lap.host, "n": lap.n, "stage": lap.stage.name.lower(), "of": len(found.laps)}
    return {"event": "rolling", "rolling": found.id, **about}


@dataclass(frozen=True, slots=True)
class Listed:
    """Those there are and were."""

    found: tuple[Rolling, ...]
    """The newest first."""
    held: bool
    """Whether a controller that lives carries one out."""

    def is_left(self, rolling: Rolling) -> bool:
        """Whether one runs, and its controller is gone."""
        return rolling.state is RollingState.RUNNING and not self.held


def listed(means: Means, limit: int) -> Listed:
    """Return the newest ones."""
    rollings = Rollings(means.database)
    holder = rollings.on_duty()
    return Listed(rollings.latest(limit), holder is not None and holder.alive)


def stop(means: Means, number: int, asked_by: str) -> str:
    """Have one stop after what is under way; return what is to be told. Raises UsageError where it does not run."""
    Rollings(means.database).wish_stopped(number, asked_by)
    return f"rolling maintenance {number} stops after what is under way; go on: mudanza rolling --resume {number}"


def give_up(means: Means, number: int, asked_by: str, command: NewCommand = HostCommand) -> Rolling:
    """Close one that is not to be gone on with. What was begun is left as it is. Raises UsageError where it has ended;
    BlockedError while another controller has maintenance roll."""
    rollings = Rollings(means.database)
    with on_duty(rollings) as duty:
        rollings.go_on(number, duty)
        rollings.finish(number, RollingState.GIVEN_UP, f"given up by {asked_by}", duty)
        found = rollings.get(number)
    if found.current is not None and found.current.stage in (Stage.EMPTYING, Stage.COMMAND):
        with suppress(MudanzaError):  # then a few small files stay there
            there = command_of(means, number, found.current, command)
            if there.look(0).state is not CommandState.RUNS:
                there.forget()
    return found


def command_of(means: Means, number: int, lap: Lap, command: NewCommand = HostCommand) -> HostCommand:
    """Return the command of one host of it. Raises UsageError for a host that is not known any more."""
    name = f"rolling-{journal_id(means.database)[:12]}-{number}-{lap.n}"
    return command(means.inventory.host(lap.host), name)


@contextmanager
def on_duty(rollings: Rollings) -> Iterator[DutyHandle]:
    """Be the one who has maintenance roll, for as long as the block runs. Raises BlockedError while another one is."""
    with keeping(rollings.take()) as duty:
        yield duty


@contextmanager
def keeping(duty: DutyHandle) -> Iterator[DutyHandle]:
    """Keep that duty for as long as the block runs, and leave it to others then."""
    try:
        with duty.kept():
            yield duty
    finally:
        with suppress(LeaseLostError, JournalLostError):
            duty.let_go()
