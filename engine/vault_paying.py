"""Paying a checkout with a stored card, and reading and hiding what was paid.

A payment lives in the shard of its card, because one step takes the money and writes the payment; a checkout is
claimed in a shard of its own, because two cards may race for it. The claim comes first, with the payment's id.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Final, NamedTuple, Protocol

from engine.accepting import Caller
from engine.context import RequestContext
from engine.errors import (
    CardNotFound,
    CheckoutTaken,
    InsufficientFunds,
    NotYourUser,
    Overloaded,
    PaymentMethodRefused,
    PaymentNotFound,
    TotalMismatch,
)
from engine.facts import Method
from engine.ids import Clock, PaymentId, PaymentIds, minted_ms, shard_of_card, shard_of_payment
from engine.money import Money
from engine.payment import Payment
from engine.purchase import SURFACE, Given, Line, Purchase, paid, total_of
from engine.turns import Turns
from engine.vault_card import StoredCard

_METHOD: Final = "vault_card"
_ROUNDS_MAX: Final = 64
"""Conflicts with other processes about one card or one checkout."""


class PayCheckout(NamedTuple):
    """A wish to pay a checkout: decoded and checked for form, nothing more."""

    checkout_id: str
    user_id: str
    basket_id: str
    card_id: str
    shipment_id: str
    lines: tuple[Line, ...]
    address: str
    is_gift: bool
    total: Money
    ids: RequestContext


class Paid(NamedTuple):
    """A payment with what it was for, and whether an earlier request has made it."""

    payment: Payment
    purchase: Purchase
    replayed: bool = False


class Made(Enum):
    """What became of writing a payment."""

    DONE = "done"
    EXISTS = "exists"
    VOIDED = "voided"
    """Somebody has given the checkout to another id."""
    CONFLICT = "conflict"
    """The card has changed."""


class PaymentStore(Protocol):
    """Where cards, payments and checkouts live."""

    async def card(self, card_id: str) -> StoredCard | None: ...
    async def paid(self, payment_id: PaymentId) -> tuple[Payment, Purchase] | None: ...
    async def pay(self, given: Given, card: StoredCard) -> Made: ...
    async def hide(self, payment_id: PaymentId, purchase: Purchase) -> bool: ...
    async def checkout(self, checkout_id: str) -> PaymentId | None: ...
    async def claim_checkout(self, checkout_id: str, payment_id: PaymentId, *, instead_of: str = "") -> PaymentId:
        """Let the checkout stand for this payment if it stands for `instead_of`. Returns what it stands for then."""
        ...

    async def void(self, payment_id: PaymentId) -> bool:
        """See to it that a payment that is not there is never made. False when it is there."""
        ...


class Observer(Protocol):
    """Is told of payments that were made."""

    def recorded(self, payment: Payment) -> None: ...


class VaultPayments:
    """The payments of the vault surface. After a method has returned, what it says is kept, whatever dies."""

    def __init__(
        self,
        store: PaymentStore,
        ids: PaymentIds,
        turns: Turns,
        observer: Observer,
        clock: Clock,
        admit: Callable[[], None],
    ) -> None:
        self._store = store
        self._ids = ids
        self._turns = turns
        self._observer = observer
        self._clock = clock
        self._admit = admit

    async def pay(self, wanted: PayCheckout, caller: Caller) -> Paid:
        """Pay the checkout, or find its payment.

        Raises a refusal with nothing written but, for `InsufficientFunds`, the failed payment; or `StoreUnavailable`
        when it is not known whether it was paid: the same request then tells.
        """
        self._admit()
        if not caller.may_act_for(wanted.user_id):
            raise NotYourUser("this token may not pay for that user")
        if (total := total_of(wanted.lines)) != wanted.total.minor:
            summed = Money(total, wanted.total.currency)
            raise TotalMismatch(f"totalPrice must be the sum of the products, {summed.text}", sum=summed.text)
        try:
            card = await self._card(wanted)
        except (CardNotFound, PaymentMethodRefused):
            # Of a repeated request the card may be gone, or over, since.
            if before := await self._paid_before(wanted, caller):
                return before
            raise
        ours = self._ids.mint(shard_of_card(card.id))
        standing = await self._store.claim_checkout(wanted.checkout_id, ours)
        async with self._turns.of(card.id):
            return _unless_failed(await self._settle(wanted, caller, card, standing, fresh=standing == ours))

    async def find(self, payment_id: str, caller: Caller) -> Paid:
        """The caller's payment. Raises `PaymentNotFound`, also for one that its owner has deleted."""
        found = await self._store.paid(PaymentId(payment_id))
        if found is None or not caller.may_act_for(found[0].user_id) or (found[1].hidden_ms and not caller.privileged):
            raise PaymentNotFound("Payment not found")
        return Paid(*found)

    async def hide(self, payment_id: str, caller: Caller) -> Paid:
        """Hide the payment from its owner; ledger, events and refunds go on. Raises `PaymentNotFound`."""
        self._admit()
        for _ in range(_ROUNDS_MAX):
            payment, purchase, _ = await self.find(payment_id, caller)
            if purchase.hidden_ms:
                return Paid(payment, purchase)
            hidden = purchase.hidden(now_ms=self._clock())
            if await self._store.hide(payment.id, hidden):
                return Paid(payment, hidden)
        raise Overloaded("changes of one payment")

    async def _paid_before(self, wanted: PayCheckout, caller: Caller) -> Paid | None:
        standing = await self._store.checkout(wanted.checkout_id)
        found = await self._store.paid(standing) if standing else None
        if found is None or found[0].failure is not None or found[0].user_id != wanted.user_id:
            return None
        return _theirs(*found, wanted, caller)

    async def _card(self, wanted: PayCheckout) -> StoredCard:
        card = await self._store.card(wanted.card_id)
        if card is None or card.deleted_ms or card.user_id != wanted.user_id:
            raise CardNotFound("Credit card not found")
        if card.currency != wanted.total.currency:
            raise PaymentMethodRefused("the card is in another currency", field="creditCardId")
        now = datetime.fromtimestamp(self._clock() / 1000, UTC)
        if card.expired((now.year, now.month)):
            raise PaymentMethodRefused("the card has expired", field="creditCardId")
        return card

    async def _settle(
        self, wanted: PayCheckout, caller: Caller, card: StoredCard, standing: PaymentId, *, fresh: bool
    ) -> Paid:
        """Bring the checkout to an end, whatever others are doing about it at the same moment."""
        stale = not fresh
        for _ in range(_ROUNDS_MAX):
            found = None if fresh else await self._store.paid(standing)
            fresh = False
            if found is not None:
                payment, purchase = found
                if payment.failure is None or purchase.card_id == card.id:
                    return _theirs(payment, purchase, wanted, caller)
                # It has failed for good with another card: this one may be tried.
                standing = await self._instead(wanted, standing, card)
                continue
            if shard_of_payment(standing) == shard_of_card(card.id):
                if stale:
                    card = await self._card(wanted)  # others had their turn since it was read
                given = self._given(wanted, card, standing)
                made = await self._store.pay(given, card)
                stale = True
                if made is Made.DONE:
                    self._observer.recorded(given.change.payment)
                    return Paid(given.change.payment, given.purchase)
                if made is not Made.VOIDED:
                    continue
            elif not await self._store.void(standing):
                continue  # it has just been made
            # Nobody can make it any more: its id may be replaced.
            standing = await self._instead(wanted, standing, card)
        raise Overloaded("changes of one card")

    async def _instead(self, wanted: PayCheckout, standing: PaymentId, card: StoredCard) -> PaymentId:
        ours = self._ids.mint(shard_of_card(card.id))
        return await self._store.claim_checkout(wanted.checkout_id, ours, instead_of=standing)

    def _given(self, wanted: PayCheckout, card: StoredCard, payment_id: PaymentId) -> Given:
        payment = Payment(
            version=1,
            id=payment_id,
            surface=SURFACE,
            rail=card.id,
            order_id="",
            user_id=wanted.user_id,
            amount=wanted.total,
            method=Method(_METHOD, card.brand, card.last4),
            created_ms=minted_ms(payment_id),
            request_id=wanted.ids.request_id,
            traceparent=wanted.ids.traceparent,
        )
        purchase = Purchase(
            version=1,
            card_id=card.id,
            checkout_id=wanted.checkout_id,
            basket_id=wanted.basket_id,
            shipment_id=wanted.shipment_id,
            lines=wanted.lines,
            address=wanted.address,
            holder=card.holder,
            last4=card.last4,
            expiry_month=card.expiry_month,
            expiry_year=card.expiry_year,
            is_gift=wanted.is_gift,
        )
        return paid(payment, purchase, card)


def _theirs(payment: Payment, purchase: Purchase, wanted: PayCheckout, caller: Caller) -> Paid:
    if payment.user_id != wanted.user_id or not caller.may_act_for(payment.user_id):
        raise CheckoutTaken("this checkout is paid already")
    return Paid(payment, purchase, replayed=True)


def _unless_failed(done: Paid) -> Paid:
    if done.payment.failure is not None:
        raise InsufficientFunds("the card has too little money", paymentId=done.payment.id, status="Failed")
    return done
