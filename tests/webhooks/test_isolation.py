"""One endpoint's trouble is its own: others are told while it hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from clients.webhooks import WebhookPoster
from engine.accepting import Caller
from tests.store.datasets import Dataset, eventually
from tests.webhooks.world import DAY_S, LEASE_S, Clock, Got, Hooks, Receiver, notice

OWNERS = [f"owner-{number}" for number in range(100)]


@pytest.fixture
async def hanging(receiver: Receiver) -> AsyncIterator[list[str]]:
    """Posts to `/dead…` hang until the end of the test; gives the paths that do."""
    over, under_way = asyncio.Event(), list[str]()

    async def answer(got: Got) -> web.StreamResponse:
        if got.path.startswith("/dead"):
            under_way.append(got.path)
            await over.wait()
        return web.Response()

    receiver.answer = answer
    yield under_way
    over.set()


def at_once(data: Dataset, number: int) -> Hooks:
    """A sender for so many tries at once, with more patience than a slow machine needs for the others."""
    clock = Clock()
    poster = WebhookPoster(clock, timeout_s=600, allow_http=True, allow_private=True)
    return Hooks(data, clock, poster, at_once=number, endpoints_max=1000)


async def set_failing(hooks: Hooks, endpoint_id: str) -> None:
    """Let the endpoint have taken nothing the last time."""
    endpoint = await hooks.store.get(endpoint_id)
    assert endpoint is not None
    newer = msgspec.structs.replace(endpoint, version=endpoint.version + 1, failing_since_ms=hooks.clock())
    assert await hooks.store.change(newer)


@contextlib.asynccontextmanager
async def cut_short(hooks: Hooks) -> AsyncIterator[None]:
    """The sender runs until the end of the block, and does not wait for those that hang."""
    task = asyncio.create_task(hooks.sender.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def hang(under_way: list[str], count: int) -> None:
    """Wait until so many tries hang."""

    async def so_many() -> bool:
        return len(under_way) >= count

    await eventually(so_many, timeout_s=60)


async def put_off(hooks: Hooks) -> bool:
    """Whether one that waits was told to come again a little later: it is leased no more, and not due."""
    scores = [score for name in await hooks.data.names() if ":lines:" in name for score in await ends(hooks, name)]
    return any(hooks.clock() < score < hooks.clock() + LEASE_S * 1000 for score in scores)


async def ends(hooks: Hooks, name: str) -> list[float]:
    """When the lines of a lane are due."""
    return [float(score) for _, score in await hooks.data.ask("ZRANGE", name, 0, -1, "WITHSCORES")]


async def everybody_told(receiver: Receiver, path: str, count: int) -> None:
    """Wait until so many messages have come to this path."""

    async def told() -> bool:
        return len(receiver.ids(path)) >= count

    await eventually(told, timeout_s=60)


async def test_an_endpoint_that_hangs_has_four_tries_under_way_and_the_others_all_the_rest(
    data: Dataset, receiver: Receiver, hanging: list[str]
) -> None:
    """Five at once is one more than it may have: everybody else goes through that one."""
    hooks = at_once(data, 5)
    await hooks.made(receiver.url + "/dead", Caller("dead", privileged=False))
    for owner in OWNERS:
        await hooks.made(receiver.url + "/alive", Caller(owner, privileged=False))
    await hooks.told(*(notice(subject=f"dead-{number}", user="dead") for number in range(300)))
    async with cut_short(hooks):
        await hooks.told(*(notice(subject=f"pay-{owner}", user=owner) for owner in OWNERS))
        await everybody_told(receiver, "/alive", len(OWNERS))
        # Others may come first: they are as many to one.
        await hang(hanging, 4)
        assert hanging == ["/dead"] * 4


async def test_many_that_failed_before_and_hang_now_leave_half_to_the_others(
    data: Dataset, receiver: Receiver, hanging: list[str]
) -> None:
    hooks = at_once(data, 8)
    for number in range(20):
        endpoint_id, _ = await hooks.made(f"{receiver.url}/dead-{number}", Caller(f"dead-{number}", privileged=False))
        await set_failing(hooks, endpoint_id)
        await hooks.told(*(notice(subject=f"d-{each}", user=f"dead-{number}") for each in range(5)))
    await hooks.made(receiver.url + "/alive", Caller("alive", privileged=False))
    async with cut_short(hooks):
        await hang(hanging, 4)
        await hooks.told(*(notice(number, user="alive") for number in range(50)))
        await everybody_told(receiver, "/alive", 50)
        assert len(hanging) == 4


async def test_those_that_found_no_room_are_tried_later_and_lose_no_try(
    data: Dataset, receiver: Receiver, hanging: list[str]
) -> None:
    hooks = at_once(data, 2)
    names = ("one", "two")
    made = {
        name: (await hooks.made(f"{receiver.url}/dead-{name}", Caller(name, privileged=False)))[0] for name in names
    }
    for name, endpoint_id in made.items():
        await set_failing(hooks, endpoint_id)
        await hooks.told(notice(user=name))
    async with cut_short(hooks):
        await hang(hanging, 1)
        await eventually(lambda: put_off(hooks))
        assert len(hanging) == 1
    hooks.clock.move(DAY_S)
    receiver.answer = lambda _: web.Response()
    for _ in names:
        await hooks.sent()
        # When both are found together, there is room for one, and the other comes a moment later.
        hooks.clock.move(2)
    states = [(await hooks.listed(made[name], Caller(name, privileged=False)))[0] for name in names]
    assert states == [("pay-1-1", "delivered", [200])] * 2
