"""The core surface's requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from engine.accepting import AcceptPayment, KeyState
from engine.cards import Card, Cvv, Instrument, Pan, WalletToken, parse_expiry
from engine.context import RequestContext
from engine.ids import rfc3339
from engine.money import parse_amount
from engine.payment import Payment, Status

SURFACE: Final = "core"

# Python's `$` also matches before a last newline, JSON Schema's does not: `(?!\n)` makes them agree.
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$(?!\n)")]
OrderRef = Annotated[Id, Meta(examples=["order-123"])]
UserRef = Annotated[Id, Meta(examples=["550e8400-e29b-41d4-a716-446655440001"])]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)", description="ISO 4217, upper case", examples=["USD"])]
Amount = Annotated[
    Raw,
    Meta(
        extra_json_schema={"type": "number", "exclusiveMinimum": 0},
        description="With the currency's decimals at most",
        examples=[75.48],
    ),
]
PaymentRef = Annotated[str, Meta(examples=["pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a"])]
Time = Annotated[
    str,
    Meta(
        extra_json_schema={"format": "date-time"},
        description="UTC, RFC 3339, milliseconds",
        examples=["2026-05-06T07:08:09.123Z"],
    ),
]


def _form(pattern: str, description: str, example: str) -> Meta:
    """What documents a secret's form. The engine checks it: a refusal of ours must not quote the value."""
    extra = {"pattern": pattern, "writeOnly": True}
    return Meta(extra_json_schema=extra, description=description, examples=[example])


class CardMethod(msgspec.Struct, tag_field="type", rename="camel"):
    """A card."""

    card_number: Annotated[str, _form("^[0-9]{12,19}$", "12 to 19 digits that pass Luhn's check", "4242424242424242")]
    expiry_month: Annotated[str, _form("^(0?[1-9]|1[0-2])$", "01 to 12", "12")]
    expiry_year: Annotated[str, _form("^2[0-9]{3}$", "Four digits", "2030")]
    cvv: Annotated[str, _form("^[0-9]{3,4}$", "3 or 4 digits", "123")]

    def instrument(self, today: tuple[int, int]) -> Instrument:
        """The checked card. Raises `PaymentMethodRefused`."""
        month, year = parse_expiry(self.expiry_month, self.expiry_year, today=today)
        return Card(Pan(self.card_number), month, year, Cvv(self.cvv))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class CreditCard(CardMethod, tag="credit_card"):
    """A credit card."""


class DebitCard(CardMethod, tag="debit_card"):
    """A debit card."""


class Wallet(msgspec.Struct, tag_field="type", tag="wallet", rename="camel"):
    """A wallet's payment token."""

    token: Annotated[str, _form("^[!-~]{8,512}$", "8 to 512 visible ASCII characters", "tok_visa_4242")]

    def instrument(self, today: tuple[int, int]) -> Instrument:
        """The checked token. Raises `PaymentMethodRefused`."""
        return WalletToken(self.token)

    def __repr__(self) -> str:
        return "Wallet(…)"


METHOD_TYPES: Final = {CreditCard: "credit_card", DebitCard: "debit_card", Wallet: "wallet"}


class CreatePayment(msgspec.Struct, rename="camel"):
    """A wish to pay an order."""

    order_id: OrderRef
    user_id: UserRef
    amount: Amount
    currency: Currency
    payment_method: CreditCard | DebitCard | Wallet
    capture: Literal["automatic"] = "automatic"

    def to_command(self, ids: RequestContext, today: tuple[int, int]) -> AcceptPayment:
        """The command for the engine. Raises `AmountRefused` or `PaymentMethodRefused`."""
        return AcceptPayment(
            surface=SURFACE,
            order_id=self.order_id,
            user_id=self.user_id,
            amount=parse_amount(bytes(self.amount).decode(), self.currency),
            method_type=METHOD_TYPES[type(self.payment_method)],
            instrument=self.payment_method.instrument(today),
            request_id=ids.request_id,
            traceparent=ids.traceparent,
        )


class MethodView(msgspec.Struct, omit_defaults=True):
    """What may be shown of a payment method."""

    type: str
    brand: str = ""
    last4: str = ""


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
    transaction_id: str | UnsetType = UNSET
    completed_at: Time | UnsetType = UNSET
    failure_code: str | UnsetType = UNSET
    failure_reason: str | UnsetType = UNSET
    failed_at: Time | UnsetType = UNSET


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


def payment_view(payment: Payment) -> PaymentView:
    """The payment as users see it."""
    view = PaymentView(
        id=payment.id,
        order_id=payment.order_id,
        user_id=payment.user_id,
        amount=Raw(payment.amount.text.encode()),
        currency=payment.amount.currency,
        status=payment.status,
        payment_method=MethodView(*msgspec.structs.astuple(payment.method)),
        created_at=rfc3339(payment.created_ms),
    )
    if payment.status is Status.COMPLETED:
        view.transaction_id = payment.transaction_id
        view.completed_at = rfc3339(payment.ended_ms)
    elif payment.failure is not None:
        view.failure_code = payment.failure.code
        view.failure_reason = payment.failure.reason
        view.failed_at = rfc3339(payment.ended_ms)
    return view


def key_view(key: str, state: KeyState) -> KeyView:
    """The key as its caller sees it."""
    view = KeyView(key, "claimed", state.payment_id, rfc3339(state.created_ms))
    if state.payment is not None:
        view.state = "used"
        view.payment = payment_view(state.payment)
    return view
