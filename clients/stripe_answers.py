"""What Stripe answers, and what it means: the state of an intent or a refund as an outcome. Pure."""

from __future__ import annotations

from typing import Final, assert_never

import msgspec

from clients.acquirer import speakable
from clients.stripe_forms import stripe_units
from engine.charging import NeverSeen, Outcome, Unknown
from engine.facts import Kind
from engine.money import Money
from engine.settling import Approved, Declined

ABANDONED: Final = "abandoned"
"""The reason with which an intent that wants 3-D Secure is cancelled."""

AUTHENTICATION_REQUIRED: Final = Declined(
    "authentication_required", "The card's bank wants 3-D Secure, which cannot be done here"
)
NOT_PROCESSED: Final = Declined("not_processed", "The payment was not processed in time", retryable=True)
CANCELED: Final = Declined("canceled", "The payment was cancelled at the acquirer", retryable=True)

_RETRYABLE: Final = frozenset(
    {
        "processing_error", "try_again_later", "issuer_not_available", "reenter_transaction", "approve_with_id",
        "currency_not_supported", "card_not_supported", "amount_too_small", "amount_too_large",
        "invalid_charge_amount", "invalid_charge_amount_no_decimal_compatible",
    }
)  # fmt: skip
"""Refusals that are about the moment or about Stripe, not about the card: another acquirer may approve."""

_DEFINITE: Final = frozenset(
    {"amount_too_small", "amount_too_large", "balance_insufficient", "charge_already_refunded", "charge_disputed"}
)
"""Refusals of a capture or a refund that say for certain that it was not done."""


class _CardDetails(msgspec.Struct):
    capture_before: int | None = None


class _MethodDetails(msgspec.Struct):
    card: _CardDetails | None = None


class LatestCharge(msgspec.Struct):
    """The part of an expanded charge that says until when it may be captured."""

    payment_method_details: _MethodDetails | None = None


class PaymentError(msgspec.Struct):
    """Why a charge failed, in an intent or as an answer."""

    type: str | None = None
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None


class Intent(msgspec.Struct):
    """A PaymentIntent, as far as it is needed. Its client secret is not read: nobody else shall confirm it."""

    id: str
    status: str
    amount: int
    currency: str
    created: int = 0
    amount_received: int | None = None
    metadata: dict[str, str] = {}
    last_payment_error: PaymentError | None = None
    cancellation_reason: str | None = None
    latest_charge: LatestCharge | str | None = None


class Refund(msgspec.Struct):
    """A Refund."""

    id: str
    status: str
    amount: int
    currency: str
    metadata: dict[str, str] = {}
    failure_reason: str | None = None


class Failure(PaymentError):
    """An error that is an answer; many carry the intent as it stands now."""

    payment_intent: Intent | None = None


class _ErrorBody(msgspec.Struct):
    error: Failure


class IntentPage(msgspec.Struct):
    """A page of intents."""

    data: list[Intent]
    has_more: bool = False


class RefundPage(msgspec.Struct):
    """A page of refunds."""

    data: list[Refund]
    has_more: bool = False


decode_intent = msgspec.json.Decoder(Intent).decode
decode_refund = msgspec.json.Decoder(Refund).decode
decode_intents = msgspec.json.Decoder(IntentPage).decode
decode_refunds = msgspec.json.Decoder(RefundPage).decode
_decode_error = msgspec.json.Decoder(_ErrorBody).decode


def decode_failure(body: bytes) -> Failure:
    """The error of an answer above 399. Raises `ValueError`."""
    return _decode_error(body).error


def declined(error: PaymentError) -> Declined:
    """A refusal in words that may be kept and shown."""
    code, reason = speakable(error.decline_code or error.code or "declined", error.message or "Declined")
    return Declined(code, reason, code in _RETRYABLE)


def same_intent(intent: Intent, intent_id: str) -> Intent:
    """The intent. Raises `ValueError` when it is another one."""
    if intent.id != intent_id:
        raise ValueError("another intent")
    return intent


def same_refund(refund: Refund, attempt_id: str) -> Refund:
    """The refund. Raises `ValueError` when it is another attempt's."""
    if refund.metadata.get("attempt_id") != attempt_id:
        raise ValueError("a refund of another attempt")
    return refund


def certainly_refused(error: PaymentError) -> bool:
    """Whether a capture or a refund was certainly not done."""
    return error.code in _DEFINITE


def intent_outcome(kind: Kind, intent: Intent, amount: Money) -> Outcome | NeverSeen:
    """What an intent's state says about an attempt. `NeverSeen`: what was asked for has not been done.

    `requires_action` is not decided here: such an intent may still succeed, and has to be cancelled first.
    Raises `ValueError` when the intent is about other money.
    """
    if kind not in (Kind.CAPTURE, Kind.REFUND) and _money(intent.amount, intent.currency) != _expected(amount):
        raise ValueError("an intent over another amount")
    match kind:
        case Kind.CHARGE | Kind.AUTHORIZE:
            return _charge_outcome(kind, intent)
        case Kind.CAPTURE:
            return _capture_outcome(intent, amount)
        case Kind.VOID:
            return _void_outcome(intent)
        case Kind.REFUND:
            raise ValueError("an intent says nothing about one refund")
        case _:
            assert_never(kind)


def refund_outcome(refund: Refund, amount: Money) -> Outcome:
    """What a refund's state says. Raises `ValueError` when it is about other money."""
    if _money(refund.amount, refund.currency) != _expected(amount):
        raise ValueError("a refund of another amount")
    match refund.status:
        case "succeeded":
            return Approved(refund.id)
        case "failed" | "canceled" as status:
            return Declined(*speakable(refund.failure_reason or status, f"The refund {status}"))
        case status:
            return Unknown(_open(status))


def _charge_outcome(kind: Kind, intent: Intent) -> Outcome | NeverSeen:
    match intent.status:
        case "succeeded" if kind is Kind.CHARGE:
            return Approved(intent.id)
        case "requires_capture" if kind is Kind.AUTHORIZE:
            return Approved(intent.id, _capture_before_ms(intent))
        case "requires_payment_method" if intent.last_payment_error is not None:
            return declined(intent.last_payment_error)
        case "requires_payment_method" | "requires_confirmation":
            return NeverSeen()
        case "canceled" if intent.cancellation_reason == ABANDONED:
            return AUTHENTICATION_REQUIRED
        case "canceled":
            return CANCELED
        case status:
            return Unknown(_open(status))


def _capture_outcome(intent: Intent, amount: Money) -> Outcome | NeverSeen:
    match intent.status:
        case "succeeded":
            received = intent.amount if intent.amount_received is None else intent.amount_received
            if _money(received, intent.currency) != _expected(amount):
                raise ValueError("captured another amount")
            return Approved(intent.id)
        case "requires_capture":
            return NeverSeen()
        case "canceled":
            return Declined("authorization_over", "The authorization had ended")
        case status:
            return Unknown(_open(status))


def _void_outcome(intent: Intent) -> Outcome | NeverSeen:
    match intent.status:
        case "canceled":
            return Approved(intent.id)
        case "requires_capture":
            return NeverSeen()
        case "succeeded":
            return Declined("already_captured", "The authorization was captured")
        case status:
            return Unknown(_open(status))


def _capture_before_ms(intent: Intent) -> int:
    charge = intent.latest_charge
    if not isinstance(charge, LatestCharge) or charge.payment_method_details is None:
        return 0
    card = charge.payment_method_details.card
    return 0 if card is None or card.capture_before is None else card.capture_before * 1000


def _expected(amount: Money) -> tuple[int, str]:
    return stripe_units(amount), amount.currency


def _money(units: int, currency: str) -> tuple[int, str]:
    return units, currency.upper()


def _open(status: str) -> str:
    # Whatever the word is, it is somebody else's: only a plain one goes on into logs.
    return f"it is {status}" if status.isascii() and status.isidentifier() and len(status) <= 40 else "unclear"
