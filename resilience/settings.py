"""The numbers of one guard, checked when they are read."""

from __future__ import annotations

import math

import msgspec

_POSITIVE = ("timeout_s", "waiting_timeout_s", "backoff_base_s", "open_s", "window_s", "slow_call_s")
_AT_LEAST_ONE = ("concurrency_max", "tries_max", "failures_to_open", "trials", "window_calls_min")
_AT_LEAST_ZERO = ("waiting_max", "retry_budget_min")
_RATES = ("window_failure_rate", "window_slow_rate")
_NOT_BELOW = (("deadline_s", "timeout_s"), ("backoff_max_s", "backoff_base_s"), ("open_max_s", "open_s"))


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one counterparty is guarded. A number out of range is refused with the name of its key."""

    timeout_s: float = 2.0
    """Time of one try."""
    deadline_s: float = 5.0
    """Time of the whole call, with its waiting and its retries."""

    concurrency_max: int = 128
    """Calls at the same time."""
    waiting_max: int = 512
    """Calls that may wait for their turn; one more is refused."""
    waiting_timeout_s: float = 1.0
    """How long one may wait for its turn."""

    tries_max: int = 3
    """Tries of one call, the first included."""
    backoff_base_s: float = 0.05
    """The pause before a retry is drawn from 0 to base × 2^n."""
    backoff_max_s: float = 1.0
    """No pause is longer."""
    retry_budget_ratio: float = 0.2
    """Retries stay below this share of the calls of the last `window_s`."""
    retry_budget_min: int = 3
    """So many retries within `window_s` are always allowed."""

    failures_to_open: int = 5
    """Failures in a row that open the breaker."""
    open_s: float = 10.0
    """How long the breaker stays open before trial calls."""
    open_growth: float = 1.0
    """Each re-opening multiplies that time."""
    open_max_s: float = 120.0
    """It stays open no longer than this."""
    open_jitter: float = 0.0
    """Up to this share of the time is taken off at random, so that a fleet does not come back at one instant."""
    trials: int = 2
    """Trial calls at a time when half-open; so many successes close it."""

    window_s: float = 30.0
    """The sliding window of the rates: the breaker opens on these too."""
    window_calls_min: int = 20
    """No rate is judged from fewer calls."""
    window_failure_rate: float = 0.5
    """Share of failures that opens the breaker."""
    slow_call_s: float = 1.5
    """A try that takes longer counts as slow."""
    window_slow_rate: float = 0.8
    """Share of slow calls that opens the breaker."""

    @property
    def try_least_s(self) -> float:
        """The least time worth starting a try with; a shorter one could not be told apart from a healthy call."""
        return min(self.slow_call_s, self.timeout_s)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for key in self.__struct_fields__:
            _require(math.isfinite(getattr(self, key)), key, "must be a finite number")
        for key in _POSITIVE:
            _require(getattr(self, key) > 0, key, "must be above 0")
        for key in _AT_LEAST_ONE:
            _require(getattr(self, key) >= 1, key, "must be at least 1")
        for key in _AT_LEAST_ZERO:
            _require(getattr(self, key) >= 0, key, "must not be negative")
        for key in _RATES:
            _require(0 < getattr(self, key) <= 1, key, "must be above 0 and at most 1")
        for key, floor in _NOT_BELOW:
            _require(getattr(self, key) >= getattr(self, floor), key, f"must not be below {floor}")
        _require(0 <= self.retry_budget_ratio <= 1, "retry_budget_ratio", "must be from 0 to 1")
        _require(self.open_growth >= 1, "open_growth", "must be at least 1")
        _require(0 <= self.open_jitter < 1, "open_jitter", "must be at least 0 and below 1")


def _require(holds: bool, key: str, rule: str) -> None:
    if not holds:
        raise ValueError(f"{key} {rule}")
