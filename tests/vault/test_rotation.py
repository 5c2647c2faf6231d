"""Rotating the keys: every card under the first one, while it is paid with, killed half-way, and run again."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.cards import SealBroken
from engine.sealing import AesGcmSealer, key_id_of
from engine.store.vault_scan import VaultScan
from engine.vault_card import StoredCard
from engine.vault_cards import seal_name
from engine.vault_rotation import Rotated, Rotation
from tests.store.datasets import Dataset, connected, running
from tests.support import CARD_KEYS, ROOT, RedisServer
from tests.vault.making import CALLER, KEYS, Crash, Mortal, a_card, cards_of, findings, payments_of, vault_of, wanted
from tests.vault.world import BASE, VaultWorld, luhn, vault_world

OLD, NEW = AesGcmSealer(KEYS), AesGcmSealer({"k2": b"2" * 32, **KEYS})
CARDS = 300


@pytest.fixture
async def dataset(redis_server: RedisServer) -> AsyncIterator[Dataset]:
    """An empty dataset of sixteen shards."""
    async with running(connected(redis_server.url)) as store:
        yield store


def rotation(dataset: Dataset, sealer: AesGcmSealer = NEW, store: Any = None) -> Rotation:
    """One run."""
    return Rotation(VaultScan(dataset.client, store or vault_of(dataset)), sealer)


async def card_of(dataset: Dataset, card: StoredCard) -> StoredCard:
    return await cards_of(dataset).find(card.id, CALLER)


async def test_every_card_is_sealed_with_the_first_key_and_is_the_same_card(dataset: Dataset) -> None:
    cards = [await a_card(dataset, number) for number in range(1, CARDS + 1)]
    await cards_of(dataset).delete(cards[0].id, CALLER)
    assert await rotation(dataset).run() == Rotated("k2", CARDS, resealed=CARDS - 1, deleted=1)
    only_new = AesGcmSealer({"k2": b"2" * 32})
    for number, before in enumerate(cards[1:], start=2):
        after = await card_of(dataset, before)
        assert key_id_of(after.sealed) == "k2"
        assert only_new.open_text(seal_name(after.id), after.sealed) == luhn(f"4{number:011d}")
        with pytest.raises(SealBroken):
            OLD.open_text(seal_name(after.id), after.sealed)
    assert await rotation(dataset).run() == Rotated("k2", CARDS, already=CARDS - 1, deleted=1)
    assert await findings(dataset) == []


async def test_a_run_that_is_killed_is_gone_on_with(dataset: Dataset) -> None:
    for number in range(1, 41):
        await a_card(dataset, number)
    with pytest.raises(Crash):
        await rotation(dataset, store=Mortal(vault_of(dataset), 60)).run()
    rotated = await rotation(dataset).run()
    assert rotated.resealed + rotated.already == 40
    assert await rotation(dataset).run() == Rotated("k2", 40, already=40)
    assert await findings(dataset) == []


async def test_cards_are_paid_with_while_they_are_sealed_anew(dataset: Dataset) -> None:
    cards = [await a_card(dataset, number, minor=1000_00) for number in range(1, 21)]
    paying = [
        payments_of(dataset).pay(wanted(card, f"c-{card.id}-{number}"), CALLER)
        for number in range(10)
        for card in cards
    ]

    async def rotate() -> None:
        for sealer in (NEW, OLD, NEW, OLD, NEW):
            await rotation(dataset, sealer).run()

    await asyncio.gather(*paying, rotate())
    for card in cards:
        after = await card_of(dataset, card)
        assert (after.balance_minor, key_id_of(after.sealed)) == (700_00, "k2")
    assert await findings(dataset) == []


async def test_a_card_whose_key_is_gone_is_left_and_told_of(dataset: Dataset) -> None:
    card = await a_card(dataset)
    rotated = await rotation(dataset, AesGcmSealer({"k2": b"2" * 32})).run()
    assert (rotated, rotated.done) == (Rotated("k2", 1, left=1), False)
    assert await card_of(dataset, card) == card


async def test_the_command_rotates_under_load_and_loses_nothing() -> None:
    async with vault_world() as world:
        cards = [await world.added(money=1000) for _ in range(20)]
        stop = asyncio.Event()
        load = asyncio.gather(*(keep_paying(world, card["id"], stop) for card in cards))
        first, second = await asyncio.to_thread(rotate, world), await asyncio.to_thread(rotate, world)
        assert (first["ok"], first["key"], first["cards"], first["left"]) == (True, "t2", 20, 0)
        assert first["resealed"] == 20
        assert (second["already"], second["resealed"]) == (20, 0)
        stop.set()
        paid = await load
        for card, count in zip(cards, paid, strict=True):
            assert await world.money(card["id"]) == 1000 - count
        # The engine has the old key alone: it never opens a number, so it works on.
        assert (await world.pays(cards[0]["id"])).status == 201
        more = await world.post("/add", world.card(cardNumber=int(luhn("5"))))
        assert more.status == 201
        assert (await world.send("DELETE", f"{BASE}/delete-card/{cards[1]['id']}")).status == 200
        await world.sound()


async def keep_paying(world: VaultWorld, card_id: str, stop: asyncio.Event) -> int:
    """Pay 1.00 again and again. Returns how often."""
    paid = 0
    while not stop.is_set() and paid < 900:
        await world.bought(card_id, products=[{"productId": "p", "price": 1}], totalPrice=1)
        paid += 1
    return paid


def rotate(world: VaultWorld) -> dict[str, Any]:
    """`python -m app keys rotate` with a new key before the old one."""
    keys = f"t2:{base64.b64encode(b'2' * 32).decode()},{CARD_KEYS}"
    done = subprocess.run(
        [sys.executable, "-m", "app", "keys", "rotate"],
        env={**world.engine.environment, "PAYMENTS__CARDS__KEYS": keys},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout)
    return report
