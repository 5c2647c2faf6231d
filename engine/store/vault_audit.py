"""What the audit holds stored cards and what they paid against. Each look is one step, so a dataset may work on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from engine.purchase import beside
from engine.sealing import key_id_of
from engine.store.batch import Batcher
from engine.store.keys import ShardKeys
from engine.store.payments import decode_payment
from engine.store.step import Refusal, Step
from engine.store.vault import decode_card, decode_move, decode_purchase
from engine.vault_acquirer import CardMove
from engine.vault_card import StoredCard, account_of

Problem = tuple[int, str]
"""The number of the invariant, and what is wrong."""


async def card_problems(batcher: Batcher, shard: ShardKeys, card_id: str) -> list[Problem]:
    """Whether a card's balance is what its rows sum to, and its number sealed, claimed, or gone."""
    record = await batcher.command("GET", shard.stored_card(card_id))
    if record is None:
        return [(1, "is gone, and nothing deletes cards")]
    try:
        mark, currency = (card := decode_card(record)).mark, card.currency
    except (msgspec.MsgspecError, ValueError) as error:
        return [(3, f"cannot be read: {type(error).__name__}")]
    record, booked, holder = await _together(
        batcher,
        ("GET", shard.stored_card(card_id)),
        ("HGET", shard.balances, f"{account_of(card_id)}|{currency}"),
        ("GET", shard.card_mark(mark)),
    )
    return list(_of_card(decode_card(record), card_id, -int(booked or 0), mark, holder))


async def purchase_problems(batcher: Batcher, shard: ShardKeys, payment_id: str) -> list[Problem]:
    """Whether a purchase says the same as its payment."""
    purchase, payment = await _together(
        batcher, ("GET", shard.purchase(payment_id)), ("GET", shard.payment(payment_id))
    )
    if payment is None:
        return [(1, "its payment does not exist")]
    try:
        return [(3, problem) for problem in beside(decode_payment(payment), decode_purchase(purchase))]
    except (msgspec.MsgspecError, ValueError) as error:
        return [(3, f"cannot be read: {type(error).__name__}")]


async def move_of(batcher: Batcher, name: str) -> CardMove | None:
    """What was moved on a card. None: it cannot be read."""
    raw = await batcher.command("GET", name)
    try:
        return decode_move(raw) if raw else None
    except (msgspec.MsgspecError, ValueError):
        return None


def _of_card(card: StoredCard, card_id: str, booked: int, mark: str, holder: bytes | None) -> Iterator[Problem]:
    if card.id != card_id:
        yield 1, "lies under another card's name"
    if card.balance_minor != booked or card.balance_minor < 0:
        yield 3, f"its balance is {card.balance_minor}, its rows sum to {booked}"
    if card.deleted_ms:
        if card.sealed or card.holder:
            yield 11, "is deleted, but its number or its holder's name is still there"
        return
    if not key_id_of(card.sealed):
        yield 11, "its number is not sealed"
    if mark == card.mark and (holder or b"").decode() != card_id:
        yield 6, "does not hold its number"


async def _together(batcher: Batcher, *commands: tuple[str, ...]) -> list[Any]:
    step = Step()
    for name, key, *arguments in commands:
        step.do(name, key, *arguments)
    replies = await batcher.step(step)
    assert not isinstance(replies, Refusal), "the step has no conditions"
    return replies
