"""Stored cards and their payments in Redis: each method is one step, or one pipeline of reads.

A card, its claim on its number, and all payments of the vault surface with it share the card's shard. As everywhere,
a step that Redis did not confirm is repeated, and finds its own trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from engine.errors import Overloaded
from engine.ids import PaymentId, is_card_id, is_payment_id, qualified, shard_of, shard_of_card, shard_of_payment
from engine.ledger import Transaction
from engine.payment import Payment
from engine.purchase import SURFACE, Given, Purchase
from engine.store.batch import Batcher
from engine.store.keys import Keys, ShardKeys
from engine.store.payments import book_and_tell, decode_payment
from engine.store.repeating import Repeating
from engine.store.step import Refusal, Step
from engine.vault_acquirer import CardMove
from engine.vault_card import StoredCard
from engine.vault_paying import Made

_VOID_MS: Final = 3_600_000
"""How long a payment that was given up is kept from being made: longer than any request lives."""

_encode = msgspec.json.Encoder().encode
decode_card = msgspec.json.Decoder(StoredCard).decode
decode_purchase = msgspec.json.Decoder(Purchase).decode
decode_move = msgspec.json.Decoder(CardMove).decode


class RedisVault:
    """The stored cards of one dataset, and what they paid."""

    def __init__(
        self,
        batcher: Batcher,
        keys: Keys,
        *,
        outbox_max: int,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._keys = keys
        self._outbox_max = max(1, outbox_max // len(keys.shards))
        repeating = Repeating(batcher, sleep)
        self._run = repeating.step
        self._read = repeating.command

    def shard_of(self, name: str) -> int:
        """The shard of something that is found by its own name."""
        return shard_of(name, len(self._keys.shards))

    async def card(self, card_id: str) -> StoredCard | None:
        """The card, deleted ones too. An id that was made for another dataset is just unknown."""
        if not self._holds(card_id):
            return None
        raw = await self._read("GET", self._of(card_id).stored_card(card_id))
        return decode_card(raw) if raw else None

    async def add(self, card: StoredCard, funding: Transaction | None) -> str:
        """Write the card, its claim on its number and its first money. Returns who holds the number afterwards."""
        shard = self._of(card.id)
        step = Step()
        step.expect_value(shard.card_mark(card.mark), "")
        step.do("SET", shard.card_mark(card.mark), card.id)
        step.do("SET", shard.stored_card(card.id), _encode(card))
        if funding is not None:
            move = CardMove(card_id=card.id, minor=-card.balance_minor, transaction=funding)
            step.do("SET", shard.card_move(funding.id), _encode(move))
            _book(step, shard, funding)
        refusal = await self._run(step)
        return refusal.found.decode() if isinstance(refusal, Refusal) else card.id

    async def change(self, card: StoredCard, *, free_mark: str = "") -> bool:
        """Write the next version. False when the one before is not the current one."""
        shard = self._of(card.id)
        record = _encode(card)
        step = Step()
        step.expect_version(shard.stored_card(card.id), card.version - 1)
        step.do("SET", shard.stored_card(card.id), record)
        if free_mark:
            step.do("DEL", shard.card_mark(free_mark))
        refusal = await self._run(step)
        return not isinstance(refusal, Refusal) or refusal.found == record

    async def move(self, move_id: str, move: CardMove, card: StoredCard) -> CardMove | None:
        """Move money on a card, once for each id. Returns what stands under the id; None when the card has changed."""
        shard = self._of(card.id)
        step = Step()
        step.expect_value(shard.card_move(move_id), "")
        step.expect_version(shard.stored_card(card.id), card.version - 1)
        step.do("SET", shard.card_move(move_id), _encode(move))
        step.do("SET", shard.stored_card(card.id), _encode(card))
        if move.transaction is not None:
            _book(step, shard, move.transaction)
        match await self._run(step):
            case Refusal(check=0) as refusal:
                return decode_move(refusal.found)
            case Refusal():
                return None
            case _:
                return move

    async def moved(self, card_id: str, move_id: str) -> tuple[StoredCard | None, CardMove | None]:
        """The card, and what was moved on it under this id."""
        if not self._holds(card_id):
            return None, None
        shard = self._of(card_id)
        card, move = await self._read("MGET", shard.stored_card(card_id), shard.card_move(move_id))
        return decode_card(card) if card else None, decode_move(move) if move else None

    async def link(self, payment_id: PaymentId, card_id: str) -> None:
        """Keep, beside the payment, which card it is charged to."""
        await self._read("SET", self._keys.of(payment_id).card_of(payment_id), card_id)

    async def card_of(self, payment_id: PaymentId) -> str:
        """Which card a payment of another surface is charged to; empty when it never was."""
        raw = await self._read("GET", self._keys.of(payment_id).card_of(payment_id))
        return raw.decode() if raw else ""

    async def paid(self, payment_id: PaymentId) -> tuple[Payment, Purchase] | None:
        """A payment of the vault surface with what it was for."""
        if not is_payment_id(payment_id) or shard_of_payment(payment_id) >= len(self._keys.shards):
            return None
        shard = self._keys.of(payment_id)
        payment, purchase = await self._read("MGET", shard.payment(payment_id), shard.purchase(payment_id))
        return (decode_payment(payment), decode_purchase(purchase)) if payment and purchase else None

    async def pay(self, given: Given, card: StoredCard) -> Made:
        """Take the money and write payment, ledger and event, if the payment is new and `card` the card's version.

        Raises `Overloaded` when the events waiting have reached their bound.
        """
        payment = given.change.payment
        shard = self._keys.of(payment.id)
        step = Step()
        step.expect_version(shard.payment(payment.id), 0)
        step.expect_value(shard.void(payment.id), "")
        step.expect_version(shard.stored_card(card.id), card.version)
        step.expect_below(shard.outbox, self._outbox_max)
        step.do("SET", shard.payment(payment.id), _encode(payment))
        step.do("SET", shard.purchase(payment.id), _encode(given.purchase))
        if given.card is not None:
            step.do("SET", shard.stored_card(card.id), _encode(given.card))
        step.do("ZADD", shard.user(payment.user_key), 0, payment.id)
        book_and_tell(step, shard, given.change)
        refusal = await self._run(step)
        if not isinstance(refusal, Refusal):
            return Made.DONE
        if refusal.check == 3:
            raise Overloaded("outbox", retry_after_s=5.0)
        return (Made.EXISTS, Made.VOIDED, Made.CONFLICT)[refusal.check]

    async def refund(self, given: Given) -> bool:
        """Give money back to the card, with ledger and event. False when payment, purchase or card has changed.

        Raises `Overloaded` when the events waiting have reached their bound.
        """
        payment, purchase, card = given.change.payment, given.purchase, given.card
        assert card is not None, "the money goes to a card"
        shard = self._keys.of(payment.id)
        record = _encode(payment)
        step = Step()
        step.expect_version(shard.payment(payment.id), payment.version - 1)
        step.expect_version(shard.purchase(payment.id), purchase.version - 1)
        step.expect_version(shard.stored_card(card.id), card.version - 1)
        step.expect_below(shard.outbox, self._outbox_max)
        step.do("SET", shard.payment(payment.id), record)
        step.do("SET", shard.purchase(payment.id), _encode(purchase))
        step.do("SET", shard.stored_card(card.id), _encode(card))
        book_and_tell(step, shard, given.change)
        match await self._run(step):
            case Refusal(check=0) as refusal:
                return refusal.found == record
            case Refusal(check=3):
                raise Overloaded("outbox", retry_after_s=5.0)
            case Refusal():
                return False
            case _:
                return True

    async def hide(self, payment_id: PaymentId, purchase: Purchase) -> bool:
        """Write a purchase's next version alone. False when the one before is not the current one."""
        name = self._keys.of(payment_id).purchase(payment_id)
        record = _encode(purchase)
        step = Step()
        step.expect_version(name, purchase.version - 1)
        step.do("SET", name, record)
        refusal = await self._run(step)
        return not isinstance(refusal, Refusal) or refusal.found == record

    async def checkout(self, checkout_id: str) -> PaymentId | None:
        """The payment that the checkout stands for, made or not."""
        checkout = qualified(SURFACE, checkout_id)
        standing = await self._read("GET", self._keys.shards[self.shard_of(checkout)].checkout(checkout))
        return PaymentId(standing.decode()) if standing else None

    async def claim_checkout(self, checkout_id: str, payment_id: PaymentId, *, instead_of: str = "") -> PaymentId:
        """Let the checkout stand for this payment if it stands for `instead_of`. Returns what it stands for then."""
        checkout = qualified(SURFACE, checkout_id)
        name = self._keys.shards[self.shard_of(checkout)].checkout(checkout)
        step = Step()
        step.expect_value(name, instead_of)
        step.do("SET", name, payment_id)
        refusal = await self._run(step)
        return PaymentId(refusal.found.decode()) if isinstance(refusal, Refusal) else payment_id

    async def void(self, payment_id: PaymentId) -> bool:
        """See to it that a payment that is not there is never made. False when it is there."""
        shard = self._keys.of(payment_id)
        step = Step()
        step.expect_version(shard.payment(payment_id), 0)
        step.do("SET", shard.void(payment_id), 1, "PX", _VOID_MS)
        return not isinstance(await self._run(step), Refusal)

    def _holds(self, card_id: str) -> bool:
        return is_card_id(card_id) and shard_of_card(card_id) < len(self._keys.shards)

    def _of(self, card_id: str) -> ShardKeys:
        return self._keys.shards[shard_of_card(card_id)]


def _book(step: Step, shard: ShardKeys, transaction: Transaction) -> None:
    for row in transaction.rows:
        step.do("HINCRBY", shard.balances, f"{row.account}|{row.currency}", row.minor)
