"""The controller's own loss: its journal and settings are kept at another machine, and carried on from there."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudanza import __version__, clock
from mudanza.journal.standbys import Reign, Standby, Standbys
from mudanza.model.errors import BlockedError, HypervisorError, MudanzaError, UsageError
from mudanza.operations.reigning import ReplacedError, login_of

if TYPE_CHECKING:
    from mudanza.operations.means import Means, Say

DIRECTORY = "/var/lib/mudanza/standby"
"""Where copies are kept if nothing else is said, each journal's in a directory of its own."""
LOOK_EVERY = 1.0
"""Seconds between two looks whether a copy is due."""
JOURNAL, SETTINGS, MANIFEST, SUMS = "journal.db", "mudanza.toml", "manifest.json", "sums"
CURRENT, TAKEN = "current", "taken"

# A copy is there whole, or not at all: written beside, compared with its sums, brought to the disk, and only then named
# ``current``. The one before stays. A place whose copy was taken over takes none of an older reign.
_KEEP = """
set -eu
umask 077
mkdir -p -- "$directory"
cd -- "$directory"
taken=$(cat taken 2>/dev/null || echo 0)
if [ "$taken" -gt "$reign" ]; then echo "@ taken $taken"; exit 0; fi
last=0
for found in generation-*; do
  number=${found#generation-}
  case $number in *[!0-9]*) continue ;; esac
  [ "$number" -le "$last" ] || last=$number
done
next=$((last + 1))
rm -rf -- *.part
mkdir "$next.part"
tar -x -f - -C "$next.part"
(cd "$next.part" && sha256sum -c --status sums && sync -- *)
mv -T -- "$next.part" "generation-$next"
ln -sfn "generation-$next" current.new
mv -T -- current.new current
sync -- "generation-$next" .
for found in generation-*; do
  number=${found#generation-}
  case $number in *[!0-9]*) continue ;; esac
  [ "$number" -ge "$last" ] || rm -rf -- "$found"
done
echo "@ kept $next"
for file in $needed; do [ -r "$file" ] || echo "@ lacks $file"; done
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A copy that is there."""

    name: str
    generation: int
    size: int
    lacking: tuple[str, ...]
    """Files with secrets that the settings name, and that are not there."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A journal that is carried on here."""

    generation: int
    reign: int
    age: float
    """Seconds from the instant of the copy until it was taken over, by the clocks of both machines."""
    hosts: int
    unfinished: tuple[int, ...]
    unmarked: Mapping[str, str]
    """Hosts that do not know of it yet, and why."""
    lacking: tuple[str, ...]


def add(means: Means, place: str, directory: str, every: float, asked_by: str) -> str:
    """Have copies be kept at a host, or wherever ssh leads; return what is to be told. Raises UsageError."""
    login_of(means, place)
    store = Standbys(means.database)
    directory = directory or f"{DIRECTORY}/{store.reign().journal}"
    if not directory.startswith("/") or "\n" in directory:
        raise UsageError(f"{directory!r} is no whole path")
    store.put(place, directory, every, asked_by)
    return f"a copy is sent to {place}:{directory} every {every:g} s, by mudanza serve or mudanza standby run"


def remove(means: Means, place: str) -> str:
    """Have none be sent there any more; return what is to be told. Raises UsageError."""
    store = Standbys(means.database)
    found = store.get(place)
    store.remove(place)
    return f"none is sent to {place} any more; what is there stays: {found.directory}"


def send(means: Means, place: str) -> Sent:
    """Send a copy now. Raises UsageError, ReplacedError where it was taken over there, HostUnreachableError,
    HypervisorError."""
    store = Standbys(means.database)
    found, reign = store.get(place), store.reign()
    store.tried(place)
    try:
        return _send(means, store, found, reign)
    except MudanzaError as error:
        store.failed(place, str(error))
        raise


def _send(means: Means, store: Standbys, found: Standby, reign: Reign) -> Sent:
    from mudanza.hypervisor.parcel import hand_in

    login = login_of(means, found.name)
    with tempfile.TemporaryDirectory(prefix="mudanza-standby-") as folder:
        taken_at = store.instant()
        parcel, needed = _pack(means, Path(folder), reign, taken_at)
        about = {"directory": found.directory, "reign": reign.number, "needed": " ".join(needed)}
        answer = hand_in(found.name, login, _KEEP, about, parcel)
        size = parcel.stat().st_size
    match answer[:1]:
        case [["kept", number]]:
            store.sent(found.name, int(number), taken_at, size)
            lacking = tuple(words[1] for words in answer[1:] if words[0] == "lacks")
            return Sent(found.name, int(number), size, lacking)
        case [["taken", number]]:
            how = f"it was taken over at {found.name}, reign {number}, and this one's is {reign.number}"
            store.replaced(how)
            raise ReplacedError(f"this controller does nothing any more: {how}")
    raise HypervisorError(found.name, f"the answer to a copy makes no sense: {answer}")


def _pack(means: Means, folder: Path, reign: Reign, taken_at: float) -> tuple[Path, tuple[str, ...]]:
    """Write all that is sent into one file; return it, and the files with secrets that are not in it."""
    from mudanza.journal.backup import back_up

    contents = back_up(means.database, folder / JOURNAL)
    settings = means.settings_file.read_text() if means.settings_file is not None else ""
    needed = needed_files(settings)
    (folder / SETTINGS).write_text(without_database(settings))
    manifest = {
        "journal": reign.journal,
        "reign": reign.number,
        "taken_at": taken_at,
        "from": os.uname().nodename,
        "mudanza": __version__,
        "hosts": contents.hosts,
        "jobs": contents.jobs,
        "needed": needed,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    names = (JOURNAL, SETTINGS, MANIFEST)
    (folder / SUMS).write_text("".join(f"{_digest(folder / name)}  {name}\n" for name in names))
    parcel = folder / "parcel.tar"
    with tarfile.open(parcel, "w") as tar:
        for name in (*names, SUMS):
            tar.add(folder / name, name)
    return parcel, needed


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def without_database(settings: str) -> str:
    """Return settings that do not say where the database is, which is elsewhere at the standby, and may have a password
    in its name: pure."""
    kept, top = [], True
    for line in settings.splitlines(keepends=True):
        top = top and not line.lstrip().startswith("[")
        if not (top and line.partition("=")[0].strip() in ("database", '"database"', "'database'")):
            kept.append(line)
    text = "".join(kept)
    if "database" in tomllib.loads(text):
        raise UsageError(
            "the settings say on several lines where the database is", remedy='write: database = "…" on one line'
        )
    return text


def needed_files(settings: str) -> tuple[str, ...]:
    """Return the files outside of the settings that these name, such as keys and secrets: they are never sent. Pure."""

    def within(value: Any, key: str) -> Iterator[str]:
        if isinstance(value, dict):
            for name, each in value.items():
                yield from within(each, name)
        elif isinstance(value, list) and key == "command" and value:
            yield str(value[0])
        elif isinstance(value, str) and value.startswith("/") and (key.endswith("_file") or key in _FILES):
            yield value

    found = dict.fromkeys(within(tomllib.loads(settings), ""))
    return tuple(each for each in found if not any(letter.isspace() for letter in each))


_FILES = ("key", "certificate", "secrets")


class Keeper:
    """Sends the copies that are due."""

    def __init__(self, means: Means, say: Say, failed: Callable[[MudanzaError], None]) -> None:
        self._means = means
        self._say = say
        self._failed = failed

    def run(self, stop: clock.Event) -> None:
        """Send what is due until ``stop`` is set, or the journal was taken over."""
        from mudanza.journal.errors import JournalLostError

        while not stop.wait(LOOK_EVERY):
            with suppress(JournalLostError):  # whoever works on the queue tells of it
                self.turn()

    def turn(self) -> list[int]:
        """Send what is due now; return the exit codes. Raises JournalLostError."""
        store, codes = Standbys(self._means.database), []
        if store.reign().replaced:
            return []
        for each in store.all():
            if not each.due:
                continue
            try:
                sent = send(self._means, each.name)
            except MudanzaError as error:
                self._failed(error)
                codes.append(error.exit_code)
            else:
                if each.said or not each.generation:
                    self._say(f"standby {sent.name}: generation {sent.generation} is there")
                codes.append(0)
        return codes


def take(means: Means, directory: Path, say: Say, *, force: bool) -> Taken:
    """Carry a journal on here of which copies were kept in a directory of this machine.

    Raises UsageError where there is no whole copy; BlockedError where this database is not empty, unless ``force``, or
    it was taken over there before.
    """
    from mudanza.journal.backup import restore

    place, manifest = whole_copy(directory)
    taken = _taken(directory)
    if taken > int(manifest["reign"]) and not force:
        raise BlockedError(
            f"the copy in {directory} was taken over before (reign {taken})",
            remedy="work with the controller that took it over; if that is lost, too: --force",
        )
    contents = restore(means.database, place / JOURNAL, force=force)
    store = Standbys(means.database)
    age = max(store.instant() - float(manifest["taken_at"]), 0.0)
    reign = store.take(max(taken, int(manifest["reign"])))
    _write_taken(directory, reign)
    say(f"the journal of {manifest['from']} is carried on here, under reign {reign}")
    from mudanza.operations.reigning import mark_hosts

    unmarked = {host: why for host, why in mark_hosts(means).items() if why}
    lacking = tuple(each for each in manifest["needed"] if not os.access(each, os.R_OK))
    generation = int(place.name.partition("-")[2])
    return Taken(generation, reign, age, contents.hosts, contents.unfinished, unmarked, lacking)


def whole_copy(directory: Path) -> tuple[Path, Mapping[str, Any]]:
    """Return the newest copy in a directory, and what is said of it. Raises UsageError where it is not whole."""
    place = (directory / CURRENT).resolve()
    try:
        sums = dict(line.split("  ", 1)[::-1] for line in (place / SUMS).read_text().splitlines())
        broken = [name for name in (JOURNAL, SETTINGS, MANIFEST) if sums.get(name) != _digest(place / name)]
        manifest = json.loads((place / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"there is no copy of a journal in {directory}: {error}",
            remedy=f"name the directory in which the copies are: {DIRECTORY}/…",
        ) from error
    if broken:
        raise UsageError(
            f"the copy in {place} is damaged: {', '.join(broken)}", remedy=f"the one before is in {directory}, too"
        )
    return place, manifest


def _taken(directory: Path) -> int:
    try:
        return int((directory / TAKEN).read_text())
    except (OSError, ValueError):
        return 0


def _write_taken(directory: Path, reign: int) -> None:
    """Have the place take no copy of an older reign from now on."""
    beside = directory / f"{TAKEN}.new"
    with beside.open("w") as file:
        file.write(f"{reign}\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(directory / TAKEN)
