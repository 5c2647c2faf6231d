"""Every endpoint of the vault contract answers with the models that are shown there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.world import TIME
from tests.orders.replaying import replayed
from tests.vault.world import ADMIN, BASE, USER, VaultWorld, token

pytestmark = pytest.mark.asyncio(loop_scope="package")

SOMEBODY = token("somebody")


async def test_a_card_is_added_as_its_model_says(world: VaultWorld) -> None:
    pan = world.new_pan()
    answer = await world.post("/add", world.card(cardNumber=int(pan), money=500.5))
    assert answer.status == 201
    assert list(answer.json) == ["message", "card"]
    assert answer.json["message"] == "Credit card added successfully"
    card = answer.json["card"]
    assert answer.headers["Location"] == f"{BASE}/get/{card['id']}"
    shown = {
        "cardUserId": USER, "cardHolderName": "Jo Doe", "cardNumber": f"************{pan[-4:]}", "expireDate": "12/30",
        "money": 500.5, "brand": "visa",
    }  # fmt: skip
    assert card == {"id": card["id"], **shown, "createdAt": card["createdAt"]}
    assert b'"money":500.50,' in answer.body
    assert TIME.fullmatch(card["createdAt"])
    assert not answer.shows(pan)


async def test_a_card_is_read_as_it_was_added(world: VaultWorld) -> None:
    card = await world.added()
    answer = await world.get(f"{BASE}/get/{card['id']}")
    assert (answer.status, answer.json) == (200, {"message": "Credit card found", "card": card})


async def test_a_deleted_card_is_gone_and_its_number_may_be_added_again(world: VaultWorld) -> None:
    pan = world.new_pan()
    card = await world.added(cardNumber=pan)
    answer = await world.send("DELETE", f"{BASE}/delete-card/{card['id']}")
    assert (answer.status, answer.json) == (200, {"message": "Credit card deleted successfully", "card": card})
    assert world.refused(await world.get(f"{BASE}/get/{card['id']}"), 404)["error"] == "Credit card not found"
    world.refused(await world.send("DELETE", f"{BASE}/delete-card/{card['id']}"), 404, "CARD_NOT_FOUND")
    world.refused(await world.pays(card["id"]), 404, "CARD_NOT_FOUND")
    again = await world.added(cardNumber=pan)
    assert again["id"] != card["id"]


async def test_a_paid_checkout_is_told_again_also_when_its_card_is_gone(world: VaultWorld) -> None:
    card, checkout = await world.added(money=100), world.new_checkout()
    first = await world.pays(card["id"], checkout)
    assert (await world.send("DELETE", f"{BASE}/delete-card/{card['id']}")).status == 200
    again = await world.pays(card["id"], checkout)
    assert (again.status, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json["payment"]["id"] == first.json["payment"]["id"]
    world.refused(await world.pays(card["id"], world.new_checkout()), 404, "CARD_NOT_FOUND")


async def test_a_checkout_is_paid_as_its_model_says(world: VaultWorld) -> None:
    card = await world.added(money=100)
    checkout = world.new_checkout()
    answer = await world.pays(card["id"], checkout, isGift=True)
    assert answer.status == 201
    assert list(answer.json) == ["message", "payment"]
    payment = answer.json["payment"]
    assert answer.headers["Location"] == f"{BASE}/find/{payment['id']}"
    line = {"isRefunded": False, "refundedQuantity": 0}
    assert payment == {
        "id": payment["id"], "userId": USER, "checkoutId": checkout, "basketId": "basket-1",
        "creditCardId": card["id"], "shipmentId": "shipment-1",
        "products": [
            {"productId": "prod-1", "quantity": 2, "price": 29.99, "sellerId": "seller-1", **line},
            {"productId": "prod-2", "quantity": 1, "price": 15.5, "sellerId": "", **line},
        ],
        "address": "1 High Street", "isGift": True, "status": "Completed", "totalPrice": 75.48, "refunded": False,
        "cardHolderName": "Jo Doe", "cardNumber": card["cardNumber"], "expireDate": "12/30", "paymentStatus": True,
        "createdAt": payment["createdAt"], "updatedAt": payment["createdAt"],
    }  # fmt: skip
    assert await world.money(card["id"]) == 24.52


async def test_a_payment_is_found_as_it_was_paid(world: VaultWorld) -> None:
    payment = await world.bought((await world.added())["id"])
    answer = await world.get(f"{BASE}/find/{payment['id']}")
    assert (answer.status, answer.json) == (200, {"message": "Payment found", "payment": payment})


async def test_a_deleted_payment_is_hidden_from_its_owner_and_stays_in_the_books(world: VaultWorld) -> None:
    card = await world.added(money=100)
    payment = await world.bought(card["id"])
    before = await world.told(payment["id"], 1)
    answer = await world.send("DELETE", f"{BASE}/delete-payment/{payment['id']}")
    assert answer.status == 200
    assert answer.json == {"message": "Payment deleted successfully", "payment": payment}
    assert world.refused(await world.get(f"{BASE}/find/{payment['id']}"), 404)["error"] == "Payment not found"
    world.refused(await world.send("DELETE", f"{BASE}/delete-payment/{payment['id']}"), 404, "PAYMENT_NOT_FOUND")
    assert await world.payment(payment["id"], auth=ADMIN) == payment
    assert await world.money(card["id"]) == 24.52
    assert await world.told(payment["id"], 1) == before
    await world.sound()


async def test_too_little_money_is_402_and_a_failed_payment_with_its_event(world: VaultWorld) -> None:
    card = await world.added(money=75.47)
    checkout = world.new_checkout()
    refused = world.refused(await world.pays(card["id"], checkout), 402, "PAY_002")
    payment = await world.payment(refused["details"]["paymentId"], auth="")
    assert (payment["status"], payment["paymentStatus"], payment["checkoutId"]) == ("Failed", False, checkout)
    assert await world.money(card["id"]) == 75.47
    [event] = await world.told(payment["id"], 1)
    assert event["topic"] == "paymentService-paymentFailed"
    assert event["value"]["errorCode"] == "INSUFFICIENT_FUNDS"
    again = world.refused(await world.pays(card["id"], checkout), 402, "PAY_002")
    assert again["details"] == refused["details"]
    await world.told(payment["id"], 1)
    await world.sound()


async def test_the_last_cent_may_be_spent(world: VaultWorld) -> None:
    card = await world.added(money=75.48)
    await world.bought(card["id"])
    assert await world.money(card["id"]) == 0


async def test_a_failed_checkout_may_be_paid_with_another_card(world: VaultWorld) -> None:
    poor, rich = await world.added(money=1), await world.added(money=100)
    checkout = world.new_checkout()
    failed = world.refused(await world.pays(poor["id"], checkout), 402)["details"]["paymentId"]
    paid = await world.pays(rich["id"], checkout)
    assert paid.status == 201
    assert paid.json["payment"]["id"] != failed
    for card in (poor, rich):
        again = await world.pays(card["id"], checkout)
        assert (again.json["payment"], again.headers["Idempotent-Replayed"]) == (paid.json["payment"], "true")
    assert await world.money(rich["id"]) == 24.52
    await world.sound()


async def test_the_completed_event_is_the_payment_without_what_is_nobody_elses(world: VaultWorld) -> None:
    card = await world.added()
    payment = await world.bought(card["id"])
    [event] = await world.told(payment["id"], 1)
    assert event["topic"] == "paymentService-paymentCompleted"
    assert event["headers"]["ce_type"] == "paymentService-paymentCompleted"
    assert event["headers"]["ce_source"] == "/payments/vault"
    hidden = {"id", "cardHolderName", "expireDate", "createdAt", "updatedAt"}
    expected = {name: value for name, value in payment.items() if name not in hidden}
    more = {
        "eventType": "paymentService-paymentCompleted", "timestamp": payment["createdAt"], "paymentId": payment["id"],
    }  # fmt: skip
    assert event["value"] == expected | more


async def test_events_are_told_again_with_the_same_ids_on_the_same_topics(world: VaultWorld) -> None:
    card = await world.added(money=80)
    payment = await world.bought(card["id"])
    failed = world.refused(await world.pays(card["id"]), 402)["details"]["paymentId"]
    first = [*await world.told(payment["id"], 1), *await world.told(failed, 1)]
    again = [line for line in await replayed(world) if line["value"]["paymentId"] in (payment["id"], failed)]
    assert sorted(again, key=str) == sorted(first, key=str)


@pytest.mark.parametrize("auth", [None, "not-a-token"])
async def test_without_a_token_nothing_is_answered(world: VaultWorld, auth: str | None) -> None:
    card = await world.added()
    payment = await world.bought(card["id"])
    for method, path, body in (
        ("POST", "/add", b"{}"), ("GET", f"/get/{card['id']}", None), ("DELETE", f"/delete-card/{card['id']}", None),
        ("POST", "/pay/checkout", b"{}"), ("GET", f"/find/{payment['id']}", None),
        ("DELETE", f"/delete-payment/{payment['id']}", None),
    ):  # fmt: skip
        headers = {"Content-Type": "application/json"} if body else None
        world.refused(await world.send(method, BASE + path, body=body, auth=auth, headers=headers), 401)


async def test_somebody_elses_cards_and_payments_are_not_there(world: VaultWorld) -> None:
    card = await world.added()
    payment = await world.bought(card["id"])
    for method, path in (
        ("GET", f"/get/{card['id']}"), ("DELETE", f"/delete-card/{card['id']}"), ("GET", f"/find/{payment['id']}"),
        ("DELETE", f"/delete-payment/{payment['id']}"),
    ):  # fmt: skip
        world.refused(await world.send(method, BASE + path, auth=SOMEBODY), 404)
    world.refused(await world.post("/add", world.card(), auth=SOMEBODY), 403, "FORBIDDEN")
    world.refused(await world.pays(card["id"], auth=SOMEBODY), 403, "FORBIDDEN")
    world.refused(await world.pays(card["id"], auth=SOMEBODY, userId="somebody"), 404, "CARD_NOT_FOUND")
    assert await world.payment(payment["id"]) == payment


async def test_somebody_elses_checkout_is_refused_without_being_shown(world: VaultWorld) -> None:
    card = await world.added()
    theirs = await world.added(cardUserId="somebody")
    checkout = world.new_checkout()
    paid: dict[str, Any] = (await world.pays(card["id"], checkout)).json["payment"]
    answer = await world.pays(theirs["id"], checkout, auth=SOMEBODY, userId="somebody")
    world.refused(answer, 409, "CHECKOUT_TAKEN")
    assert not answer.shows(paid["id"])
    assert await world.money(theirs["id"]) == 500


async def test_what_is_unknown_is_404(world: VaultWorld) -> None:
    for name in ("nothing", "card-01kqxw3v5n8t2r7d9m4c6b1hzj2a", "card-01kqxw3v5n8t2r7d9m4c6b1hzjff"):
        world.refused(await world.get(f"{BASE}/get/{name}"), 404, "CARD_NOT_FOUND")
    for name in ("nothing", "pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a", "pay-01kqxw3v5n8t2r7d9m4c6b1hzjff"):
        world.refused(await world.get(f"{BASE}/find/{name}"), 404, "PAYMENT_NOT_FOUND")


async def test_health_is_as_on_the_other_surfaces(world: VaultWorld) -> None:
    answer = await world.send("GET", "/health", auth=None)
    assert (answer.status, answer.json) == (200, {"status": "OK", "service": "payment-service"})
