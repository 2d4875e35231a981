"""Scripts at a host, by ssh, for what is done with QEMU's own tools there: one after the other, each bounded."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from mudanza import clock
from mudanza.hypervisor.attended import Attended, attend
from mudanza.hypervisor.ssh import RemoteShell, ssh_command
from mudanza.model.errors import BlockedError
from mudanza.model.host import HostEntry

PATIENCE = 120.0
"""Seconds within which a script must give a sign of getting on, if not said otherwise."""

Answer = Sequence[str]


class HostShell:
    """A shell at a host for as long as the block runs; what a script has begun there ends with it."""

    def __init__(self, entry: HostEntry, options: Sequence[str] = ()) -> None:
        """``options``: further ones for ssh, which come first. Raises BlockedError where the controller does not log in
        there by ssh; HostUnreachableError."""
        self.host = entry.name
        self._entry = entry
        program, *others = login(entry)
        self._shell = RemoteShell(self.host, (program, *options, *others))

    def __enter__(self) -> HostShell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._shell.close()

    def said(self) -> str:
        """Return the last of what was printed as errors since the last script began, in one line."""
        return self._shell.said()

    def another(self) -> HostShell:
        """Return one more shell at the same host. Raises HostUnreachableError."""
        return HostShell(self._entry)

    def run(
        self,
        script: str,
        values: Mapping[str, object] | None = None,
        *,
        what: str,
        patience: float = PATIENCE,
        stop: clock.Event | None = None,
        on_answer: Callable[[Answer], None] = lambda _: None,
    ) -> list[Answer]:
        """Run a script with these variables, and return what it answers; ``what`` it does, in words: ``reading /a``.

        After a failure the shell is of no more use. Raises HypervisorError where the script fails,
        HostUnreachableError where there is no answer for ``patience`` seconds, MigrationFailedError when stopped.
        """
        text = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in (values or {}).items()) + script

        def work(attended: Attended) -> list[Answer]:
            attended.interrupt_by(self._shell.kill)
            found: list[Answer] = []
            for words in self._shell.run(text):
                attended.got_on()
                on_answer(words)
                found.append(words)
            attended.interrupt_by(lambda: None)
            return found

        return attend(work, host=self.host, what=what, patience=patience, stop=stop)


def login(entry: HostEntry) -> tuple[str, ...]:
    """Return the command by which the controller logs in at a host. Raises BlockedError where that is not by ssh."""
    command = ssh_command(entry.uri)
    if command is None:
        raise BlockedError(
            f"host {entry.name} is not reached by ssh, but by {entry.uri}: QEMU's own tools are run there by ssh",
            remedy=f"name it so: mudanza host edit {entry.name} --uri qemu+ssh://root@ADDRESS/system",
        )
    return command
