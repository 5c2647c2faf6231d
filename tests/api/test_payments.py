"""The Payment Service section of the contract: making a payment, reading it, and its events."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api.world import PAYMENTS, TIME, USER, World, as_json, eventually, payment_body, service_token, token

pytestmark = pytest.mark.asyncio(loop_scope="package")


def instant(text: str) -> datetime:
    """A time of the API, which must have its promised form."""
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text)


@contextlib.asynccontextmanager
async def held_payment(world: World) -> AsyncIterator[dict[str, Any]]:
    """A payment that stays `processing` until the end of the block, because the acquirer thinks about it."""
    await world.sims.fault(world.sims.acquirer, "delay", delay_s=3600, times=1)
    payment = await world.paid(wait_s=None)
    try:
        yield payment
    finally:
        await eventually(lambda: _thinks(world))
        await world.sims.clear_faults(world.sims.acquirer)


async def _thinks(world: World) -> bool:
    return not (await world.sims.faults(world.sims.acquirer))["faults"]


async def test_the_contracts_request_gets_the_contracts_answer(world: World) -> None:
    order = await world.order()
    await world.sims.fault(world.sims.acquirer, "delay", delay_s=0.5, times=1)
    before = datetime.now(UTC) - timedelta(seconds=1)
    body = payment_body(order, cardNumber="4111111111111111")
    answer = await world.pay(body)
    assert answer.status == 201, answer
    payment = answer.json
    assert {name: payment[name] for name in ("orderId", "userId", "amount", "currency", "status")} == {
        "orderId": order,
        "userId": USER,
        "amount": 75.48,
        "currency": "USD",
        "status": "processing",
    }
    assert payment["id"].startswith("pay-")
    assert before <= instant(payment["createdAt"]) <= datetime.now(UTC) + timedelta(seconds=1)
    assert answer.headers["Location"] == f"{PAYMENTS}/{payment['id']}"
    assert not {"transactionId", "completedAt", "failureCode", "failureReason"} & set(payment)
    await world.ended(payment["id"])


async def test_a_payment_is_read_while_processing_and_when_completed(world: World) -> None:
    async with held_payment(world) as made:
        path = f"{PAYMENTS}/{made['id']}"
        held = await world.get(path)
        assert (held.status, held.json) == (200, made)
    await world.ended(made["id"])
    completed = (await world.get(path)).json
    [attempt] = completed["attempts"]
    told = {"status": "completed", "outcome": "succeeded", "attempts": [attempt]}
    assert {name: completed[name] for name in made} == {**made, **told}
    assert set(completed) - set(made) == {"transactionId", "completedAt"}
    assert (attempt["id"], attempt["kind"], attempt["outcome"]) == (f"{made['id']}-a1", "charge", "approved")
    assert instant(completed["completedAt"]) >= instant(made["createdAt"])
    assert isinstance(completed["transactionId"], str)


async def test_the_transaction_id_is_the_acquirers(world: World) -> None:
    payment = await world.paid()
    [effect] = await world.effects_of([payment["id"]])
    assert (payment["transactionId"], effect["amount_minor"]) == (effect["id"], 7548)


@pytest.mark.parametrize(
    ("currency", "price", "sent", "shown", "minor"),
    [
        ("USD", 75.48, "75.48", "75.48", 7548),
        ("USD", 10, "10.00", "10.00", 1000),
        ("USD", 10, "10", "10.00", 1000),
        ("USD", 10, "1e1", "10.00", 1000),
        ("EUR", 0.01, "0.01", "0.01", 1),
        ("USD", 0.1, "0.10", "0.10", 10),
        ("USD", 1234567.89, "1234567.89", "1234567.89", 123456789),
        ("JPY", 500, "500", "500", 500),
        ("JPY", 500, "500.00", "500", 500),
        ("KWD", 10.5, "10.5", "10.500", 10500),
        ("KWD", 10.25, "10.250", "10.250", 10250),
    ],
)
async def test_an_amount_is_a_json_number_with_the_decimals_of_its_currency(
    world: World, currency: str, price: float, sent: str, shown: str, minor: int
) -> None:
    order = await world.order(price=price, currency=currency)
    made = await world.pay(as_json(payment_body(order) | {"currency": currency}, amount=sent), wait_s=10)
    assert made.status == 201, made
    read = await world.get(f"{PAYMENTS}/{made.json['id']}")
    events = await world.get(f"{PAYMENTS}/{made.json['id']}/events")
    for answer in (made, read, events):
        assert f'"amount":{shown},' in answer.text.replace(" ", "")
    [effect] = await world.effects_of([made.json["id"]])
    assert (effect["amount_minor"], effect["currency"]) == (minor, currency)


async def test_cents_that_floats_miss_by_one_arrive_whole(world: World) -> None:
    """As floats, 8.95 * 100 is 894.9999999999999 and 9999999999.99 * 100 is off too."""
    for price, minor in ((8.95, 895), (1.15, 115), (4.35, 435), (9999999999.99, 999999999999)):
        order = await world.order(price=price)
        payment = (await world.pay(payment_body(order, amount=price), wait_s=10)).json
        assert [effect["amount_minor"] for effect in await world.effects_of([payment["id"]])] == [minor]


async def test_the_event_of_a_completed_payment_is_the_contracts(world: World) -> None:
    payment = await world.paid()
    answer = await world.get(f"{PAYMENTS}/{payment['id']}/events")
    assert answer.json == {
        "events": [
            {
                "event_type": "payment_completed",
                "payment_id": payment["id"],
                "order_id": payment["orderId"],
                "user_id": USER,
                "data": {
                    "amount": 75.48,
                    "currency": "USD",
                    "transaction_id": payment["transactionId"],
                    "completed_at": payment["completedAt"],
                },
            }
        ]
    }


async def test_the_event_of_a_failed_payment_is_the_contracts(world: World) -> None:
    payment = await world.paid(cardNumber="4000000000009995")
    answer = await world.get(f"{PAYMENTS}/{payment['id']}/events")
    [event] = answer.json["events"]
    instant(event["data"].pop("failed_at"))
    assert event == {
        "event_type": "payment_failed",
        "payment_id": payment["id"],
        "order_id": payment["orderId"],
        "data": {"reason": "Insufficient funds", "error_code": "INSUFFICIENT_FUNDS"},
    }


async def test_a_charge_that_nobody_answered_for_is_not_called_failed(world: World) -> None:
    payment = await world.paid(cardNumber="4009730000000302", wait_s=1)
    assert payment["status"] == "processing"
    assert len(await world.effects_of([payment["id"]])) == 1


async def test_a_live_payment_has_no_events_yet(world: World) -> None:
    async with held_payment(world) as payment:
        assert (await world.get(f"{PAYMENTS}/{payment['id']}/events")).json == {"events": []}
    await world.ended(payment["id"])


async def test_what_is_published_is_what_the_events_endpoint_shows(world: World) -> None:
    payment = await world.paid()
    [shown] = (await world.get(f"{PAYMENTS}/{payment['id']}/events")).json["events"]

    async def published() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in world.engine.events_file.read_text().splitlines()]
        return [line["value"] for line in lines if line["key"] == payment["id"]]

    assert await eventually(published) == [shown]


@pytest.mark.parametrize("suffix", ["", "/events"])
async def test_somebody_elses_payment_looks_like_one_that_is_not_there(world: World, suffix: str) -> None:
    payment = await world.paid()
    stranger = token(await world.user())
    theirs = world.refused(await world.get(f"{PAYMENTS}/{payment['id']}{suffix}", auth=stranger), 404)
    # An id of the same form, so that the two answers can be told apart only if the engine tells.
    unknown_id = payment["id"][:-4] + ("0000" if payment["id"][-4:] != "0000" else "1111")
    unknown = world.refused(await world.get(f"{PAYMENTS}/{unknown_id}{suffix}", auth=stranger), 404)
    del theirs["request_id"], unknown["request_id"]
    assert theirs == unknown
    assert (await world.get(f"{PAYMENTS}/{payment['id']}{suffix}")).status == 200


@pytest.mark.parametrize("role", ["service", "admin"])
async def test_services_and_admins_see_every_payment(world: World, role: str) -> None:
    payment = await world.paid()
    answer = await world.get(f"{PAYMENTS}/{payment['id']}", auth=token("back-office", role=role))
    assert (answer.status, answer.json["id"]) == (200, payment["id"])


async def test_a_role_of_another_name_opens_nothing(world: World) -> None:
    payment = await world.paid()
    for role in ("user", "Service", "services", "administrator", "*"):
        answer = await world.get(f"{PAYMENTS}/{payment['id']}", auth=token("mallory", role=role))
        world.refused(answer, 404, "PAYMENT_NOT_FOUND")


@pytest.mark.parametrize(
    "payment_id",
    ["nope", "pay-", "pay-1", "%20", "%00", "%F0%9F%92%B3", "%FF", "..", "%2E%2E%2Fuser", "a%2Fb", "{id}", "x" * 5000],
)
async def test_an_id_of_no_payment_is_404(world: World, payment_id: str) -> None:
    world.refused(await world.get(f"{PAYMENTS}/{payment_id}", auth=service_token()), 404)


async def test_the_answers_of_a_payment_show_brand_and_last_four_only(world: World) -> None:
    order = await world.order()
    body = payment_body(order, cardNumber="5555555555554444", cvv="8642")
    made = await world.pay(body, wait_s=10, key=order)
    paths = [f"{PAYMENTS}/{made.json['id']}", f"{PAYMENTS}/user/{USER}", f"/api/idempotency-keys/{order}"]
    for answer in [made, *[await world.get(path) for path in paths]]:
        assert answer.status in {200, 201}
        assert not answer.shows("5555555555554444")
        assert not answer.shows("8642")
    assert made.json["paymentMethod"] == {"type": "credit_card", "brand": "mastercard", "last4": "4444"}


async def test_what_is_kept_to_charge_a_card_is_gone_when_the_payment_has_ended(world: World) -> None:
    before = set(await world.at_rest())
    async with held_payment(world) as payment:
        assert sealed(set(world.written()) - before)
    await world.ended(payment["id"])
    assert not sealed(set(await world.at_rest()) - before)


def sealed(names: set[str]) -> set[str]:
    """The keys of Redis that hold a sealed card or cvv."""
    return {name for name in names if re.search(r":(card|cvv|sealed)", name)}
