"""The rules of a payment: which user, which order, which amount, which method, and how often."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.api.world import PAYMENTS, USER, World, payment_body, service_token, token

pytestmark = pytest.mark.asyncio(loop_scope="package")

CARDS_THAT_DECLINE = {
    "4000000000000002": "Card declined",
    "4000000000009995": "Insufficient funds",
    "4000000000009987": "Lost card",
    "4000000000000069": "Expired card",
}


async def refused_unwritten(
    world: World, body: dict[str, Any], status: int, code: str, *, auth: str = ""
) -> dict[str, Any]:
    """The refusal of this request, which left nothing behind and moved no money."""
    written, effects = await world.at_rest(), await world.sims.effects()
    error = world.refused(await world.pay(body, auth=auth, key=f"refused-{body['orderId']}"), status, code)
    assert world.written() == written
    assert await world.sims.effects() == effects
    return error


async def test_a_user_that_nobody_knows_cannot_pay(world: World) -> None:
    order = await world.order(user_id="ghost")
    await refused_unwritten(world, payment_body(order, user_id="ghost"), 404, "USER_004", auth=token("ghost"))


async def test_a_user_that_was_just_made_can_pay_at_once(world: World) -> None:
    """That there was no such user a moment ago must not be remembered."""
    order = await world.order(user_id="late-comer")
    body = payment_body(order, user_id="late-comer")
    world.refused(await world.pay(body, auth=token("late-comer")), 404, "USER_004")
    await world.sims.user("late-comer")
    assert (await world.pay(body, auth=token("late-comer"))).status == 201


async def test_an_inactive_user_cannot_pay(world: World) -> None:
    user = await world.user(is_active=False)
    order = await world.order(user_id=user)
    await refused_unwritten(world, payment_body(order, user_id=user), 422, "USER_INACTIVE", auth=token(user))


async def test_an_order_that_nobody_knows_cannot_be_paid(world: World) -> None:
    await refused_unwritten(world, payment_body("order-unknown"), 404, "ORDER_003")


async def test_somebody_elses_order_looks_like_one_that_is_not_there(world: World) -> None:
    order = await world.order(user_id=await world.user())
    theirs = await refused_unwritten(world, payment_body(order), 404, "ORDER_003")
    unknown = await refused_unwritten(world, payment_body("order-unknown"), 404, "ORDER_003")
    assert theirs["message"] == unknown["message"]
    assert set(theirs["details"]) == set(unknown["details"])


@pytest.mark.parametrize("status", ["cancelled", "confirmed", "paid", "completed", "shipped"])
async def test_an_order_that_is_cancelled_or_paid_cannot_be_paid(world: World, status: str) -> None:
    order = await world.order(status=status)
    await refused_unwritten(world, payment_body(order), 409, "PAY_003")


async def test_an_order_with_a_payment_of_another_engine_cannot_be_paid(world: World) -> None:
    order = await world.order()
    await world.change_order(order, paymentId="pay-elsewhere")
    await refused_unwritten(world, payment_body(order), 409, "PAY_003")


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"amount": 75.47}, "amount"),
        ({"amount": 75.49}, "amount"),
        ({"amount": 0.01}, "amount"),
        ({"amount": 7548}, "amount"),
        ({"currency": "EUR"}, "currency"),
        ({"currency": "JPY", "amount": 75}, "currency"),
    ],
)
async def test_amount_and_currency_are_the_orders(world: World, sent: dict[str, Any], field: str) -> None:
    body = payment_body(await world.order()) | sent
    error = await refused_unwritten(world, body, 422, "ORDER_MISMATCH")
    assert error["details"]["field"] == field


async def test_a_live_or_completed_payment_keeps_its_order(world: World) -> None:
    order = await world.order()
    await world.sims.fault(world.sims.acquirer, "delay", delay_s=0.5, times=1)
    first = await world.pay(payment_body(order))
    assert first.json["status"] == "processing"
    world.refused(await world.pay(payment_body(order)), 409, "PAY_003")
    await world.ended(first.json["id"])
    world.refused(await world.pay(payment_body(order, cardNumber="5555555555554444")), 409, "PAY_003")
    assert len(await world.effects_of([first.json["id"]])) == 1


async def test_after_a_failed_payment_the_order_can_be_paid(world: World) -> None:
    order = await world.order()
    declined = await world.pay(payment_body(order, cardNumber="4000000000000002"), wait_s=10)
    again = await world.pay(payment_body(order), wait_s=10)
    assert (declined.json["status"], again.json["status"]) == ("failed", "completed")
    assert declined.json["id"] != again.json["id"]
    world.refused(await world.pay(payment_body(order)), 409, "PAY_003")
    assert (await world.get(f"{PAYMENTS}/{declined.json['id']}")).json["status"] == "failed"


async def test_of_fifty_payments_at_once_for_one_order_one_is_made(world: World) -> None:
    order = await world.order()
    answers = await asyncio.gather(*[world.pay(payment_body(order)) for _ in range(50)])
    [made] = [answer.json for answer in answers if answer.status == 201]
    for answer in answers:
        if answer.status != 201:
            world.refused(answer, 409, "PAY_003")
    assert (await world.ended(made["id"]))["status"] == "completed"
    effects = [effect for effect in await world.sims.effects() if effect["reference"] == made["id"]]
    assert len(effects) == 1
    page = (await world.get(f"{PAYMENTS}/user/{USER}?limit=100")).json["payments"]
    assert [payment["id"] for payment in page if payment["orderId"] == order] == [made["id"]]


@pytest.mark.parametrize(("card", "reason"), CARDS_THAT_DECLINE.items())
async def test_a_declined_card_fails_the_payment_and_says_why(world: World, card: str, reason: str) -> None:
    payment = await world.paid(cardNumber=card)
    assert (payment["status"], payment["failureReason"]) == ("failed", reason)
    assert payment["failureCode"]
    assert not {"transactionId", "completedAt"} & set(payment)
    [event] = (await world.get(f"{PAYMENTS}/{payment['id']}/events")).json["events"]
    assert (event["event_type"], event["data"]["reason"]) == ("payment_failed", reason)
    assert await world.effects_of([payment["id"]]) == []


async def test_insufficient_funds_have_the_contracts_codes(world: World) -> None:
    payment = await world.paid(cardNumber="4000000000009995")
    [event] = (await world.get(f"{PAYMENTS}/{payment['id']}/events")).json["events"]
    assert (payment["failureCode"], event["data"]["error_code"]) == ("PAY_002", "INSUFFICIENT_FUNDS")


async def test_no_other_decline_is_called_insufficient_funds(world: World) -> None:
    for card in set(CARDS_THAT_DECLINE) - {"4000000000009995"}:
        assert (await world.paid(cardNumber=card))["failureCode"] != "PAY_002"


async def test_prefer_wait_answers_with_the_outcome(world: World) -> None:
    await world.sims.fault(world.sims.acquirer, "delay", delay_s=0.3, times=1)
    answer = await world.pay(payment_body(await world.order()), wait_s=20)
    assert (answer.status, answer.json["status"]) == (201, "completed")
    assert answer.headers["Preference-Applied"] == "wait=20"


async def test_prefer_wait_gives_up_in_time(world: World) -> None:
    await world.sims.fault(world.sims.acquirer, "delay", delay_s=3600, times=1)
    asked = time.monotonic()
    answer = await world.pay(payment_body(await world.order()), wait_s=1)
    assert (answer.status, answer.json["status"]) == (201, "processing")
    assert time.monotonic() - asked >= 0.9
    await world.sims.clear_faults(world.sims.acquirer)
    assert (await world.ended(answer.json["id"]))["status"] == "completed"


@pytest.mark.parametrize("prefer", ["wait=abc", "wait=-1", "wait", "wait=", "respond-async", "wait=1e3", "", "=5"])
async def test_a_preference_that_makes_no_sense_is_not_an_error(world: World, prefer: str) -> None:
    answer = await world.pay(payment_body(await world.order()), headers={"Prefer": prefer})
    assert answer.status == 201
    assert "Preference-Applied" not in answer.headers


async def test_a_wait_of_hours_is_cut_to_half_a_minute(world: World) -> None:
    answer = await world.pay(payment_body(await world.order()), wait_s=9999)
    assert (answer.status, answer.json["status"]) == (201, "completed")
    assert answer.headers["Preference-Applied"] == "wait=30"


async def test_a_wallet_pays_and_its_token_is_not_shown(world: World) -> None:
    body = payment_body(await world.order()) | {"paymentMethod": {"type": "wallet", "token": "tok_secret_123456"}}
    made = await world.pay(body, wait_s=10)
    assert (made.status, made.json["status"]) == (201, "completed")
    assert made.json["paymentMethod"]["type"] == "wallet"
    assert not made.shows("tok_secret_123456")
    assert len(await world.effects_of([made.json["id"]])) == 1


async def test_a_debit_card_pays(world: World) -> None:
    payment = await world.paid(type="debit_card")
    assert (payment["status"], payment["paymentMethod"]["type"]) == ("completed", "debit_card")


@pytest.mark.parametrize(
    "method",
    [
        {"type": "vault_card", "cardId": "card-1"},
        {"type": "mobile_money", "phoneNumber": "+254712345678"},
        {"type": "cash"},
        {"type": "CREDIT_CARD", "cardNumber": "4242424242424242"},
        {"type": ""},
        {},
    ],
)
async def test_a_method_that_this_engine_cannot_take_is_pay_001(world: World, method: dict[str, str]) -> None:
    body = payment_body(await world.order()) | {"paymentMethod": method}
    await refused_unwritten(world, body, 422, "PAY_001")


@pytest.mark.parametrize("capture", ["later", "MANUAL", "", "AUTOMATIC", None, True])
async def test_a_capture_that_is_not_offered_is_refused_not_charged(world: World, capture: object) -> None:
    body = payment_body(await world.order()) | {"capture": capture}
    await refused_unwritten(world, body, 422, "INVALID_REQUEST")


async def test_an_automatic_capture_may_be_written_out(world: World) -> None:
    body = payment_body(await world.order()) | {"capture": "automatic"}
    assert (await world.pay(body, wait_s=10)).json["status"] == "completed"


async def test_a_manual_capture_authorizes_and_moves_no_money(world: World) -> None:
    body = payment_body(await world.order()) | {"capture": "manual"}
    payment = (await world.pay(body, wait_s=10)).json
    assert payment["status"] == "authorized"
    assert "completedAt" not in payment
    assert await world.effects_of([payment["id"]]) == []


async def test_fields_that_nobody_knows_are_ignored(world: World) -> None:
    body = payment_body(await world.order(), nickname="my card") | {"status": "completed", "id": "pay-mine", "x": [1]}
    answer = await world.pay(body)
    assert answer.status == 201
    assert answer.json["id"] != "pay-mine"


async def test_nobody_pays_in_another_users_name(world: World) -> None:
    other = await world.user()
    order = await world.order(user_id=other)
    await refused_unwritten(world, payment_body(order, user_id=other), 403, "FORBIDDEN")


async def test_a_service_pays_in_a_users_name(world: World) -> None:
    other = await world.user()
    order = await world.order(user_id=other)
    made = await world.pay(payment_body(order, user_id=other), auth=service_token())
    assert (made.status, made.json["userId"]) == (201, other)
    assert (await world.get(f"{PAYMENTS}/{made.json['id']}", auth=token(other))).status == 200
