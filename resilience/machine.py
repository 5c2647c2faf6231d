"""pybreaker as nothing but a state machine: told what happened, never asked to run anything."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Literal, NoReturn

import pybreaker

MachineState = Literal["closed", "half_open", "open"]

_STATES: dict[str, MachineState] = {
    pybreaker.STATE_CLOSED: "closed",
    pybreaker.STATE_HALF_OPEN: "half_open",
    pybreaker.STATE_OPEN: "open",
}


class StateMachine:
    """Closed, open, half-open, and the counts between them.

    `failures_to_open` failures in a row open it; in half-open `trials` successes close it and one failure opens it.
    `generation` grows with every change, so that an answer can be told from one that began in another state.
    pybreaker's own clock is not used: when to try again is decided outside, with `half_open`.
    """

    def __init__(self, name: str, *, failures_to_open: int, trials: int, moved: Callable[[MachineState], None]) -> None:
        self.state: MachineState = "closed"
        self.generation = 0
        self._failures_to_open = failures_to_open
        self._moved = moved
        self._pybreaker = pybreaker.CircuitBreaker(
            fail_max=failures_to_open,
            success_threshold=trials,
            listeners=[_Listener(self._follow)],
            state_storage=pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED),
            name=name,
            # Or the error of the tripping call would be replaced by pybreaker's own.
            throw_new_error_on_trip=False,
        )

    @property
    def failure_count(self) -> int:
        """Failures in a row."""
        return self._pybreaker.fail_counter

    def succeed(self) -> None:
        """Replay a success. Not while open."""
        # While it is closed, all that a success does is to end a row of failures.
        if self.state != "closed" or self._pybreaker.fail_counter:
            self._pybreaker.call(_nothing)

    def fail(self) -> None:
        """Replay a failure. Not while open."""
        with contextlib.suppress(_ReplayedError):
            self._pybreaker.call(_raise)

    def open(self) -> None:
        """Open it, whatever the counts."""
        self._pybreaker.open()

    def half_open(self) -> None:
        """Let trials decide."""
        self._pybreaker.half_open()

    def close(self) -> None:
        """Close it with empty counts, in a new generation even if it was closed."""
        self.generation += 1
        self._pybreaker.close()

    def only_count(self, only: bool) -> None:
        """Whether failures are counted without ever opening it."""
        self._pybreaker.fail_max = sys.maxsize if only else self._failures_to_open

    def _follow(self, name: str) -> None:
        state = _STATES[name]
        # pybreaker also reports a change to the state it was in.
        if state != self.state:
            self.state = state
            self.generation += 1
            self._moved(state)


class _ReplayedError(Exception):
    """Stands for the error of the call, which must not collect pybreaker's frames in its traceback."""


def _nothing() -> None:
    pass


def _raise() -> NoReturn:
    raise _ReplayedError


class _Listener(pybreaker.CircuitBreakerListener):
    def __init__(self, follow: Callable[[str], None]) -> None:
        self._follow = follow

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._follow(new_state.name)
