"""Running something in a guest by QEMU's agent in it, and the scripts that are run there: always the same ones.

They work with iproute2 and with busybox. Values come as arguments, and texts of files by the standard input: nothing is
put together into a command.
"""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from mudanza import clock
from mudanza.hypervisor.domains import Domains
from mudanza.model.errors import HostUnreachableError, HypervisorError

OWN = "/etc/mudanza/readdress"
"""The guest's own program for it, if there is one: it gets device, MAC address, address, gateway and name servers."""
KEPT = "/var/lib/mudanza/addresses"
"""Where a guest keeps what its files were like before: it travels with its disks."""
UNDO = f"{KEPT}/take-back"
"""The script by which a person can have it as it was before, where no agent does so: it works without us."""
ASK_TIMEOUT = 5
"""Seconds that the agent may take for one answer."""
LOOK_AGAIN = 0.5
"""Seconds between two looks whether the agent answers, or what it runs has ended."""
MOST_SAID = 500
"""Characters of what was said in the guest that an error repeats."""

_FIND = """
device=
for each in /sys/class/net/*; do
  [ ! -e "$each/device" ] || [ "$(cat "$each/address" 2>/dev/null)" != "$1" ] || device=${each##*/}
done
[ -n "$device" ] || { echo "no card has the address $1"; exit 1; }
"""
"""MAC address → ``device``."""

LOOK = f"""{_FIND}
echo "device=$device"
[ ! -e "/sys/class/net/$device/master" ] || echo "master=yes"
if [ -f /etc/resolv.conf ] && [ ! -L /etc/resolv.conf ]; then echo "resolv=yes"; fi
[ ! -x {OWN} ] || echo "own=yes"
if nmcli -t -f RUNNING general 2>/dev/null | grep -qx running; then
  nmcli -g GENERAL.STATE device show "$device" 2>/dev/null | grep -q unmanaged || echo "manager=yes"
fi
state=/run/systemd/netif/links/$(cat "/sys/class/net/$device/ifindex")
if [ -e "$state" ] && ! grep -q '^ADMIN_STATE=unmanaged' "$state"; then echo "networkd=yes"; fi
if command -v ifup >/dev/null 2>&1 && [ -e /etc/network/interfaces ]; then echo "ifupdown=yes"; fi
[ ! -e "/etc/sysconfig/network-scripts/ifcfg-$device" ] || echo "ifcfg=yes"
"""
"""MAC address → what is known of its card and of who looks after it, a line each."""

INTERFACES = """
for each in /etc/network/interfaces /etc/network/interfaces.d/*; do
  [ -f "$each" ] || continue
  echo "@ $each"
  cat "$each"
  echo
done
"""
"""→ ifupdown's files, each behind a line with its path."""

_KEPT_SAFE = """
set -eu
on_disk() { sync "$1" 2>/dev/null || sync; }
"""

WRITE = f"""{_KEPT_SAFE}
umask 077
path=$1 mode=$2 kept={KEPT}
mkdir -p "${{path%/*}}" "$kept/files"
if [ -e "$kept/files$path" ] || grep -qxF -- "$path" "$kept/made" 2>/dev/null; then :
elif [ -e "$path" ]; then
  mkdir -p "$kept/files${{path%/*}}"
  cp -p -- "$path" "$kept/before"
  on_disk "$kept/before"
  mv -f -- "$kept/before" "$kept/files$path"
  on_disk "$kept/files${{path%/*}}"
else
  echo "$path" >>"$kept/made"
  on_disk "$kept/made"
  on_disk "$kept"
fi
cat >"$kept/new"
chmod "$mode" "$kept/new"
cp -p -- "$kept/new" "$path.mudanza"
on_disk "$path.mudanza"
mv -f -- "$path.mudanza" "$path"
rm -f -- "$kept/new"
if command -v restorecon >/dev/null 2>&1; then restorecon "$path"; fi
on_disk "${{path%/*}}"
"""
"""Path, mode, and the text by the standard input: writes a file, once what was there before is kept."""

REMEMBER = f"""{_KEPT_SAFE}
umask 077
mkdir -p {KEPT}
cat >{UNDO}
grep -qxF -- "$1" {KEPT}/ways 2>/dev/null || echo "$1" >>{KEPT}/ways
for each in {UNDO} {KEPT}/ways {KEPT} {posixpath.dirname(KEPT)} {posixpath.dirname(posixpath.dirname(KEPT))}; do
  on_disk "$each"
done
"""
"""A word, and ``TAKE_BACK`` by the standard input: writes down who looks after a card, and how to take that back;
on the disk before anything else is, for the VM may come up again from any instant."""

RECALL = f"[ ! -e {KEPT}/ways ] || cat {KEPT}/ways"
"""→ those words; nothing, where nothing was changed."""

TAKE_BACK = f"""{_KEPT_SAFE}
kept={KEPT}
[ -d "$kept" ] || exit 0
if [ -e "$kept/made" ]; then
  while read -r path; do rm -f -- "$path"; done <"$kept/made"
fi
if [ -d "$kept/files" ]; then
  find "$kept/files" -type f | while read -r each; do
    path=${{each#"$kept/files"}}
    cp -p -- "$each" "$path.mudanza$$"
    on_disk "$path.mudanza$$"
    mv -f -- "$path.mudanza$$" "$path"
    if command -v restorecon >/dev/null 2>&1; then restorecon "$path"; fi
    on_disk "${{path%/*}}"
  done
fi
rm -rf -- "$kept"
"""
"""Has all files be as they were before; done once more it changes nothing."""

NOW = f"""{_FIND}
address=$2 gateway=$3 dns=$4 tries=$5 family=inet
case $address in *:*) family=inet6 ;; esac
while :; do
  has=$(ip -o addr show dev "$device" scope global | sed -n "s|^.* $family \\([^ ]*\\) .*$|\\1|p" | tr '\\n' ' ')
  [ "$has" != "$address " ] || exit 0
  [ "$tries" -gt 0 ] || break
  tries=$((tries - 1))
  sleep 1
done
ip link set "$device" up &&
ip addr flush dev "$device" scope global &&
ip addr add "$address" dev "$device" || exit 1
[ -z "$gateway" ] || ip route replace default via "$gateway" dev "$device" || exit 1
[ -z "$dns" ] || for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
"""
"""MAC address, address, gateway, name servers, seconds that somebody else has for it: has the card have that address
now, unless it has it by then, and no other one of its family."""

BY_OWN = f"""{_FIND}
exec {OWN} "$device" "$1" "$2" "$3" "$4"
"""
"""The same by the guest's own program."""


class InGuest:
    """Runs things in one guest, by its agent."""

    def __init__(self, domains: Domains, uuid: str, limit: float) -> None:
        """``limit``: seconds, from now, until everything has to be done."""
        self._domains = domains
        self._uuid = uuid
        self._until = clock.monotonic() + limit

    def await_agent(self) -> None:
        """Wait until the agent answers. Raises HypervisorError and HostUnreachableError where it does not in time, or
        the VM has no line to one."""
        while True:
            try:
                self._ask("guest-ping")
                return
            except (HypervisorError, HostUnreachableError) as error:
                never = isinstance(error, HypervisorError) and Domains.has_no_agent(error)
                if never or clock.monotonic() >= self._until:
                    raise
            clock.sleep(LOOK_AGAIN)

    def system(self) -> str:
        """Return what the agent calls the guest's system, such as ``debian``, ``rhel`` and ``mswindows``; empty where
        it does not know."""
        try:
            return str((self._ask("guest-get-osinfo") or {}).get("id", ""))
        except HypervisorError:  # agents before 2.10 have no such command
            return ""

    def shell(self, script: str, *words: str, given: str | None = None) -> str:
        """Run a shell's script with these words, and return what it said. Raises HypervisorError where it fails, and
        TimeoutError where it has not ended in time."""
        return self.run("/bin/sh", ["-c", script, "mudanza", *words], given)

    def run(self, path: str, words: Sequence[str], given: str | None = None) -> str:
        """The same of any program. ``given``: what it reads."""
        arguments: dict[str, Any] = {"path": path, "arg": list(words), "capture-output": True}
        if given is not None:
            arguments["input-data"] = base64.b64encode(given.encode()).decode()
        begun = self._ask("guest-exec", arguments)
        while not (seen := self._ask("guest-exec-status", {"pid": begun["pid"]})).get("exited"):
            if clock.monotonic() >= self._until:
                raise TimeoutError("what was begun in the guest has not ended in time")
            clock.sleep(LOOK_AGAIN)
        if seen.get("exitcode") != 0:
            code = seen.get("exitcode", seen.get("signal"))
            raise HypervisorError(self._domains.host, f"in the guest: exit {code}: {_in_brief(seen)}")
        return _said(seen, "out-data")

    def _ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        words = {"execute": command, **({"arguments": arguments} if arguments is not None else {})}
        return self._domains.ask_agent(self._uuid, words, timeout=ASK_TIMEOUT)


def _said(seen: Mapping[str, Any], stream: str) -> str:
    return base64.b64decode(seen.get(stream, "")).decode(errors="replace")


def _in_brief(seen: Mapping[str, Any]) -> str:
    told = _said(seen, "out-data") + _said(seen, "err-data")
    return " ".join(told.split())[-MOST_SAID:] or "it said nothing"
