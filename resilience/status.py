"""What a breaker shows of itself."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol

import msgspec

BreakerState = Literal["closed", "half_open", "open", "forced_open", "forced_closed"]
TryOutcome = Literal["success", "failure", "slow", "neutral", "late"]


class BreakerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a breaker knows at one moment. Datetimes are UTC; rates are 0 to 1 over the window."""

    state: BreakerState
    failure_count: int
    """Failures in a row."""
    last_failure: datetime | None
    retry_after_s: float | None
    """Seconds until the next trial; None unless the circuit is open by itself."""
    opened_at: datetime | None
    """Since when the circuit has not been closed; None while it is."""
    window_calls: int
    window_failure_rate: float
    window_slow_rate: float
    trials_in_flight: int
    generation: int


class BreakerObserver(Protocol):
    """Is told what happens. One that raises changes nothing but the log."""

    def ended(self, outcome: TryOutcome, elapsed_s: float) -> None:
        """Take note of a try that ran."""

    def refused(self) -> None:
        """Take note of a call that was not let out."""

    def changed(self, state: BreakerState) -> None:
        """Take note of another state."""
