"""The bulkhead: how many get in, in which order, and what becomes of those who give up."""

from __future__ import annotations

import asyncio
import random

import pytest

from resilience.bulkhead import Bulkhead
from resilience.errors import BulkheadFull


def bulkhead(concurrency_max: int = 1, waiting_max: int = 10, waiting_timeout_s: float = 5.0) -> Bulkhead:
    return Bulkhead(
        "bank", concurrency_max=concurrency_max, waiting_max=waiting_max, waiting_timeout_s=waiting_timeout_s
    )


async def queue(doors: Bulkhead, patience_s: float | None = None) -> asyncio.Task[None]:
    task = asyncio.ensure_future(doors.enter(patience_s=patience_s))
    await asyncio.sleep(0)
    return task


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_free_place_is_taken_without_waiting() -> None:
    doors = bulkhead(concurrency_max=2)
    assert [doors.enter_now() for _ in range(3)] == [True, True, False]
    doors.leave()
    entering = doors.enter()
    with pytest.raises(StopIteration):
        entering.send(None)  # it ends at once: it never gave way to the loop
    assert doors.in_flight == 2


async def test_those_who_wait_get_in_first_come_first_served() -> None:
    doors = bulkhead()
    assert doors.enter_now()
    order: list[int] = []

    async def call(number: int) -> None:
        await doors.enter()
        order.append(number)
        doors.leave()

    async with asyncio.TaskGroup() as crowd:
        for number in range(8):
            crowd.create_task(call(number))
        await settle()
        assert doors.waiting == 8
        doors.leave()
    assert order == list(range(8))
    assert (doors.in_flight, doors.waiting) == (0, 0)


async def test_a_newcomer_does_not_overtake_the_queue() -> None:
    doors = bulkhead()
    assert doors.enter_now()
    waiting = await queue(doors)
    doors.leave()
    assert not doors.enter_now()  # the place has been handed over, though the waiter has not run yet
    await waiting
    assert doors.in_flight == 1


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    doors = bulkhead(waiting_max=2, waiting_timeout_s=5)
    assert doors.enter_now()
    waiting = [await queue(doors), await queue(doors)]
    with pytest.raises(BulkheadFull, match="1 calls under way, 2 waiting") as caught:
        await doors.enter()
    assert caught.value.retry_after_s == 5
    assert caught.value.sent is False
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_without_a_queue_it_refuses_when_every_place_is_taken() -> None:
    doors = bulkhead(waiting_max=0)
    assert doors.enter_now()
    with pytest.raises(BulkheadFull):
        await doors.enter()


@pytest.mark.parametrize(("waiting_timeout_s", "patience_s"), [(0.01, None), (60.0, 0.01), (0.01, 60.0)])
async def test_nobody_waits_longer_than_allowed(waiting_timeout_s: float, patience_s: float | None) -> None:
    doors = bulkhead(waiting_timeout_s=waiting_timeout_s)
    assert doors.enter_now()
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    with pytest.raises(BulkheadFull):
        await doors.enter(patience_s=patience_s)
    assert loop.time() - started_s < 30
    assert (doors.in_flight, doors.waiting) == (1, 0)


async def test_one_without_patience_does_not_wait_at_all() -> None:
    doors = bulkhead()
    assert doors.enter_now()
    entering = doors.enter(patience_s=0)
    with pytest.raises(BulkheadFull):
        entering.send(None)


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    doors = bulkhead()
    assert doors.enter_now()
    first, second = await queue(doors), await queue(doors)
    first.cancel()
    await asyncio.wait([first])
    assert doors.waiting == 1
    doors.leave()
    await second
    assert (doors.in_flight, doors.waiting) == (1, 0)


async def test_a_place_given_to_one_who_is_being_cancelled_goes_to_the_next() -> None:
    """The hand-over and the cancellation meet in one loop pass; the place must not be lost."""
    doors = bulkhead()
    assert doors.enter_now()
    first, second = await queue(doors), await queue(doors)
    doors.leave()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    assert doors.in_flight == 1
    doors.leave()
    assert doors.in_flight == 0


async def test_a_place_freed_just_after_a_cancellation_skips_the_cancelled_one() -> None:
    doors = bulkhead()
    assert doors.enter_now()
    first, second = await queue(doors), await queue(doors)
    first.cancel()
    doors.leave()
    await settle()
    assert first.cancelled()
    assert second.done()
    assert (doors.in_flight, doors.waiting) == (1, 0)


async def test_a_crowd_with_cancellations_keeps_the_bound_and_loses_no_place() -> None:
    chance = random.Random(20260302)
    doors = bulkhead(concurrency_max=3, waiting_max=20)
    inside = most = refused = 0

    async def call() -> None:
        nonlocal inside, most
        if not doors.enter_now():
            await doors.enter()
        try:
            inside += 1
            most = max(most, inside)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            inside -= 1
            doors.leave()

    async def caller() -> None:
        nonlocal refused
        for _ in range(50):
            task = asyncio.ensure_future(call())
            if chance.random() < 0.3:
                for _ in range(chance.randrange(6)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            refused += not task.cancelled() and isinstance(task.exception(), BulkheadFull)

    async with asyncio.TaskGroup() as crowd:
        for _ in range(40):
            crowd.create_task(caller())
    assert most == 3
    assert refused > 0
    assert (doors.in_flight, doors.waiting) == (0, 0)
