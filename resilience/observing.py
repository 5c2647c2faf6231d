"""What a guard tells Prometheus and the log."""

from __future__ import annotations

import structlog

from metrics.instruments import Instruments
from resilience.status import BreakerState, TryOutcome

_GAUGE: dict[BreakerState, int] = {"closed": 0, "forced_closed": 0, "half_open": 1, "open": 2, "forced_open": 3}
_TRY_OUTCOMES: tuple[TryOutcome, ...] = ("success", "failure", "slow", "neutral", "late")

log = structlog.get_logger(__name__)


class GuardObserver:
    """Counts the calls, tries and state changes of one guard. The labelled children are looked up once."""

    def __init__(self, name: str, instruments: Instruments) -> None:
        self._name = name
        self._state = instruments.breaker_state.labels(name)
        self._state.set(_GAUGE["closed"])
        self._transitions = {state: instruments.breaker_transitions.labels(name, state) for state in _GAUGE}
        self._outcomes = {outcome: instruments.breaker_calls.labels(name, outcome) for outcome in _TRY_OUTCOMES}
        self._refused_open = instruments.breaker_calls.labels(name, "refused_open")
        self._refused_full = instruments.breaker_calls.labels(name, "refused_full")
        self._duration = instruments.call_duration.labels(name)
        self._retries = instruments.retries.labels(name)

    def ended(self, outcome: TryOutcome, elapsed_s: float) -> None:
        """Count a try. A neutral one was cut short by us and says nothing about the counterparty's time."""
        self._outcomes[outcome].inc()
        if outcome != "neutral":
            self._duration.observe(elapsed_s)

    def refused(self) -> None:
        """Count a call that the breaker did not let out."""
        self._refused_open.inc()

    def full(self) -> None:
        """Count a call that found no place in the bulkhead."""
        self._refused_full.inc()

    def retried(self) -> None:
        """Count a try after the first."""
        self._retries.inc()

    def changed(self, state: BreakerState) -> None:
        """Show the new state."""
        self._state.set(_GAUGE[state])
        self._transitions[state].inc()
        log.warning("circuit breaker changed", counterparty=self._name, state=state)
