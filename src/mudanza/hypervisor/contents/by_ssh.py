"""The contents of a host's files, read where they are: by what every libvirt host has, in a shell by ssh."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mudanza import clock
from mudanza.hypervisor.attended import Attended, attend
from mudanza.hypervisor.contents.digests import (
    CHUNK,
    SILENCE,
    Digests,
    Images,
    Layer,
    UnreadableError,
    assembled,
    chunk_size,
    meaning,
    runs,
)
from mudanza.hypervisor.ssh import RemoteShell
from mudanza.model.errors import HypervisorError

LOGIN_TIMEOUT = 10.0
"""Seconds that logging in and looking for the programs may take."""
WRITE_OUT_LIMIT = 600.0
"""Seconds that a host's disk may take to write what its memory holds of a file."""
MOST_JOBS = 4
"""Chunks of one file that a host reads at once, if it has as many CPUs."""

_TOOLS = """
for tool in awk blockdev cat dd df mktemp nice nproc sed stat truncate xargs; do
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
# The same of what a guest finds on a disk: a part of it is written out as it is, and read from there. The file has no
# name from the beginning, so that nothing can be left behind.
_DIGEST_OF_IMAGE = """
start=$(($1 * chunk)) size=$chunk
[ "$size" -le $((limit - start)) ] || size=$((limit - start))
part=$(mktemp -p "$place") && exec 4<>"$part" && rm -- "$part" && truncate -s "$size" /proc/self/fd/4 || exit 1
window="json:{\\"driver\\": \\"raw\\", \\"offset\\": $start, \\"size\\": $size, \\"file\\": $image}"
qemu-img convert -U -n -O raw -- "$window" /proc/self/fd/4 || { echo "@ unread $1"; exit 1; }
sum=$($digest <&4)
echo "@ chunk $1 ${sum%% *}"
"""
_READ = """
case $(dd if="$path" of=/dev/null count=0 status=none 2>&1) in
  *'Permission denied'* | *'not permitted'*) echo "@ refused" ;;
esac
if [ -n "$image" ]; then
  found=$(qemu-img info -U --output=json -- "json:$top" | sed -n '/^    "virtual-size": /s/[^0-9]//gp')
  [ -n "$found" ] || exit 1
  place=/dev/shm
  room=$(df -Pk "$place" | awk 'END { print $4 }')
  [ "${room:-0}" -ge $(((most_jobs + 1) * chunk / 1024)) ] || place=/var/tmp
  export image place
elif [ -b "$path" ]; then found=$(blockdev --getsize64 "$path") || exit 1
else found=$(stat -L -c %s -- "$path") || exit 1
fi
map_it() {
  if [ -n "$image" ]; then qemu-img map -U --output=json --start-offset="$from" --max-length="$much" -- "json:$image"
  elif [ -n "$map" ]; then qemu-img map -f raw -U --output=json --start-offset="$from" --max-length="$much" -- "$path"
  fi
}
echo "@ length $found"
[ "$limit" -le "$found" ] || limit=$found
export path limit chunk digest
plan=$({
  echo "$wanted"
  map_it
} | awk -v chunk="$chunk" -v limit="$limit" "$pick") || exit 1
echo "$plan" | sed -n 's/^hole/@ hole/p'
jobs=$(nproc)
[ "$jobs" -le "$most_jobs" ] || jobs=$most_jobs
echo "$plan" | sed -n 's/^read //p' | nice xargs -r -n 1 -P "$jobs" sh -c "$one" sh || exit 1
"""
# An old sync knows of no single files, and everything on the host is too much.
_WRITE_OUT = """
sync -d -- "$path" 2>/dev/null || true
"""


class SshContents:
    """Reads by ssh: nothing but digests comes to the controller. One login serves until ``close``."""

    def __init__(self, host: str, command: tuple[str, ...]) -> None:
        """Log in for a trial, with an ssh command (see ``ssh_command``) as root.

        Raises HostUnreachableError when that fails, HypervisorError when something is missing there.
        """
        self._host = host
        self._command = command
        self._lock = threading.Lock()
        self._idle: RemoteShell | None = None
        self._closed = False
        user, tools = attend(self._log_in, host=host, what="logging in by ssh", patience=LOGIN_TIMEOUT)
        self._tools = tools.split()
        if user != "0":
            self.close()
            raise HypervisorError(host, "ssh logs in as somebody who may not read every file")
        self.way = f"by ssh on {host}: {tools}"
        self.images: Images | None = self if "qemu-img" in self._tools else None

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
        return self._attend(_Subject(path, block=block), length, chunks, stop, on_progress)

    def image_digests(
        self,
        layers: Sequence[Layer],
        length: int,
        *,
        chunks: Collection[int] | None = None,
        stop: clock.Event | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Digests:
        """See Images."""
        top = layers[0]
        return self._attend(_Subject(top.path, top.is_block, layers), length, chunks, stop, on_progress)

    def _attend(
        self,
        subject: _Subject,
        length: int,
        chunks: Collection[int] | None,
        stop: clock.Event | None,
        on_progress: Callable[[int], None],
    ) -> Digests:
        return attend(
            lambda attended: self._read(attended, subject, length, chunks),
            host=self._host,
            what=f"reading {subject.path}",
            patience=SILENCE,
            stop=stop,
            on_progress=on_progress,
        )

    def write_out(self, path: str, *, stop: clock.Event | None = None) -> None:
        """See Contents."""
        attend(
            lambda attended: self._write_out(attended, path),
            host=self._host,
            what=f"writing out {path}",
            patience=WRITE_OUT_LIMIT,
            stop=stop,
        )

    def close(self) -> None:
        """See Contents."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, None
        if idle is not None:
            idle.close()

    @contextmanager
    def _shell(self, attended: Attended) -> Iterator[RemoteShell]:
        """Have a shell to run scripts in: the one that was used last, if it serves still."""
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None and idle.ended:
            idle.close()
            idle = None
        shell = idle or RemoteShell(self._host, self._command)
        attended.interrupt_by(shell.kill)
        try:
            yield shell
        except BaseException:
            shell.close()
            raise
        attended.interrupt_by(lambda: None)
        with self._lock:
            keep = self._idle is None and not self._closed
            if keep:
                self._idle = shell
        if not keep:
            shell.close()

    def _log_in(self, attended: Attended) -> tuple[str, str]:
        """Return the number of the user and the tools there."""
        with self._shell(attended) as shell:
            said = {word: " ".join(rest) for word, *rest in shell.run(_TOOLS + _LOGIN)}
        return said.get("user", ""), said.get("tools", "")

    def _read(self, attended: Attended, subject: _Subject, length: int, chunks: Collection[int] | None) -> Digests:
        answer = _Answer(self._host, subject.path, length)
        with self._shell(attended) as shell:
            for words in shell.run(_script(subject, length, chunks, self._tools)):
                attended.got_on(answer.take(words))
                if answer.unread:
                    raise HypervisorError(self._host, f"{subject.path} cannot be read: {shell.said()}")
                if answer.refused:
                    raise UnreadableError(self._host, f"root may not read {subject.path}")
        return answer.digests(subject.block, chunks)

    def _write_out(self, attended: Attended, path: str) -> None:
        with self._shell(attended) as shell:
            for _ in shell.run(f"path={shlex.quote(path)}\n{_WRITE_OUT}"):
                attended.got_on()


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is read: the bytes of a file, or what a guest finds on the disk that ``layers`` make."""

    path: str
    block: bool
    layers: Sequence[Layer] = ()


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
        self.refused = False

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
            case ["refused"]:
                self.refused = True
                return 0
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


def node(layers: Sequence[Layer]) -> str:
    """Return a disk of these images as QEMU's JSON names it: nothing is probed, and nothing below them opened."""
    found: dict[str, object] | None = None
    for layer in reversed(layers):
        file = {"driver": "host_device" if layer.is_block else "file", "filename": layer.path}
        above: dict[str, object] = {"driver": layer.format, "file": file}
        if layer.format == "qcow2":
            above["backing"] = found
        found = above
    return json.dumps(found)


def _script(subject: _Subject, length: int, chunks: Collection[int] | None, tools: Collection[str]) -> str:
    wanted = runs(chunks, length)
    first, last = (wanted[0][0], wanted[-1][1]) if wanted else (0, 0)
    values = {
        "digest": "openssl dgst -sha256 -r" if "openssl" in tools else "sha256sum",
        "map": "qemu-img" if "qemu-img" in tools else "",
        "path": subject.path,
        "image": node(subject.layers) if subject.layers else "",
        "top": node(subject.layers[:1]) if subject.layers else "",
        "limit": length,
        "chunk": CHUNK,
        "wanted": "\n".join(f"{first} {last}" for first, last in wanted),
        "from": first * CHUNK,
        "much": (last + 1 - first) * CHUNK,
        "most_jobs": MOST_JOBS,
        "pick": PICK,
        "one": _DIGEST_OF_IMAGE if subject.layers else _DIGEST,
    }
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items()) + _READ
