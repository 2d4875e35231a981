"""No password is written down; where one is needed, it is had again from the host that has the VM."""

from __future__ import annotations

from pathlib import Path

import pytest

from mudanza.journal.audit import Audit
from mudanza.journal.database import open_database
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.journal.secrets import HIDDEN, without_secrets
from mudanza.migration.secrets import same_but_for_secrets, with_secrets_of

SECRET = "opensesame"
DOMAIN = """<domain type='kvm'><name>db</name><devices>
<graphics type='spice' passwd='spicy&quot;,one'/>
<graphics type='vnc' port='-1' passwd='opensesame' passwdValidTo='2030-01-01T00:00:00'/>
<disk><source protocol='http'><cookies><cookie name='a'>opensesame</cookie></cookies></source></disk>
</devices></domain>"""


@pytest.mark.parametrize(
    "text",
    [
        DOMAIN,
        DOMAIN.replace("'", '"').replace("&quot;", ""),
        f"libvirt said: passwd='{SECRET}' is too long",
        f"qemu+ssh://root:{SECRET}@h1/system?x=1",
        f"postgresql://mudanza:{SECRET}@db/journal",
        f"spice,port=1,password={SECRET},disable-ticketing=off",
        f"--password={SECRET}",
        f"qemu+tls://h1/system?password={SECRET}&x=1",
    ],
)
def test_a_password_is_hidden_and_nothing_else(text: str) -> None:
    hidden = without_secrets({"a": [text, 1, None]})["a"][0]
    assert SECRET not in hidden
    assert "spicy" not in hidden
    assert HIDDEN in hidden
    assert without_secrets(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    ["qemu+ssh://root@h1/system", "qemu:///system", "10:20:30", "/srv/a@b:c", "the password of nobody", "a=b,c=d"],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_a_definition_gets_its_passwords_back() -> None:
    moved = without_secrets(DOMAIN.replace("name>db", "name>other"))
    whole = with_secrets_of(moved, DOMAIN)
    assert 'passwd="opensesame"' in whole
    assert "spicy&quot;,one" in whole
    assert '<cookie name="a">opensesame</cookie>' in whole
    assert HIDDEN not in whole
    assert "name>other" in whole
    assert with_secrets_of(DOMAIN, DOMAIN) == DOMAIN


def test_a_snapshot_gets_the_passwords_of_the_domain() -> None:
    snapshot = without_secrets(f"<domainsnapshot><name>s</name>{DOMAIN}</domainsnapshot>")
    assert SECRET not in snapshot
    assert 'passwd="opensesame"' in with_secrets_of(snapshot, DOMAIN)


def test_a_display_whose_password_is_lost_is_shut_and_not_open_to_all() -> None:
    whole = with_secrets_of(without_secrets(DOMAIN), "<domain><devices/></domain>")
    assert 'passwd=""' not in whole
    assert f'passwd="{HIDDEN}"' not in whole
    assert whole.count("passwd=") == 2


def test_two_definitions_are_compared_whoever_keeps_them() -> None:
    assert same_but_for_secrets(DOMAIN, without_secrets(DOMAIN))
    assert not same_but_for_secrets(DOMAIN, without_secrets(DOMAIN).replace("vnc", "sdl"))


def test_nothing_that_is_written_holds_a_password(tmp_path: Path) -> None:
    engine = open_database(str(tmp_path / "m.db"))
    handle = Jobs(engine).begin(NewJob("live", "u-1", "db", "h1", "h2", {"note": f"a://b:{SECRET}@c"}, "ana"))
    handle.note("decide", {"xml": DOMAIN}, {"error": DOMAIN})
    handle.done(handle.intend("claim", {"xml": DOMAIN}), {"error": DOMAIN})
    handle.enter("transferring")
    handle.finish("failed", f"host h1: {DOMAIN}", 4, {"warnings": [DOMAIN]})
    number = Audit(engine).asked({"user": "ana"}, ["host", "add", f"qemu+ssh://root:{SECRET}@h1/system"])
    Audit(engine).ended(number, 1, DOMAIN)
    engine.dispose()
    for file in tmp_path.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file
    assert "passwd='*****'" in Jobs(open_database(str(tmp_path / "m.db"))).get(1).steps[0].intent["xml"]
