"""The documentation as the tests read it: pages, their fenced blocks, headings and links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from tests.support import ROOT

DOCS: Final = ROOT / "docs"
_FENCE: Final = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^()\s]+)\)")
_IMAGE: Final = re.compile(r"!\[[^\]]*\]\(([^()\s]+)\)")


class Block(NamedTuple):
    """A fenced block: the words behind its fence, its text, and where it begins."""

    info: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every page that people read first to last."""
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(match[1].strip(), match[2], text.count("\n", 0, match.start()) + 1) for match in _FENCE.finditer(text)
    ]


def without_code(text: str) -> str:
    """The page's prose: neither fenced blocks nor code within lines."""
    return re.sub(r"`[^`\n]*`", "``", _FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """What the headings are called in links, as GitHub makes it."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (anchor := f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(anchor)
    return found


def links(text: str) -> list[str]:
    """Where the page's links and pictures lead."""
    prose = without_code(text)
    return _LINK.findall(prose) + _IMAGE.findall(prose)
