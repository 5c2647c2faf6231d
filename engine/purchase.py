"""Payments of the vault surface: what was bought, and what paying, failing and giving back make of it. Pure rules.

A payment is an ordinary one, captured or failed at once; its rail is the card, so its ledger rows are the card's.
What only this surface knows of it stands beside it in a `Purchase`, with a version of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from engine import ledger
from engine.changes import Change
from engine.events import with_body
from engine.facts import REFUNDS_MAX, Failure, Refund, RefundState, Status
from engine.ids import rfc3339
from engine.money import Money
from engine.payment import Payment
from engine.vault_card import StoredCard, masked

SURFACE: Final = "vault"
COMPLETED: Final = "paymentService-paymentCompleted"
FAILED: Final = "paymentService-paymentFailed"
REFUNDED: Final = "paymentService-cardRefunded"
EVENT_TYPES: Final = (COMPLETED, FAILED, REFUNDED)

_NO_FUNDS: Final = Failure("PAY_002", "INSUFFICIENT_FUNDS", "the card's balance is too small")
_REASON: Final = "refunded_by_order_service"
_encode = msgspec.json.Encoder().encode

WORDS: Final[Mapping[Status, str]] = {
    Status.COMPLETED: "Completed",
    Status.FAILED: "Failed",
    Status.PARTIALLY_REFUNDED: "PartiallyRefunded",
    Status.REFUNDED: "Refunded",
}
"""A payment's status in this surface's words."""


class Line(msgspec.Struct, frozen=True, array_like=True):
    """So many of one product, at a price each."""

    product_id: str
    quantity: int
    price_minor: int
    seller_id: str = ""
    refunded_quantity: int = 0

    @property
    def left(self) -> int:
        """How many have not been given back."""
        return self.quantity - self.refunded_quantity


class Purchase(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={
        "version": "v",
        "card_id": "card",
        "checkout_id": "checkout",
        "basket_id": "basket",
        "shipment_id": "shipment",
        "expiry_month": "month",
        "expiry_year": "year",
        "is_gift": "gift",
        "hidden_ms": "hidden",
    },
):
    """What a payment was for. The card's facts are those of its day: the card itself may be gone."""

    version: int
    card_id: str
    checkout_id: str
    basket_id: str
    shipment_id: str
    lines: tuple[Line, ...]
    address: str
    holder: str
    last4: str
    expiry_month: int
    expiry_year: int
    is_gift: bool = False
    hidden_ms: int = 0
    """When its owner deleted the payment; from then on only we see it."""

    @property
    def refunded_minor(self) -> int:
        """What was given back, by line."""
        return sum(line.refunded_quantity * line.price_minor for line in self.lines)

    def hidden(self, *, now_ms: int) -> Purchase:
        """Deleted, for its owner."""
        return msgspec.structs.replace(self, version=self.version + 1, hidden_ms=now_ms)


class Given(NamedTuple):
    """A payment, what it was for, and the card as they will stand. None: the card stays as it is."""

    change: Change
    purchase: Purchase
    card: StoredCard | None


class Poison(NamedTuple):
    """A refund that can never be made, and why: no card number and nothing else secret in it."""

    reason: str


def total_of(lines: Sequence[Line]) -> int:
    """What the lines cost together."""
    return sum(line.quantity * line.price_minor for line in lines)


def paid(payment: Payment, purchase: Purchase, card: StoredCard) -> Given:
    """The new payment, completed and taken from the card, or failed because there is too little on it."""
    minor, now_ms = payment.amount.minor, payment.created_ms
    if card.balance_minor < minor:
        failed = msgspec.structs.replace(payment, failure=_NO_FUNDS, ended_ms=now_ms)
        told, event = with_body(failed, FAILED, _body(failed, purchase, FAILED, now_ms), time_ms=now_ms)
        return Given(Change(told, due_ms=None, events=(event,), needs_room=True), purchase, None)
    completed = msgspec.structs.replace(payment, authorized_minor=minor, captured_minor=minor, ended_ms=now_ms)
    told, event = with_body(completed, COMPLETED, _body(completed, purchase, COMPLETED, now_ms), time_ms=now_ms)
    rows = (ledger.capture_of(told),)
    change = Change(told, due_ms=None, transactions=rows, events=(event,), needs_room=True)
    return Given(change, purchase, card.moved(-minor))


def all_refunded(payment: Payment, purchase: Purchase, card: StoredCard, refund_id: str, *, now_ms: int) -> Given:
    """Everything that is left goes back."""
    lines = tuple(msgspec.structs.replace(line, refunded_quantity=line.quantity) for line in purchase.lines)
    back = [msgspec.structs.replace(line, quantity=line.left) for line in purchase.lines if line.left]
    return _refunded(payment, purchase, card, lines, back, refund_id, now_ms=now_ms)


def product_refunded(
    payment: Payment,
    purchase: Purchase,
    card: StoredCard,
    refund_id: str,
    *,
    product_id: str,
    price_minor: int,
    quantity: int,
    now_ms: int,
) -> Given | Poison:
    """So many of a product go back, at the price that was paid for each, and never more than were bought."""
    wanted, lines, back = quantity, [], []
    same = [line for line in purchase.lines if line.product_id == product_id]
    if not same:
        return Poison("the payment has no such product")
    if all(line.price_minor != price_minor for line in same):
        return Poison("the price is not what was paid for the product")
    for line in purchase.lines:
        fits = line.product_id == product_id and line.price_minor == price_minor
        taken = min(wanted, line.left) if fits else 0
        wanted -= taken
        lines.append(msgspec.structs.replace(line, refunded_quantity=line.refunded_quantity + taken))
        if taken:
            back.append(msgspec.structs.replace(line, quantity=taken))
    if wanted:
        return Poison("more than is left of the product")
    if not price_minor:
        return Poison("the product was free")
    return _refunded(payment, purchase, card, tuple(lines), back, refund_id, now_ms=now_ms)


def may_be_refunded(payment: Payment) -> Poison | None:
    """Why no refund of any size can be made."""
    if not payment.captured_minor:
        return Poison(f"a payment that is {payment.status.value} cannot be refunded")
    return Poison(f"the payment has {REFUNDS_MAX} refunds already") if len(payment.refunds) >= REFUNDS_MAX else None


def _refunded(
    payment: Payment,
    purchase: Purchase,
    card: StoredCard,
    lines: tuple[Line, ...],
    back: Sequence[Line],
    refund_id: str,
    *,
    now_ms: int,
) -> Given:
    minor = total_of(back)
    assert 0 < minor <= payment.refundable_minor, "the lines' own bounds keep this one too"
    # Whichever clock is behind: what happened last must not look older than what was there before.
    now_ms = max(now_ms, payment.refunds[-1].ended_ms if payment.refunds else payment.ended_ms)
    refund = Refund(refund_id, minor, _REASON, RefundState.COMPLETED, now_ms, ended_ms=now_ms)
    newer = msgspec.structs.replace(payment, version=payment.version + 1, refunds=(*payment.refunds, refund))
    kept = msgspec.structs.replace(purchase, version=purchase.version + 1, lines=lines)
    body = _refund_body(newer, kept, refund, back)
    told, event = with_body(newer, REFUNDED, body, time_ms=now_ms)
    change = Change(told, due_ms=None, transactions=(ledger.refund_of(told, refund),), events=(event,))
    return Given(change, kept, card.moved(minor))


def updated_ms(payment: Payment) -> int:
    """When it last changed."""
    return payment.refunds[-1].ended_ms if payment.refunds else payment.ended_ms


def _number(minor: int, currency: str) -> msgspec.Raw:
    return msgspec.Raw(Money(minor, currency).text.encode())


def _products(lines: Sequence[Line], currency: str) -> list[dict[str, object]]:
    return [
        {
            "productId": line.product_id,
            "quantity": line.quantity,
            "price": _number(line.price_minor, currency),
            "isRefunded": not line.left,
            "refundedQuantity": line.refunded_quantity,
            "sellerId": line.seller_id,
        }
        for line in lines
    ]


def _body(payment: Payment, purchase: Purchase, event_type: str, time_ms: int) -> bytes:
    """The contract's payment, without the holder's name and the card's end: a topic has many readers."""
    currency = payment.amount.currency
    body: dict[str, object] = {
        "eventType": event_type,
        "timestamp": rfc3339(time_ms),
        "paymentId": payment.id,
        "userId": payment.user_id,
        "checkoutId": purchase.checkout_id,
        "basketId": purchase.basket_id,
        "creditCardId": purchase.card_id,
        "shipmentId": purchase.shipment_id,
        "products": _products(purchase.lines, currency),
        "address": purchase.address,
        "isGift": purchase.is_gift,
        "status": WORDS[payment.status],
        "totalPrice": _number(payment.amount.minor, currency),
        "refunded": payment.status is Status.REFUNDED,
        "cardNumber": masked(purchase.last4),
        "paymentStatus": bool(payment.captured_minor),
    }
    if payment.failure is not None:
        body |= {"reason": payment.failure.reason, "errorCode": payment.failure.event_code}
    return _encode(body)


def _refund_body(payment: Payment, purchase: Purchase, refund: Refund, back: Sequence[Line]) -> bytes:
    currency = payment.amount.currency
    products = [
        {"productId": line.product_id, "quantity": line.quantity, "price": _number(line.price_minor, currency)}
        for line in back
    ]
    body = {
        "eventType": REFUNDED,
        "timestamp": rfc3339(refund.ended_ms),
        "paymentId": payment.id,
        "refundId": refund.id,
        "userId": payment.user_id,
        "checkoutId": purchase.checkout_id,
        "creditCardId": purchase.card_id,
        "cardNumber": masked(purchase.last4),
        "products": products,
        "amount": _number(refund.minor, currency),
        "totalPrice": _number(payment.amount.minor, currency),
        "totalRefunded": _number(payment.refunded_minor, currency),
        "refunded": payment.status is Status.REFUNDED,
        "status": WORDS[payment.status],
    }
    return _encode(body)


def contradictions(payment: Payment, events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the events of a payment say against it: one for how it ended, one for each refund."""
    types = Counter(event.get("eventType") for event in events)
    ended = FAILED if payment.failure is not None else COMPLETED
    if types != +Counter({ended: 1, REFUNDED: len(payment.refunds)}):
        yield f"is {payment.status.value} with {len(payment.refunds)} refunds, but told {dict(types)}"
    if any(event.get("paymentId") != payment.id for event in events):
        yield "has an event of another payment"
    if events and events[-1].get("status") != WORDS.get(payment.status):
        yield f"is {payment.status.value}, but told {events[-1].get('status')}"


def beside(payment: Payment, purchase: Purchase) -> Iterator[str]:
    """What a purchase says against its payment."""
    if total_of(purchase.lines) != payment.amount.minor:
        yield f"its lines sum to {total_of(purchase.lines)}, the payment is {payment.amount.minor}"
    if purchase.refunded_minor != payment.refunded_minor:
        yield f"its lines gave back {purchase.refunded_minor}, the payment {payment.refunded_minor}"
    if any(not 0 <= line.refunded_quantity <= line.quantity for line in purchase.lines):
        yield "more of a line was given back than was bought"
    if payment.rail != purchase.card_id:
        yield "names another card than its payment"
