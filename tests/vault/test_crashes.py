"""Cut off at every call to the store: what is asked for again is healed, and paid once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from engine.errors import CardInUse
from engine.ids import PaymentId, PaymentIds
from engine.vault_paying import Paid
from tests.store.datasets import Dataset, connected, running
from tests.support import RedisServer
from tests.vault.making import (
    CALLER,
    Crash,
    Mortal,
    a_card,
    cards_of,
    findings,
    payments_of,
    vault_of,
    wanted,
)


@pytest.fixture
async def dataset(redis_server: RedisServer) -> AsyncIterator[Dataset]:
    """An empty dataset of sixteen shards."""
    async with running(connected(redis_server.url)) as store:
        yield store


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 5))
async def test_a_crash_at_any_call_is_healed_by_paying_again(dataset: Dataset, at: int, after: bool) -> None:
    card = await a_card(dataset)
    first: Paid | None = None
    with contextlib.suppress(Crash):
        first = await payments_of(dataset, Mortal(vault_of(dataset), at, after=after)).pay(wanted(card), CALLER)
    healed = await payments_of(dataset).pay(wanted(card), CALLER)
    again = await payments_of(dataset).pay(wanted(card), CALLER)
    assert again.payment == healed.payment
    assert again.replayed
    assert first is None or first.payment == healed.payment
    assert (await cards_of(dataset).find(card.id, CALLER)).balance_minor == 70_00
    assert await findings(dataset) == []


async def test_the_calls_that_are_cut_off_are_all_that_there_are(dataset: Dataset) -> None:
    """The card, the claim, the payment: three, and the fourth never comes."""
    card = await a_card(dataset)
    await payments_of(dataset, Mortal(vault_of(dataset), 4)).pay(wanted(card), CALLER)
    with pytest.raises(Crash):
        await payments_of(dataset, Mortal(vault_of(dataset), 3)).pay(wanted(card, "c-2"), CALLER)


async def test_a_retry_creates_the_very_payment_that_was_claimed(dataset: Dataset) -> None:
    card = await a_card(dataset)
    with pytest.raises(Crash):
        await payments_of(dataset, Mortal(vault_of(dataset), 3)).pay(wanted(card), CALLER)
    claimed = await vault_of(dataset).claim_checkout("c-1", PaymentId("pay-other"))
    assert (await payments_of(dataset).pay(wanted(card), CALLER)).payment.id == claimed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 8))
async def test_a_claim_that_was_cut_off_does_not_keep_another_card_from_paying(
    dataset: Dataset, at: int, after: bool
) -> None:
    """And whoever claimed it first is not dead but slow: it must not pay as well."""
    slow, other = await a_card(dataset, 1), await a_card(dataset, 2)
    with pytest.raises(Crash):
        await payments_of(dataset, Mortal(vault_of(dataset), 2, after=True)).pay(wanted(slow), CALLER)
    with contextlib.suppress(Crash):
        await payments_of(dataset, Mortal(vault_of(dataset), at, after=after)).pay(wanted(other), CALLER)
    paid = [await payments_of(dataset).pay(wanted(card), CALLER) for card in (slow, other, slow)]
    assert len({each.payment.id for each in paid}) == 1
    balances = [(await cards_of(dataset).find(card.id, CALLER)).balance_minor for card in (slow, other)]
    assert sorted(balances) == [70_00, 100_00]
    assert await findings(dataset) == []


async def test_a_payment_that_was_given_up_cannot_be_made_by_whoever_wakes_up(dataset: Dataset) -> None:
    slow, other = await a_card(dataset, 1), await a_card(dataset, 2)
    sleeping = payments_of(dataset)
    ours = PaymentIds().mint(int(slow.id[-2:], 16))
    assert await vault_of(dataset).claim_checkout("c-1", ours) == ours
    paid = await payments_of(dataset).pay(wanted(other), CALLER)
    woken = await sleeping._settle(wanted(slow), CALLER, slow, ours, fresh=True)
    assert woken.payment.id == paid.payment.id
    assert (await cards_of(dataset).find(slow.id, CALLER)).balance_minor == 100_00
    assert await findings(dataset) == []


async def test_a_card_is_kept_while_a_payment_is_announced_and_free_when_it_never_came(dataset: Dataset) -> None:
    card = await a_card(dataset)
    payment_id = PaymentIds().mint(3)
    await cards_of(dataset).reserve(card.id, "jo", payment_id)
    with pytest.raises(CardInUse):
        await cards_of(dataset).delete(card.id, CALLER)
    later = cards_of(dataset, clock=lambda: card.created_ms + 120_000)
    assert (await later.delete(card.id, CALLER)).id == card.id
    assert await findings(dataset) == []


async def test_the_audit_finds_a_balance_that_its_rows_do_not_carry(dataset: Dataset) -> None:
    card = await a_card(dataset)
    shard = dataset.keys.shards[int(card.id[-2:], 16)]
    record = await dataset.ask("GET", shard.stored_card(card.id))
    await dataset.ask("SET", shard.stored_card(card.id), record.replace(b'"minor":10000', b'"minor":10001'))
    assert [finding.problem for finding in await findings(dataset)] == ["its balance is 10001, its rows sum to 10000"]
    await dataset.ask("SET", shard.stored_card(card.id), record)
    await dataset.ask("DEL", shard.card_mark(card.mark))
    assert [finding.problem for finding in await findings(dataset)] == ["does not hold its number"]


async def test_the_audit_finds_lines_that_gave_back_more_than_the_payment(dataset: Dataset) -> None:
    card = await a_card(dataset)
    payment = (await payments_of(dataset).pay(wanted(card), CALLER)).payment
    name = dataset.keys.of(payment.id).purchase(payment.id)
    record = await dataset.ask("GET", name)
    await dataset.ask("SET", name, record.replace(b'["p-1",3,1000,"",0]', b'["p-1",3,1000,"",1]'))
    assert [finding.problem for finding in await findings(dataset)] == ["its lines gave back 1000, the payment 0"]
