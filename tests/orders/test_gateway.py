"""The gateway in trouble: refused with words, nothing written, and its circuit opens and closes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.orders.world import ADMIN, OrdersWorld, eventually, orders_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARDS = {
    f"PAYMENTS__ORDERS_API__{which}_GUARD__{name}": value
    for which in ("USERS", "ORDERS")
    for name, value in {
        "FAILURES_TO_OPEN": "4", "TRIALS": "2", "OPEN_S": "1", "TRIES_MAX": "1", "TIMEOUT_S": "1.5",
        "SLOW_CALL_S": "1.5", "WINDOW_CALLS_MIN": "100000",
    }.items()
} | {"PAYMENTS__ORDERS_API__USERS_CACHE_S": "0"}  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world() -> AsyncIterator[OrdersWorld]:
    """An engine that tries once, believes nobody twice, and opens its circuits soon."""
    async with orders_world(**GUARDS) as running:
        yield running


async def attempt(world: OrdersWorld) -> tuple[int, str]:
    """One create; its status and code."""
    answer = await world.create({"userId": 1, "orderId": world.new_order(), "amount": 1})
    return answer.status, "" if answer.status == 201 else world.refused(answer, answer.status)["code"]


async def healed(world: OrdersWorld) -> None:
    """Wait until a payment can be made again."""

    async def made() -> bool:
        return (await attempt(world))[0] == 201

    await world.sims.clear_faults(world.gateway.base)
    assert await eventually(made, within_s=20)


@pytest.mark.parametrize("path", ["/internal/users", "/internal/orders"])
@pytest.mark.parametrize(
    ("kind", "fields", "status"),
    [
        ("silence", {}, 503),
        ("reset", {}, 503),
        ("error_before", {}, 502),
        ("wrong_json", {}, 502),
        ("status", {"status": 200}, 201),
        ("status", {"status": 401}, 502),
        ("status", {"status": 204}, 502),
        ("status", {"status": 301}, 502),
    ],
)
async def test_an_answer_that_cannot_be_used_is_no_answer(
    world: OrdersWorld, path: str, kind: str, fields: dict[str, int], status: int
) -> None:
    await healed(world)
    await world.sims.fault(world.gateway.base, kind, path_contains=path, **fields)
    answer = await world.create({"userId": 1, "orderId": world.new_order(), "amount": 1})
    assert answer.status == status, answer.text
    if status != 201:
        refused = world.refused(answer, status)
        assert refused["details"]["counterparty"] == f"gateway_{path.rpartition('/')[2]}"
        assert int(answer.headers["Retry-After"]) >= 1


async def test_while_the_gateway_is_down_its_circuit_opens_and_nothing_is_written(world: OrdersWorld) -> None:
    await healed(world)
    paid = await world.created()
    await world.gateway.stop()
    async with world.nothing_written():
        for _ in range(6):
            assert (await attempt(world))[0] == 503
        answer = await world.create({"userId": 1, "orderId": world.new_order(), "amount": 1})
        refused = world.refused(answer, 503)
        assert refused["code"] in ("USER_SERVICE_UNAVAILABLE", "ORDER_SERVICE_UNAVAILABLE")
        assert (refused["retry"], answer.headers["Retry-After"]) == ("after", "1")
        assert refused["error"] == "the gateway is not asked now", "the circuit is open"
    # What is here already needs nobody.
    assert (await world.read(paid["paymentId"])).status == 200
    assert (await world.put_status(paid["paymentId"], "cancelled")).status == 200
    states = [await world.metric("circuit_breaker_state", counterparty=f"gateway_{it}") for it in ("users", "orders")]
    assert 2 in states
    await world.gateway.start()
    await healed(world)


async def test_a_user_that_exists_is_believed_to_for_a_while_and_one_that_does_not_is_asked_for_again() -> None:
    async with orders_world() as world:
        await world.created(user_id=7)
        await world.sims.fault(world.gateway.base, "status", status=404, path_contains="/internal/users")
        await world.created(user_id=7)
        answer = await world.create({"userId": 8, "orderId": world.new_order(), "amount": 1}, auth=ADMIN)
        world.refused(answer, 404, "USER_004")
        await world.sims.clear_faults(world.gateway.base)
        await world.created(user_id=8)
