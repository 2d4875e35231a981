"""What the pages have done for them: all that takes a host, or more than one of the journal's parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Protocol

from mudanza.model.migration import Progress
from mudanza.model.plan import Goal, Plan
from mudanza.model.protection import Protection
from mudanza.operations.checking import Check
from mudanza.operations.foreseeing import Outlook


class Screen(Protocol):
    """A guest's open console or display. ``receive`` and ``send`` may be used from two threads at once."""

    def __enter__(self) -> Screen: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None: ...

    def receive(self) -> bytes:
        """Wait for what the guest writes and return it: empty at the end."""

    def send(self, data: bytes) -> None:
        """Type into the guest; returns at once. Raises HypervisorError when the console is gone."""

    def close(self) -> None:
        """Let the console go; a ``receive`` that waits returns empty."""


class Hands(Protocol):
    """Does what is asked for; who may ask is settled before, and so is the audit."""

    def add_host(self, name: str, uri: str, *, force: bool) -> None:
        """Add a host to the cluster, if it answers or is to be added all the same. Raises UsageError."""

    def start(self, uuid: str) -> None:
        """Start a VM where it is defined. Raises BlockedError where it may run elsewhere."""

    def shut_down(self, uuid: str) -> None:
        """Ask a VM to shut down."""

    def console(self, uuid: str, host: str) -> Screen:
        """Open the serial console of a guest on a host. Raises HypervisorError where somebody has it open, or there is
        none."""

    def display(self, uuid: str, host: str) -> Screen:
        """Open the graphical display of a guest on a host, logged in. Raises BlockedError where it has none that can be
        shown, HypervisorError."""

    def ways(self, uuid: str) -> tuple[Check, Outlook]:
        """Return what stands against moves of a VM to every other host, and what they would be like."""

    def plan(self, goal: Goal, subject: str) -> Plan:
        """Make a plan; ``subject``: the host to be drained. Nothing is touched. Raises UsageError, BlockedError."""

    def apply(self, plan: Plan, left_out: Collection[str], asked_by: str) -> int:
        """Have exactly a plan carried out that was shown, but for the moves of VMs left out (UUIDs); return its number.

        Raises BlockedError where the world is not as it was then, or an unfinished plan has one of its VMs.
        """

    def approve(self, number: int, asked_by: str) -> None:
        """Have a plan carried out that waits for a yes. Raises UsageError for one that does not, BlockedError where the
        world is not as it was when it was proposed."""

    def protections(self) -> Sequence[Protection]:
        """Return all replicas of protected VMs, by these VMs' names."""

    def sync(self, uuid: str, asked_by: str, on: str, *, verify: bool) -> None:
        """Bring a protected VM's replica at a host up to date, and compare all of it with the source if so wanted;
        returns when that is done. Raises BlockedError and others."""

    def pause(self, uuid: str, asked_by: str, on: str, *, paused: bool) -> None:
        """Have no rounds be made by themselves of a replica at a host, or have them be made again. Raises
        BlockedError."""

    def fail_over(self, uuid: str, asked_by: str, on: str, *, planned: bool) -> None:
        """Start a protected VM at its replica's host; ``planned``: with all that is new, for its own host lives."""

    def shares(self) -> Mapping[int, float]:
        """Return how much is done of each move under way, 0 to 1, as far as somebody knows; by its job's number."""

    def course(self, number: int) -> Sequence[Progress]:
        """Return how a job's move went so far."""
