"""The gateway surface's answers: plain functions from the engine's values."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from engine.accounts import Account
from engine.facts import Refund, RefundState, Status
from engine.ids import rfc3339
from engine.money import Money
from engine.payment import Payment
from handlers.core_types import Amount, Currency, PaymentRef, Time, Total
from handlers.tokens import SignedToken

AccountRef = Annotated[str, Meta(examples=["acc-01kqxw3v5n8t2r7d9m4c6b1hzj0c"])]


class AccountView(msgspec.Struct):
    """An account. Its password is not shown, in no form."""

    id: AccountRef
    name: Annotated[str, Meta(examples=["Ada Lovelace"])]
    email: Annotated[str, Meta(examples=["ada@example.com"])]
    created_at: Time


class MessageView(msgspec.Struct):
    """That it is done."""

    message: str


class TokenView(msgspec.Struct):
    """What to send as `Authorization: Bearer <token>`, and how long it is good."""

    token: Annotated[str, Meta(examples=["eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhY2MtMSJ9.c2lnbmF0dXJl"])]
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, Meta(description="Seconds", examples=[3600])]
    expires_at: Time


class DetailsView(msgspec.Struct, rename="camel"):
    """What may be shown of a card. Empty for a wallet."""

    card_number: Annotated[str, Meta(description="All but the last four digits hidden")] | UnsetType = UNSET
    brand: str | UnsetType = UNSET


class RefundPart(msgspec.Struct):
    """One refund. While it is pending, its amount is reserved."""

    id: str
    amount: Amount
    status: RefundState


class PaymentView(msgspec.Struct):
    """A payment. Fields that do not apply are absent."""

    id: PaymentRef
    user_id: AccountRef
    amount: Amount
    currency: Currency
    status: Annotated[Status, Meta(examples=["pending"])]
    payment_method: Literal["credit_card", "debit_card", "digital_wallet"]
    details: Annotated[DetailsView, Meta(examples=[{"cardNumber": "**** **** **** 4242", "brand": "visa"}])]
    created_at: Time
    refunded_amount: Total | UnsetType = UNSET
    failure_code: str | UnsetType = UNSET
    failure_reason: str | UnsetType = UNSET


class RefundedView(PaymentView, kw_only=True):
    """The payment as the refund has left it: `partially_refunded` or `refunded`, when it is done."""

    refund: Annotated[
        RefundPart,
        Meta(examples=[{"id": "ref-01kqxw3v5n8t2r7d9m4c6b1hzj", "amount": 20.00, "status": "completed"}]),
    ]


class StatusView(msgspec.Struct):
    """Where a payment stands."""

    id: PaymentRef
    status: Annotated[Status, Meta(examples=["completed"])]


class TransactionsPage(msgspec.Struct):
    """The caller's payments, newest first. `next_cursor` is null at the end."""

    transactions: list[PaymentView]
    next_cursor: str | None


def account_view(account: Account) -> AccountView:
    """The account as its owner sees it."""
    return AccountView(account.id, account.name, account.email, rfc3339(account.created_ms))


def token_view(token: SignedToken) -> TokenView:
    """The token for its owner."""
    lives_s = token.expires_at_s - token.issued_at_s
    return TokenView(token.text, "Bearer", lives_s, rfc3339(token.expires_at_s * 1000))


def payment_view(payment: Payment) -> PaymentView:
    """The payment as its owner sees it."""
    method = payment.method
    view = PaymentView(
        id=payment.id,
        user_id=payment.user_id,
        amount=_number(payment.amount.minor, payment.amount.currency),
        currency=payment.amount.currency,
        status=payment.status,
        payment_method=_METHODS[method.type],
        details=DetailsView(f"**** **** **** {method.last4}", method.brand) if method.last4 else DetailsView(),
        created_at=rfc3339(payment.created_ms),
    )
    if payment.refunds:
        view.refunded_amount = _number(payment.refunded_minor, payment.amount.currency)
    if payment.failure is not None:
        view.failure_code = payment.failure.code
        view.failure_reason = payment.failure.reason
    return view


def refunded_view(payment: Payment, refund: Refund) -> RefundedView:
    """The payment, and what became of one of its refunds."""
    shown = RefundPart(refund.id, _number(refund.minor, payment.amount.currency), refund.state)
    return RefundedView(**msgspec.structs.asdict(payment_view(payment)), refund=shown)


_METHODS: Final[dict[str, Literal["credit_card", "debit_card", "digital_wallet"]]] = {
    "credit_card": "credit_card",
    "debit_card": "debit_card",
    "wallet": "digital_wallet",
}


def _number(minor: int, currency: str) -> Raw:
    return Raw(Money(minor, currency).text.encode())
