"""Counts what became of attempts, payments and refunds."""

from __future__ import annotations

from app.sampling import SuccessRate
from engine.payment import Kind, Payment
from metrics.instruments import Instruments


class PaymentObserver:
    """Told by the engine, it tells Prometheus."""

    def __init__(self, instruments: Instruments, success_rate: SuccessRate) -> None:
        self._instruments = instruments
        self._success_rate = success_rate

    def attempt(self, payment: Payment, outcome: str) -> None:
        """An attempt has an outcome, or certainly none yet."""
        attempt = payment.attempts[-1]
        self._instruments.attempts.labels(attempt.acquirer, attempt.kind.value, outcome).inc()

    def settled(self, payment: Payment) -> None:
        """The latest attempt has settled something."""
        attempt = payment.attempts[-1]
        if attempt.kind is Kind.REFUND:
            refund = payment.refund(attempt.refund_id)
            assert refund is not None, "the attempt names a refund of the payment"
            self._instruments.refunds_processed.labels(refund.state.value).inc()
        elif payment.ended_ms and payment.ended_ms == attempt.ended_ms:
            self._instruments.payments_processed.labels(payment.status.value).inc()
            if not payment.cancelled:
                self._success_rate.count(payment.failure is None)

    def recorded(self, payment: Payment) -> None:
        """A payment that is settled outside was recorded, or its status has changed."""
        if payment.refunds:
            self._instruments.refunds_processed.labels(payment.refunds[-1].state.value).inc()
        elif payment.ended_ms:
            # Not for the success rate, which is about what we charge.
            self._instruments.payments_processed.labels(payment.status.value).inc()
