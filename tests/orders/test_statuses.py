"""Status updates: which moves there are, who may make them, what they book, and that each is told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.orders.replaying import replayed
from tests.orders.world import OrdersWorld, of, orders_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATUSES = ("pending", "success", "failed", "cancelled")
ALLOWED = {
    "pending": {"success", "failed", "cancelled"}, "success": {"cancelled"}, "failed": set(), "cancelled": set(),
}  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world() -> AsyncIterator[OrdersWorld]:
    """An engine whose payments begin as pending, so that every move can be made."""
    async with orders_world(PAYMENTS__ORDERS_API__BEGINS="pending") as running:
        yield running


async def standing(world: OrdersWorld, status: str) -> dict[str, Any]:
    """A payment of user 1 with this status."""
    payment = await world.created()
    if status != "pending":
        answer = await world.put_status(payment["paymentId"], status)
        assert answer.status == 200
        payment = answer.json["payment"]
    assert payment["status"] == status
    return payment


def balances(world: OrdersWorld) -> dict[str, int]:
    """All accounts, over all shards."""
    found: dict[str, int] = {}
    for name, value in world.written().items():
        if name.endswith(":balances"):
            for account, minor in value.items():
                found[account.decode()] = found.get(account.decode(), 0) + int(minor)
    return found


@pytest.mark.parametrize("to", STATUSES)
@pytest.mark.parametrize("start", STATUSES)
async def test_a_status_can_be_set_where_the_table_allows_it(world: OrdersWorld, start: str, to: str) -> None:
    payment = await standing(world, start)
    number, told = payment["paymentId"], 1 if start == "pending" else 2
    answer = await world.put_status(number, to)
    if to == start:
        assert (answer.status, answer.json["payment"]) == (200, payment), "nothing has happened"
    elif to in ALLOWED[start]:
        assert answer.json["payment"] == payment | {"status": to, "updatedAt": answer.json["payment"]["updatedAt"]}
        assert answer.json["payment"]["updatedAt"] >= payment["updatedAt"]
        told += 1
    else:
        refused = world.refused(answer, 409, "ILLEGAL_MOVE")
        assert start in refused["error"] and to in refused["error"]
        allowed = refused["details"].get("allowed", "")
        assert {word for word in allowed.split(", ") if word} == ALLOWED[start]
        assert all(word in refused["error"] for word in ALLOWED[start])
    assert (await world.read(number)).json["payment"]["status"] == (to if to in ALLOWED[start] else start)
    events = await world.published(number, told)
    assert events[-1]["value"]["data"]["status"] == (to if to in ALLOWED[start] else start)


async def test_a_payment_that_begins_as_pending_books_nothing_until_it_has_succeeded(world: OrdersWorld) -> None:
    before = balances(world)
    payment = await world.created(amount=12.34)
    assert payment["status"] == "pending"
    assert balances(world) == before
    await world.put_status(payment["paymentId"], "success")
    booked = balances(world)
    assert booked["acquirer:external|USD"] - before.get("acquirer:external|USD", 0) == 1234
    assert booked["merchant:orders|USD"] - before.get("merchant:orders|USD", 0) == -1234
    await world.put_status(payment["paymentId"], "cancelled")
    after = balances(world)
    assert {account: minor for account, minor in after.items() if minor != before.get(account, 0)} == {}


async def test_a_pending_payment_waits_for_its_owner_and_not_for_a_clock(world: OrdersWorld) -> None:
    payment = await standing(world, "pending")
    for name, members in world.written().items():
        assert not name.endswith(":due") or not members, "nobody looks at it again by himself"
    assert (await world.read(payment["paymentId"])).json["payment"] == payment


async def test_only_a_service_may_say_that_a_payment_has_succeeded(world: OrdersWorld) -> None:
    """Else whoever owes the money could say that it has been paid."""
    payment = await standing(world, "pending")
    async with world.nothing_written():
        answer = await world.put_status(payment["paymentId"], "success", auth=of(1))
        world.refused(answer, 403, "FORBIDDEN")
    assert (await world.put_status(payment["paymentId"], "success")).status == 200


@pytest.mark.parametrize(("start", "to"), [("pending", "failed"), ("pending", "cancelled"), ("success", "cancelled")])
async def test_the_other_moves_are_the_owners_too(world: OrdersWorld, start: str, to: str) -> None:
    payment = await standing(world, start)
    assert (await world.put_status(payment["paymentId"], to, auth=of(2))).status == 404
    assert (await world.put_status(payment["paymentId"], to, auth=of(1))).json["payment"]["status"] == to


async def test_of_racing_equal_moves_one_is_told(world: OrdersWorld) -> None:
    payment = await standing(world, "success")
    answers = await asyncio.gather(*(world.put_status(payment["paymentId"], "cancelled") for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    await world.at_rest()
    assert len(await world.published(payment["paymentId"], 3)) == 3


async def test_of_racing_different_moves_one_wins_and_the_others_are_told_why_not(world: OrdersWorld) -> None:
    for _ in range(5):
        payment = await standing(world, "pending")
        number = payment["paymentId"]
        answers = await asyncio.gather(*(world.put_status(number, to) for to in ("failed", "cancelled") * 5))
        final = (await world.read(number)).json["payment"]["status"]
        for answer in answers:
            assert answer.status == 409 or answer.json["payment"]["status"] == final
        assert final in ("failed", "cancelled")
        await world.published(number, 2)


async def test_a_full_outbox_refuses_a_move_and_writes_nothing() -> None:
    """The bound is one event a shard, and a folder is no file to publish to: the second event does not fit."""
    async with orders_world(PAYMENTS__REDIS__OUTBOX_MAX="16", PAYMENTS__EVENTS__FILE="/") as world:
        payment = await world.created()
        answer = await world.put_status(payment["paymentId"], "cancelled")
        world.refused(answer, 503, "OVERLOADED")
        assert (await world.read(payment["paymentId"])).json["payment"] == payment
        for _ in range(17):
            answer = await world.create({"userId": 1, "orderId": world.new_order(), "amount": 1})
            if answer.status != 201:
                break
        refused = world.refused(answer, 503, "OVERLOADED")
        assert refused["details"] == {"bound": "outbox"}
        assert await world.metric("rejections_total", bound="outbox") >= 2, "operators see which bound it is"
        assert world.audit()["findings"] == []


async def test_afterwards_the_audit_finds_nothing(world: OrdersWorld) -> None:
    await world.at_rest()
    report = world.audit()
    assert report["findings"] == []
    assert set(report["payments"]) == {"pending", "completed", "failed", "cancelled"}
    assert report["balances_compared"]


async def test_events_can_be_published_again_as_they_were(world: OrdersWorld) -> None:

    await world.at_rest()
    payment = await standing(world, "success")
    first = await world.published(payment["paymentId"], 2)
    again = await replayed(world)
    mine = [line for line in again if line["key"] == first[0]["key"]]
    assert mine == first
