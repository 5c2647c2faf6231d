"""`Prefer: wait=N` (RFC 7240): answer when the outcome is there, or when the time is over."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from aiohttp import web

from engine.accepting import Accepting, Caller
from engine.errors import TryLater
from engine.payment import Payment
from engine.waking import Changed

_WAIT: Final = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,4})(?:$|[,;\s])", re.IGNORECASE)
_LOOK_FIRST_S: Final = 0.02
_LOOK_MAX_S: Final = 0.2


class Waited(NamedTuple):
    """The payment as last seen, and the headers that say whether the preference was honoured."""

    payment: Payment
    headers: dict[str, str]


class OutcomeWaiting:
    """Looks at a payment until it is as wanted. At most `waiters_max` at once; beyond it nobody waits.

    It is told at once of what this process changes; what another has changed is seen with the next look.
    """

    def __init__(
        self,
        accepting: Accepting,
        changed: Changed,
        *,
        wait_max_s: int,
        waiters_max: int,
        look_first_s: float = _LOOK_FIRST_S,
    ) -> None:
        self._accepting = accepting
        self._changed = changed
        self._look_first_s = look_first_s
        self._wait_max_s = wait_max_s
        self._places = waiters_max

    async def until(
        self, done: Callable[[Payment], bool], payment: Payment, caller: Caller, request: web.Request
    ) -> Waited:
        """Wait as long as the request prefers, `wait_max_s` at most."""
        wanted = _WAIT.search(",".join(request.headers.getall("Prefer", ())))
        seconds = min(int(wanted.group(1)), self._wait_max_s) if wanted else 0
        if not seconds or not self._places:
            return Waited(payment, {})
        last = await self.at_most(seconds, done, payment, caller)
        return Waited(last, {"Preference-Applied": f"wait={seconds}"})

    async def at_most(
        self, seconds: float, done: Callable[[Payment], bool], payment: Payment, caller: Caller
    ) -> Payment:
        """Wait so long, whatever the request prefers; not at all when no place is free. The payment as last seen."""
        if not self._places:
            return payment
        self._places -= 1
        try:
            return await self._look(done, payment, caller, seconds)
        finally:
            self._places += 1

    async def _look(self, done: Callable[[Payment], bool], payment: Payment, caller: Caller, seconds: float) -> Payment:
        loop = asyncio.get_running_loop()
        until, pause_s = loop.time() + seconds, self._look_first_s
        while not done(payment) and (left_s := until - loop.time()) > 0:
            told = await self._changed.next(payment.id, within_s=min(pause_s, left_s))
            if told is not None:
                # What is told may be older than what was read: two connections to the store answer in any order.
                payment = max(payment, told, key=lambda each: each.version)
                continue
            pause_s = min(pause_s * 1.5, _LOOK_MAX_S)
            try:
                payment = await self._accepting.find(payment.id, caller)
            except TryLater:
                # It is accepted; only looking failed.
                break
        return payment
