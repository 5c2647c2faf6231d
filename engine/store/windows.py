"""Moving windows in Redis, with the scripts of the library `limits` sent by our batcher.

The library's own storage sends each of its two scripts alone: four times the CPU under load, and with our bounded pool
it runs out of connections at 32 requests at a time. Its timestamps are those of the process that asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any, Final

from limits.aio.storage.redis.bridge import RedisBridge
from redis.exceptions import NoScriptError

from engine.store.batch import Batcher
from engine.store.keys import LIMITS
from engine.store.step import Argument


class _Script:
    """A script of the library, by its digest and, for a Redis that has not seen it, whole."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        # Redis names scripts by this digest; nothing is secured by it.
        self.sha = hashlib.sha1(text, usedforsecurity=False).hexdigest()


_ACQUIRE: Final = _Script(RedisBridge.SCRIPT_ACQUIRE_MOVING_WINDOW)
_LOOK: Final = _Script(RedisBridge.SCRIPT_MOVING_WINDOW)


class RedisWindows:
    """A list of times per key, at most as many as the limit, which expires with the window.

    The batcher must keep the order of its commands: one pipeline at a time.
    """

    def __init__(self, batcher: Batcher, *, clock: Callable[[], float] = time.time) -> None:
        self._batcher = batcher
        self._clock = clock

    async def take(self, key: str, *, requests: int, window_s: int) -> tuple[bool, int, float]:
        """Count one more if there is room. Raises `StoreUnavailable`, `Overloaded`.

        Whether there was room, how many are in the window, and the seconds until the oldest of them leaves.
        """
        name, now = _name(key), self._clock()
        acquire: tuple[Argument, ...] = (1, name, _text(now), requests, window_s, 1)
        look: tuple[Argument, ...] = (1, name, _text(now - window_s), requests)
        try:
            taken, window = await self._both(("EVALSHA", _ACQUIRE.sha, *acquire), ("EVALSHA", _LOOK.sha, *look))
        except NoScriptError:
            # A restarted or promoted server has lost its scripts; EVAL brings them back.
            taken, window = await self._both(("EVAL", _ACQUIRE.text, *acquire), ("EVAL", _LOOK.text, *look))
        if not window:
            return bool(taken), 0, 0.0
        # Another machine's clock may be ahead of ours.
        left_s = min(float(window_s), max(0.0, float(window[0]) + window_s - now))
        return bool(taken), int(window[1]), left_s

    async def open(self) -> None:
        """Connect, so that the first request does not wait for it. Raises `StoreUnavailable`."""
        await self._batcher.command("EXISTS", LIMITS)

    async def _both(self, first: tuple[Argument, ...], second: tuple[Argument, ...]) -> tuple[Any, Any]:
        """Two commands that leave in one pipeline."""
        asked: list[asyncio.Future[Any]] = []
        try:
            asked.extend(self._batcher.command(*command) for command in (first, second))
            return await asked[0], await asked[1]
        finally:
            for future in asked:
                _abandon(future)


def _name(key: str) -> str:
    # Of bounded length, and nobody's address or account in clear text.
    return LIMITS + hashlib.blake2b(key.encode(errors="replace"), digest_size=16).hexdigest()


def _text(seconds: float) -> str:
    return f"{seconds:.6f}"


def _abandon(future: asyncio.Future[Any]) -> None:
    """Nobody will look at it any more: not an error that asyncio should tell of."""
    if not future.cancel() and not future.cancelled():
        future.exception()
