"""The contents of a host's files, read where they are: by what every libvirt host has, in a shell by ssh."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection

from mudanza import clock
from mudanza.hypervisor.attended import Attended, attend
from mudanza.hypervisor.contents.digests import CHUNK, SILENCE, Digests, assembled, chunk_size, meaning, runs
from mudanza.hypervisor.ssh import RemoteShell
from mudanza.model.errors import HypervisorError

LOGIN_TIMEOUT = 10.0
"""Seconds that logging in and looking for the programs may take."""
MOST_JOBS = 4
"""Chunks of one file that a host reads at once, if it has as many CPUs."""

_TOOLS = """
for tool in awk blockdev cat dd nice nproc sed stat xargs; do
  command -v "$tool" >/dev/null || { echo "there is no $tool" >&2; exit 1; }
done
digest=sha256sum
if openssl dgst -sha256 -r </dev/null >/dev/null 2>&1; then digest='openssl dgst -sha256 -r'; fi
map=
if command -v qemu-img >/dev/null; then map=qemu-img; fi
"""
_LOGIN = """
echo "@ user $(id -u)"
echo "@ tools ${map:+$map map, }dd, ${digest%% *}"
"""

# qemu-img's map of a file in, which of the wanted chunks to read and which are holes out. Whatever the map does not
# say in so many words to be a hole is read: a map that breaks off, or comes in a new form, costs time and nothing else.
PICK = """
function field(name) {
  if (!match($0, "\\"" name "\\": [0-9]+")) exit 1
  return substr($0, RSTART + length(name) + 4, RLENGTH - length(name) - 4) + 0
}
/^[0-9]+ [0-9]+$/ { first[++count] = $1; last[count] = $2; next }
/"zero": true/ && /"data": false/ {
  start = field("start")
  if (start != end) next_chunk = int((start + chunk - 1) / chunk)
  end = start + field("length")
  while (next_chunk * chunk < limit && ((next_chunk + 1) * chunk <= end || end >= limit)) hole[next_chunk++]
}
END {
  for (i = 1; i <= count; i++)
    for (n = first[i]; n <= last[i] && n * chunk < limit; n++) print (n in hole ? "hole" : "read"), n
}
"""
# One chunk. Without the word from dd a read error would pass for other contents.
_DIGEST = """
exec 3>&1
start=$(($1 * chunk)) size=$chunk
[ "$size" -le $((limit - start)) ] || size=$((limit - start))
sum=$({
  dd if="$path" bs=1M iflag=skip_bytes,count_bytes skip="$start" count="$size" status=none || echo "@ unread $1" >&3
} | $digest)
echo "@ chunk $1 ${sum%% *}"
"""
_READ = """
if [ -b "$path" ]; then found=$(blockdev --getsize64 "$path"); else found=$(stat -L -c %s -- "$path"); fi || exit 1
echo "@ length $found"
[ "$limit" -le "$found" ] || limit=$found
export path limit chunk digest
plan=$({
  echo "$wanted"
  [ -z "$map" ] || qemu-img map -f raw -U --output=json -- "$path"
} | awk -v chunk="$chunk" -v limit="$limit" "$pick") || exit 1
echo "$plan" | sed -n 's/^hole/@ hole/p'
jobs=$(nproc)
[ "$jobs" -le "$most_jobs" ] || jobs=$most_jobs
echo "$plan" | sed -n 's/^read //p' | nice xargs -r -n 1 -P "$jobs" sh -c "$one" sh || exit 1
"""


class SshContents:
    """Reads by ssh: nothing but digests comes to the controller."""

    def __init__(self, host: str, command: tuple[str, ...]) -> None:
        """Log in for a trial, with an ssh command (see ``ssh_command``) as root.

        Raises HostUnreachableError when that fails, HypervisorError when something is missing there.
        """
        self._host = host
        self._command = command
        user, tools = attend(self._log_in, host=host, what="logging in by ssh", patience=LOGIN_TIMEOUT)
        if user != "0":
            raise HypervisorError(host, "ssh logs in as somebody who may not read every file")
        self.way = f"by ssh on {host}: {tools}"

    def digests(
        self,
        path: str,
        length: int,
        *,
        block: bool,
        chunks: Collection[int] | None = None,
        stop: clock.Event | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Digests:
        """See Contents."""
        return attend(
            lambda attended: self._read(attended, path, length, block, chunks),
            host=self._host,
            what=f"reading {path}",
            patience=SILENCE,
            stop=stop,
            on_progress=on_progress,
        )

    def _log_in(self, attended: Attended) -> tuple[str, str]:
        """Return the number of the user and the tools there."""
        said: dict[str, str] = {}
        with RemoteShell(self._host, self._command, _TOOLS + _LOGIN) as shell:
            attended.interrupt_by(shell.kill)
            for word, *rest in shell.answers():
                said[word] = " ".join(rest)
        return said.get("user", ""), said.get("tools", "")

    def _read(self, attended: Attended, path: str, length: int, block: bool, chunks: Collection[int] | None) -> Digests:
        answer = _Answer(self._host, path, length)
        with RemoteShell(self._host, self._command, _script(path, length, chunks)) as shell:
            attended.interrupt_by(shell.kill)
            for words in shell.answers():
                attended.got_on(answer.take(words))
                if answer.unread:
                    raise HypervisorError(self._host, f"{path} cannot be read: {shell.said()}")
        return answer.digests(block, chunks)


class _Answer:
    """What the script says of one file."""

    def __init__(self, host: str, path: str, length: int) -> None:
        self._host = host
        self._path = path
        self._length = length
        self._there = 0
        self._end = 0
        self._found: dict[int, str | None] = {}
        self.unread = False

    def take(self, words: list[str]) -> int:
        """Take an answer; return how many bytes it tells of."""
        match words:
            case ["length", there]:
                self._there = int(there)
                self._end = min(self._length, self._there)
                return 0
            case ["hole", number]:
                return self._put(int(number), None)
            case ["chunk", number, digest]:
                return self._put(int(number), digest)
            case ["unread", _]:
                self.unread = True
                return 0
        raise HypervisorError(self._host, f"reading {self._path} by ssh got an answer that makes no sense: {words}")

    def _put(self, number: int, digest: str | None) -> int:
        size = chunk_size(number, self._end)
        self._found[number] = None if digest is None else meaning(digest, size)
        return size

    def digests(self, block: bool, chunks: Collection[int] | None) -> Digests:
        """Return all of it. Raises HypervisorError where a chunk is missing."""
        wanted = {n for first, last in runs(chunks, self._end) for n in range(first, last + 1)}
        missing = wanted - self._found.keys()
        if missing:
            raise HypervisorError(
                self._host, f"reading {self._path} by ssh told nothing of {len(missing)} of {len(wanted)} parts of it"
            )
        return assembled(self._found, self._end if block else self._there)


def _script(path: str, length: int, chunks: Collection[int] | None) -> str:
    wanted = "\n".join(f"{first} {last}" for first, last in runs(chunks, length))
    values = {
        "path": path,
        "limit": length,
        "chunk": CHUNK,
        "wanted": wanted,
        "most_jobs": MOST_JOBS,
        "pick": PICK,
        "one": _DIGEST,
    }
    return _TOOLS + "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items()) + _READ
