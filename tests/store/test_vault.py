"""The vault's store over every implementation: one step each, once each, and its own trace when it runs again."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import InsufficientFunds, Overloaded
from engine.ids import PaymentIds, now_ms
from engine.purchase import Given, all_refunded
from engine.sealing import AesGcmSealer, key_id_of
from engine.store.vault import RedisVault
from engine.store.vault_scan import VaultScan
from engine.vault_acquirer import CardMove
from engine.vault_card import movement
from engine.vault_paying import Made
from engine.vault_rotation import Rotation
from tests.store.datasets import Dataset
from tests.vault.making import CALLER, KEYS, a_card, cards_of, findings, payments_of, vault_of, wanted


async def test_a_life_of_a_card_on_every_implementation(store: Dataset) -> None:
    card = await a_card(store)
    paid = await payments_of(store).pay(wanted(card), CALLER)
    with pytest.raises(InsufficientFunds):
        await payments_of(store).pay(wanted(await a_card(store, 2, minor=1), "c-2"), CALLER)
    current = await cards_of(store).find(card.id, CALLER)
    given = all_refunded(paid.payment, paid.purchase, current, "ref-1", now_ms=now_ms())
    assert await vault_of(store).refund(given)
    assert await vault_of(store).refund(given), "its own trace"
    assert (await cards_of(store).find(card.id, CALLER)).balance_minor == 100_00
    await Rotation(VaultScan(store.client, vault_of(store)), AesGcmSealer({"k2": b"2" * 32, **KEYS})).run()
    assert key_id_of((await cards_of(store).find(card.id, CALLER)).sealed) == "k2"
    await cards_of(store).delete(card.id, CALLER)
    assert await findings(store) == []


async def test_a_payment_is_written_once_and_for_the_very_version_of_the_card(store: Dataset) -> None:
    card = await a_card(store)
    first, second = [await _given(store, f"c-{number}") for number in range(2)]
    assert await vault_of(store).pay(first, card) is Made.DONE
    assert await vault_of(store).pay(first, card) is Made.EXISTS
    assert await vault_of(store).pay(second, card) is Made.CONFLICT
    assert await findings(store) == []


async def test_a_voided_payment_is_never_made_and_a_made_one_not_voided(store: Dataset) -> None:
    card = await a_card(store)
    first, second = [await _given(store, f"c-{number}") for number in range(2)]
    assert await vault_of(store).void(first.change.payment.id)
    assert await vault_of(store).pay(first, card) is Made.VOIDED
    assert await vault_of(store).pay(second, card) is Made.DONE
    assert not await vault_of(store).void(second.change.payment.id)
    assert await findings(store) == []


async def test_while_too_many_events_wait_nothing_is_paid_and_nothing_refunded(store: Dataset) -> None:
    card = await a_card(store)
    given = await _given(store, "c-1")
    assert await vault_of(store).pay(given, card) is Made.DONE
    full = RedisVault(store.batcher, store.keys, outbox_max=1)
    another = await _given(store, "c-2")
    current = await cards_of(store).find(card.id, CALLER)
    with pytest.raises(Overloaded, match="outbox"):
        await full.pay(another, current)
    with pytest.raises(Overloaded, match="outbox"):
        await full.refund(all_refunded(given.change.payment, given.purchase, current, "ref-1", now_ms=now_ms()))
    assert (await cards_of(store).find(card.id, CALLER)).balance_minor == 70_00
    assert await findings(store) == []


async def test_a_movement_is_written_once(store: Dataset) -> None:
    card = await a_card(store)
    moves = [CardMove(card.id, minor, movement("m-1", card, minor, at_ms=1)) for minor in (10_00, 20_00)]
    first, second = [await vault_of(store).move("m-1", each, card.moved(-each.minor)) for each in moves]
    assert first == second == moves[0]
    late = CardMove(card.id, 1, movement("m-2", card, 1, at_ms=1))
    assert await vault_of(store).move("m-2", late, card.moved(-1)) is None, "the card has changed"
    assert (await vault_of(store).moved(card.id, "m-1"))[1] == moves[0]


async def test_a_checkout_stands_for_one_payment_and_is_only_given_on_from_it(store: Dataset) -> None:
    ids = [PaymentIds().mint(number) for number in range(10)]
    claimed = await asyncio.gather(*(vault_of(store).claim_checkout("c-1", each) for each in ids))
    assert len(set(claimed)) == 1
    other = next(each for each in ids if each != claimed[0])
    assert await vault_of(store).claim_checkout("c-1", other, instead_of=other) == claimed[0]
    assert await vault_of(store).claim_checkout("c-1", other, instead_of=claimed[0]) == other
    assert await vault_of(store).claim_checkout("c-1", other, instead_of=claimed[0]) == other, "its own trace"


async def _given(store: Dataset, checkout: str) -> Given:
    """What paying writes, before it is written."""
    cards = [name for name in await store.names() if ":vault:" in name]
    card = await cards_of(store).find(cards[0].rpartition(":")[2], CALLER)
    payment_id = PaymentIds().mint(int(card.id[-2:], 16))
    return payments_of(store)._given(wanted(card, checkout), card, payment_id)
