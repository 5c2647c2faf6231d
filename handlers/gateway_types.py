"""The gateway surface's requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.accepting import AcceptPayment
from engine.accounts import Password
from engine.context import RequestContext
from engine.emails import BYTES_MAX
from engine.errors import AmountRefused, KeyReused, PaymentMethodRefused
from engine.money import Money, parse_amount
from handlers.core_types import Amount, CardMethod, Currency, PaymentRef, Wallet
from handlers.http import HttpRefused
from handlers.strict_json import decode_strictly

SURFACE: Final = "gateway"

_SECRET: Final = {"format": "password", "writeOnly": True}
Name = Annotated[
    str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)", examples=["Ada Lovelace"])
]
Email = Annotated[str, Meta(max_length=BYTES_MAX, extra_json_schema={"format": "email"}, examples=["ada@example.com"])]
NewPassword = Annotated[
    str, Meta(min_length=8, max_length=128, extra_json_schema=_SECRET, examples=["correct horse battery"])
]
KnownPassword = Annotated[str, Meta(max_length=128, extra_json_schema=_SECRET, examples=["correct horse battery"])]


class Register(msgspec.Struct):
    """A new account."""

    name: Name
    email: Email
    password: NewPassword

    @property
    def secret(self) -> Password:
        """The password, hiding itself."""
        return Password(self.password)

    def __repr__(self) -> str:
        return "Register(…)"


class Login(msgspec.Struct):
    """Who it is, and the proof."""

    email: Email
    password: KnownPassword

    @property
    def secret(self) -> Password:
        """The password, hiding itself."""
        return Password(self.password)

    def __repr__(self) -> str:
        return "Login(…)"


class CardDetails(CardMethod, tag=False):
    """A card."""


class WalletDetails(Wallet, tag=False):
    """A digital wallet's payment token."""


class _NewPayment(msgspec.Struct, tag_field="payment_method", kw_only=True):
    """What every wish to pay says. What else a client sends, a `status` for example, is ignored."""

    amount: Amount
    currency: Currency = "USD"

    @property
    def money(self) -> Money:
        """How much. Raises `AmountRefused`."""
        return parse_amount(plain(bytes(self.amount).decode()), self.currency)


class PayByCreditCard(_NewPayment, tag="credit_card", kw_only=True):
    """A payment by credit card, to be processed by a request of its own."""

    details: CardDetails


class PayByDebitCard(_NewPayment, tag="debit_card", kw_only=True):
    """A payment by debit card, to be processed by a request of its own."""

    details: CardDetails


class PayByWallet(_NewPayment, tag="digital_wallet", kw_only=True):
    """A payment from a digital wallet, to be processed by a request of its own."""

    details: WalletDetails


CreatePayment = PayByCreditCard | PayByDebitCard | PayByWallet
_ENGINE_TYPES: Final = {PayByCreditCard: "credit_card", PayByDebitCard: "debit_card", PayByWallet: "wallet"}


class ProcessPayment(msgspec.Struct, rename="camel"):
    """Which payment to charge."""

    payment_id: Annotated[PaymentRef, Meta(max_length=128)]


def plain(amount: str) -> str:
    """The same text. Raises `AmountRefused` for a number with an exponent: `1e2` is rather a slip than a hundred."""
    if "e" in amount or "E" in amount:
        raise AmountRefused("amount must be written without an exponent")
    return amount


def to_command(wanted: CreatePayment, user_id: str, ids: RequestContext, *, hold_ms: int) -> AcceptPayment:
    """The command for the engine. Raises `AmountRefused` or `PaymentMethodRefused`."""
    return AcceptPayment(
        surface=SURFACE,
        order_id="",
        user_id=user_id,
        amount=wanted.money,
        method_type=_ENGINE_TYPES[type(wanted)],
        instrument=wanted.details.instrument(),
        manual=False,
        request_id=ids.request_id,
        traceparent=ids.traceparent,
        hold_ms=hold_ms,
    )


def decode_payment(body: bytes, decoder: msgspec.json.Decoder[CreatePayment]) -> CreatePayment:
    """The wish to pay. What is wrong with its method is `PAY_001`, as on core."""
    try:
        return decode_strictly(body, decoder)
    except HttpRefused as refused:
        field = str(refused.details.get("field", ""))
        if field.startswith(("payment_method", "details")):
            raise PaymentMethodRefused(str(refused), field=field) from None
        raise


@contextmanager
def in_our_words() -> Iterator[None]:
    """The engine names fields as core does; here a refusal names them as this surface does."""
    try:
        yield
    except PaymentMethodRefused as refused:
        raise PaymentMethodRefused(str(refused), field=_ours(refused.details["field"])) from None
    except KeyReused as reused:
        raise KeyReused(_ours(reused.details["field"])) from None


def _ours(field: object) -> str:
    return str(field).replace("paymentMethod.type", "payment_method").replace("paymentMethod.", "details.")
