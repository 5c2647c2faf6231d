"""What `/ready` says, and why."""

from __future__ import annotations

from collections.abc import Mapping

OK = "ok"


class ReadinessBoard:
    """Each part reports here; the process is ready when every part that must be is `ok`."""

    def __init__(self, required: tuple[str, ...]) -> None:
        self._required = required
        self._parts = dict.fromkeys(required, "starting")

    def report(self, part: str, state: str = OK) -> None:
        """The part's state: `ok`, or what is wrong with it."""
        self._parts[part] = state

    def parts(self) -> Mapping[str, str]:
        """Each part with `ok`, or what is wrong with it."""
        return self._parts

    def ready(self) -> bool:
        """Whether requests should come here. Counterparties do not count: all replicas would leave at once."""
        return all(self._parts[part] == OK for part in self._required)
