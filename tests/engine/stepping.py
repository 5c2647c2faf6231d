"""Coroutines driven by hand, one await at a time, so that a test can stop, crash or interleave them anywhere."""

from __future__ import annotations

import contextvars
from collections.abc import Coroutine, Generator
from typing import Any


class Pause:
    """An await that hands control to whoever drives; under asyncio it is one pass of the loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Crash(BaseException):
    """The process dies here: nothing that stands behind the await is run."""


class Run:
    """One coroutine that pauses at every `Pause`, in a context of its own."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self.done = False

    def step(self) -> None:
        """Run to the next pause, or to the end. Raises what the coroutine raises."""
        try:
            self._context.run(self._coroutine.send, None)
        except StopIteration:
            self.done = True
        except BaseException:
            self.done = True
            raise

    def finish(self) -> None:
        """Run to the end."""
        while not self.done:
            self.step()

    def crash(self, error: BaseException) -> None:
        """Raise at the pause where it stands; the coroutine must let it through."""
        assert not self.done
        self.done = True
        try:
            self._context.run(self._coroutine.throw, error)
        except type(error):
            return
        raise AssertionError(f"{type(error).__name__} was swallowed")


def drive(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine to its end."""
    Run(coroutine).finish()
