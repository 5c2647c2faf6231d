"""Many at once: a checkout is paid once, a card is never overdrawn, and never deleted under a payment."""

from __future__ import annotations

import asyncio

import pytest

from tests.vault.world import ADMIN, BASE, VaultWorld, vault_engine, vault_world

pytestmark = pytest.mark.asyncio(loop_scope="package")

FIFTY = 50


async def test_fifty_that_pay_one_checkout_all_get_the_one_payment(world: VaultWorld) -> None:
    card = await world.added(money=1000)
    checkout = world.new_checkout()
    answers = await asyncio.gather(*(world.pays(card["id"], checkout) for _ in range(FIFTY)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.json["payment"]["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert await world.money(card["id"]) == 924.52
    await world.told(answers[0].json["payment"]["id"], 1)


async def test_fifty_cards_that_pay_one_checkout_make_one_payment(world: VaultWorld) -> None:
    cards = [await world.added(money=100) for _ in range(FIFTY)]
    checkout = world.new_checkout()
    answers = await asyncio.gather(*(world.pays(card["id"], checkout) for card in cards))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.json["payment"]["id"] for answer in answers}) == 1
    money = [await world.money(card["id"]) for card in cards]
    assert sorted(money) == [24.52] + [100] * (FIFTY - 1)
    await world.sound()


async def test_fifty_payments_never_overdraw_a_card(world: VaultWorld) -> None:
    card = await world.added(money=75.48 * 7 + 1)
    answers = await asyncio.gather(*(world.pays(card["id"]) for _ in range(FIFTY)))
    assert sorted(answer.status for answer in answers) == [201] * 7 + [402] * (FIFTY - 7)
    assert await world.money(card["id"]) == 1
    await world.sound()


async def test_fifty_that_add_one_card_make_one(world: VaultWorld) -> None:
    pan = world.new_pan()
    spellings = [world.card(cardNumber=int(pan) if number % 2 else pan) for number in range(FIFTY)]
    answers = await asyncio.gather(*(world.post("/add", body) for body in spellings))
    assert sorted(answer.status for answer in answers) == [201] + [409] * (FIFTY - 1)


async def test_a_card_is_deleted_before_a_payment_or_after_it_never_between(world: VaultWorld) -> None:
    for _ in range(10):
        card = await world.added(money=1000)
        paying = [world.pays(card["id"]) for _ in range(5)]
        deleting = world.send("DELETE", f"{BASE}/delete-card/{card['id']}")
        *paid, deleted = await asyncio.gather(*paying, deleting)
        assert deleted.status == 200
        assert {answer.status for answer in paid} <= {201, 404}
    await world.sound()


async def test_two_engines_agree() -> None:
    """What holds within one process by taking turns holds between two by the store alone."""
    async with vault_world() as first:
        second, _ = vault_engine(first.redis.url, first.sims, first.redis.folder)
        second.log = second.log.with_name("second.log")
        await second.start()
        try:
            card = await first.added(money=75.48 * 9)
            homes = [first.engine.base, second.base]
            checkouts = [first.new_checkout() for _ in range(20)]

            async def pay(home: str, checkout: str) -> tuple[int, str]:
                url = f"{home}{BASE}/pay/{checkout}"
                headers = {"Authorization": f"Bearer {ADMIN}"}
                body = first.wanted(card["id"])
                async with first.sims.session.post(url, json=body, headers=headers) as response:
                    said = await response.json()
                    return response.status, said.get("payment", {}).get("id") or said["details"]["paymentId"]

            found = await asyncio.gather(*(pay(home, each) for each in checkouts for home in homes for _ in range(2)))
            by_checkout = [set(found[at : at + 4]) for at in range(0, len(found), 4)]
            assert [len(each) for each in by_checkout] == [1] * 20
            assert sorted(status for each in by_checkout for status, _ in each) == [201] * 9 + [402] * 11
            assert await first.money(card["id"]) == 0
            await first.sound()
        finally:
            await second.close()
