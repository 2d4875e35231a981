"""The documentation hangs together: every page is in the site's navigation, and every link leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent.parent
DOCS = HERE / "docs"
PAGES = (HERE / "README.md", HERE / "CHANGELOG.md", *sorted(DOCS.glob("**/*.md")))
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = yaml.safe_load((HERE / "mkdocs.yml").read_text())["nav"]
    assert sorted(listed(navigation)) == sorted(str(path.relative_to(DOCS)) for path in DOCS.glob("**/*.md"))


def listed(part: object) -> Iterator[str]:
    """Yield the pages of a part of the navigation."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for each in part.values():
            yield from listed(each)
    elif isinstance(part, list):
        for each in part:
            yield from listed(each)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_a_link_that_leads_nowhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One\n## Is *this* there? `yes`, A–B's\n```\n# not a heading\n```\n## One\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](there.md) [b](there.md#is-this-there-yes-abs) [c](there.md#one-1) [d](#here) [e](https://x.org/)\n"
        "[f](gone.md) [g](there.md#not-a-heading) [h](#there) [i](there.md#one-2)\n"
        "```\n[j](gone.md)\n```\n`[k](gone.md)`\n"
    )
    assert list(broken(page)) == ["gone.md", "there.md#not-a-heading", "#there", "there.md#one-2"]


def broken(page: Path) -> Iterator[str]:
    """Yield the relative links of a page that lead to no file, or to no heading of it."""
    text = re.sub(r"`[^`\n]+`", "", _FENCED.sub("", page.read_text()))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def anchors(page: Path) -> set[str]:
    """Return what may be linked to in a page, as GitHub names it (and the site does)."""
    seen: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#{1,6} (.+)$", _FENCED.sub("", page.read_text()), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return found
