"""The batcher: many callers share a pipeline, and none of them is harmed by what happens to another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback
from collections.abc import Iterator

import pytest

from engine.errors import Overloaded, StoreUnavailable
from engine.store.batch import Batcher
from engine.store.step import Step
from tests.store.datasets import Dataset, Places, batching, connected, eventually, only, running, servers_only
from tests.store.proxy import proxy_to
from tests.store.servers import one_server
from tests.support import RedisServer, free_port

CANARY = "4242424242424242"


def _names(store: Dataset, count: int) -> list[str]:
    """Names of keys that lie in all shards."""
    shards = store.keys.shards
    return [f"{shards[number % len(shards)].tag}:n{number}" for number in range(count)]


async def test_concurrent_commands_share_pipelines(store: Dataset) -> None:
    names = _names(store, 300)
    replies = await asyncio.gather(
        *(store.batcher.command("INCRBY", name, number) for number, name in enumerate(names))
    )
    assert replies == list(range(300)), "everybody gets the reply to what he asked"
    assert store.metric("store_batch_steps_sum") == 300
    assert store.metric("store_batch_steps_count") <= 6


async def test_no_pipeline_is_longer_than_its_bound(places: Places) -> None:
    async with places.running(batch_max=8) as store:
        await asyncio.gather(*(store.batcher.command("INCR", name) for name in _names(store, 100)))
        assert store.metric("store_batch_steps_bucket", le="8.0") == store.metric("store_batch_steps_count")
        assert store.metric("store_batch_steps_count") >= 100 / 8


async def test_a_full_batcher_refuses_at_once_and_works_again_afterwards(places: Places) -> None:
    client = places.client()
    store = Dataset(client, shards=16, waiting_max=16, batch_max=128, pipelines_max=2)
    *names, one_more = _names(store, 17)
    waiting = [store.batcher.command("INCR", name) for name in names]
    with pytest.raises(Overloaded) as refused:
        store.batcher.command("INCR", one_more)
    assert refused.value.bound == "store_waiting"
    assert store.metric("rejections_total", bound="store_waiting") == 1
    async with batching(store.batcher):
        assert await asyncio.gather(*waiting) == [1] * 16
        assert await store.batcher.command("INCR", one_more) == 1, "what was refused had not run"
    await client.aclose()


async def test_an_error_reply_fails_only_the_command_that_caused_it(store: Dataset) -> None:
    text, number = f"{store.shard.tag}:text", f"{store.shard.tag}:number"
    replies = await asyncio.gather(
        store.batcher.command("SET", text, "x"),
        store.batcher.command("RPUSH", text, "y"),
        store.batcher.command("INCR", text),
        store.batcher.command("INCR", number),
        return_exceptions=True,
    )
    assert store.metric("store_batch_steps_count") == 1, "all were in one pipeline"
    ok, wrong_type, no_number, one = replies
    assert ok in (True, b"OK")
    assert isinstance(wrong_type, StoreUnavailable)
    assert "WRONGTYPE" in str(wrong_type.details["reason"])
    assert isinstance(no_number, StoreUnavailable)
    assert one == 1


@pytest.mark.parametrize("passes", [0, 1, 2, 3])
async def test_a_caller_who_gives_up_does_not_disturb_the_others(store: Dataset, passes: int) -> None:
    """Whether the command still waits, is under way, or was just answered."""

    async def one(name: str) -> int:
        return int(await store.batcher.command("INCR", name))

    names = _names(store, 30)
    for again in (1, 2):
        callers = [asyncio.create_task(one(name)) for name in names]
        for _ in range(passes):
            await asyncio.sleep(0)
        for caller in callers[::3]:
            caller.cancel()
        await asyncio.wait(callers, timeout=10)
        assert [caller.result() for number, caller in enumerate(callers) if number % 3] == [again] * 20


@servers_only("fakeredis answers without a pause, so that there is nothing in the middle of which to cancel")
@pytest.mark.parametrize("passes", range(1, 13))
async def test_the_batcher_ends_when_it_is_cancelled_and_tells_whoever_waits(store: Dataset, passes: int) -> None:
    """In whatever moment: before a pipeline leaves, while it is written, while its answer is awaited."""
    batcher = Batcher(store.client, store.instruments, batch_max=4, pipelines_max=1)
    async with asyncio.timeout(20):
        async with batching(batcher):
            futures = [batcher.command("INCR", name) for name in _names(store, 40)]
            for _ in range(passes):
                await asyncio.sleep(0)
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert StoreUnavailable in map(type, outcomes)
    assert all(outcome == 1 or isinstance(outcome, StoreUnavailable) for outcome in outcomes)


async def test_a_command_after_the_batcher_has_ended_is_refused_and_does_not_wait_for_ever(store: Dataset) -> None:
    """A process that breaks ends all its tasks at once; giving a lease back then must not hang it."""
    batcher = Batcher(store.client, store.instruments)
    async with batching(batcher):
        assert await batcher.command("INCR", f"{store.shard.tag}:number") == 1
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable):
            await batcher.command("INCR", f"{store.shard.tag}:number")


@servers_only("fakeredis does not hold a command back")
async def test_an_answer_that_comes_after_the_batcher_ended_is_never_taken_for_another(store: Dataset) -> None:
    """The line on which an answer is still to come must not be used again."""
    shard = store.shard
    batcher = Batcher(store.client, store.instruments, pipelines_max=1)
    async with batching(batcher):
        blocked = batcher.command("BLPOP", f"{shard.tag}:queue", 60)
        await eventually(store.blocked)
    with pytest.raises(StoreUnavailable):
        await blocked
    await store.ask("RPUSH", f"{shard.tag}:queue", "late")
    for number in range(1, 5):
        assert await store.batcher.command("INCR", f"{shard.tag}:number") == number


async def test_what_is_raised_never_shows_an_argument(store: Dataset) -> None:
    """An argument may be a card: neither the text, nor the details, nor the repr may have it."""
    text = f"{store.shard.tag}:text"
    await store.ask("SET", text, "x")
    step = Step()
    step.do("RPUSH", text, CANARY)
    outcomes = await asyncio.gather(
        store.batcher.command("NO-SUCH-COMMAND", text, CANARY),
        store.batcher.command("RPUSH", text, CANARY),
        store.batcher.command("INCRBY", f"{store.shard.tag}:number", CANARY + "0000"),
        store.batcher.step(step),
        return_exceptions=True,
    )
    for outcome in outcomes:
        assert isinstance(outcome, StoreUnavailable)
        shown = [str(outcome), repr(outcome), repr(outcome.details), *traceback.format_exception_only(outcome)]
        assert CANARY not in "".join(shown)


async def test_a_dead_line_shows_no_argument(places: Places) -> None:
    async with running(connected(f"redis://127.0.0.1:{free_port()}/0")) as store:
        with pytest.raises(StoreUnavailable) as refused:
            await store.batcher.command("SET", "key", CANARY)
    assert CANARY not in f"{refused.value!r} {refused.value.details}"


@servers_only("fakeredis has no connections to kill")
async def test_a_killed_connection_fails_what_was_on_it_and_nothing_later(store: Dataset) -> None:
    tag = store.shard.tag
    in_flight = [store.batcher.command("BLPOP", f"{tag}:queue", 60), store.batcher.command("INCR", f"{tag}:behind")]
    await eventually(store.blocked)
    await store.everywhere("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")
    outcomes = await asyncio.wait_for(asyncio.gather(*in_flight, return_exceptions=True), 30)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
    for name in _names(store, 40):
        assert await store.batcher.command("INCR", name) == 1


@only("redis", "redis-6.2", why="a cluster's client keeps its connections itself, and fakeredis has none")
async def test_a_connection_that_was_closed_while_nobody_asked_is_made_anew_and_nobody_notices(store: Dataset) -> None:
    number = f"{store.shard.tag}:number"
    await asyncio.gather(*(store.batcher.command("INCR", number) for _ in range(300)))
    assert store.batcher.connections == 2, "more than one batch was asked for at once"
    await store.everywhere("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")
    for _ in range(2):
        await store.ask("PING")  # what the server sent before this, the end of its connections, has come as well
    replies = await asyncio.gather(*(store.batcher.command("INCR", number) for _ in range(300)))
    assert sorted(replies) == list(range(301, 601)), "the two connections may overtake each other"


async def test_the_batcher_leaves_no_connection_open(places: Places) -> None:
    async with places.running() as store:
        assert await store.batcher.command("INCR", f"{store.shard.tag}:number") == 1
        batcher = store.batcher
    assert batcher.connections == 0


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that the test may kill."""
    with one_server() as server:
        yield server


async def test_a_killed_server_fails_what_was_asked_and_serves_again_after_its_restart(own_redis: RedisServer) -> None:
    async with running(connected(own_redis.url)) as store:
        assert await store.batcher.command("INCR", "number") == 1
        with _frozen(own_redis):
            in_flight = [store.batcher.command("INCR", "number") for _ in range(10)]
            await asyncio.sleep(0.05)
            own_redis.kill()
        outcomes = await asyncio.gather(*in_flight, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        with pytest.raises(StoreUnavailable):
            await store.batcher.command("INCR", "number")
        own_redis.start()
        # What was asked of the dead server may have run or not, each of them once at most.
        assert 2 <= int(await store.batcher.command("INCR", "number")) <= 12


async def test_a_server_that_is_silent_fails_commands_in_time_and_late_answers_reach_nobody(
    own_redis: RedisServer,
) -> None:
    async with running(connected(own_redis.url, timeout_s=2.0), pipelines_max=1) as store:
        await store.ask("SET", "secret", "of somebody else")
        with _frozen(own_redis):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.batcher.command("GET", "secret")
            # Not for ever; how much longer than its two seconds it may take is a matter of the machine.
            assert time.monotonic() - began < 20.0
        for number in range(1, 20):
            assert await store.batcher.command("INCR", "number") == number


async def test_a_command_after_one_that_was_not_answered_in_time_does_not_wait_behind_it(
    own_redis: RedisServer,
) -> None:
    """On the same connection it would, and what is said to the first would be taken for what is said to the second."""
    async with running(connected(own_redis.url, timeout_s=1.0), pipelines_max=1) as store:
        with pytest.raises(StoreUnavailable) as late:
            await store.batcher.command("BLPOP", "queue", 0)
        assert late.value.details["reason"] == "TimeoutError"
        with contextlib.closing(own_redis.client()) as admin:
            admin.rpush("queue", "late")
        assert await store.batcher.command("INCR", "number") == 1


async def test_the_time_is_each_replys_own_and_not_that_of_all_together(own_redis: RedisServer) -> None:
    async with running(connected(own_redis.url, timeout_s=2.0), pipelines_max=1) as store:
        waits = [store.batcher.command("BLPOP", "queue", "0.7") for _ in range(4)]
        assert await asyncio.gather(*waits) == [None] * 4
        assert store.metric("store_batch_steps_count") == 1


async def test_a_server_far_away_is_connected_to_though_that_takes_longer_than_one_reply_may(
    own_redis: RedisServer,
) -> None:
    async with (
        proxy_to(own_redis.port, delay_s=0.6) as proxy,
        running(connected(f"redis://127.0.0.1:{proxy.port}/1", timeout_s=2.0)) as store,
    ):
        assert await store.batcher.command("INCR", "number") == 1


@only("cluster", why="only a cluster has nodes of which some may be gone")
async def test_a_cluster_that_cannot_be_reached_fails_commands_and_not_the_batcher(places: Places) -> None:
    """redis-py says that with an exception that is not one of its usual family."""
    nowhere = connected(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
    async with running(nowhere) as store:
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as refused:
                await asyncio.wait_for(asyncio.ensure_future(store.batcher.command("GET", store.shard.due)), 20)
            assert "RedisClusterException" in str(refused.value.details["reason"])


@contextlib.contextmanager
def _frozen(server: RedisServer) -> Iterator[None]:
    """The server does nothing, and its connections stay."""
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
