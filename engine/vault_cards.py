"""Adding, reading and deleting stored cards: one use case of the vault surface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from engine.accepting import Caller
from engine.cards import Pan
from engine.errors import CardExists, CardInUse, CardNotFound, NotYourUser, Overloaded
from engine.ids import Clock, PaymentId, PaymentIds, minted_ms
from engine.ledger import Transaction
from engine.money import Money
from engine.payment import Payment
from engine.turns import Turns
from engine.vault_card import CardMarks, StoredCard, funding_of

CONFLICTS_MAX: Final = 64
"""Others who change the same card from other processes; here they take turns."""

OPEN_MAX: Final = 64
"""Payments of other surfaces that may wait for one card at the same time."""

_APPEARS_WITHIN_MS: Final = 60_000
"""A payment that is announced at a card and is not there after this long was cut off, and will never be."""


class AddCard(NamedTuple):
    """A card to be stored: decoded and checked. What its CVV was, nobody knows any more."""

    user_id: str
    holder: str
    pan: Pan
    expiry_month: int
    expiry_year: int
    money: Money


class CardStore(Protocol):
    """Where cards live."""

    def shard_of(self, name: str) -> int: ...
    async def card(self, card_id: str) -> StoredCard | None: ...
    async def add(self, card: StoredCard, funding: Transaction | None) -> str:
        """Write the card and its claim on its number. Returns the id of the card that holds the number afterwards."""
        ...

    async def change(self, card: StoredCard, *, free_mark: str = "") -> bool:
        """Write the next version, and give a number free. False when the version before is not the current one."""
        ...


class Payments(Protocol):
    """The payments that a card may still be charged for."""

    async def get(self, payment_id: PaymentId) -> Payment | None: ...


class Sealer(Protocol):
    """Seals texts, bound to what they belong to."""

    def seal_text(self, bound_to: str, text: str) -> bytes: ...


class VaultCards:
    """The stored cards. A caller sees its own; somebody else's is not there."""

    def __init__(
        self,
        store: CardStore,
        payments: Payments,
        sealer: Sealer,
        marks: CardMarks,
        ids: PaymentIds,
        turns: Turns,
        clock: Clock,
        admit: Callable[[], None],
    ) -> None:
        self._store = store
        self._payments = payments
        self._sealer = sealer
        self._marks = marks
        self._ids = ids
        self._turns = turns
        self._clock = clock
        self._admit = admit

    async def add(self, wanted: AddCard, caller: Caller) -> StoredCard:
        """Store a card. Raises `NotYourUser` or `CardExists`.

        It lives in the shard of its number's fingerprint, so that the card and its claim on the number are one step,
        and nothing can be cut off between them.
        """
        self._admit()
        if not caller.may_act_for(wanted.user_id):
            raise NotYourUser("this token may not store a card for that user")
        mark = self._marks.of(wanted.pan)
        card_id = self._ids.mint_card(self._store.shard_of(mark))
        card = StoredCard(
            version=1,
            id=card_id,
            user_id=wanted.user_id,
            balance_minor=wanted.money.minor,
            currency=wanted.money.currency,
            brand=wanted.pan.brand,
            last4=wanted.pan.last4,
            expiry_month=wanted.expiry_month,
            expiry_year=wanted.expiry_year,
            created_ms=self._clock(),
            holder=wanted.holder,
            sealed=self._sealer.seal_text(seal_name(card_id), wanted.pan.reveal()),
            mark=mark,
        )
        holder = await self._store.add(card, funding_of(card))
        if holder != card_id:
            raise CardExists("this card is stored already", cardId=await self._own(holder, wanted.user_id))
        return card

    async def find(self, card_id: str, caller: Caller) -> StoredCard:
        """The caller's card. Raises `CardNotFound`."""
        card = await self._store.card(card_id)
        if card is None or card.deleted_ms or not caller.may_act_for(card.user_id):
            raise CardNotFound("Credit card not found")
        return card

    async def delete(self, card_id: str, caller: Caller) -> StoredCard:
        """Delete the card, unless payments are open on it. Raises `CardNotFound` or `CardInUse`."""
        self._admit()
        for _ in range(CONFLICTS_MAX):
            card = await self.find(card_id, caller)
            if card.open and (still := await self._still_open(card.open)):
                raise CardInUse("the card has open payments", payments=len(still))
            if await self._store.change(card.deleted(now_ms=self._clock()), free_mark=card.mark):
                return card
        raise Overloaded("changes of one card")

    async def reserve(self, card_id: str, user_id: str, payment_id: PaymentId) -> StoredCard:
        """Announce a payment of another surface, before it is made, so that the card is not deleted under it.

        Safe to repeat. Raises `CardNotFound`, also for a card of another user.
        """
        async with self._turns.of(card_id):
            for _ in range(CONFLICTS_MAX):
                card = await self.find(card_id, Caller(user_id, privileged=False))
                if payment_id in card.open:
                    return card
                if len(card.open) >= OPEN_MAX:
                    card = await self._swept(card)
                if await self._store.change(opened := card.opened(payment_id)):
                    return opened
        raise Overloaded("changes of one card")

    async def release(self, card_id: str, payment_id: PaymentId) -> None:
        """Take an announcement back: the payment was not made."""
        for _ in range(CONFLICTS_MAX):
            card = await self._store.card(card_id)
            if card is None or payment_id not in card.open or await self._store.change(card.closed(payment_id)):
                return

    async def _own(self, card_id: str, user_id: str) -> str | None:
        """The id of a card that is this user's: whoever lost the answer to its own request may know it."""
        card = await self._store.card(card_id)
        return card_id if card is not None and card.user_id == user_id else None

    async def _swept(self, card: StoredCard) -> StoredCard:
        still = await self._still_open(card.open)
        if len(still) >= OPEN_MAX:
            raise Overloaded("open payments of one card")
        swept = card.closed(*(each for each in card.open if each not in still))
        # Written together with what comes next: the version is still the one after the stored one.
        return msgspec.structs.replace(swept, version=card.version)

    async def _still_open(self, payment_ids: Sequence[str]) -> list[str]:
        """Those that may still be charged: not at rest, or announced a moment ago and about to be made."""
        still = []
        for each in payment_ids:
            payment = await self._payments.get(PaymentId(each))
            young = self._clock() - minted_ms(PaymentId(each)) < _APPEARS_WITHIN_MS
            if (payment is None and young) or (payment is not None and not payment.at_rest):
                still.append(each)
        return still


def seal_name(card_id: str) -> str:
    """What a card's number is bound to: sealed text that is moved to another card cannot be opened."""
    return f"{card_id}:number"
