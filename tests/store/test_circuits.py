"""Orders about circuits: the latest of each counterparty, whoever writes at the same time, and a bounded log."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from engine.circuits import Action, CircuitOrder
from engine.errors import StoreUnavailable
from engine.store.batch import Batcher
from engine.store.circuits import LOG_MAX, RedisCircuits
from engine.store.keys import CIRCUIT_LOG, CIRCUITS
from engine.store.step import Refusal, Step
from tests.store.datasets import Dataset, only


def an_order(name: str = "bank", action: Action = Action.FORCE_OPEN, reason: str = "tests") -> CircuitOrder:
    return CircuitOrder(counterparty=name, action=action, actor="ada", reason=reason, at_ms=7)


async def test_nothing_is_in_force_before_the_first_order(store: Dataset) -> None:
    circuits = RedisCircuits(store.batcher)
    assert (await circuits.orders(), await circuits.log()) == ({}, [])
    assert await store.names() == set()


async def test_the_latest_order_of_each_counterparty_is_in_force_and_the_log_has_all(store: Dataset) -> None:
    circuits = RedisCircuits(store.batcher)
    await circuits.give(an_order())
    await circuits.give(an_order("shop", Action.CLOSE))
    given = await circuits.give(an_order(action=Action.RESET, reason="Größe ✓"))
    assert given == await RedisCircuits(store.batcher).orders()
    assert {name: (each.action, each.generation) for name, each in given.items()} == {
        "bank": (Action.RESET, 3), "shop": (Action.CLOSE, 2),
    }  # fmt: skip
    assert [(each.counterparty, each.generation) for each in await circuits.log()] == [
        ("bank", 3), ("shop", 2), ("bank", 1),
    ]  # fmt: skip
    assert [each.generation for each in await circuits.log(limit=2)] == [3, 2]


class LosesOneAnswer:
    """A batcher whose first step runs, and nobody is told."""

    def __init__(self, batcher: Batcher) -> None:
        self.command, self._step = batcher.command, batcher.step
        self._lost = False

    async def step(self, step: Step) -> list[Any] | Refusal:
        done = await self._step(step)
        if not self._lost:
            self._lost = True
            raise StoreUnavailable("no answer")
        return done


async def test_an_order_whose_answer_was_lost_is_not_given_again_over_a_later_one(store: Dataset) -> None:
    async def meanwhile(_: float) -> None:
        await RedisCircuits(store.batcher).give(an_order(action=Action.RESET, reason="later"))

    losing = RedisCircuits(cast(Batcher, LosesOneAnswer(store.batcher)), sleep=meanwhile)
    told = await losing.give(an_order(reason="earlier"))
    assert (told["bank"].reason, told["bank"].generation) == ("later", 2)
    assert [each.reason for each in await RedisCircuits(store.batcher).log()] == ["later", "earlier"]


async def test_orders_that_race_are_all_given_one_after_the_other(store: Dataset) -> None:
    names = [f"bank-{number}" for number in range(5)]
    await asyncio.gather(*(RedisCircuits(store.batcher).give(an_order(name)) for name in names))
    orders = await RedisCircuits(store.batcher).orders()
    assert sorted(orders) == names
    assert sorted(each.generation for each in orders.values()) == [1, 2, 3, 4, 5]
    assert len(await RedisCircuits(store.batcher).log()) == 5


@only("redis", why="a bound is a bound on every server")
async def test_the_log_is_bounded(store: Dataset) -> None:
    circuits = RedisCircuits(store.batcher)
    for number in range(LOG_MAX + 5):
        await circuits.give(an_order(reason=str(number)))
    assert await store.ask("LLEN", CIRCUIT_LOG) == LOG_MAX
    assert (await circuits.log(limit=1))[0].reason == str(LOG_MAX + 4)


@pytest.mark.parametrize("rubbish", [b"rubbish", b"[]", b'{"\xff": 1}'])
async def test_what_is_no_document_is_said_to_be_none(store: Dataset, rubbish: bytes) -> None:
    await store.ask("SET", CIRCUITS, rubbish)
    with pytest.raises(msgspec.DecodeError):
        await RedisCircuits(store.batcher).orders()
