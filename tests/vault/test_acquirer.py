"""The acquirer within, over a real Redis: once for each attempt, and what became of it can be asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.cards import VaultCard
from engine.charging import AcquirerRequest, NeverSeen, NotSent, Unknown
from engine.errors import Overloaded, StoreUnavailable
from engine.facts import Kind
from engine.ids import PaymentId, PaymentIds, now_ms
from engine.money import Money
from engine.settling import Approved, Declined
from engine.turns import Turns
from engine.vault_acquirer import VaultAcquirer
from engine.vault_card import StoredCard
from tests.store.datasets import Dataset, connected, running
from tests.support import RedisServer
from tests.vault.making import CALLER, Crash, Mortal, a_card, cards_of, vault_of

PAYMENT = PaymentIds().mint(7)


@pytest.fixture
async def dataset(redis_server: RedisServer) -> AsyncIterator[Dataset]:
    """An empty dataset of sixteen shards."""
    async with running(connected(redis_server.url)) as store:
        yield store


def acquirer(dataset: Dataset, store: Any = None) -> VaultAcquirer:
    """One process's."""
    return VaultAcquirer(store or vault_of(dataset), Turns(), now_ms)


def asks(card: StoredCard, minor: int, kind: Kind = Kind.CHARGE, number: int = 1, of: str = "") -> AcquirerRequest:
    """One attempt of the payment."""
    first = kind in (Kind.CHARGE, Kind.AUTHORIZE)
    attempt, instrument = f"{PAYMENT}-a{number}", VaultCard(card.id) if first else None
    return AcquirerRequest(attempt, PAYMENT, kind, Money(minor, "USD"), instrument, of)


async def balance(dataset: Dataset, card: StoredCard) -> int:
    return (await cards_of(dataset).find(card.id, CALLER)).balance_minor


async def test_an_attempt_takes_money_once_however_often_it_is_sent(dataset: Dataset) -> None:
    card = await a_card(dataset)
    answers = await asyncio.gather(*(acquirer(dataset).send(asks(card, 30_00)) for _ in range(20)))
    assert set(answers) == {Approved(f"{PAYMENT}-a1")}
    assert await balance(dataset, card) == 70_00


async def test_a_decline_stays_a_decline_when_money_has_come_since(dataset: Dataset) -> None:
    card = await a_card(dataset)
    declined = await acquirer(dataset).send(asks(card, 100_01))
    assert declined == Declined("insufficient_funds", "The card's balance is too small")
    await acquirer(dataset).send(asks(card, 5_00, Kind.REFUND, number=2))
    assert await acquirer(dataset).send(asks(card, 100_01)) == declined
    assert await acquirer(dataset).find(Kind.CHARGE, f"{PAYMENT}-a1", Money(100_01, "USD"), "") == declined


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 4))
async def test_whoever_dies_on_the_way_leaves_something_to_ask_for(dataset: Dataset, at: int, after: bool) -> None:
    card = await a_card(dataset)
    with contextlib.suppress(Crash):
        await acquirer(dataset, Mortal(vault_of(dataset), at, after=after)).send(asks(card, 30_00))
    found = await acquirer(dataset).find(Kind.CHARGE, f"{PAYMENT}-a1", Money(30_00, "USD"), "")
    moved = await balance(dataset, card) == 70_00
    assert found == (Approved(f"{PAYMENT}-a1") if moved else NeverSeen())
    assert moved is (at == 3 and after)
    assert await acquirer(dataset).send(asks(card, 30_00)) == Approved(f"{PAYMENT}-a1")
    assert await balance(dataset, card) == 70_00


async def test_what_was_never_sent_was_never_seen(dataset: Dataset) -> None:
    assert await acquirer(dataset).find(Kind.CHARGE, f"{PAYMENT}-a1", Money(1, "USD"), "") == NeverSeen()


@pytest.mark.parametrize(("captured", "left"), [(30_00, 70_00), (10_00, 90_00)])
async def test_a_capture_gives_back_what_it_does_not_take(dataset: Dataset, captured: int, left: int) -> None:
    card = await a_card(dataset)
    await acquirer(dataset).send(asks(card, 30_00, Kind.AUTHORIZE))
    for _ in range(2):
        await acquirer(dataset).send(asks(card, captured, Kind.CAPTURE, 2, f"{PAYMENT}-a1"))
    assert await balance(dataset, card) == left


async def test_trouble_with_the_store_is_never_a_decline(dataset: Dataset) -> None:
    class Broken:
        """Fails in one way."""

        def __init__(self, error: Exception) -> None:
            self._error = error

        def __getattr__(self, name: str) -> Any:
            async def call(*_: Any) -> Any:
                raise self._error

            return call

    card = await a_card(dataset)
    away, full = acquirer(dataset, Broken(StoreUnavailable("away"))), acquirer(dataset, Broken(Overloaded("steps")))
    assert isinstance(await away.send(asks(card, 1)), Unknown)
    assert isinstance(await full.send(asks(card, 1)), NotSent)
    assert isinstance(await away.find(Kind.CHARGE, f"{PAYMENT}-a1", Money(1, "USD"), ""), NotSent)


async def test_another_currency_and_a_card_that_is_gone_are_declined(dataset: Dataset) -> None:
    card = await a_card(dataset)
    foreign = asks(card, 1)._replace(amount=Money(1, "EUR"))
    assert isinstance(answer := await acquirer(dataset).send(foreign), Declined)
    assert answer.code == "currency_not_supported"
    await cards_of(dataset).delete(card.id, CALLER)
    answer = await acquirer(dataset).send(asks(card, 1, number=2))
    assert isinstance(answer, Declined)
    assert answer.code == "card_not_found"
    unknown = asks(card, 1, number=3)._replace(instrument=VaultCard("nothing"))
    assert isinstance(await acquirer(dataset).send(unknown), Declined)


async def test_an_announcement_ends_with_the_charge(dataset: Dataset) -> None:
    card = await a_card(dataset)
    other = PaymentId(PaymentIds().mint(2))
    for payment_id in (PAYMENT, PAYMENT, other):
        await cards_of(dataset).reserve(card.id, "jo", payment_id)
    assert (await cards_of(dataset).find(card.id, CALLER)).open == (PAYMENT, other)
    await acquirer(dataset).send(asks(card, 1))
    await cards_of(dataset).release(card.id, other)
    assert (await cards_of(dataset).find(card.id, CALLER)).open == ()
