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
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)", description="ISO 4217, upper case")]
Amount = Annotated[Raw, Meta(extra_json_schema={"type": "number"}, description="With the currency's decimals at most")]


class CardMethod(msgspec.Struct, tag_field="type", rename="camel"):
    """A card."""

    card_number: Annotated[str, Meta(description="12 to 19 digits")]
    expiry_month: Annotated[str, Meta(description="01 to 12")]
    expiry_year: Annotated[str, Meta(description="Four digits")]
    cvv: Annotated[str, Meta(description="3 or 4 digits")]

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

    token: Annotated[str, Meta(description="8 to 512 visible characters")]

    def instrument(self, today: tuple[int, int]) -> Instrument:
        """The checked token. Raises `PaymentMethodRefused`."""
        return WalletToken(self.token)

    def __repr__(self) -> str:
        return "Wallet(…)"


METHOD_TYPES: Final = {CreditCard: "credit_card", DebitCard: "debit_card", Wallet: "wallet"}


class CreatePayment(msgspec.Struct, rename="camel"):
    """A wish to pay an order."""

    order_id: Id
    user_id: Id
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

    id: str
    order_id: str
    user_id: str
    amount: Amount
    currency: str
    status: Status
    payment_method: MethodView
    created_at: str
    transaction_id: str | UnsetType = UNSET
    completed_at: str | UnsetType = UNSET
    failure_code: str | UnsetType = UNSET
    failure_reason: str | UnsetType = UNSET
    failed_at: str | UnsetType = UNSET


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

    key: str
    state: Literal["claimed", "used"]
    payment_id: str
    created_at: str
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
