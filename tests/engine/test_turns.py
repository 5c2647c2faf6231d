"""Taking turns: one at a time for each name, in the order of arrival, with a bound and no trace."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import Overloaded
from engine.turns import Turns


async def test_equal_names_take_turns_in_their_order_and_others_do_not_wait() -> None:
    turns, order, inside = Turns(), list[str](), 0

    async def take(name: str, mark: str) -> None:
        nonlocal inside
        async with turns.of(name):
            inside += name == "a"
            assert inside <= 1
            order.append(mark)
            await asyncio.sleep(0)
            inside -= name == "a"

    await asyncio.gather(*(take("a", f"a{number}") for number in range(5)), take("b", "b"))
    assert [each for each in order if each != "b"] == [f"a{number}" for number in range(5)]
    assert order.index("b") == 1
    assert turns._locks == {}


async def test_who_is_cancelled_or_fails_leaves_no_trace() -> None:
    turns = Turns()
    async with turns.of("a"):
        waiting = asyncio.create_task(turns.of("a").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    with pytest.raises(KeyError):
        async with turns.of("a"):
            raise KeyError
    assert turns._locks == {}


async def test_more_than_the_bound_are_refused() -> None:
    turns = Turns(waiting_max=1)
    async with turns.of("a"), turns.of("b"):
        with pytest.raises(Overloaded, match="turns"):
            async with turns.of("a"):
                pass
    async with turns.of("a"):
        pass
