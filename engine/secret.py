"""Text that nobody should read by accident."""

from __future__ import annotations


class Secret:
    """Text that hides itself: its `repr` and `str` show the kind and at most the last four characters."""

    __slots__ = ("_shown", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._shown = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(****{self._text[-self._shown :] if self._shown else ''})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash((type(self), self._text))

    def reveal(self) -> str:
        """The text itself. Call it only where the text goes into a seal or to the acquirer."""
        return self._text
