"""Whether a host's libvirt holds locks on disks, by ssh: libvirt itself tells nobody.

What counts is the plug-in that the running daemon has loaded, and not its settings, which may have changed since it was
started. What it locks is in the plug-in's own settings.
"""

from __future__ import annotations

from collections.abc import Sequence

from mudanza.hypervisor.shell import HostShell
from mudanza.model.disk_locks import DiskLocks, LockManager
from mudanza.model.errors import MudanzaError
from mudanza.model.host import HostEntry

LOOK_LIMIT = 8.0
"""Seconds that logging in and looking may take."""
MOST_LOCKS = 1000
"""Names of locks that are read at the most."""

# libvirt's own defaults, where its settings say nothing: virtlockd locks every disk, on the images themselves; sanlock
# only what a definition has a lease for, and every disk, if at all, in a directory.
_LOOK = """
[ "$(id -u)" = 0 ] || { echo "only root sees what libvirt has loaded" >&2; exit 1; }
setting() {
  sed -n 's/^[[:space:]]*'"$2"'[[:space:]]*=[[:space:]]*"\\{0,1\\}\\([^"#]*\\).*/\\1/p' "/etc/libvirt/$1" 2>/dev/null |
    tail -n 1 | sed 's/[[:space:]]*$//'
}
mine=$(readlink /proc/self/ns/pid)
found= manager=none
for place in /proc/[0-9]*; do
  case $(readlink "$place/exe") in */libvirtd|*/virtqemud|*/libvirtd\\ *|*/virtqemud\\ *) ;; *) continue ;; esac
  [ "$(stat -c %u "$place")" = 0 ] && [ "$(readlink "$place/ns/pid")" = "$mine" ] || continue
  found=yes
  if grep -q 'lock-driver/lockd\\.so' "$place/maps"; then manager=virtlockd; fi
  if grep -q 'lock-driver/sanlock\\.so' "$place/maps"; then manager=sanlock; fi
done
[ -n "$found" ] || { echo "no libvirtd or virtqemud of root is there" >&2; exit 1; }
echo "@ manager $manager"
case $manager in
  none) exit 0 ;;
  virtlockd) every=$(setting qemu-lockd.conf auto_disk_leases) space=$(setting qemu-lockd.conf file_lockspace_dir)
    every=${every:-1} ;;
  sanlock) every=$(setting qemu-sanlock.conf auto_disk_leases) space=$(setting qemu-sanlock.conf disk_lease_dir)
    every=${every:-0} space=${space:-/var/lib/libvirt/sanlock} ;;
esac
echo "@ every $every"
[ -n "$space" ] || exit 0
echo "@ space $space"
[ -d "$space" ] || exit 0
echo "@ inode $(stat -c %i "$space")"
ls "$space" | grep -v '^__LIBVIRT' | head -n "$most" | sed 's/^/@ held /'
"""


def read_disk_locks(entry: HostEntry) -> DiskLocks:
    """Return how a host locks disks; where nobody can look, why not. Takes LOOK_LIMIT seconds at the most."""
    try:
        with HostShell(entry) as shell:
            answers = shell.run(_LOOK, {"most": MOST_LOCKS}, what="looking for a lock manager", patience=LOOK_LIMIT)
    except MudanzaError as error:
        return DiskLocks(why=str(error))
    return disk_locks_of(answers)


def disk_locks_of(answers: Sequence[Sequence[str]]) -> DiskLocks:
    """Return what a host has answered."""
    told: dict[str, str] = {}
    held = set[str]()
    for name, *words in answers:
        if name == "held":
            held.add(" ".join(words))
        else:
            told[name] = " ".join(words)
    try:
        manager = LockManager(told["manager"])
    except (KeyError, ValueError):
        return DiskLocks(why=f"the look for a lock manager got an answer that makes no sense: {told}")
    every, space, inode = told.get("every", "1") == "1", told.get("space", ""), told.get("inode", "")
    return DiskLocks(manager, every, space, inode, frozenset(held))
