"""The Debian package: built, unpacked anywhere, and run from there with nothing of the sources."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deb")
    done = subprocess.run([HERE / "scripts/deb", out], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    subprocess.run(["dpkg", "-x", package, root], check=True)
    return root


def run(root: Path, *words: str, home: Path) -> str:
    """Run the program of the package, as somebody does who has nothing else."""
    env = {"PATH": os.defpath, "HOME": str(home), "XDG_STATE_HOME": str(home)}
    done = subprocess.run(
        [root / "usr/bin/mudanza", *words], capture_output=True, text=True, env=env, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_says_what_it_is_and_needs(package: Path) -> None:
    told = subprocess.run(["dpkg-deb", "--field", package], capture_output=True, text=True, check=True).stdout
    fields = dict(re.findall(r"^(\S+): (.*)$", told, re.MULTILINE))
    assert fields["Package"] == "mudanza"
    assert "libvirt0" in fields["Depends"]
    listed = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in listed.splitlines()} == {"root/root"}


def test_the_program_runs_from_where_it_is_unpacked(unpacked: Path, tmp_path: Path) -> None:
    assert run(unpacked, "--version", home=tmp_path).startswith("mudanza ")
    assert run(unpacked, "jobs", "-o", "json", home=tmp_path).strip() == "[]"
    run(unpacked, "host", "add", "h1", "qemu:///system", "--force", home=tmp_path)
    assert "h1" in run(unpacked, "export", home=tmp_path)
    assert list(tmp_path.rglob("mudanza.db"))


def test_what_the_daemon_needs_is_in_it_and_nothing_of_where_it_was_built(unpacked: Path) -> None:
    python = unpacked / "usr/lib/mudanza/bin/python"
    words = "import mudanza, mudanza.service.api, mudanza.service.metrics, psycopg; print(mudanza.__file__)"
    done = subprocess.run([python, "-P", "-c", words], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.startswith(f"{unpacked}/usr/lib/mudanza/lib/")
    texts = [path for path in unpacked.rglob("*") if path.suffix in ("", ".cfg", ".pth", ".service") and path.is_file()]
    found = [path for path in texts if not path.is_symlink() and str(HERE).encode() in path.read_bytes()]
    assert found == []


def test_the_unit_starts_what_is_there_and_the_example_changes_nothing(unpacked: Path, tmp_path: Path) -> None:
    unit = (unpacked / "usr/lib/systemd/system/mudanza.service").read_text()
    assert (unpacked / re.findall(r"^ExecStart=/(\S+)", unit, re.MULTILINE)[0]).exists()
    example = unpacked / "usr/share/doc/mudanza/examples/mudanza.toml"
    assert "#[notify]" in example.read_text()
    run(unpacked, "--config", str(example), "jobs", home=tmp_path)


def test_pages_and_completions_are_in_it(unpacked: Path) -> None:
    assert (unpacked / "usr/share/man/man1/mudanza-migrate.1.gz").exists()
    for path in ("bash-completion/completions/mudanza", "zsh/vendor-completions/_mudanza"):
        assert "mudanza" in (unpacked / "usr/share" / path).read_text()


def test_the_scripts_of_the_package_are_shell(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--control", package, tmp_path], check=True)
    for name in ("postinst", "prerm", "postrm"):
        assert os.access(tmp_path / name, os.X_OK)
        subprocess.run(["sh", "-n", tmp_path / name], check=True)
