"""Idempotency keys: the same key and request is the same payment, the same key and another request is refused."""

from __future__ import annotations

import asyncio

import pytest

from tests.orders.world import OrdersWorld, of

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_the_same_request_again_is_the_same_payment(world: OrdersWorld) -> None:
    body = {"userId": 5, "orderId": world.new_order(), "amount": 7.5}
    first = await world.create(body, auth=of(5), key="again")
    assert (first.status, first.headers.get("Idempotent-Replayed")) == (201, None)
    assert first.headers["Location"] == f"/api/payments/{first.json['payment']['paymentId']}"
    async with world.nothing_written():
        again = await world.create(body | {"amount": 7.50}, auth=of(5), key="again")
    assert (again.status, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json == first.json


async def test_a_repetition_shows_what_has_become_of_the_payment(world: OrdersWorld) -> None:
    body = {"userId": 5, "orderId": world.new_order(), "amount": 7.5}
    made = (await world.create(body, auth=of(5), key="later")).json["payment"]
    await world.put_status(made["paymentId"], "cancelled")
    again = await world.create(body, auth=of(5), key="later")
    assert (again.status, again.json["payment"]["status"]) == (201, "cancelled")


@pytest.mark.parametrize("field", ["orderId", "amount"])
async def test_another_request_with_the_key_is_refused_by_the_field(world: OrdersWorld, field: str) -> None:
    body = {"userId": 5, "orderId": world.new_order(), "amount": 7.5}
    assert (await world.create(body, auth=of(5), key=f"differs-{field}")).status == 201
    async with world.nothing_written():
        other = body | {field: world.new_order()}
        refused = world.refused(await world.create(other, auth=of(5), key=f"differs-{field}"), 422)
    assert (refused["code"], refused["details"], refused["retry"]) == (
        "IDEMPOTENCY_KEY_REUSED", {"field": field}, "new_key",
    )  # fmt: skip


async def test_a_key_is_its_callers_own(world: OrdersWorld) -> None:
    for user_id in (5, 6):
        body = {"userId": user_id, "orderId": world.new_order(), "amount": 1}
        assert (await world.create(body, auth=of(user_id), key="mine")).status == 201


async def test_thirty_racing_requests_with_one_key_are_one_payment(world: OrdersWorld) -> None:
    body = {"userId": 5, "orderId": world.new_order(), "amount": 7.5}
    answers = await asyncio.gather(*(world.create(body, auth=of(5), key="race") for _ in range(30)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 29
    await world.published(answers[0].json["payment"]["paymentId"], 1)


async def test_a_refused_request_leaves_its_key_free(world: OrdersWorld) -> None:
    taken = await world.created(user_id=5)
    body = {"userId": 5, "orderId": taken["orderId"], "amount": 1}
    async with world.nothing_written():
        world.refused(await world.create(body, auth=of(5), key="free"), 400, "PAY_003")
    assert (await world.create(body | {"orderId": world.new_order()}, auth=of(5), key="free")).status == 201
