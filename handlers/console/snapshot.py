"""What a process tells of itself once a second, for the console."""

from __future__ import annotations

from typing import Final

import msgspec

from engine.ids import rfc3339
from engine.payment import Payment

OUTCOMES: Final = ("completed", "failed", "cancelled", "refunded", "unknown")
"""What is counted by the second: payments that ended, refunds that were made, attempts whose outcome nobody knows."""
SECONDS_MAX: Final = 120
RECENTS_MAX: Final = 50


class CircuitTold(msgspec.Struct, frozen=True, omit_defaults=True):
    """A circuit of one process."""

    state: str
    failure_count: int = 0
    last_failure_ms: int = 0
    retry_at_ms: int = 0
    """When the next trial may leave; 0: the circuit is not open by itself."""
    window_calls: int = 0
    window_failure_rate: float = 0.0
    window_slow_rate: float = 0.0
    trials_in_flight: int = 0


class DepthTold(msgspec.Struct, frozen=True):
    """How much waits, and since when the oldest does; 0: nothing waits."""

    waiting: int
    oldest_ms: int


class PaymentLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A payment in a list: nothing of its card but brand and last four."""

    id: str
    surface: str
    order: str
    user: str
    amount: str
    currency: str
    status: str
    outcome: str
    created: str
    changed_ms: int
    version: int
    method: str
    brand: str = ""
    last4: str = ""
    acquirer: str = ""
    attempts: int = 0
    failure: str = ""
    number: int = 0


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """One process. `seconds` are rows of a second since 1970 and the counts of `OUTCOMES`; empty ones are left out."""

    owner: str
    host: str
    pid: int
    roles: tuple[str, ...]
    version: str
    started_ms: int
    lag_ms: int = 0
    unfit: dict[str, str] = {}
    """The parts of it that are not ready, and why."""
    seconds: list[list[int]] = []
    circuits: dict[str, CircuitTold] = {}
    depths: dict[str, DepthTold] = {}
    recents: list[PaymentLine] = []


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Snapshot).decode


def decode(body: bytes) -> Snapshot | None:
    """What a process told; None when it is of another version and cannot be read."""
    try:
        return _decode(body)
    except msgspec.DecodeError:
        return None


def payment_line(payment: Payment) -> PaymentLine:
    """The payment as a line."""
    last = payment.attempt
    return PaymentLine(
        id=payment.id,
        surface=payment.surface,
        order=payment.order_id,
        user=payment.user_id,
        amount=payment.amount.text,
        currency=payment.amount.currency,
        status=payment.status.value,
        outcome=payment.outcome.value,
        created=rfc3339(payment.created_ms),
        changed_ms=changed_ms(payment),
        version=payment.version,
        method=payment.method.type,
        brand=payment.method.brand,
        last4=payment.method.last4,
        acquirer=payment.charged_by or (last.acquirer if last else payment.rail),
        attempts=len(payment.attempts),
        failure=payment.failure.code if payment.failure else "",
        number=payment.public_number,
    )


def changed_ms(payment: Payment) -> int:
    """When something happened to it last, as far as its record tells."""
    moments = [payment.created_ms, payment.ended_ms]
    moments += [moment for attempt in payment.attempts[-1:] for moment in (attempt.started_ms, attempt.ended_ms)]
    moments += [moment for refund in payment.refunds[-1:] for moment in (refund.created_ms, refund.ended_ms)]
    return max(moments)
