"""Notifications: what a person is told of an event, in words made from the event's body. Pure rules.

One function for each type of event. A title is always ours; what a body says appears in the text only, on one line, in
bounded length and without card numbers: it ends in logs and mails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from engine import events, purchase, recorded
from engine.cards import without_numbers

_SHOWN_MAX: Final = 200
_READ_MAX: Final = 10 * _SHOWN_MAX
_AMOUNT_MAX: Final = 10**15
_DECIMALS_MAX: Final = 6

Id = Annotated[str, Meta(min_length=1, max_length=128)]
MaybeId = Annotated[str, Meta(max_length=128)]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]


class Malformed(Exception):
    """The body is not what its type promises. Says where, not what: it may hold anything."""


class Told(NamedTuple):
    """What an event's body tells a person."""

    title: str
    text: str
    user_id: str
    """Empty: the body does not say."""
    payment_id: str = ""
    """Then it is this payment's user."""
    about: str = ""
    """The payment, order or user, where no header says so."""


class Notification(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event as one person is told of it. It is called by the event's id."""

    id: str
    user_id: str
    type: str
    subject: str
    time: str
    """RFC 3339: when the event happened."""
    title: str
    text: str
    channels: tuple[str, ...]
    """Those that were on when it was written: no others will tell it, however often the event comes."""
    source: str = ""
    trace_id: str = ""


def told_by(event_type: str, body: bytes) -> Told:
    """What the body of this type tells. Raises `KeyError` for an unknown type, `Malformed`."""
    tell = _TELLERS[event_type]
    try:
        return tell(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(type(error).__name__) from None


class _Amount(msgspec.Struct):
    amount: Decimal
    currency: Currency
    reason: str = ""


class _WithAmount(msgspec.Struct):
    payment_id: Id
    data: _Amount
    user_id: MaybeId = ""
    order_id: MaybeId = ""

    def told(self, title: str, what: str) -> Told:
        text = f"{what} {_money(self.data.amount)} {self.data.currency}{_for_order(self.order_id)}{_why(self.data)}."
        return Told(title, text, self.user_id, self.payment_id, self.payment_id)


class _Reason(msgspec.Struct):
    reason: str = ""


class _WithReason(msgspec.Struct):
    payment_id: Id
    data: _Reason
    user_id: MaybeId = ""
    order_id: MaybeId = ""

    def told(self, title: str, what: str) -> Told:
        text = f"{what}{_for_order(self.order_id)}{_why(self.data)}."
        return Told(title, text, self.user_id, self.payment_id, self.payment_id)


class _RecordedData(msgspec.Struct, rename="camel"):
    payment_id: int
    user_id: int
    order_id: int
    status: str
    amount: Decimal | None = None


class _Recorded(msgspec.Struct):
    data: _RecordedData

    def told(self, title: str) -> Told:
        data = self.data
        money = f" of {_money(data.amount)}" if data.amount is not None else ""
        text = f"Your payment {data.payment_id}{money} for order {data.order_id} is {_shown(data.status)}."
        return Told(title, text, str(data.user_id), about=str(data.payment_id))


class _Checkout(msgspec.Struct, rename="camel"):
    payment_id: Id
    user_id: Id
    checkout_id: Id
    total_price: Decimal
    reason: str = ""
    amount: Decimal | None = None

    def told(self, title: str, what: str, amount: Decimal) -> Told:
        text = f"{what} {_money(amount)} for checkout {_shown(self.checkout_id)}{_why(self)}."
        return Told(title, text, self.user_id, about=self.payment_id)


class _Registered(msgspec.Struct):
    username: str = ""


class _User(msgspec.Struct):
    user_id: Id
    data: _Registered


class _Ordered(msgspec.Struct):
    total_amount: Decimal | None = None
    payment_id: MaybeId = ""


class _Order(msgspec.Struct):
    order_id: Id
    data: _Ordered
    user_id: MaybeId = ""

    def told(self, title: str, what: str) -> Told:
        text = f"Your order {_shown(self.order_id)} {what}."
        return Told(title, text, self.user_id, self.data.payment_id, self.order_id)


_with_amount = msgspec.json.Decoder(_WithAmount).decode
_with_reason = msgspec.json.Decoder(_WithReason).decode
_recorded = msgspec.json.Decoder(_Recorded).decode
_checkout = msgspec.json.Decoder(_Checkout).decode
_user = msgspec.json.Decoder(_User).decode
_order = msgspec.json.Decoder(_Order).decode


def _payment_authorized(body: bytes) -> Told:
    return _with_amount(body).told("Payment authorized", "We hold")


def _payment_completed(body: bytes) -> Told:
    return _with_amount(body).told("Payment completed", "We received")


def _payment_failed(body: bytes) -> Told:
    return _with_reason(body).told("Payment failed", "Your payment failed")


def _payment_cancelled(body: bytes) -> Told:
    return _with_reason(body).told("Payment cancelled", "Your payment was cancelled")


def _payment_refunded(body: bytes) -> Told:
    return _with_amount(body).told("Payment refunded", "We gave back")


def _payment_refund_failed(body: bytes) -> Told:
    return _with_amount(body).told("Refund failed", "We could not give back")


def _payment_created(body: bytes) -> Told:
    return _recorded(body).told("Payment recorded")


def _payment_status_updated(body: bytes) -> Told:
    return _recorded(body).told("Payment updated")


def _checkout_completed(body: bytes) -> Told:
    told = _checkout(body)
    return told.told("Payment completed", "Your card paid", told.total_price)


def _checkout_failed(body: bytes) -> Told:
    told = _checkout(body)
    return told.told("Payment failed", "Your card did not pay", told.total_price)


def _card_refunded(body: bytes) -> Told:
    told = _checkout(body)
    return told.told("Payment refunded", "Your card got back", told.total_price if told.amount is None else told.amount)


def _user_created(body: bytes) -> Told:
    told = _user(body)
    name = f", {_shown(told.data.username)}" if told.data.username else ""
    return Told("Welcome", f"Welcome{name}.", told.user_id, about=told.user_id)


def _user_verified(body: bytes) -> Told:
    told = _user(body)
    return Told("Account verified", "Your account is verified.", told.user_id, about=told.user_id)


def _order_created(body: bytes) -> Told:
    told = _order(body)
    total = told.data.total_amount
    return told.told("Order received", "was received" if total is None else f"over {_money(total)} was received")


def _order_confirmed(body: bytes) -> Told:
    return _order(body).told("Order confirmed", "is paid and confirmed")


def _order_cancelled(body: bytes) -> Told:
    return _order(body).told("Order cancelled", "was cancelled")


_TELLERS: Final[Mapping[str, Callable[[bytes], Told]]] = {
    events.AUTHORIZED: _payment_authorized,
    events.COMPLETED: _payment_completed,
    events.FAILED: _payment_failed,
    events.CANCELLED: _payment_cancelled,
    events.REFUNDED: _payment_refunded,
    events.REFUND_FAILED: _payment_refund_failed,
    recorded.CREATED: _payment_created,
    recorded.STATUS_UPDATED: _payment_status_updated,
    purchase.COMPLETED: _checkout_completed,
    purchase.FAILED: _checkout_failed,
    purchase.REFUNDED: _card_refunded,
    "user_created": _user_created,
    "user_verified": _user_verified,
    "order_created": _order_created,
    "order_confirmed": _order_confirmed,
    "order_cancelled": _order_cancelled,
}
TYPES: Final = tuple(_TELLERS)
"""Every type of event that somebody is told of."""


def _money(amount: Decimal) -> str:
    """An amount as its JSON number was written. Raises `ValueError` for what would be written in a thousand digits."""
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_DECIMALS_MAX or abs(amount) >= _AMOUNT_MAX:
        raise ValueError("no amount")
    return format(amount, "f")


def _for_order(order_id: str) -> str:
    return f" for order {_shown(order_id)}" if order_id else ""


def _why(said: _Amount | _Reason | _Checkout) -> str:
    return f": {_shown(said.reason)}" if said.reason else ""


def _shown(text: str) -> str:
    """On one line, at most so long, without card numbers."""
    # Masked before it is cut: half a number would not be known for one.
    masked = without_numbers(text[:_READ_MAX].encode(errors="replace")).decode(errors="replace")
    return "".join(letter if letter.isprintable() else " " for letter in masked[:_SHOWN_MAX])
