"""Looking whether hosts live. Their libvirt is asked; of one that does not answer, every other sign is looked for:
whether it answers to ping and ssh from here, and whether other hosts, which we reach by ssh, reach it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from urllib.parse import urlsplit

from mudanza import clock
from mudanza.availability.heartbeats import Heartbeats
from mudanza.availability.watching import Round, Signs
from mudanza.hypervisor.bounded import all_of, for_each
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.shell import HostShell
from mudanza.hypervisor.ssh import ssh_command
from mudanza.hypervisor.uris import peer_uri
from mudanza.migration.command import run
from mudanza.model.errors import HostUnreachableError, MudanzaError
from mudanza.model.host import HostEntry

SIGN_LIMIT = 3.0
"""Seconds within which a sign of life must come."""
SIGNS_LIMIT = 8.0
"""Seconds within which all signs of one host must have come that are looked for at once."""
ROUND_LIMIT = 10.0
"""Seconds that one kind of signs may take of all hosts together."""
AT_ONCE = 16
MOST_WITNESSES = 3
"""Other hosts that are asked about one that is silent."""
PING_LIMIT = 2.0

# Whoever does not answer to ping may answer at a port: ICMP is not let through everywhere.
_REACHES = """
ping -c 1 -W 1 -- "$address" >/dev/null 2>&1 && { echo '@ yes'; exit; }
for port in 22 16514; do
  timeout 1 bash -c "exec 3<>/dev/tcp/$address/$port" 2>/dev/null && { echo '@ yes'; exit; }
done
echo '@ no'
"""
_RESTART = """
for service in libvirtd virtqemud; do
  if systemctl is-enabled --quiet "$service.service" || systemctl is-enabled --quiet "$service.socket"; then
    systemctl restart "$service.service" && { echo "@ $service"; exit 0; }
  fi
done
exit 1
"""


class Observer:
    """Looks at all hosts, which stay connected from one round to the next."""

    def __init__(self, connections: Connections, anchors: Sequence[str]) -> None:
        """``anchors``: addresses that answer to ping as long as we are not cut off ourselves."""
        self._connections = connections
        self._anchors = tuple(anchors)
        self.heartbeats: Heartbeats | None = None
        """Those on shared storage, where there are such."""
        self._entries = {entry.name: entry for entry in connections.entries}

    def look(self, proven_off: Collection[str]) -> Round:
        """Take one look at everybody. ``proven_off``: hosts that are, and are not looked for further."""
        at, names = clock.monotonic(), list(self._entries)
        asked = for_each(self._libvirt, names, workers=AT_ONCE, timeout=ROUND_LIMIT)
        answers = {name: answer is True for name, answer in zip(names, asked, strict=True)}
        here = [name for name in names if answers[name]]
        if self.heartbeats is not None:
            self.heartbeats.tend(here)
        silent = [name for name in names if not answers[name] and name not in proven_off]
        signs = {
            name: Signs(answers[name], maintenance=self._entries[name].maintenance, proven_off=name in proven_off)
            for name in names
            if name not in silent
        }
        looked = for_each(lambda name: self._look_for(name, here), silent, workers=AT_ONCE, timeout=ROUND_LIMIT)
        for name, found in zip(silent, looked, strict=True):
            unknown = Signs(libvirt=False, maintenance=self._entries[name].maintenance)
            signs[name] = found if isinstance(found, Signs) else unknown
        anchors = {each: bool(ping(each)) for each in self._anchors} if silent else {}
        return Round(at, {name: signs[name] for name in names}, anchors)

    def restart_libvirt(self, host: str) -> str:
        """Have a host's libvirtd started anew, by ssh; return which one it was. Raises what ``HostShell`` raises."""
        with HostShell(self._entries[host]) as shell:
            [[service]] = shell.run(_RESTART, what="restarting libvirtd")
        return service

    def _libvirt(self, name: str) -> bool:
        try:
            return self._connections.get(name, timeout=SIGN_LIMIT).answers()
        except HostUnreachableError:
            return False

    def _look_for(self, name: str, here: Sequence[str]) -> Signs:
        """Look for every other sign of a host whose libvirt does not answer."""
        entry = self._entries[name]
        address = address_of(entry)
        by_ssh = [each for each in here if ssh_command(self._entries[each].uri) is not None][:MOST_WITNESSES]
        seen = peer_address_of(entry)
        hearts = self.heartbeats
        asked = by_ssh if seen else []
        calls: list[Callable[[], bool | None]] = [
            lambda: ping(address) if address else None,
            lambda: self._ssh(entry),
            lambda: hearts.beats(name, by_ssh) if hearts is not None else None,
            *(partial(self._reaches, each, seen or "") for each in asked),
        ]
        # All at once: one that hangs must not keep the others from being heard within the round.
        answers = all_of(calls, timeout=SIGNS_LIMIT)
        said = [None if isinstance(each, BaseException) else each for each in answers]
        told: dict[str, bool | None] = dict(zip(asked, said[len(calls) - len(asked) :], strict=True))
        return Signs(
            libvirt=False,
            ping=said[0],
            ssh=said[1],
            beat=said[2],
            witnesses={each: word for each, word in told.items() if word is not None},
            maintenance=entry.maintenance,
        )

    def _ssh(self, entry: HostEntry) -> bool | None:
        if ssh_command(entry.uri) is None:
            return None
        try:
            with HostShell(entry) as shell:
                return bool(shell.run("echo '@ here'", what="looking whether it lives", patience=SIGN_LIMIT))
        except MudanzaError:
            return False

    def _reaches(self, witness: str, address: str) -> bool | None:
        """Return whether another host reaches an address; None: it could not be asked."""
        try:
            with HostShell(self._entries[witness]) as shell:
                answer = shell.run(
                    _REACHES, {"address": address}, what=f"looking for {address}", patience=SIGN_LIMIT * 2
                )
        except MudanzaError:
            return None
        return [list(words) for words in answer] == [["yes"]]


def ping(address: str) -> bool | None:
    """Return whether an address answers to ping from here; None: that cannot be found out."""
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}
    try:
        ended = run(["ping", "-c", "1", "-W", "1", "--", address], environment, PING_LIMIT, lambda: None)
    except OSError:
        return None
    return ended.code == 0


def address_of(entry: HostEntry) -> str | None:
    """Return where a host is from here; None: its URI does not say."""
    return urlsplit(entry.uri).hostname


def peer_address_of(entry: HostEntry) -> str | None:
    """Return where a host is for the other hosts; None: nobody has said."""
    uri = peer_uri(entry)
    return (urlsplit(uri).hostname if uri else None) or entry.migration_address
