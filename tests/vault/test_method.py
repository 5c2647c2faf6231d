"""A stored card pays on the core surface: charged by the engine itself, with every promise of an acquirer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support import service_token
from tests.vault.world import BASE, USER, VaultWorld, eventually, token

pytestmark = pytest.mark.asyncio(loop_scope="package")


class Core:
    """The core surface of the same engine."""

    def __init__(self, world: VaultWorld) -> None:
        self._world = world

    async def ask(self, method: str, path: str, body: Any = None, *, auth: str = "", **headers: str) -> tuple[int, Any]:
        """One request; gives its status and JSON."""
        headers = {"Authorization": f"Bearer {auth or token()}", **headers}
        url = self._world.core + path
        async with self._world.sims.session.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def pay(self, card_id: str, *, amount: float = 75.48, wait: bool = True, **fields: Any) -> tuple[int, Any]:
        """`POST /api/payments` for a new order."""
        order = await self._world.order(price=amount)
        method = {"type": "vault_card", "cardId": card_id}
        body = {"orderId": order, "userId": USER, "amount": amount, "currency": "USD", "paymentMethod": method}
        headers = {"Prefer": "wait=20"} if wait else {}
        return await self.ask("POST", "/api/payments", body | fields, **headers)

    async def paid(self, card_id: str, **fields: Any) -> Any:
        """A payment that was taken."""
        status, payment = await self.pay(card_id, **fields)
        assert status == 201, payment
        return payment

    async def settled(self, payment_id: str, status: str) -> Any:
        """The payment, as soon as it has this status."""

        async def look() -> Any:
            _, payment = await self.ask("GET", f"/api/payments/{payment_id}", auth=service_token())
            return payment if payment["status"] == status else None

        return await eventually(look)


@pytest.fixture
def core(world: VaultWorld) -> Core:
    """The other door."""
    return Core(world)


async def test_a_stored_card_pays_an_order(world: VaultWorld, core: Core) -> None:
    card = await world.added(money=100)
    payment = await core.paid(card["id"])
    assert payment["status"] == "completed"
    assert payment["paymentMethod"] == {"type": "vault_card", "brand": "visa", "last4": card["cardNumber"][-4:]}
    assert [(each["acquirer"], each["outcome"]) for each in payment["attempts"]] == [("vault", "approved")]
    assert await world.money(card["id"]) == 24.52
    await world.sound()


async def test_too_little_on_the_card_fails_the_payment_and_frees_the_order(world: VaultWorld, core: Core) -> None:
    card = await world.added(money=75.47)
    payment = await core.paid(card["id"])
    assert (payment["status"], payment["failureCode"]) == ("failed", "PAY_002")
    again = await core.pay((await world.added())["id"], orderId=payment["orderId"])
    assert (again[0], again[1]["status"]) == (201, "completed")
    assert await world.money(card["id"]) == 75.47
    await world.sound()


async def test_refunds_come_back_to_the_card(world: VaultWorld, core: Core) -> None:
    card = await world.added(money=100)
    payment = await core.paid(card["id"])
    for amount, status in ((20.0, "partially_refunded"), (55.48, "refunded")):
        answer = await core.ask("POST", f"/api/payments/{payment['id']}/refund", {"amount": amount})
        assert answer[0] == 201
        await core.settled(payment["id"], status)
    assert await world.money(card["id"]) == 100
    await world.sound()


async def test_an_authorization_takes_all_and_a_capture_gives_the_rest_back(world: VaultWorld, core: Core) -> None:
    card = await world.added(money=100)
    payment = await core.paid(card["id"], capture="manual")
    assert payment["status"] == "authorized"
    assert await world.money(card["id"]) == 24.52
    refused = await world.send("DELETE", f"{BASE}/delete-card/{card['id']}")
    assert world.refused(refused, 409, "CARD_IN_USE")["error"] == "the card has open payments"
    await core.ask("POST", f"/api/payments/{payment['id']}/capture", {"amount": 50.0})
    await core.settled(payment["id"], "completed")
    assert await world.money(card["id"]) == 50
    assert (await world.send("DELETE", f"{BASE}/delete-card/{card['id']}")).status == 200
    await world.sound()


async def test_an_authorization_that_is_cancelled_gives_all_back(world: VaultWorld, core: Core) -> None:
    card = await world.added(money=100)
    payment = await core.paid(card["id"], capture="manual")
    await core.ask("POST", f"/api/payments/{payment['id']}/cancel", {})
    await core.settled(payment["id"], "cancelled")
    assert await world.money(card["id"]) == 100
    await world.sound()


async def test_a_refund_after_the_card_is_gone_stays_on_its_books(world: VaultWorld, core: Core) -> None:
    card = await world.added(money=100)
    payment = await core.paid(card["id"])
    assert (await world.send("DELETE", f"{BASE}/delete-card/{card['id']}")).status == 200
    await core.ask("POST", f"/api/payments/{payment['id']}/refund", {})
    await core.settled(payment["id"], "refunded")
    await world.sound()


async def test_a_card_that_is_not_the_users_is_refused(world: VaultWorld, core: Core) -> None:
    theirs = await world.added(cardUserId="somebody")
    gone = await world.added()
    await world.send("DELETE", f"{BASE}/delete-card/{gone['id']}")
    for card_id in (theirs["id"], gone["id"], "card-01kqxw3v5n8t2r7d9m4c6b1hzj2a", "nothing"):
        status, refused = await core.pay(card_id)
        assert (status, refused["error"]["code"]) == (422, "PAY_001")
        assert refused["error"]["details"] == {"field": "paymentMethod.cardId"}
    status, refused = await core.pay((await world.added())["id"], paymentMethod={"type": "vault_card"})
    assert (status, refused["error"]["code"]) == (422, "PAY_001")


async def test_a_refused_card_leaves_the_key_for_another_one(world: VaultWorld, core: Core) -> None:
    card = await world.added(money=100)
    order, headers = await world.order(), {"Idempotency-Key": world.new_checkout(), "Prefer": "wait=20"}
    body = {"orderId": order, "userId": USER, "amount": 75.48, "currency": "USD"}
    gone = body | {"paymentMethod": {"type": "vault_card", "cardId": "nothing"}}
    async with world.nothing_written():
        assert (await core.ask("POST", "/api/payments", gone, **headers))[0] == 422
    there = body | {"paymentMethod": {"type": "vault_card", "cardId": card["id"]}}
    for _ in range(2):
        status, payment = await core.ask("POST", "/api/payments", there, **headers)
        assert (status, payment["status"]) == (201, "completed")
    assert await world.money(card["id"]) == 24.52


async def test_fifty_payments_by_one_card_never_overdraw_it(world: VaultWorld, core: Core) -> None:
    card = await world.added(money=75.48 * 7 + 1)
    ended = await asyncio.gather(*(core.paid(card["id"]) for _ in range(50)))
    assert sorted(each["status"] for each in ended) == ["completed"] * 7 + ["failed"] * 43
    assert await world.money(card["id"]) == 1
    await world.sound()


async def test_an_order_that_is_paid_announces_nothing(world: VaultWorld, core: Core) -> None:
    card = await world.added(money=1000)
    payment = await core.paid(card["id"])
    assert (await core.pay(card["id"], orderId=payment["orderId"]))[0] == 409
    assert (await world.send("DELETE", f"{BASE}/delete-card/{card['id']}")).status == 200
