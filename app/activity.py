"""What this process did lately, for the console: some counts by the second, and the payments it touched."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from engine.payment import Payment
from handlers.console.snapshot import OUTCOMES, RECENTS_MAX, SECONDS_MAX, PaymentLine, payment_line

_RING: Final = RECENTS_MAX * 4
"""A payment changes a few times while it is worked on, and each change takes a place."""
_PLACES: Final = {outcome: place for place, outcome in enumerate(OUTCOMES, start=1)}


class Activity:
    """Told on the way of every payment, so it only appends and adds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._payments: deque[Payment] = deque(maxlen=_RING)
        self._seconds: deque[list[int]] = deque(maxlen=SECONDS_MAX)

    def seen(self, payment: Payment) -> None:
        """The payment has changed."""
        self._payments.append(payment)

    def count(self, outcome: str) -> None:
        """One more of `OUTCOMES`."""
        second = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second] + [0] * len(OUTCOMES))
        self._seconds[-1][_PLACES[outcome]] += 1

    def recents(self) -> list[PaymentLine]:
        """The payments that changed last, the latest first, each as it stands."""
        newest: dict[str, Payment] = {}
        for payment in reversed(self._payments):
            if newest.setdefault(payment.id, payment).version < payment.version:
                newest[payment.id] = payment
        return [payment_line(payment) for payment in list(newest.values())[:RECENTS_MAX]]

    def seconds(self) -> list[list[int]]:
        """The counts of the last two minutes."""
        oldest = int(self._clock()) - SECONDS_MAX
        return [list(row) for row in self._seconds if row[0] >= oldest]
