"""Asking Redis again when it did not answer, for what may run twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.errors import Overloaded, StoreUnavailable
from engine.store.batch import Batcher
from engine.store.step import Refusal, Step

_TRIES_MAX: Final = 3
_PAUSE_S: Final = 0.05


class Repeating:
    """Sends a step up to three times and a command twice. Then: `StoreUnavailable`; the step may have run."""

    def __init__(self, batcher: Batcher, sleep: Callable[[float], Any]) -> None:
        self._batcher = batcher
        self._sleep = sleep

    async def step(self, step: Step) -> list[Any] | Refusal:
        """Run a step that finds its own trace, or whose second execution does no harm."""
        lost: StoreUnavailable | None = None
        tries = 1
        while True:
            try:
                return await self._batcher.step(step)
            except StoreUnavailable as error:
                lost = error
            except Overloaded:
                # Nothing was written by this try. But one before it may have run.
                if lost is None:
                    raise
            if tries >= _TRIES_MAX:
                raise lost
            tries += 1
            await self._sleep(_PAUSE_S * tries)

    async def command(self, *command: str | int | bytes) -> Any:
        """Run one command that may run twice."""
        try:
            return await self._batcher.command(*command)
        except StoreUnavailable as lost:
            try:
                return await self._batcher.command(*command)
            except Overloaded:
                raise lost from None
