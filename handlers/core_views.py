"""The core surface's answers: plain functions from the engine's values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from engine.accepting import KeyState
from engine.facts import Attempt, Kind, Outcome, Refund, RefundState, Status
from engine.ids import rfc3339
from engine.money import Money
from engine.payment import Payment, attempt_id
from handlers.core_types import Amount, Currency, OrderRef, PaymentRef, Time, Total, UserRef


class MethodView(msgspec.Struct, omit_defaults=True):
    """What may be shown of a payment method."""

    type: str
    brand: str = ""
    last4: str = ""


class AttemptView(msgspec.Struct, rename="camel"):
    """One try at an acquirer. Its id is the idempotency key there."""

    id: str
    kind: Kind
    acquirer: str
    outcome: Literal["sending", "not_sent", "waiting", "unknown", "rejected", "approved", "late", "reversed"]
    """`late`: it took the money though it had been passed over, or the payment had failed; `reversed`: and gave it
    back."""
    started_at: Time
    ended_at: Time | UnsetType = UNSET
    settled_by: str | UnsetType = UNSET
    """Who settled it by hand, and why."""
    reverses: str | UnsetType = UNSET
    """The attempt whose money it gives back."""


class PaymentView(msgspec.Struct, rename="camel"):
    """A payment. Fields that do not apply are absent."""

    id: PaymentRef
    order_id: OrderRef
    user_id: UserRef
    amount: Amount
    currency: Currency
    status: Annotated[Status, Meta(examples=["processing"])]
    payment_method: Annotated[MethodView, Meta(examples=[{"type": "credit_card", "brand": "visa", "last4": "4242"}])]
    created_at: Time
    outcome: Annotated[Outcome, Meta(examples=["none"])]
    """What is certain about the money. `unknown`: it may have moved, and the acquirer is being asked."""
    transaction_id: str | UnsetType = UNSET
    completed_at: Time | UnsetType = UNSET
    failure_code: str | UnsetType = UNSET
    failure_reason: str | UnsetType = UNSET
    failed_at: Time | UnsetType = UNSET
    cancelled_at: Time | UnsetType = UNSET
    authorized_until: Time | UnsetType = UNSET
    captured_amount: Amount | UnsetType = UNSET
    refunded_amount: Total | UnsetType = UNSET
    attempts: list[AttemptView] = []
    """Every try at an acquirer, in order."""


class PaymentsPage(msgspec.Struct):
    """Payments, newest first. `next_cursor` is null at the end."""

    payments: list[PaymentView]
    next_cursor: str | None


class EventsView(msgspec.Struct):
    """The events of a payment as they were or will be published, in sequence."""

    events: list[dict[str, Any]]


class KeyView(msgspec.Struct, rename="camel"):
    """What became of an idempotency key.

    `claimed`: a request with it was cut short; repeating that request is safe and makes this very payment.
    `used`: it made this payment.
    """

    key: Annotated[str, Meta(examples=["order-123-first-try"])]
    state: Literal["claimed", "used"]
    payment_id: PaymentRef
    created_at: Time
    payment: PaymentView | UnsetType = UNSET


class RefundView(msgspec.Struct, rename="camel"):
    """A refund. While it is `pending`, its amount is reserved."""

    id: Annotated[str, Meta(examples=["ref-01kqxw3v5n8t2r7d9m4c6b1hzj"])]
    payment_id: PaymentRef
    amount: Amount
    currency: Currency
    reason: str
    status: Annotated[RefundState, Meta(examples=["pending"])]
    outcome: Annotated[Outcome, Meta(examples=["none"])]
    created_at: Time
    transaction_id: str | UnsetType = UNSET
    completed_at: Time | UnsetType = UNSET
    failure_code: str | UnsetType = UNSET
    failure_reason: str | UnsetType = UNSET
    failed_at: Time | UnsetType = UNSET


class RefundsView(msgspec.Struct):
    """A payment's refunds, oldest first."""

    refunds: list[RefundView]


def payment_view(payment: Payment) -> PaymentView:
    """The payment as users see it."""
    currency = payment.amount.currency
    view = PaymentView(
        id=payment.id,
        order_id=payment.order_id,
        user_id=payment.user_id,
        amount=_number(payment.amount.minor, currency),
        currency=currency,
        status=payment.status,
        payment_method=MethodView(*msgspec.structs.astuple(payment.method)),
        created_at=rfc3339(payment.created_ms),
        outcome=payment.outcome,
        attempts=[_attempt_view(payment, attempt) for attempt in payment.attempts],
    )
    if payment.transaction_id:
        view.transaction_id = payment.transaction_id
    if payment.captured_minor:
        view.completed_at = rfc3339(payment.ended_ms)
        if payment.captured_minor != payment.amount.minor:
            view.captured_amount = _number(payment.captured_minor, currency)
        if payment.refunds:
            view.refunded_amount = _number(payment.refunded_minor, currency)
    elif payment.failure is not None:
        view.failure_code = payment.failure.code
        view.failure_reason = payment.failure.reason
        view.failed_at = rfc3339(payment.ended_ms)
    elif payment.cancelled:
        view.cancelled_at = rfc3339(payment.ended_ms)
    elif payment.authorized_minor:
        view.authorized_until = rfc3339(payment.authorized_until_ms)
    return view


def refund_view(payment: Payment, refund: Refund) -> RefundView:
    """A refund as users see it."""
    view = RefundView(
        id=refund.id,
        payment_id=payment.id,
        amount=_number(refund.minor, payment.amount.currency),
        currency=payment.amount.currency,
        reason=refund.reason,
        status=refund.state,
        outcome=payment.refund_outcome(refund),
        created_at=rfc3339(refund.created_ms),
    )
    if refund.failure is not None:
        view.failure_code = refund.failure.code
        view.failure_reason = refund.failure.reason
        view.failed_at = rfc3339(refund.ended_ms)
    elif refund.state is RefundState.COMPLETED:
        view.transaction_id = refund.transaction_id
        view.completed_at = rfc3339(refund.ended_ms)
    return view


def _attempt_view(payment: Payment, attempt: Attempt) -> AttemptView:
    view = AttemptView(
        attempt_id(payment, attempt), attempt.kind, attempt.acquirer, attempt.state.value, rfc3339(attempt.started_ms)
    )
    if attempt.ended_ms:
        view.ended_at = rfc3339(attempt.ended_ms)
    if attempt.settled_by:
        view.settled_by = attempt.settled_by
    if attempt.reverses:
        view.reverses = attempt_id(payment, payment.numbered(attempt.reverses))
    return view


def _number(minor: int, currency: str) -> Raw:
    return Raw(Money(minor, currency).text.encode())


def key_view(key: str, state: KeyState) -> KeyView:
    """The key as its caller sees it."""
    view = KeyView(key, "claimed", state.payment_id, rfc3339(state.created_ms))
    if state.payment is not None:
        view.state = "used"
        view.payment = payment_view(state.payment)
    return view
