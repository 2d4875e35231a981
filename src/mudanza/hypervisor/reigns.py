"""Whose word counts at a host where a journal was taken over at another machine: a number in a small file there.

A controller that comes back with the older copy of its journal finds a higher number than its own, and does nothing.
"""

from __future__ import annotations

from mudanza.hypervisor.shell import HostShell
from mudanza.model.host import HostEntry

PATIENCE = 15.0
"""Seconds within which a host must answer."""

# Written anew beside and renamed, so that nobody reads half of a number.
REIGNS = """
reigns=/var/lib/mudanza/reigns
[ "$(id -u)" = 0 ] || reigns=$HOME/.local/share/mudanza/reigns
reign_there() { cat "$reigns/$journal" 2>/dev/null || echo 0; }
reign_here() {
  [ "$(reign_there)" -lt "$reign" ] || return 0
  mkdir -p "$reigns" && echo "$reign" >"$reigns/$journal.new" && mv "$reigns/$journal.new" "$reigns/$journal" &&
    sync "$reigns/$journal"
}
"""
"""Shell functions for scripts that are told a ``journal`` and its ``reign``."""
REFUSE_OLD = f"""{REIGNS}
there=$(reign_there)
if [ "$there" -gt "$reign" ]; then
  echo "this controller is replaced: its journal was taken over elsewhere (reign $there, and its own is $reign)" >&2
  exit 1
fi
reign_here || exit 1
"""
"""The beginning of a script that only the newest copy of a journal may run."""


def reign_at(entry: HostEntry, journal: str) -> int:
    """Return the highest reign of a journal that a host knows of. Raises BlockedError where the controller does not log
    in there by ssh, HostUnreachableError, HypervisorError."""
    with HostShell(entry) as shell:
        answer = shell.run(
            f'{REIGNS}\necho "@ reign $(reign_there)"',
            {"journal": journal},
            what="asking who reigns",
            patience=PATIENCE,
        )
    return int(answer[0][1])


def mark(entry: HostEntry, journal: str, reign: int) -> None:
    """Have a host know of a reign, unless it knows of a later one. Raises as ``reign_at``."""
    about = {"journal": journal, "reign": reign}
    with HostShell(entry) as shell:
        shell.run(f"{REIGNS}\nreign_here", about, what="marking the host", patience=PATIENCE)
