"""Whose payments a token shows: its own, and everybody's with the role `service` or `admin`."""

from __future__ import annotations

import pytest

from tests.orders.world import ADMIN, PAYMENTS, OrdersWorld, of
from tests.support import payment_body, token

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_payment_of_somebody_else_does_not_exist(world: OrdersWorld) -> None:
    payment = await world.created(user_id=3)
    number = payment["paymentId"]
    async with world.nothing_written():
        for answer in (
            await world.read(number, auth=of(4)),
            await world.put_status(number, "cancelled", auth=of(4)),
            await world.put_status(number, "success", auth=of(4)),
            await world.listed(3, auth=of(4)),
        ):
            assert world.refused(answer, 404)["error"] == "Payment not found"


async def test_its_owner_and_a_service_see_it(world: OrdersWorld) -> None:
    payment = await world.created(user_id=3)
    for auth in (of(3), ADMIN, token("shop", role="service")):
        assert (await world.read(payment["paymentId"], auth=auth)).json["payment"] == payment


async def test_nobody_pays_for_somebody_else(world: OrdersWorld) -> None:
    async with world.nothing_written():
        answer = await world.create({"userId": 3, "orderId": world.new_order(), "amount": 1}, auth=of(4))
        world.refused(answer, 403, "FORBIDDEN")


@pytest.mark.parametrize("subject", ["03", "3.0", " 3", "3 ", "+3", "٣"])
async def test_a_subject_that_only_looks_like_the_user_is_another_one(world: OrdersWorld, subject: str) -> None:
    payment = await world.created(user_id=3)
    world.refused(await world.read(payment["paymentId"], auth=token(subject)), 404)


@pytest.mark.parametrize("bad", ["nonsense", token("3", secret="x" * 40), token("3", hours=-1)])
async def test_a_token_that_is_not_good_is_refused(world: OrdersWorld, bad: str) -> None:
    answer = await world.read(1, auth=bad)
    assert "access token" in world.refused(answer, 401, "UNAUTHORIZED")["error"]
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_users_list_is_newest_first_and_his_own(world: OrdersWorld) -> None:
    made = [await world.created(user_id=50) for _ in range(12)]
    await world.created(user_id=51)
    assert (await world.listed(50, auth=of(50))).json["payments"] == made[::-1]
    assert (await world.listed(52, auth=of(52))).json == {"payments": []}


async def test_surfaces_do_not_meet(world: OrdersWorld) -> None:
    """A user and an order of one name on both surfaces are two users and two orders."""
    order_id = world.new_order()
    await world.sims.user("9")
    await world.sims.order(str(order_id), user_id="9")
    ours = await world.created(user_id=9, order_id=order_id)
    orders_base, world.engine.base = world.engine.base, f"http://127.0.0.1:{world.engine.port}"
    try:
        paid = await world.engine.post(payment_body(str(order_id), user_id="9"), auth=of(9), wait_s=10)
        assert paid.status == 201, await paid.text()
        there = await world.get(f"{PAYMENTS}/user/9", auth=of(9))
        assert [payment["orderId"] for payment in there.json["payments"]] == [str(order_id)]
        assert len(there.json["payments"]) == 1
    finally:
        world.engine.base = orders_base
    assert (await world.listed(9, auth=of(9))).json["payments"] == [ours]
