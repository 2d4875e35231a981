"""Wake-on-LAN: the word that a sleeping host's network card listens for, sent from here and from hosts that are on.

It is a broadcast, and gets no further than the segment that it is sent on. So it is sent on every network card,
whatever the routes say (who only names 255.255.255.255 sends it where the default route leads, or nowhere without one),
and other hosts, which are nearer as a rule, send it as well.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mudanza.hypervisor.shell import HostShell
from mudanza.model.errors import MudanzaError
from mudanza.model.host import HostEntry

PORT = 9
"""UDP; nobody has to listen there, for it is the network card that does."""
TIMES = 3
"""How often it is sent: nobody confirms one that came, and one may get lost."""
MOST_ASKED = 3
"""Hosts that send it besides: they may be on another segment than the one that sleeps."""
PATIENCE = 20.0
"""Seconds within which one of these must have done so."""

_NETWORK = Path("/sys/class/net")
_ETHERNET = "1"
"""ARPHRD_ETHER, as the kernel writes it."""
_BIND_TO_DEVICE = 25
"""SO_BINDTODEVICE, which Perl's own Socket has no name for."""

# What every Debian (perl-base) and every RHEL (python3) has. A card that is a port of a bridge or bond is left out.
_SEND = f"""
for card in {_NETWORK}/*; do
  [ -e "$card/master" ] || [ "$(cat "$card/type" 2>/dev/null)" != {_ETHERNET} ] && continue
  name=${{card##*/}}
  perl -MSocket -e '
    my ($mac, $name) = @ARGV;
    my $word = chr(255) x 6 . pack("H*", $mac) x 16;
    socket(my $wire, PF_INET, SOCK_DGRAM, 17) or exit 1;
    setsockopt($wire, SOL_SOCKET, SO_BROADCAST, 1) or exit 1;
    setsockopt($wire, SOL_SOCKET, {_BIND_TO_DEVICE}, pack("Z*", $name)) or exit 1;
    send($wire, $word, 0, sockaddr_in({PORT}, INADDR_BROADCAST)) or exit 1 for 1..{TIMES};
  ' "$mac" "$name" 2>/dev/null || python3 -c '
import socket, sys
word = b"\\xff" * 6 + bytes.fromhex(sys.argv[1]) * 16
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
wire.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[2].encode())
for _ in range({TIMES}):
    wire.sendto(word, ("255.255.255.255", {PORT}))
' "$mac" "$name" 2>/dev/null || continue
  echo "@ $name"
done
"""


def wake(mac: str, others: Sequence[HostEntry], say: Callable[[str], None]) -> bool:
    """Tell a network card to wake its host, from here and by ssh from some of the ``others``; return whether anybody
    could. Nothing confirms that it was heard."""
    here = tuple(_from_here(mac))
    if here:
        say(f"{mac} is told to wake, from here ({', '.join(here)})")
    else:
        say(f"! {mac} cannot be told to wake from here: no network card can send a broadcast")
    told = bool(here)
    for entry in others[:MOST_ASKED]:
        try:
            cards = _from(entry, mac)
        except MudanzaError as error:
            say(f"! {mac} cannot be told to wake from {entry.name}: {error}")
            continue
        if cards:
            say(f"{mac} is told to wake, from {entry.name} ({', '.join(cards)})")
            told = True
        else:
            say(f"! {mac} cannot be told to wake from {entry.name}: no perl, no python3, or no network card")
    return told


def _from_here(mac: str) -> Iterator[str]:
    """Send it on each network card of this machine; yield those that took it."""
    for _, name in socket.if_nameindex():
        if not _is_end(_NETWORK / name):
            continue
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
                for _ in range(TIMES):
                    wire.sendto(magic_packet(mac), ("255.255.255.255", PORT))
        except OSError:  # it is down; others may do
            continue
        yield name


def _is_end(card: Path) -> bool:
    """Whether a network card is one of Ethernet, and no port of a bridge or bond, which sends for it."""
    try:
        return (card / "type").read_text(encoding="ascii").strip() == _ETHERNET and not (card / "master").exists()
    except OSError:
        return False


def _from(entry: HostEntry, mac: str) -> tuple[str, ...]:
    """Have a host send it on each of its network cards; return which did. Raises MudanzaError."""
    with HostShell(entry) as shell:
        bare = {"mac": mac.replace(":", "")}
        return tuple(words[0] for words in shell.run(_SEND, bare, what=f"waking {mac}", patience=PATIENCE))


def magic_packet(mac: str) -> bytes:
    """Return what wakes the network card of that address: six times FF, then sixteen times itself."""
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16
