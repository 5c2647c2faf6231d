"""The people with the phones: they decide now, in a moment or when told, and each but once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from simulators.daraja_books import Push, Result
from simulators.daraja_callbacks import Callbacks
from simulators.daraja_phones import Decides, Telling, manners_of

Write = Callable[[Push, int], Result | None]
"""Writes a decision down; None if there is one already."""


class Payers:
    """All payers. `stop` belongs to the server that runs: what is to happen later does not happen then."""

    def __init__(self, write: Write, callbacks: Callbacks, *, moment_s: float, late_s: float) -> None:
        self._write = write
        self._callbacks = callbacks
        self.moment_s, self.late_s = moment_s, late_s
        self._timers: set[asyncio.TimerHandle] = set()

    def ask(self, push: Push) -> list[asyncio.Event]:
        """Show a push on its phone. Gives the events of the callbacks that are on their way already."""
        manners = manners_of(push.wish.phone)
        match manners.decides:
            case Decides.AT_ONCE:
                return self.decide(push, manners.result)
            case Decides.IN_A_MOMENT:
                self._later(self.moment_s, lambda: self.decide(push, manners.result))
        return []

    def decide(self, push: Push, code: int) -> list[asyncio.Event]:
        """Write down what the payer has decided, if it is the first time, and let it be told. It never awaits."""
        result = self._write(push, code)
        if result is None:
            return []
        told = []
        for telling in manners_of(push.wish.phone).tells:
            if telling is Telling.LATE:
                self._later(self.late_s, lambda: self._callbacks.put(push, result, Telling.LATE))
            else:
                told.append(self._callbacks.put(push, result, telling))
        return told

    def stop(self) -> None:
        """Forget what was to happen later. Safe to call twice."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            act()

        timer = asyncio.get_running_loop().call_later(seconds, fire)
        self._timers.add(timer)
