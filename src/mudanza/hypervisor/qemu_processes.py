"""A VM's QEMU seen by ssh, as a process of its host, for when the host's libvirt cannot be asked.

Only what the kernel says is believed: whether there is such a process, and whether its vCPUs have ever run.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.ssh import RemoteShell
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.migration import Qemu

LOOK_TIMEOUT = 8.0
"""Seconds that logging in and looking, or ending it, may take."""
NEVER_RAN = 20_000_000
"""Nanoseconds on a CPU up to which no vCPU of an incoming QEMU has run the guest: it has set itself up, and taken over
the registers that arrived. Seen in the lab: 0.4 ms until the guest has arrived, 8 ms as it began to run."""
RAN = 100_000_000
"""Nanoseconds from which on it has; in between nothing is concluded."""

_NOBODY = "00000000-0000-0000-0000-000000000000"

# Two QEMUs of one VM on one host are none that libvirt would have started: the script ends, and nothing is concluded.
_FIND = """
[ "$(id -u)" = 0 ] || { echo "only root sees whose QEMU a process is" >&2; exit 1; }
found=
for place in /proc/[0-9]*; do
  case $(readlink "$place/exe") in */qemu*) ;; *) continue ;; esac
  [ "$(tr '\\0' '\\n' <"$place/cmdline" | grep -x -A 1 -e -uuid | tail -n 1)" = "$uuid" ] || continue
  [ -z "$found" ] || { echo "there are two" >&2; exit 1; }
  found=${place#/proc/}
done
ran() {
  cat /proc/"$found"/task/*/comm >/dev/null || exit 1
  for task in /proc/"$found"/task/*; do
    case $(cat "$task/comm") in *CPU*/*) cut -d ' ' -f 1 "$task/schedstat" ;; esac
  done | awk '$1 >= most { most = $1; count++ } END { if (!count) exit 1; printf "%.0f", most }'
}
"""
_LOOK = """
[ -n "$found" ] || { echo "@ gone"; exit 0; }
time=$(ran) || exit 1
echo "@ ran $time"
"""
# It stands still while it is looked at for the last time, so that nothing can let it run in between.
_END = """
[ -n "$found" ] || { echo "@ gone"; exit 0; }
trap 'kill -CONT "$found"' HUP INT TERM
kill -STOP "$found" || exit 1
time=$(ran) || { kill -CONT "$found"; exit 1; }
if [ "$time" -gt "$most" ]; then kill -CONT "$found"; echo "@ ran $time"; exit 0; fi
kill -KILL "$found" || exit 1
for _ in 1 2 3 4 5 6 7 8 9 10; do
  [ -e "/proc/$found/exe" ] || { echo "@ gone"; exit 0; }
  sleep 0.2
done
exit 1
"""
# Those that it has opened itself: whoever looks at its display is none of them.
_CUT_OFF = """
command -v ss >/dev/null || { echo "there is no ss" >&2; exit 1; }
peers=$(getent ahosts "$peer" | cut -d ' ' -f 1 | sort -u)
[ -n "$peers" ] || { echo "nobody knows the address of $peer" >&2; exit 1; }
[ -n "$found" ] || { echo "@ gone"; exit 0; }
ports=$(ss -Htnlp | awk -v pid="pid=$found," 'index($0, pid) { sub(/.*:/, "", $4); print $4 }')
ss -Htnp state established | awk -v pid="pid=$found," 'index($0, pid) { print $3, $4 }' | while read -r here there; do
  address=${there%:*} address=${address#[} address=${address%]}
  echo "$peers" | grep -qxF -e "$address" || continue
  ! echo "$ports" | grep -qxF -e "${here##*:}" || continue
  ss -KHtn src "$here" dst "$there" >/dev/null || exit 1
  echo "@ cut $there"
done
"""


@dataclass(frozen=True, slots=True)
class QemuProcesses:
    """The QEMUs of one host; ``command`` logs in there, None where the controller does not by ssh."""

    host: str
    command: tuple[str, ...] | None

    def can_look(self) -> bool:
        """Whether it can be told at all. Takes LOOK_TIMEOUT seconds at the most."""
        return self.look(_NOBODY) is Qemu.GONE

    def look(self, uuid: str) -> Qemu | None:
        """Return what there is of a VM; None where that cannot be told. Takes LOOK_TIMEOUT seconds at the most."""
        try:
            ran = self._ran(uuid, _LOOK)
        except (HostUnreachableError, HypervisorError):
            return None
        if ran is None:
            return Qemu.GONE
        return Qemu.NEVER_RAN if ran <= NEVER_RAN else Qemu.RAN if ran >= RAN else None

    def end(self, uuid: str) -> None:
        """End a VM's QEMU, if its vCPUs have never run.

        Raises HypervisorError where they have, or it stays; HostUnreachableError where nobody can log in.
        """
        if self._ran(uuid, _END) is not None:
            raise HypervisorError(self.host, "its QEMU was not ended, for its vCPUs have run")

    def cut_off(self, uuid: str, peer: str) -> tuple[str, ...]:
        """End the TCP connections of a VM's QEMU that lead to another host, by the name its host has for it; return
        where they led.

        A QEMU that waits for an answer on a dead connection hears nothing else, nor does libvirt: this needs neither.
        Raises HypervisorError where the kernel or its tools do not serve, HostUnreachableError.
        """
        answers = self._run(f"uuid={shlex.quote(uuid)} peer={shlex.quote(peer)}\n{_FIND}{_CUT_OFF}")
        return tuple(words[1] for words in answers if words[0] == "cut")

    def _ran(self, uuid: str, script: str) -> int | None:
        """Return for how many nanoseconds the busiest vCPU of its QEMU was on a CPU; None where no QEMU is left."""
        match self._run(f"uuid={shlex.quote(uuid)} most={NEVER_RAN}\n{_FIND}{script}"):
            case [["gone"]]:
                return None
            case [["ran", time]]:
                return int(time)
            case answer:
                raise HypervisorError(self.host, f"the look for its QEMU got an answer that makes no sense: {answer}")

    def _run(self, script: str) -> list[list[str]]:
        if self.command is None:
            raise HostUnreachableError(self.host, "the controller does not log in there by ssh")
        shell = RemoteShell(self.host, self.command)
        answers = Task(lambda: list(shell.run(script)))
        try:
            return answers.wait(LOOK_TIMEOUT)
        except TimeoutError as error:
            raise HostUnreachableError(self.host, f"the look for its QEMU took over {LOOK_TIMEOUT:g} s") from error
        finally:
            shell.close()
