"""The orders surface's requests and answers."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from engine import context
from engine.errors import AmountRefused, FieldsRequired, StatusUnknown
from engine.ids import rfc3339
from engine.money import Money, parse_amount
from engine.payment import Payment
from engine.recorded import Recorded, status_of, updated_ms
from engine.recording import RecordPayment
from handlers.http import HttpRefused, decode

_INTEGER_MAX: Final = 2**31 - 1
"""The contract's INTEGER."""
_AMOUNT_MINOR_MAX: Final = 10**10 - 1
"""The contract's DECIMAL(10,2)."""
_MISSING: Final = Raw(b"null")
_NOT_POSITIVE: Final = re.compile(r"-|0(?:\.0*)?(?:[eE].*)?\Z")

Number = Annotated[int, Meta(ge=1, le=_INTEGER_MAX, examples=[1])]
Amount = Annotated[
    Raw,
    Meta(
        extra_json_schema={"type": "number", "exclusiveMinimum": 0, "maximum": 99999999.99},
        description="At most two decimals",
        examples=[99.99],
    ),
]
Time = Annotated[
    str,
    Meta(
        extra_json_schema={"format": "date-time"},
        description="UTC, RFC 3339, milliseconds",
        examples=["2024-01-01T12:00:00.000Z"],
    ),
]


class CreatePayment(msgspec.Struct, rename="camel"):
    """A payment for an order, to be recorded."""

    user_id: Number
    order_id: Number
    amount: Amount


class UpdateStatus(msgspec.Struct):
    """The status that a payment is to have."""

    status: Annotated[Recorded, Meta(examples=["success"])]


class PaymentView(msgspec.Struct, rename="camel"):
    """A payment."""

    payment_id: Annotated[int, Meta(ge=1, examples=[1])]
    user_id: Number
    order_id: Number
    amount: Amount
    status: Annotated[Recorded, Meta(examples=["success"])]
    created_at: Time
    updated_at: Time


class CreatedView(msgspec.Struct):
    """The answer to a payment that was made."""

    message: Annotated[str, Meta(examples=["Payment created successfully"])]
    payment: PaymentView


class OneView(msgspec.Struct):
    """One payment."""

    payment: PaymentView


class ManyView(msgspec.Struct):
    """A user's payments, newest first, a thousand at most."""

    payments: list[PaymentView]


class _Present(msgspec.Struct, rename="camel"):
    """What is there at all, whatever it is."""

    user_id: Raw = _MISSING
    order_id: Raw = _MISSING
    amount: Raw = _MISSING


_create = msgspec.json.Decoder(CreatePayment)
_present = msgspec.json.Decoder(_Present)
_update = msgspec.json.Decoder(UpdateStatus)


def wanted_payment(body: bytes, currency: str) -> RecordPayment:
    """The body of a `POST`. Raises `FieldsRequired`, `AmountRefused` or `HttpRefused`."""
    try:
        wanted = decode(body, _create)
    except HttpRefused as refused:
        if refused.status == 422:
            _require_all(body)
        raise
    if wanted.amount == _MISSING:
        raise _required()
    amount = _amount(bytes(wanted.amount).decode(), currency)
    return RecordPayment(wanted.user_id, wanted.order_id, amount, context.current())


def wanted_status(body: bytes) -> Recorded:
    """The body of a `PUT`. Raises `StatusUnknown` or `HttpRefused`."""
    try:
        return decode(body, _update).status
    except HttpRefused as refused:
        if refused.status != 422:
            raise
        raise StatusUnknown("Invalid payment status", allowed=", ".join(Recorded)) from None


def payment_view(payment: Payment) -> PaymentView:
    """The payment as users of this surface see it."""
    return PaymentView(
        payment_id=payment.public_number,
        user_id=int(payment.user_id),
        order_id=int(payment.order_id),
        amount=Raw(payment.amount.text.encode()),
        status=status_of(payment),
        created_at=rfc3339(payment.created_ms),
        updated_at=rfc3339(updated_ms(payment)),
    )


def _require_all(body: bytes) -> None:
    present = decode(body, _present)
    if _MISSING in (present.user_id, present.order_id, present.amount):
        raise _required()


def _required() -> FieldsRequired:
    return FieldsRequired("userId, orderId, and amount are required")


def _amount(text: str, currency: str) -> Money:
    try:
        amount = parse_amount(text, currency)
    except AmountRefused:
        if _NOT_POSITIVE.match(text):
            raise AmountRefused("Amount must be greater than 0") from None
        raise
    if amount.minor > _AMOUNT_MINOR_MAX:
        raise AmountRefused(f"amount must be at most {Money(_AMOUNT_MINOR_MAX, currency).text}")
    return amount
