"""Accepting while the services around it fail, hang, or the client goes away."""

from __future__ import annotations

import asyncio

import pytest

from engine import errors
from tests.engine.accepting_world import ORDER, USER, Desk

USERS_DOWN = errors.UserServiceUnavailable("down", retry_after_s=3.0)
ORDERS_DOWN = errors.OrderServiceUnavailable("down", retry_after_s=7.0)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


def others() -> int:
    """Tasks beside the test's own."""
    return len(asyncio.all_tasks()) - 1


@pytest.mark.parametrize("error", [USERS_DOWN, errors.BadUpstreamAnswer("nonsense")])
async def test_trouble_with_the_user_service_is_told_as_it_is_and_ends_the_other_question(
    desk: Desk, error: errors.TryLater
) -> None:
    desk.users.error, desk.orders.hold = error, asyncio.Event()
    with pytest.raises(errors.TryLater) as refused:
        await desk.accept()
    assert refused.value is error and desk.orders.cancelled == 1
    assert desk.store.empty and others() == 0


async def test_trouble_with_the_order_service_is_told_as_it_is_and_ends_the_other_question(desk: Desk) -> None:
    desk.orders.error, desk.users.hold = ORDERS_DOWN, asyncio.Event()
    with pytest.raises(errors.OrderServiceUnavailable) as refused:
        await desk.accept()
    assert refused.value is ORDERS_DOWN and desk.users.cancelled == 1
    assert desk.store.empty and others() == 0


async def test_trouble_with_both_is_told_as_one_of_them_and_not_as_a_group(desk: Desk) -> None:
    """The surfaces know engine errors; an exception group would be a 500."""
    desk.users.error, desk.orders.error = USERS_DOWN, ORDERS_DOWN
    with pytest.raises(errors.TryLater) as refused:
        await desk.accept()
    assert refused.value in (USERS_DOWN, ORDERS_DOWN) and refused.value.retry == "after"
    assert desk.store.empty and others() == 0


async def test_trouble_with_the_order_service_is_told_when_the_user_is_known(desk: Desk) -> None:
    desk.users.cache.update(desk.users.users)
    desk.orders.error = ORDERS_DOWN
    with pytest.raises(errors.OrderServiceUnavailable):
        await desk.accept()
    assert desk.store.empty


async def test_a_bug_in_a_client_is_not_hidden(desk: Desk) -> None:
    desk.users.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await desk.accept()
    assert desk.store.empty


async def test_a_cancelled_request_cancels_both_questions_and_writes_nothing(desk: Desk) -> None:
    desk.users.hold = desk.orders.hold = asyncio.Event()
    request = asyncio.create_task(desk.accept())
    await asyncio.gather(desk.users.reached.wait(), desk.orders.reached.wait())
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert (desk.users.cancelled, desk.orders.cancelled) == (1, 1)
    assert desk.store.empty and others() == 0


@pytest.mark.parametrize("passes", range(12))
async def test_a_request_that_is_cancelled_at_any_moment_can_be_repeated(desk: Desk, passes: int) -> None:
    request = asyncio.create_task(desk.accept())
    for _ in range(passes):
        await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    claimed = [record.payment_id for record in desk.store.keys.values()]
    payment = (await desk.accept()).payment
    assert claimed in ([], [payment.id]) and [made.id for made in desk.store.created] == [payment.id]
    assert others() == 0


async def test_what_a_refusal_cost_is_only_the_questions(desk: Desk) -> None:
    desk.orders.error = ORDERS_DOWN
    with pytest.raises(errors.OrderServiceUnavailable):
        await desk.accept()
    desk.orders.error = None
    await desk.accept()
    assert (desk.users.asked, desk.orders.asked) == ([USER, USER], [ORDER, ORDER])
