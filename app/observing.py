"""Counts and tells what became of attempts, payments and refunds."""

from __future__ import annotations

from app.activity import Activity
from app.sampling import SuccessRate
from engine.facts import AttemptState, Kind, Refund, RefundState
from engine.payment import Payment
from engine.waking import Changed
from handlers.console.snapshot import OUTCOMES
from metrics.instruments import Instruments


class PaymentObserver:
    """Told by the engine, it tells Prometheus, who waits, and the console where there is one."""

    def __init__(
        self,
        instruments: Instruments,
        success_rate: SuccessRate,
        changed: Changed,
        activity: Activity | None = None,
    ) -> None:
        self._instruments = instruments
        self._changed = changed
        self._success_rate = success_rate
        self._activity = activity

    def attempt(self, payment: Payment, outcome: str) -> None:
        """An attempt has an outcome, or certainly none yet."""
        self._changed.tell(payment)
        attempt = payment.attempts[-1]
        self._instruments.attempts.labels(attempt.acquirer, attempt.kind.value, outcome).inc()
        if self._activity is not None:
            self._activity.seen(payment)
            if outcome == AttemptState.UNKNOWN:
                self._activity.count("unknown")

    def late_success(self) -> None:
        """An acquirer took money that nobody expected any more."""
        self._instruments.late_successes.labels("found").inc()

    def push_callback(self, verdict: str) -> None:
        """Somebody claims to know what became of a push."""
        self._instruments.push_callbacks.labels(verdict).inc()

    def settled(self, payment: Payment) -> None:
        """The latest attempt has settled something."""
        attempt = payment.attempts[-1]
        if self._activity is not None:
            self._activity.seen(payment)
        if attempt.reverses:
            step = "reversed" if attempt.state is AttemptState.APPROVED else "refused"
            self._instruments.late_successes.labels(step).inc()
        elif attempt.kind is Kind.REFUND:
            refund = payment.refund(attempt.refund_id)
            assert refund is not None, "the attempt names a refund of the payment"
            self._refunded(payment, refund)
        elif payment.ended_ms and payment.ended_ms == attempt.ended_ms:
            self._ended(payment)
            if not payment.cancelled:
                self._success_rate.count(payment.failure is None)

    def recorded(self, payment: Payment) -> None:
        """A payment that is settled outside was recorded, or its status has changed."""
        if self._activity is not None:
            self._activity.seen(payment)
        if payment.refunds:
            self._refunded(payment, payment.refunds[-1])
        elif payment.ended_ms:
            # Not for the success rate, which is about what we charge.
            self._ended(payment)

    def _ended(self, payment: Payment) -> None:
        status, currency = payment.status.value, payment.amount.currency
        self._instruments.payments_processed.labels(status).inc()
        # Of an authorization, some may have been captured.
        minor = payment.captured_minor or payment.amount.minor
        self._instruments.payments_money.labels(status, currency).inc(minor)
        if self._activity is not None and status in OUTCOMES:
            self._activity.count(status)

    def _refunded(self, payment: Payment, refund: Refund) -> None:
        state, currency = refund.state.value, payment.amount.currency
        self._instruments.refunds_processed.labels(state).inc()
        self._instruments.refunds_money.labels(state, currency).inc(refund.minor)
        if self._activity is not None and refund.state is RefundState.COMPLETED:
            self._activity.count("refunded")
