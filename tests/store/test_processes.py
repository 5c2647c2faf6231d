"""What processes tell of themselves: seen while they live, gone soon after."""

from __future__ import annotations

from engine.store.keys import PROCESS, PROCESSES
from engine.store.processes import PROCESSES_MAX, TTL_S, RedisProcesses
from tests.store.datasets import Dataset, only


async def test_everybody_sees_what_everybody_tells(store: Dataset) -> None:
    one, other = RedisProcesses(store.batcher), RedisProcesses(store.batcher)
    assert await one.all() == []
    await one.tell("one", b"1")
    await other.tell("other", b"2")
    await one.tell("one", b"3")
    assert await other.all() == [b"3", b"2"]


async def test_what_is_told_goes_with_its_process(store: Dataset) -> None:
    one, other = RedisProcesses(store.batcher), RedisProcesses(store.batcher)
    await one.tell("one", b"1")
    await other.tell("other", b"2")
    assert 0 < await store.ask("PTTL", PROCESS + "one") <= TTL_S * 1000
    await store.ask("DEL", PROCESS + "one")
    assert await other.all() == [b"2"]
    assert await store.ask("SCARD", PROCESSES) == 1, "nobody is looked for twice"
    await one.tell("one", b"1")
    assert await other.all() == [b"1", b"2"], "who was only slow is back"


async def test_telling_the_same_again_keeps_it_alive(store: Dataset) -> None:
    one = RedisProcesses(store.batcher)
    await one.tell("one", b"1")
    await store.ask("PEXPIRE", PROCESS + "one", 1000)
    await store.ask("DEL", PROCESSES)
    await one.tell("one", b"1")
    assert await store.ask("PTTL", PROCESS + "one") > 1000
    assert await one.all() == [b"1"]


async def test_who_begins_to_tell_forgets_those_who_are_gone(store: Dataset) -> None:
    """Every start has a new name, and perhaps nobody ever looks."""
    for name in ("one", "other"):
        await RedisProcesses(store.batcher).tell(name, b"1")
        await store.ask("DEL", PROCESS + name)
    await RedisProcesses(store.batcher).tell("third", b"3")
    assert await store.ask("SMEMBERS", PROCESSES) == {b"third"}


@only("redis", why="a bound is a bound on every server")
async def test_no_more_than_so_many_are_read(store: Dataset) -> None:
    for number in range(PROCESSES_MAX + 3):
        await RedisProcesses(store.batcher).tell(f"process-{number}", b"%d" % number)
    assert len(await RedisProcesses(store.batcher).all()) == PROCESSES_MAX
