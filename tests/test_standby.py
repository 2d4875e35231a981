"""A journal that is kept at another machine, and carried on there. A shell of this machine stands in for ssh."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from mudanza.cli.context import App
from mudanza.cli.main import main
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.journal.recovery_plans import RecoveryPlans
from mudanza.journal.standbys import Standbys
from mudanza.model.errors import BlockedError, HypervisorError, MudanzaError, UsageError
from mudanza.model.host import HostEntry
from mudanza.operations import reigning, standby
from mudanza.operations.examining import examine_standbys
from mudanza.operations.reigning import ReplacedError, refuse_replaced

PLACE = "ssh://root@dr.example"
SETTINGS = """
[notify.webhooks.chat]
url = "https://chat.example/hook"
secret_file = "/nowhere/chat.secret"

[hooks.dns]
command = ["/usr/local/bin/dns", "/not/this"]
when = "recovery"
"""


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Have nobody log in anywhere; hosts know of these reigns."""
    known: dict[str, int] = {}

    def ask(entry: HostEntry, _journal: str) -> int:
        if entry.name not in known:
            raise HypervisorError(entry.name, "no answer")
        return known[entry.name]

    for module in (reigning, standby):
        monkeypatch.setattr(module, "login_of", lambda _means, _place: ("sh", "-c"))
    monkeypatch.setattr(reigning, "_ask", ask)
    monkeypatch.setattr(
        "mudanza.hypervisor.reigns.mark", lambda entry, _journal, reign: known.update({entry.name: reign})
    )
    return known


@pytest.fixture
def app(tmp_path: Path) -> App:
    """The controller of the main site."""
    made = app_in(tmp_path / "main", SETTINGS)
    Inventory(made.database).add_host(HostEntry("h1", "qemu+ssh://root@h1/system"))
    RecoveryPlans(made.database).keep("site", "[[group]]", "ana")
    return made


def app_in(folder: Path, settings: str = "") -> App:
    folder.mkdir()
    config = folder / "mudanza.toml"
    config.write_text(f'database = "{folder}/mudanza.db"\n{settings}')
    return App(config, debug=False)


@pytest.fixture
def place(app: App, tmp_path: Path) -> Path:
    """Where its copies are."""
    directory = tmp_path / "dr" / "copies"
    standby.add(app, PLACE, str(directory), 60.0, "ana")
    return directory


def names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def test_each_copy_is_whole_and_the_one_before_stays(app: App, place: Path) -> None:
    sent = [standby.send(app, PLACE) for _ in range(3)]
    assert [each.generation for each in sent] == [1, 2, 3]
    assert names(place) == ["current", "generation-2", "generation-3"]
    newest, manifest = standby.whole_copy(place)
    assert (newest.name, manifest["hosts"], manifest["reign"]) == ("generation-3", 1, 0)
    assert newest.stat().st_mode & 0o077 == (newest / "journal.db").stat().st_mode & 0o077 == 0
    [shown] = Standbys(app.database).all()
    assert (shown.generation, shown.said, shown.late) == (3, "", False)
    assert shown.lag is not None


def test_secrets_stay_and_those_that_are_not_there_are_told(app: App, place: Path) -> None:
    app.loaded.path.write_text(f'database = "postgresql://m:secret@db/m"\n{SETTINGS}')  # type: ignore[union-attr]
    sent = standby.send(app, PLACE)
    assert set(sent.lacking) == {"/nowhere/chat.secret", "/usr/local/bin/dns"}
    settings = (place / "current" / "mudanza.toml").read_text()
    assert "secret@db" not in settings
    assert tomllib.loads(settings) == tomllib.loads(SETTINGS)


def test_where_the_database_is_on_several_lines_is_not_sent() -> None:
    with pytest.raises(UsageError, match="on several lines"):
        standby.without_database("\"data\\u0062ase\" = 'postgresql://m:secret@db/m'\n")
    assert standby.without_database('[limits]\nread = 3\n[x]\ndatabase = "y"\n').endswith('database = "y"\n')


def test_what_a_dead_controller_left_half_is_no_copy(app: App, place: Path) -> None:
    standby.send(app, PLACE)
    (place / "2.part").mkdir()
    (place / "2.part" / "journal.db").write_text("half")
    assert standby.whole_copy(place)[0].name == "generation-1"
    assert standby.send(app, PLACE).generation == 2
    assert names(place) == ["current", "generation-1", "generation-2"]


def test_a_place_that_takes_none_is_told_of(app: App, place: Path) -> None:
    place.parent.mkdir()
    place.write_text("a file in the way")
    with pytest.raises(MudanzaError):
        standby.send(app, PLACE)
    [shown] = Standbys(app.database).all()
    assert (shown.generation, shown.late, bool(shown.said)) == (0, True, True)
    failed: list[MudanzaError] = []
    keeper = standby.Keeper(app, lambda _: None, failed.append)
    assert keeper.turn() == [], "it was tried just now"


def test_it_is_carried_on_elsewhere_and_the_old_one_does_nothing_any_more(
    app: App, place: Path, tmp_path: Path, local: dict[str, int]
) -> None:
    handle = Jobs(app.database).begin(NewJob("live", "u-1", "db", "h1", "h2", {}, "ana"))
    standby.send(app, PLACE)
    local["h1"] = 0
    refuse_replaced(app)
    other = app_in(tmp_path / "other")
    taken = standby.take(other, place, lambda _: None, force=False)
    assert (taken.generation, taken.reign, taken.hosts, taken.unfinished) == (1, 1, 1, (handle.id,))
    assert (taken.unmarked, local) == ({}, {"h1": 1})
    assert Standbys(other.database).all() == (), "its copies were kept here"
    assert RecoveryPlans(other.database).get("site").text == "[[group]]"
    assert Standbys(other.database).reign().journal == Standbys(app.database).reign().journal
    refuse_replaced(other)

    with pytest.raises(ReplacedError, match=r"taken over at ssh://root@dr\.example, reign 1"):
        standby.send(app, PLACE)
    local.clear()
    for _ in range(2):
        with pytest.raises(BlockedError, match="does nothing any more"):
            app.connections()
    assert standby.Keeper(app, lambda _: None, lambda _: None).turn() == []
    assert names(place) == ["current", "generation-1", "taken"]


def looked_long_ago(app: App) -> None:
    with app.database.begin() as connection:
        connection.exec_driver_sql("UPDATE reign SET looked_at = 0")


def test_it_finds_out_from_any_host(app: App, place: Path, local: dict[str, int]) -> None:
    local["h1"] = 1
    with pytest.raises(ReplacedError, match="host h1 knows of reign 1, and this one's is 0"):
        refuse_replaced(app)


def test_it_finds_out_from_the_standby(app: App, place: Path) -> None:
    refuse_replaced(app)
    place.mkdir(parents=True)
    (place / "taken").write_text("3\n")
    refuse_replaced(app)  # asked a moment ago
    looked_long_ago(app)
    with pytest.raises(ReplacedError, match=f"standby {PLACE} knows of reign 3"):
        refuse_replaced(app)


def test_a_journal_that_was_never_copied_asks_nobody(app: App, local: dict[str, int]) -> None:
    local["h1"] = 7
    refuse_replaced(app)


def test_a_copy_is_taken_over_once(app: App, place: Path, tmp_path: Path) -> None:
    standby.send(app, PLACE)
    standby.take(app_in(tmp_path / "one"), place, lambda _: None, force=False)
    with pytest.raises(BlockedError, match="was taken over before"):
        standby.take(app_in(tmp_path / "two"), place, lambda _: None, force=False)
    forced = standby.take(app_in(tmp_path / "three"), place, lambda _: None, force=True)
    assert forced.reign == 2


def test_a_damaged_copy_is_refused(app: App, place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no copy"):
        standby.take(app_in(tmp_path / "early"), place, lambda _: None, force=False)
    standby.send(app, PLACE)
    journal = place / "current" / "journal.db"
    journal.write_bytes(journal.read_bytes()[:-1] + b"x")
    other = app_in(tmp_path / "other")
    with pytest.raises(UsageError, match=r"is damaged: journal\.db"):
        standby.take(other, place, lambda _: None, force=False)
    assert other.inventory.hosts() == ()


def test_an_older_backup_does_not_fall_behind_what_hosts_know(app: App, tmp_path: Path) -> None:
    from mudanza.journal.backup import back_up, restore

    back_up(app.database, tmp_path / "old.db")
    store = Standbys(app.database)
    assert store.take(4) == 5
    restore(app.database, tmp_path / "old.db", force=True)
    assert store.reign().number == 5
    store.replaced("for a test")
    restore(app.database, tmp_path / "old.db", force=True)
    assert store.reign().replaced == "for a test"


def test_the_commands(
    app: App, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "copies"

    def run(app: App, *words: str) -> tuple[object, str, str]:
        monkeypatch.setenv("MUDANZA_CONFIG", str(app.loaded.path))
        monkeypatch.setattr("sys.argv", ["mudanza", *words])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    code, _, err = run(app, "standby", "add", PLACE, "--directory", str(place), "--every", "1h")
    assert (code, "generation 1 is there" in err, "/nowhere/chat.secret is not there" in err) == (0, True, True)
    assert run(app, "standby", "run", "--once")[0] == 0
    shown = json.loads(run(app, "standby", "show", "-o", "json")[1])
    assert [(each["state"], each["generation"]) for each in shown["places"]] == [("on", 1)]
    other = app_in(tmp_path / "other")
    assert "--main-is-gone" in run(other, "standby", "take", str(place))[2]
    code, out, err = run(other, "standby", "take", str(place), "--main-is-gone", "-o", "json")
    assert (code, json.loads(out)["reign"]) == (0, 1), err
    assert run(other, "standby", "mark")[0] == 0
    assert run(app, "standby", "send", PLACE)[0] == 3
    assert json.loads(run(app, "standby", "show", "-o", "json")[1])["places"][0]["state"] == "replaced"
    assert run(app, "standby", "remove", PLACE)[0] == 0


def test_the_doctor_says_which_copies_are_old_or_were_not_brought(app: App) -> None:
    store = Standbys(app.database)
    assert examine_standbys(app) == ()
    store.put(PLACE, "/srv/standby", 3600.0, "ana")
    [new] = examine_standbys(app)
    assert (new.subject, new.said, new.findings) == (f"standby {PLACE}", "no copy yet", ())
    store.put(PLACE, "/srv/standby", 1e-9, "ana")
    store.failed(PLACE, "no route to host")
    [late] = examine_standbys(app)
    assert [each.code for each in late.findings] == ["standby-late", "standby-failing"]
    assert "no route to host" in late.findings[1].message
