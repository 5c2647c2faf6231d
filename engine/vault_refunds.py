"""Giving money back to a stored card, because the order service says so.

A message may come twice, late, out of order, or ask for more than there is. Its refund's id is made from the
message's, so that the payment's own record tells whether it was done; the lines' quantities bound everything else.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Final, NamedTuple, Protocol

from engine.errors import AmountRefused, Overloaded, PaymentNotFound
from engine.ids import Clock, PaymentId, hashed_id
from engine.money import parse_amount
from engine.payment import Payment
from engine.purchase import Given, Poison, Purchase, all_refunded, may_be_refunded, product_refunded
from engine.turns import Turns
from engine.vault_card import StoredCard

_CONFLICTS_MAX: Final = 64


class RefundAll(NamedTuple):
    """Give back what is left of a payment. `total` is a JSON number's text: what the order cost."""

    payment_id: str
    total: str


class RefundProduct(NamedTuple):
    """Give back so many of a product. `price` is a JSON number's text: of one. `card` may name the card's number."""

    payment_id: str
    product_id: str
    price: str
    quantity: int
    card: str = ""


class Done(Enum):
    """What became of a message."""

    REFUNDED = "refunded"
    REPEATED = "repeated"
    NOTHING_LEFT = "nothing_left"


class RefundStore(Protocol):
    """Where cards and their payments live."""

    async def card(self, card_id: str) -> StoredCard | None: ...
    async def paid(self, payment_id: PaymentId) -> tuple[Payment, Purchase] | None: ...
    async def refund(self, given: Given) -> bool: ...


class Observer(Protocol):
    """Is told of refunds that were made."""

    def recorded(self, payment: Payment) -> None: ...


class VaultRefunds:
    """Refunds to stored cards. Safe to ask again, at once or later: the effect is there once."""

    def __init__(self, store: RefundStore, turns: Turns, observer: Observer, clock: Clock) -> None:
        self._store = store
        self._turns = turns
        self._observer = observer
        self._clock = clock

    async def refund(self, wanted: RefundAll | RefundProduct, refund_id: str) -> Done | Poison:
        """Do what a message asks for.

        Raises `PaymentNotFound`, and `StoreUnavailable` or `Overloaded`, after which the same message is to be
        tried again.
        """
        # In the order of arrival for one payment, one after the other for one card.
        async with self._turns.of(wanted.payment_id):
            for _ in range(_CONFLICTS_MAX):
                found = await self._store.paid(PaymentId(wanted.payment_id))
                if found is None:
                    raise PaymentNotFound("there is no such payment")
                async with self._turns.of(found[0].rail):
                    if (done := await self._try(*found, wanted, refund_id)) is not None:
                        return done
        raise Overloaded("changes of one payment")

    async def _try(
        self, payment: Payment, purchase: Purchase, wanted: RefundAll | RefundProduct, refund_id: str
    ) -> Done | Poison | None:
        if payment.refund(refund_id) is not None:
            return Done.REPEATED
        if poison := may_be_refunded(payment):
            return poison
        card = await self._store.card(payment.rail)
        if card is None:
            return Poison("the payment's card is gone")
        given = self._given(payment, purchase, card, wanted, refund_id)
        if not isinstance(given, Given):
            return given
        if not await self._store.refund(given):
            return None
        self._observer.recorded(given.change.payment)
        return Done.REFUNDED

    def _given(
        self, payment: Payment, purchase: Purchase, card: StoredCard, wanted: RefundAll | RefundProduct, refund_id: str
    ) -> Given | Done | Poison:
        now_ms = self._clock()
        try:
            minor = parse_amount(
                wanted.total if isinstance(wanted, RefundAll) else wanted.price, payment.amount.currency
            ).minor
        except AmountRefused as refused:
            return Poison(str(refused))
        match wanted:
            case RefundAll():
                if minor not in (payment.amount.minor, payment.refundable_minor):
                    return Poison("the total is neither what was paid nor what is left")
                if not payment.refundable_minor:
                    return Done.NOTHING_LEFT
                return all_refunded(payment, purchase, card, refund_id, now_ms=now_ms)
            case RefundProduct(product_id=product_id, quantity=quantity):
                if wanted.card and wanted.card[-4:] != purchase.last4:
                    return Poison("the card is not the payment's")
                return product_refunded(
                    payment, purchase, card, refund_id,
                    product_id=product_id, price_minor=minor, quantity=quantity, now_ms=now_ms,
                )  # fmt: skip


def refund_id_of(topic: str, message_id: str) -> str:
    """The id of the refund that a message asks for."""
    digest = hashlib.blake2b(f"{topic}|{message_id}".encode(), digest_size=17, person=b"refund message")
    return hashed_id("ref-", digest.digest())
