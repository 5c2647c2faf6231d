"""What can go wrong between us and a counterparty. Each error says whether anything was sent."""

from __future__ import annotations


class CounterpartyError(Exception):
    """A call to a counterparty did not bring an answer that can be used."""

    sent = True

    def __init__(self, counterparty: str, message: str) -> None:
        super().__init__(f"{counterparty}: {message}")
        self.counterparty = counterparty


class Unreachable(CounterpartyError):
    """No connection: nothing was sent."""

    sent = False


class NoAnswer(CounterpartyError):
    """The request left, or may have left, and no whole answer came back: the effect is unknown."""


class BadAnswer(CounterpartyError):
    """An answer came that is a failure of the counterparty: 5xx, 429, or not what it promised to send."""

    def __init__(self, counterparty: str, message: str, *, status: int | None = None) -> None:
        super().__init__(counterparty, message)
        self.status = status


class Refused(CounterpartyError):
    """Our own guard did not let the call out: nothing was sent."""

    sent = False

    def __init__(self, counterparty: str, message: str, *, retry_after_s: float) -> None:
        super().__init__(counterparty, message)
        self.retry_after_s = retry_after_s


class BreakerOpen(Refused):
    """The circuit is open, or every half-open trial is taken."""


class BulkheadFull(Refused):
    """Too many calls to this counterparty are under way or waiting."""
