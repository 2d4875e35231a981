"""A command that runs at a host by itself: begun by ssh, it goes on when whoever began it is gone, and anybody can look
at how it stands.

What it is, what it prints and how it ends lies in a directory on the host's disk: below ``/var/lib`` where root logs
in, else below ``~/.cache``. It is made before the command is begun, and each sign is on the disk before what it is a
sign of: so a host that has started anew meanwhile tells whether the command had begun, and how it had ended. Whoever
has read that takes it away.
"""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

from mudanza.hypervisor.shell import HostShell
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.host import HostEntry
from mudanza.model.rolling import CommandState, Seen

PATIENCE = 20.0
"""Seconds within which a host must answer."""
MOST_AT_ONCE = 64 * 1024
"""Bytes of what was printed that are read in one look."""

BEGINNING = 150
"""Tenths of a second within which a command that was begun must be seen to run."""

# A host's start has an id of its own; its first process, too, has begun anew in one that shares its kernel.
_BOOT = """\
boot() { echo "$(cat /proc/sys/kernel/random/boot_id)/$(sed 's/.*) //' /proc/1/stat | cut -d ' ' -f 20)"; }
base=$root; [ -w "$base" ] || base=$HOME/.cache
place=$base/mudanza/$name
"""
_PREPARE = """\
set -eu
umask 077
mkdir -p "$base/mudanza"
rm -rf -- "$place"
mkdir "$place"
printf %s "$text" >"$place/script"
: >"$place/output"
sync "$place/script" "$place/output" "$place" "$base/mudanza" "$base"
echo "@ $(boot)"
"""
# Only one gets to link its number there, and it does so before anything of the command is done.
_BEGIN = """\
set -eu
umask 077
[ ! -e "$place/pid" ]
setsid sh -c '
  place=$1; shift
  echo $$ >"$place/pid.$$"
  sync "$place/pid.$$" && ln "$place/pid.$$" "$place/pid" && sync "$place" || exit
  "$@" "$place/script" >"$place/output" 2>&1
  echo $? >"$place/code.new"; sync "$place/code.new" "$place/output"; mv "$place/code.new" "$place/code"; sync "$place"
' sh "$place" INTERPRETER </dev/null >/dev/null 2>&1 &
turns=0
until [ -e "$place/pid" ]; do [ $turns -lt "$most" ]; turns=$((turns + 1)); sleep 0.1; done
"""
# A number of a process that is gone may have been given to another one, which does not name this directory.
_LOOK = """\
lives() { [ -e "$place/pid" ] && tr '\\0' ' ' <"/proc/$(cat "$place/pid")/cmdline" | grep -qF "$place"; }
state=absent code=-
if [ -d "$place" ]; then
  state=ready
  if [ -e "$place/pid" ]; then state=lost; fi
  if lives 2>/dev/null; then state=runs; fi
  if [ -e "$place/code" ]; then state=ended code=$(cat "$place/code"); fi
fi
echo "@ $(boot) $state $code $(tail -c "+$((after + 1))" "$place/output" 2>/dev/null | head -c "$most" | base64 -w 0)"
"""
_STOP = """\
if [ -e "$place/pid" ] && [ ! -e "$place/code" ]; then
  group=-$(cat "$place/pid") turns=0
  kill -s TERM -- "$group"
  while kill -s 0 -- "$group" && [ $turns -lt "$most" ]; do sleep 0.1; turns=$((turns + 1)); done
  kill -s KILL -- "$group" || :
fi 2>/dev/null
"""
GRACE = 50
"""Tenths of a second between asking a command to end and ending it."""


class HostCommand:
    """One command at one host. Everything of it raises HostUnreachableError where the host does not answer,
    BlockedError where the controller does not log in there by ssh, and HypervisorError where the host refuses."""

    root = "/var/lib"
    """Where root keeps what there is of it."""

    def __init__(self, entry: HostEntry, name: str) -> None:
        """``name``: what it is called at the host; nobody else calls one so."""
        self.host = entry.name
        self._entry = entry
        self._name = name

    def is_here(self) -> bool:
        """Return whether the host is the machine that we run on."""
        script = 'echo "@ $(cat /proc/sys/kernel/random/boot_id) $(readlink /proc/self/ns/pid)"'
        [words] = self._run(script, "reading the boot id")
        own = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return list(words) == [own, str(Path("/proc/self/ns/pid").readlink())]

    def prepare(self, text: str) -> str:
        """Make it ready to be begun, in place of whatever was kept of it; it must not run. Return which of its starts
        the host is in."""
        [[found]] = self._run(_PREPARE, "making the command ready", text=text)
        return found

    def begin(self, interpreter: tuple[str, ...]) -> None:
        """Begin it. Raises HypervisorError also where it was begun already, or is not ready."""
        script = _BEGIN.replace("INTERPRETER", shlex.join(interpreter))
        self._run(script, "beginning the command", most=BEGINNING)

    def look(self, after: int) -> Seen:
        """Return how it stands, and what it printed after so many bytes."""
        [[boot, state, code, *output]] = self._run(_LOOK, "looking at the command", after=after, most=MOST_AT_ONCE)
        printed = base64.b64decode(output[0]) if output else b""
        return Seen(boot, CommandState(state), int(code) if code != "-" else None, printed)

    def stop(self) -> None:
        """End it, with everything that it has begun."""
        self._run(_STOP, "ending the command", most=GRACE)

    def forget(self) -> None:
        """Take away what is kept of it at the host; it must not run."""
        self._run('rm -rf -- "$place"', "clearing up after the command")

    def _run(self, script: str, what: str, **values: object) -> list[list[str]]:
        with HostShell(self._entry) as shell:
            told = {"name": self._name, "root": self.root, **values}
            found = shell.run(f"{_BOOT}{script}", told, what=what, patience=PATIENCE)
        return [list(words) for words in found]


class PassingCommand(HostCommand):
    """One of which nothing outlives the host's next start."""

    root = "/run"


def seen_or_none(command: HostCommand, after: int) -> Seen | None:
    """Return how a command stands; None while its host does not let us in, as one that starts does not."""
    try:
        return command.look(after)
    except (HostUnreachableError, HypervisorError):
        return None
