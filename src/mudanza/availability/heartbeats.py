"""Heartbeats on storage that all hosts share: each host counts up in a file of its own there, and another one reads it.

A host that is cut from every network, and whose file goes on changing, lives. That nothing changes says nothing: the
storage may be what it has lost.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.host_command import HostCommand, PassingCommand
from mudanza.hypervisor.shell import HostShell
from mudanza.model.errors import MudanzaError
from mudanza.model.host import HostEntry
from mudanza.model.rolling import SHELL, CommandState

TEND_EVERY = 60.0
"""Seconds between two looks whether the hosts' hearts beat; who starts anew has to be told again."""
READ_LIMIT = 6.0
"""Seconds within which another host must have read the file."""

_BEAT = """\
n=0
while :; do
  n=$((n + 1))
  echo "$$ $n" >{file}.new && mv {file}.new {file}
  sleep 2
done
"""


class Heartbeats:
    """The hearts of all hosts, as one controller knows them."""

    def __init__(
        self,
        entries: Sequence[HostEntry],
        directory: str,
        journal: str,
        command: Callable[[HostEntry, str], HostCommand] = PassingCommand,
    ) -> None:
        """``directory``: where it is on every host; ``journal``: whose heartbeats these are."""
        self._entries: Mapping[str, HostEntry] = {entry.name: entry for entry in entries}
        self._directory = directory
        self._journal = journal
        self._command = command
        self._last: dict[str, str] = {}
        self._tended: float | None = None
        self.under_way: Task[None] | None = None
        """What looks after the hearts just now, or did last."""

    def tend(self, alive: Collection[str]) -> None:
        """From time to time, have those hearts beat that do not, on hosts that answer; wait for nobody."""
        if self._tended is not None and clock.monotonic() < self._tended + TEND_EVERY:
            return
        if self.under_way is None or self.under_way.ended:
            self._tended = clock.monotonic()
            names = sorted(alive)
            self.under_way = Task(lambda: self._tend(names))

    def _tend(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(MudanzaError):  # it is no sign of life then, as on hosts that are not reached by ssh
                command = self._command(self._entries[name], f"heartbeat-{self._journal}")
                if command.look(0).state is not CommandState.RUNS:
                    command.prepare(_BEAT.format(file=shlex.quote(self._file(name))))
                    command.begin(SHELL)

    def beats(self, name: str, witnesses: Sequence[str]) -> bool | None:
        """Return whether a host's heart has beaten since this was asked last; None: nobody can say.

        ``witnesses``: hosts that are asked, one after the other until one can read it.
        """
        for witness in witnesses:
            with suppress(MudanzaError):
                found = self._read(witness, name)
                before, self._last[name] = self._last.get(name), found
                return found != before if found and before is not None else None
        return None

    def _read(self, witness: str, name: str) -> str:
        with HostShell(self._entries[witness]) as shell:
            script = 'echo "@ $(cat "$file" 2>/dev/null)"'
            answer = shell.run(script, {"file": self._file(name)}, what="reading a heartbeat", patience=READ_LIMIT)
        return " ".join(answer[0]) if answer else ""

    def _file(self, name: str) -> str:
        return f"{self._directory}/.mudanza-{self._journal}-{name}"
