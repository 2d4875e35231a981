"""What is documented is what there is: commands, options, exit codes, and what people are told to type."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.cli.exit_codes import GRAVITY, INTERRUPTED, MEANINGS, MOVES_PROPOSED, PARTLY
from mudanza.cli.reference import Page, document, man_of, pages, write_completions, write_man
from mudanza.model.errors import MudanzaError

HERE = Path(__file__).parent.parent
PAGES = {page.name: page for page in pages()}
WRITTEN = (HERE / "README.md", *sorted(HERE.glob("docs/**/*.md")), *HERE.glob("contrib/prometheus/*.yml"))


def test_the_reference_is_what_the_program_has() -> None:
    assert (HERE / "docs/commands.md").read_text() == document(), "make it anew: scripts/reference"


@pytest.mark.parametrize("name", PAGES)
def test_each_command_option_and_argument_says_what_it_is(name: str) -> None:
    page = PAGES[name]
    assert page.summary
    for term, words in (*page.options, *page.arguments):
        assert re.sub(r"\[.*?\]", "", words).strip(), f"{name} {term} says nothing of itself"


def test_every_exit_code_there_is_has_a_meaning() -> None:
    kinds = [MudanzaError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    codes = {kind.exit_code for kind in kinds} | {*GRAVITY, 0, PARTLY, INTERRUPTED, MOVES_PROPOSED}
    assert codes == set(MEANINGS)


def commands_in(text: str) -> Iterator[str]:
    """Yield what somebody may type: lines of code blocks, and code within sentences."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for line in (*(line for block in blocks for line in block.splitlines()), *spans):
        yield from re.findall(r"(?:^|[;|(]|\bsudo |\bhas: )\s*(?:sudo )?(?:scripts/)?(mudanza [a-z][^#;]*)", line)


def misused(command: str) -> str | None:
    """Return what is wrong with it: a command or an option that there is not."""
    words = re.split(r"\s{2,}(?=[a-z])| \| |\\|[)…]|(?<=.) mudanza ", command)[0].split()
    page: Page = PAGES["mudanza"]
    for word in words[1:]:
        if not page.parts or (page.arguments and f"{page.name} {word}" not in PAGES):
            break
        if word.startswith(("[", "-")):
            return None
        wrong = [each for each in word.split("|") if f"{page.name} {each}" not in PAGES]
        if wrong:
            return f"{page.name} has no {', '.join(wrong)}"
        page = PAGES[f"{page.name} {word.partition('|')[0]}"]
    known = set(re.findall(r"--[a-z-]+", " ".join(term for term, _ in (*page.options, *PAGES["mudanza"].options))))
    wrong = [
        each for each in re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(words)) if each not in known | {"--help"}
    ]
    return f"{page.name} has no {', '.join(wrong)}" if wrong else None


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: file.name)
def test_what_people_are_told_to_type_exists(file: Path) -> None:
    assert [wrong for command in commands_in(file.read_text()) if (wrong := misused(command))] == []


def test_a_command_that_is_not_there_is_noticed() -> None:
    assert list(commands_in("say `mudanza jobs --sate x`, or\n```\nmudanza jubs\n```")) == [
        "mudanza jubs",
        "mudanza jobs --sate x",
    ]
    assert misused("mudanza jubs") == "mudanza has no jubs"
    assert misused("mudanza job shw 3") == "mudanza job has no shw"
    assert misused("mudanza jobs --sate x") == "mudanza jobs has no --sate"
    assert misused("mudanza jobs --state x") is None
    assert misused("mudanza test-failover db --pint 3") == "mudanza test-failover has no --pint"
    assert misused("mudanza test-failover db --point 3") is None


def test_man_pages_are_read_without_a_warning(tmp_path: Path) -> None:
    write_man(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(PAGES) > 50
    done = subprocess.run(["groff", "-k", "-man", "-ww", "-Tutf8", "-z", *files], capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    text = subprocess.run(
        ["groff", "-k", "-man", "-Tutf8", tmp_path / "mudanza-migrate.1"], capture_output=True, check=True
    ).stdout.decode()
    plain = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", text)  # however it prints bold letters
    assert "--max-downtime TIME" in plain


def test_what_roff_would_take_for_its_own_is_text() -> None:
    page = Page("mudanza x", ".B x", "it's", (".so /etc/passwd", "'a \\fB \\n(x"), (), ((".x", "-"),), ())
    lines = man_of(page).splitlines()
    assert "\\&.so /etc/passwd" in lines
    assert "\\&'a \\efB \\en(x" in lines
    assert all(line.startswith((".TH", ".SH", ".PP", ".TP", ".B ")) for line in lines if line.startswith("."))


def test_shells_complete_its_words(tmp_path: Path) -> None:
    write_completions(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mudanza", "_mudanza", "mudanza.fish"}
    program = Path(sys.executable).with_name("mudanza")
    script = f"""
        . {tmp_path}/mudanza
        COMP_WORDS=({program} maint) COMP_CWORD=1
        _mudanza_completion {program}
        echo "${{COMPREPLY[@]}}"
    """
    env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["maintenance"], done.stderr
