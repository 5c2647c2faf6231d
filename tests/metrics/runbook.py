"""The runbook as a test reads it: a section for each alert, and the commands in it."""

from __future__ import annotations

import re
import shlex
from typing import Final

from tests.support import ROOT

TEXT: Final = (ROOT / "docs/runbook.md").read_text()
_COMMAND: Final = re.compile(r"(?:^|`|\$\()((?:python -m app|curl|redis-cli) [^`\n]+?)(?:`|\)?$)", re.MULTILINE)


def sections(text: str = TEXT) -> dict[str, str]:
    """The text of each section, by its headline."""
    _, *found = re.split(r"^## ", text, flags=re.MULTILINE)
    return {section.partition("\n")[0]: section.partition("\n")[2] for section in found}


def commands(program: str, text: str = TEXT) -> list[str]:
    """Every command that is written down, in a block or within a sentence."""
    return [found for found in _COMMAND.findall(text) if found.startswith(program)]


def arguments(command: str) -> list[str]:
    """What `python -m app` is given."""
    return shlex.split(command)[3:]
