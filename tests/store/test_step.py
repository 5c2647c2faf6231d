"""A step: all of its conditions hold and all of its commands run, or nothing is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.crc import key_slot

from engine.errors import StoreUnavailable
from engine.store.step import SCRIPT_SHA, Refusal, Step
from tests.store.datasets import BOTH_PROTOCOLS, Dataset, servers_only

RECORD = '{"v":12,"id":"pay-1"}'
Condition = Callable[[Step, Dataset], None]


@pytest.fixture(params=BOTH_PROTOCOLS)
def kind(request: pytest.FixtureRequest) -> str:
    """What is tested here reads replies of either form."""
    return str(request.param)


def _key(store: Dataset, name: str) -> str:
    return f"{store.shard.tag}:{name}"


async def _prepare(store: Dataset) -> None:
    """One key of each kind that conditions speak of."""
    await store.ask("SET", _key(store, "text"), "mine")
    await store.ask("SET", _key(store, "record"), RECORD)
    await store.ask("SET", _key(store, "no-record"), "plain text")
    for _ in range(2):
        await store.ask("XADD", _key(store, "stream"), "*", "p", "1")


def _value(name: str, value: str) -> Condition:
    return lambda step, store: step.expect_value(_key(store, name), value)


def _version(name: str, version: int) -> Condition:
    return lambda step, store: step.expect_version(_key(store, name), version)


def _below(name: str, entries_max: int) -> Condition:
    return lambda step, store: step.expect_below(_key(store, name), entries_max)


HOLDS = {
    "the value is there": _value("text", "mine"),
    "no value is expected and there is none": _value("none", ""),
    "the version is there": _version("record", 12),
    "no record is expected and there is none": _version("none", 0),
    "the stream is shorter": _below("stream", 3),
    "there is no stream yet": _below("none", 1),
}

FAILS: dict[str, tuple[Condition, bytes]] = {
    "another value is there": (_value("text", "yours"), b"mine"),
    "a value is expected and there is none": (_value("none", "mine"), b""),
    "no value is expected and there is one": (_value("text", ""), b"mine"),
    "only the beginning of the value is the same": (_value("text", "min"), b"mine"),
    "an older version is expected": (_version("record", 11), RECORD.encode()),
    "only the first digit of the version is the same": (_version("record", 1), RECORD.encode()),
    "no record is expected and there is one": (_version("record", 0), RECORD.encode()),
    "a version is expected and there is no record": (_version("none", 12), b""),
    "a version is expected of something that is no record": (_version("no-record", 1), b"plain text"),
    "the stream is as long as the bound": (_below("stream", 2), b"2"),
    "the stream is longer than the bound": (_below("stream", 1), b"2"),
}


@pytest.mark.parametrize("condition", HOLDS.values(), ids=HOLDS)
async def test_a_condition_that_holds_lets_the_commands_run(store: Dataset, condition: Condition) -> None:
    await _prepare(store)
    step = Step()
    condition(step, store)
    step.do("SET", _key(store, "written"), "yes")
    assert isinstance(await store.batcher.step(step), list)
    assert await store.ask("GET", _key(store, "written")) == b"yes"


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", FAILS)
async def test_nothing_is_written_when_any_condition_fails(store: Dataset, name: str, place: int) -> None:
    """First, in the middle or last: the refusal names it and shows what was found there."""
    condition, found = FAILS[name]
    await _prepare(store)
    before = await store.dump()
    step = Step()
    # Commands named before the conditions, and commands of every kind: the order of the calls is no excuse.
    step.do("SET", _key(store, "text"), "overwritten")
    conditions = [_value("none", ""), _version("record", 12)]
    conditions.insert(place, condition)
    for each in conditions:
        each(step, store)
    step.do("DEL", _key(store, "record"))
    step.do("XADD", _key(store, "stream"), "*", "p", "2")
    step.do("RPUSH", _key(store, "list"), "a")
    refusal = await store.batcher.step(step)
    assert isinstance(refusal, Refusal)
    assert (refusal.check, refusal.found) == (place, found)
    assert await store.dump() == before


async def test_the_first_of_several_failing_conditions_is_named(store: Dataset) -> None:
    await _prepare(store)
    step = Step()
    _value("text", "mine")(step, store)
    _version("record", 7)(step, store)
    _below("stream", 1)(step, store)
    refusal = await store.batcher.step(step)
    assert isinstance(refusal, Refusal)
    assert (refusal.check, refusal.found) == (1, RECORD.encode())


async def test_conditions_are_tested_on_what_was_there_before_the_step(store: Dataset) -> None:
    """A command that makes a condition of its own step false does not matter: all are tested before the first write."""
    step = Step()
    step.do("SET", _key(store, "claim"), "mine")
    step.expect_value(_key(store, "claim"), "")
    step.do("XADD", _key(store, "stream"), "*", "p", "1")
    step.expect_below(_key(store, "stream"), 1)
    replies = await store.batcher.step(step)
    assert isinstance(replies, list)
    assert await store.ask("GET", _key(store, "claim")) == b"mine"


async def test_a_step_that_ran_is_refused_the_second_time_by_its_own_trace(store: Dataset) -> None:
    step = Step()
    step.expect_value(_key(store, "claim"), "")
    step.do("SET", _key(store, "claim"), "mine")
    step.do("RPUSH", _key(store, "list"), "once")
    assert isinstance(await store.batcher.step(step), list)
    refusal = await store.batcher.step(step)
    assert isinstance(refusal, Refusal)
    assert refusal.found == b"mine"
    assert await store.ask("LLEN", _key(store, "list")) == 1


async def test_replies_come_back_in_the_order_of_the_commands(store: Dataset) -> None:
    step = Step()
    nothing = step.do("GET", _key(store, "none"))
    pushed = step.do("RPUSH", _key(store, "list"), "a", b"\x00\xff\r\n", 3)
    still_nothing = step.do("GET", _key(store, "none"))
    page = step.do("LRANGE", _key(store, "list"), 0, -1)
    added = step.do("HINCRBY", _key(store, "hash"), "field", -(2**62))
    replies = await store.batcher.step(step)
    assert isinstance(replies, list)
    assert [nothing, pushed, still_nothing, page, added] == [0, 1, 2, 3, 4]
    assert replies == [None, 3, None, [b"a", b"\x00\xff\r\n", b"3"], -(2**62)]


async def test_bytes_of_any_kind_survive_a_step(store: Dataset) -> None:
    value = bytes(range(256)) * 40
    step = Step()
    step.do("SET", _key(store, "bytes"), value)
    await store.batcher.step(step)
    assert await store.ask("GET", _key(store, "bytes")) == value


async def test_a_step_of_hundreds_of_commands_runs_whole(store: Dataset) -> None:
    step = Step()
    for number in range(400):
        step.do("RPUSH", _key(store, "list"), number, *range(10))
    replies = await store.batcher.step(step)
    assert replies == [11 * (number + 1) for number in range(400)]


async def test_steps_heal_a_server_that_has_lost_the_script(store: Dataset) -> None:
    async def claim(number: int) -> Any:
        step = Step()
        step.expect_value(_key(store, f"claim-{number}"), "")
        step.do("SET", _key(store, f"claim-{number}"), "mine")
        return await store.batcher.step(step)

    await claim(0)
    await store.everywhere("SCRIPT FLUSH")
    assert await asyncio.gather(*(claim(number) for number in range(1, 21))) == [[b"OK"]] * 20
    # And the script is there again: the cheap way works for the next one.
    assert await store.batcher.command("EVALSHA", SCRIPT_SHA, 1, _key(store, "claim-0"), 0, 0) == [1]


async def test_a_step_that_is_half_refused_by_redis_itself_is_not_confirmed(store: Dataset) -> None:
    """Redis does not roll a script back: a command on a key of the wrong type is a bug, and not hidden."""
    await store.ask("SET", _key(store, "text"), "mine")
    step = Step()
    step.do("RPUSH", _key(store, "text"), "a")
    with pytest.raises(StoreUnavailable):
        await store.batcher.step(step)


@servers_only("fakeredis has no memory limit")
async def test_a_full_memory_refuses_a_step_whole(store: Dataset) -> None:
    await _prepare(store)
    before = await store.dump()
    await store.everywhere("CONFIG SET", "maxmemory", "1")
    try:
        step = Step()
        step.do("SET", _key(store, "text"), "overwritten")
        step.do("DEL", _key(store, "record"))
        step.do("RPUSH", _key(store, "list"), "a")
        with pytest.raises(StoreUnavailable):
            await store.batcher.step(step)
        assert await store.dump() == before
    finally:
        await store.everywhere("CONFIG SET", "maxmemory", "0")


def test_every_key_that_a_step_touches_is_declared_once() -> None:
    step = Step()
    step.expect_value("{p00}:a", "")
    step.expect_below("{p00}:b", 7)
    step.do("SET", "{p00}:a", "x")
    step.do("XADD", "{p00}:b", "*", "p", "{p00}:not-a-key")
    count, *rest = step.arguments()
    assert isinstance(count, int)
    assert rest[:count] == ["{p00}:a", "{p00}:b"]
    assert rest[count:] == [
        2, "value", 1, "", "below", 2, 7,
        2, "SET", 1, 1, "x", "XADD", 2, 3, "*", "p", "{p00}:not-a-key",
    ]  # fmt: skip
    assert len({key_slot(str(key).encode()) for key in rest[:count]}) == 1
