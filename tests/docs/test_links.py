"""Every link of the documentation leads somewhere: to a file of the repository, and to a heading of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, anchors, links, pages
from tests.support import ROOT


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere. Those to other places are not followed."""
    found = []
    for link in links(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or (anchor and anchor not in anchors(text if target == page else target.read_text())):
            found.append(link)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_every_page_is_found_from_the_index() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links(index.read_text())}
    assert {page for page in DOCS.glob("**/*.md") if page.parent.name != "decisions"} - linked == {index}
    assert DOCS.resolve() in {(ROOT / link).resolve() for link in links((ROOT / "README.md").read_text())} | {
        (ROOT / link).resolve().parent for link in links((ROOT / "README.md").read_text())
    }


@pytest.mark.parametrize(
    "text",
    ["[a](missing.md)", "[a](#nowhere)", "[a](concepts.md#nowhere)", "![a](missing.svg)", "[a](../../etc/passwd)"],
)
def test_a_link_that_leads_nowhere_is_found(text: str) -> None:
    assert broken(DOCS / "README.md", text) != []


def test_what_is_code_or_leads_outside_is_no_link_of_ours() -> None:
    assert broken(DOCS / "README.md", "`[a](missing.md)` [b](https://example.com) [c](#c)\n\n## c\n") == []
    assert anchors("# One two\n## `[core]`\n## One two\n### What's *kept*, and when\n") == {
        "one-two", "core", "one-two-1", "whats-kept-and-when",
    }  # fmt: skip
