"""One at a time for each name: those that would only get in each other's way in the store wait here instead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from engine.errors import Overloaded


class Turns:
    """Locks that are there only while somebody holds or waits for them. The store decides; this only saves tries.

    More than `waiting_max` for one name are refused with `Overloaded`.
    """

    def __init__(self, *, waiting_max: int = 1024) -> None:
        self._waiting_max = waiting_max
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        """Wait for one's turn."""
        lock, waiting = self._locks.get(name) or (asyncio.Lock(), 0)
        if waiting >= self._waiting_max:
            raise Overloaded("turns at one card")
        self._locks[name] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks[name]
            if waiting == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, waiting - 1)
