"""The core surface's requests."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw

from engine.accepting import AcceptPayment
from engine.cards import Card, Cvv, Instrument, Pan, VaultCard, WalletToken, parse_expiry
from engine.context import RequestContext
from engine.errors import PaymentMethodRefused
from engine.money import parse_amount
from engine.phones import Phone, PhonePrompt
from engine.pushes import whole_shillings

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
Total = Annotated[
    Raw,
    Meta(extra_json_schema={"type": "number", "minimum": 0}, description="0 when there is none yet", examples=[20.00]),
]
# `Raw | None` does not decode: the JSON type alone decides there, and a number would have to be null.
OptionalAmount = Annotated[
    Raw,
    Meta(
        extra_json_schema={"type": ["number", "null"], "exclusiveMinimum": 0, "default": None},
        description="With the currency's decimals at most; without it, all",
        examples=[20.00],
    ),
]
Reason = Annotated[str, Meta(min_length=1, max_length=255, examples=["Order cancelled"])]
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

    def instrument(self) -> Instrument:
        """The checked card. Raises `PaymentMethodRefused`."""
        month, year = parse_expiry(self.expiry_month, self.expiry_year)
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

    def instrument(self) -> Instrument:
        """The checked token. Raises `PaymentMethodRefused`."""
        return WalletToken(self.token)

    def __repr__(self) -> str:
        return "Wallet(…)"


class MobileMoney(msgspec.Struct, tag_field="type", tag="mobile_money", rename="camel"):
    """A phone whose owner is asked to pay over M-Pesa: whole Kenyan shillings. Nothing is given back there."""

    phone_number: Annotated[
        str,
        _form(
            "^(\\+?254|0)[17][0-9]{8}$",
            "A Kenyan mobile number: +2547XXXXXXXX, 2547XXXXXXXX, 07XXXXXXXX or 01XXXXXXXX",
            "+254712345678",
        ),
    ]

    def instrument(self) -> Instrument:
        """The checked phone. Raises `PaymentMethodRefused`."""
        return PhonePrompt(Phone(self.phone_number))

    def __repr__(self) -> str:
        return "MobileMoney(…)"


class StoredCard(msgspec.Struct, tag_field="type", tag="vault_card", rename="camel"):
    """A card that the user has stored on the vault surface."""

    card_id: Annotated[
        str, Meta(min_length=1, max_length=64, description="Its id", examples=["card-01kqxw3v5n8t2r7d9m4c6b1hzj2a"])
    ]

    def instrument(self) -> Instrument:
        """The card's id. Whether there is such a card, is asked later."""
        return VaultCard(self.card_id)


METHOD_TYPES: Final = {
    CreditCard: "credit_card",
    DebitCard: "debit_card",
    Wallet: "wallet",
    StoredCard: "vault_card",
    MobileMoney: "mobile_money",
}
CARD_METHODS: Final = ("credit_card", "debit_card", "wallet")
"""What acquirers of cards take."""


class CreatePayment(msgspec.Struct, rename="camel"):
    """A wish to pay an order."""

    order_id: OrderRef
    user_id: UserRef
    amount: Amount
    currency: Currency
    payment_method: CreditCard | DebitCard | Wallet | StoredCard | MobileMoney
    capture: Annotated[
        Literal["automatic", "manual"],
        Meta(description="`manual` authorizes only; capture or cancel it later"),
    ] = "automatic"

    def to_command(self, ids: RequestContext, *, phones: bool = False) -> AcceptPayment:
        """The command for the engine; `phones` says whether phones can be asked.

        Raises `AmountRefused` or `PaymentMethodRefused`.
        """
        amount = parse_amount(bytes(self.amount).decode(), self.currency)
        if isinstance(self.payment_method, MobileMoney):
            if not phones:
                raise PaymentMethodRefused("mobile_money is not offered here", field="paymentMethod.type")
            if self.capture == "manual":
                raise PaymentMethodRefused("mobile_money cannot be authorized first", field="capture")
            whole_shillings(amount)
        return AcceptPayment(
            surface=SURFACE,
            order_id=self.order_id,
            user_id=self.user_id,
            amount=amount,
            method_type=METHOD_TYPES[type(self.payment_method)],
            instrument=self.payment_method.instrument(),
            manual=self.capture == "manual",
            request_id=ids.request_id,
            traceparent=ids.traceparent,
        )


def _null() -> Raw:
    return Raw(b"null")


class RefundPayment(msgspec.Struct):
    """How much to give back, and why. Without an amount: all that is left."""

    amount: OptionalAmount = msgspec.field(default_factory=_null)
    reason: Reason | None = None

    @property
    def amount_text(self) -> str | None:
        """The amount as it was written."""
        return _text(self.amount)


class CapturePayment(msgspec.Struct):
    """How much of what is authorized to take. Without an amount: all of it. The rest is released."""

    amount: OptionalAmount = msgspec.field(default_factory=_null)

    @property
    def amount_text(self) -> str | None:
        """The amount as it was written."""
        return _text(self.amount)


class CancelPayment(msgspec.Struct):
    """Why."""

    reason: Reason | None = None


def _text(amount: Raw) -> str | None:
    """The number's text. `null` is what leaving it out is."""
    text = bytes(amount).decode()
    return None if text == "null" else text
