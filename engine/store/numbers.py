"""The whole numbers that a surface's users know payments by, in Redis: a counter, and what each number stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from engine.ids import PaymentId
from engine.store.batch import Batcher
from engine.store.keys import NUMBERS, Keys
from engine.store.repeating import Repeating
from engine.store.step import Refusal, Step


class RedisNumbers:
    """The numbers of one surface: 1, 2, 3, … with gaps where a request ended early, and never one twice.

    What a number stands for never changes, so the latest `cache_max` are remembered here.
    """

    def __init__(
        self,
        batcher: Batcher,
        keys: Keys,
        *,
        surface: str,
        cache_max: int,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        repeating = Repeating(batcher, sleep)
        self._run = repeating.step
        self._ask = repeating.command
        self._keys = keys
        self._surface = surface
        self._cache_max = cache_max
        self._cache: dict[int, PaymentId] = {}

    async def take(self) -> int:
        """The next number, mostly for nobody else: only its claim makes sure. Repeated after a lost answer, a gap."""
        return int(await self._ask("INCR", NUMBERS + self._surface))

    async def claim(self, number: int, payment_id: PaymentId) -> bool:
        """Let the number stand for this payment, for ever. False when it stands for another one."""
        name = self._keys.number(self._surface, number)
        step = Step()
        step.expect_value(name, "")
        step.do("SET", name, payment_id)
        refusal = await self._run(step)
        if isinstance(refusal, Refusal) and refusal.found.decode() != payment_id:
            return False
        self._keep(number, payment_id)
        return True

    async def find(self, number: int) -> PaymentId | None:
        """What the number stands for."""
        if (kept := self._cache.get(number)) is not None:
            return kept
        raw = await self._ask("GET", self._keys.number(self._surface, number))
        if raw is None:
            return None
        self._keep(number, PaymentId(raw.decode()))
        return self._cache[number]

    def _keep(self, number: int, payment_id: PaymentId) -> None:
        if len(self._cache) >= self._cache_max:
            # The oldest of them: those that are asked for are mostly new.
            del self._cache[next(iter(self._cache))]
        self._cache[number] = payment_id
