"""E-mail addresses: checked for form, and compared without regard to case and to how Unicode writes a letter.

The form is RFC 5321's without quoted local parts and address literals, with the letters of RFC 6531. Whether somebody
reads mail there, only a mail can tell.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from engine.errors import EmailRefused

BYTES_MAX: Final = 254
_LOCAL_BYTES_MAX: Final = 64
_LETTER: Final = r"a-zA-Z0-9\x80-\U0010ffff-"
_LABEL: Final = rf"(?!-)[{_LETTER}]{{1,63}}(?<!-)"
_ATOM: Final = rf"[!#$%&'*+/=?^_`{{|}}~{_LETTER}]+"
_LOCAL: Final = rf"{_ATOM}(?:\.{_ATOM})*"
_ADDRESS: Final = re.compile(rf"({_LOCAL})@((?:{_LABEL}\.)+{_LABEL})\Z")


def check_email(text: str) -> None:
    """Raises `EmailRefused` for what is no address, without quoting it."""
    # Twice: compatibility forms may become an `@` or a dot only when they are folded.
    if not (_is_address(text) and _is_address(canonical_email(text))):
        raise EmailRefused


def canonical_email(text: str) -> str:
    """What equal addresses have in common. Any text has one."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Folding may leave letters and marks apart that belong together, and those may fold again.
    return unicodedata.normalize("NFKC", folded).casefold()


def _is_address(text: str) -> bool:
    match = _ADDRESS.match(text)
    if match is None or len(text.encode()) > BYTES_MAX or len(match[1].encode()) > _LOCAL_BYTES_MAX:
        return False
    # No blanks, no controls, nothing that is not seen: of any script.
    return not any(unicodedata.category(character)[0] in "CZ" for character in text)
