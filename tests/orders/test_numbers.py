"""Payment numbers and orders under races, restarts and crashes: no number twice, no order paid twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.orders.world import ADMIN, OrdersWorld, engine_at, eventually, orders_world
from tests.support import temporary_folder

pytestmark = pytest.mark.asyncio(loop_scope="package")

RACERS = 50


async def test_fifty_racing_creates_for_one_order_make_one_payment(world: OrdersWorld) -> None:
    body = {"userId": 1, "orderId": world.new_order(), "amount": 5}
    answers = await asyncio.gather(*(world.create(body) for _ in range(RACERS)))
    statuses = [answer.status for answer in answers]
    assert (statuses.count(201), statuses.count(400)) == (1, RACERS - 1)
    [made] = [answer.json["payment"] for answer in answers if answer.status == 201]
    for answer in answers:
        if answer.status == 400:
            assert world.refused(answer, 400, "PAY_003")["error"] == "Payment for this order already exists"
    assert await world.published(made["paymentId"], 1)


async def test_fifty_racing_creates_for_fifty_orders_have_fifty_numbers(world: OrdersWorld) -> None:
    made = await asyncio.gather(*(world.created(user_id=number + 1) for number in range(RACERS)))
    assert len({payment["paymentId"] for payment in made}) == RACERS


async def test_a_duplicate_burns_no_number(world: OrdersWorld) -> None:
    first = await world.created()
    for _ in range(5):
        answer = await world.create({"userId": 1, "orderId": first["orderId"], "amount": 1})
        assert answer.status == 400
    assert (await world.created())["paymentId"] == first["paymentId"] + 1


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_after_a_payment_that_came_to_nothing_the_order_may_be_paid_again(end: str) -> None:
    async with orders_world(PAYMENTS__ORDERS_API__BEGINS="pending") as world:
        first = await world.created(order_id=77)
        assert (await world.put_status(first["paymentId"], end)).status == 200
        again = await world.created(order_id=77)
        assert again["paymentId"] != first["paymentId"]
        assert (await world.create({"userId": 1, "orderId": 77, "amount": 1})).status == 400
        assert (await world.read(first["paymentId"])).json["payment"]["status"] == end
        assert world.audit()["findings"] == []


@contextlib.asynccontextmanager
async def second_process(world: OrdersWorld, gateway: str) -> AsyncIterator[OrdersWorld]:
    """One more engine process on the same Redis."""
    with temporary_folder() as folder:
        engine = engine_at(world.redis.url, world.sims, folder, gateway)
        try:
            await engine.start()
            yield OrdersWorld(world.redis, world.sims, engine, world.sims.session, world.gateway)
        finally:
            await engine.close()


async def test_two_processes_never_give_one_number_twice_and_see_each_others_payments() -> None:
    async with orders_world() as one, second_process(one, one.gateway.base) as two:
        two._orders = one._orders
        made = await asyncio.gather(*((one, two)[number % 2].created() for number in range(60)))
        numbers = sorted(payment["paymentId"] for payment in made)
        assert numbers == list(range(1, 61))
        for payment in made[:4]:
            for process in (one, two):
                assert (await process.read(payment["paymentId"])).json["payment"] == payment
        assert one.audit()["findings"] == []


async def test_a_restart_goes_on_counting_and_finds_everything_again() -> None:
    async with orders_world() as world:
        before = [await world.created() for _ in range(3)]
        world.engine.kill()
        await world.engine.start()
        assert (await world.created())["paymentId"] == 4
        for payment in before:
            assert (await world.read(payment["paymentId"])).json["payment"] == payment
        assert len((await world.listed(1)).json["payments"]) == 4


async def test_a_crash_between_the_number_and_the_payment_costs_only_the_number() -> None:
    """The claims of a number are written first: what they lead to may be missing."""
    async with orders_world() as world:
        await world.created()
        with world.redis.client() as client:
            assert client.incr("payments:numbers:orders") == 2
            shard = next(name for name in client.scan_iter("*:number:*")).partition(":")[0]
            # Written where the number 2 belongs, as the process would have: an id that nobody has.
            for place in range(16):
                client.set(f"{{p{place:02x}}}:number:orders|2", "pay-01m7xy4brfn1x6gcpbpxac8n5v03")
            assert shard.startswith("{p")
        assert world.refused(await world.read(2), 404)["error"] == "Payment not found"
        assert (await world.created())["paymentId"] == 3
        assert world.audit()["findings"] == []


async def test_a_counter_that_has_lost_its_latest_steps_repeats_no_number() -> None:
    """A failover may take the counter back; what the numbers stand for is then still there."""
    async with orders_world() as world:
        made = [await world.created() for _ in range(5)]
        with world.redis.client() as client:
            client.set("payments:numbers:orders", "2")
        assert (await world.created())["paymentId"] == 6
        for payment in made:
            assert (await world.read(payment["paymentId"])).json["payment"] == payment


async def test_killed_while_it_works_the_engine_leaves_nothing_half_done() -> None:
    async with orders_world() as world:

        async def try_to_create() -> int:
            body = {"userId": 1, "orderId": world.new_order(), "amount": 1}
            try:
                return (await world.create(body, auth=ADMIN)).status
            except OSError:
                return 0

        for _ in range(3):
            working = [asyncio.create_task(try_to_create()) for _ in range(40)]

            async def some_are_done(working: list[asyncio.Task[int]] = working) -> bool:
                return any(task.done() for task in working)

            await eventually(some_are_done)
            world.engine.kill()
            await asyncio.gather(*working, return_exceptions=True)
            await world.engine.start()
        await world.at_rest()
        report = world.audit()
        assert report["findings"] == []
        listed = (await world.listed(1)).json["payments"]
        numbers = [payment["paymentId"] for payment in listed]
        assert len(set(numbers)) == len(numbers) == sum(report["payments"].values())
