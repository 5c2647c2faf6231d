"""The job streams: every job is given to one worker, and to another one when that worker has gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest

from engine.changes import Job
from engine.errors import StoreUnavailable
from engine.store.keys import JOBS_GROUP, ShardKeys
from tests.store.datasets import BOTH_PROTOCOLS, Dataset, Places, connected, running, servers_only
from tests.store.making import NOW, SEALED, accepted, order_in
from tests.support import free_port

LONG_MS: Final = 3_600_000
_CRC64: Final = 0x95AC9329AC4BC9B5


@pytest.fixture(params=BOTH_PROTOCOLS)
def kind(request: pytest.FixtureRequest) -> str:
    """What is tested here reads replies of either form."""
    return str(request.param)


@pytest.fixture
async def two(places: Places) -> AsyncIterator[tuple[Dataset, Dataset]]:
    """Two processes on one dataset."""
    async with places.running() as one, places.running() as other:
        yield one, other


async def _add(store: Dataset, count: int, shard: ShardKeys | None = None) -> list[str]:
    """Jobs for payments that need not exist, in one shard or in all."""
    ids = [f"pay-{number}" for number in range(count)]
    for number, payment_id in enumerate(ids):
        stream = (shard or store.keys.shards[number % len(store.keys.shards)]).jobs
        await store.batcher.command("XADD", stream, "*", "p", payment_id)
    return ids


def _ids(jobs: list[Job]) -> list[str]:
    return [job.payment_id for job in jobs]


async def _have_lain(store: Dataset, jobs: list[Job]) -> None:
    """Redis is told that these lie with the first worker for long: waiting for it would make others old too."""
    entries: list[int | bytes | str | memoryview[int]] = [job.entry_id for job in jobs]
    await store.client.xclaim(store.shard.jobs, JOBS_GROUP, "a", 0, entries, idle=2 * LONG_MS, justid=True)


async def _consumers(store: Dataset, shard: ShardKeys) -> set[str]:
    found = await store.ask("XINFO CONSUMERS", shard.jobs, JOBS_GROUP)
    return {consumer["name"].decode() for consumer in found}


async def test_opening_twice_is_opening_once_and_skips_nothing(store: Dataset) -> None:
    ids = await _add(store, 3, store.shard)
    jobs = store.jobs("a")
    await jobs.open()
    assert _ids(await jobs.read(160)) == ids, "what was there before the group is not skipped"
    await jobs.open()
    await store.jobs("b").open()
    assert await store.jobs("b").read(160) == [], "what is in work is not given out again"


async def test_opening_without_redis_says_so() -> None:
    async with running(connected(f"redis://127.0.0.1:{free_port()}/0")) as store:
        with pytest.raises(StoreUnavailable):
            await store.jobs("a").open()


async def test_a_job_carries_the_payment_as_it_was_when_it_was_written(store: Dataset) -> None:
    payment = accepted()
    await store.payments().create(payment, SEALED, due_ms=NOW)
    jobs = store.jobs("a")
    await jobs.open()
    (job,) = await jobs.read(16)
    assert (job.payment_id, job.hint) == (payment.id, payment)


async def test_a_job_without_a_record_has_no_hint(store: Dataset) -> None:
    await _add(store, 1, store.shard)
    jobs = store.jobs("a")
    await jobs.open()
    (job,) = await jobs.read(16)
    assert job.hint is None


async def test_two_workers_never_get_the_same_job(two: tuple[Dataset, Dataset]) -> None:
    one, other = two
    ids = await _add(one, 200)
    await one.jobs("a").open()

    async def work(store: Dataset, consumer: str) -> list[str]:
        jobs, taken = store.jobs(consumer), list[str]()
        while page := await jobs.read(32):
            taken += _ids(page)
        return taken

    first, second = await asyncio.gather(work(one, "a"), work(other, "b"))
    assert sorted(first + second) == sorted(ids)
    assert first, "both had work to do"
    assert second, "both had work to do"


async def test_a_read_takes_about_as_many_as_asked_for(store: Dataset) -> None:
    """At least one of each shard, so that none starves."""
    await _add(store, 320)
    jobs = store.jobs("a")
    await jobs.open()
    assert len(await jobs.read(64)) == 64
    assert len(await jobs.read(1)) == 16


async def test_jobs_of_one_shard_come_oldest_first(store: Dataset) -> None:
    ids = await _add(store, 30, store.shard)
    jobs = store.jobs("a")
    await jobs.open()
    assert _ids(await jobs.read(160)) + _ids(await jobs.read(160)) + _ids(await jobs.read(160)) == ids


async def test_a_job_is_not_claimed_from_a_worker_that_may_still_have_it(two: tuple[Dataset, Dataset]) -> None:
    one, other = two
    await _add(one, 5, one.shard)
    await one.jobs("a").open()
    assert len(await one.jobs("a").read(160)) == 5
    assert await other.jobs("b").claim(idle_ms=LONG_MS) == []
    assert other.metric("jobs_claimed_total") == 0


async def test_all_jobs_of_a_dead_worker_are_claimed_once_however_many_they_are(two: tuple[Dataset, Dataset]) -> None:
    """More than one page of a shard, until the cursor is back at the beginning."""
    one, other = two
    ids = await _add(one, 250, one.shard)
    await one.jobs("a").open()
    taken = await one.jobs("a").read(16 * 300)
    assert len(taken) == 250
    await _have_lain(one, taken)
    claimed = await other.jobs("b").claim(idle_ms=LONG_MS)
    assert _ids(claimed) == ids
    assert other.metric("jobs_claimed_total") == 250
    assert await one.jobs("c").claim(idle_ms=LONG_MS) == [], "they are the new worker's now"


async def test_a_page_without_anything_to_claim_does_not_end_the_search(two: tuple[Dataset, Dataset]) -> None:
    """The first hundred are in good hands, and behind them lies one that is not."""
    one, other = two
    ids = await _add(one, 151, one.shard)
    await one.jobs("a").open()
    taken = await one.jobs("a").read(16 * 300)
    await _have_lain(one, taken[150:])
    assert _ids(await other.jobs("b").claim(idle_ms=LONG_MS)) == ids[150:]


async def test_jobs_of_every_shard_are_claimed(two: tuple[Dataset, Dataset]) -> None:
    one, other = two
    ids = await _add(one, 48)
    await one.jobs("a").open()
    await one.jobs("a").read(160)
    assert sorted(_ids(await other.jobs("b").claim(idle_ms=0))) == sorted(ids)


async def test_a_claimed_job_can_be_ended_by_its_new_worker(two: tuple[Dataset, Dataset]) -> None:
    one, other = two
    payment = accepted(order_in(2))
    await one.payments().create(payment, SEALED, due_ms=NOW)
    await one.jobs("a").open()
    await one.jobs("a").read(16)
    (job,) = await other.jobs("b").claim(idle_ms=0)
    assert job.hint == payment
    await other.payments().end_job(job)
    assert await one.jobs("a").claim(idle_ms=0) == []
    assert await one.ask("XLEN", one.keys.shards[2].jobs) == 0


async def test_pending_jobs_that_somebody_deleted_are_an_alarm_and_do_not_hide_the_others(
    two: tuple[Dataset, Dataset],
) -> None:
    """Redis tells of them since 7.0. A 6.2 only shows holes, for ever, and so there is nothing to count."""
    one, other = two
    ids = await _add(one, 5, one.shard)
    await one.jobs("a").open()
    taken = await one.jobs("a").read(160)
    await one.ask("XDEL", one.shard.jobs, taken[1].entry_id, taken[3].entry_id)
    assert _ids(await other.jobs("b").claim(idle_ms=0)) == [ids[0], ids[2], ids[4]]
    expected = 2 if await one.version() >= (7, 0) else 0
    assert other.metric("stream_entries_lost_total") == expected
    assert _ids(await other.jobs("b").claim(idle_ms=0)) == [ids[0], ids[2], ids[4]]
    assert other.metric("stream_entries_lost_total") == expected, "each loss is counted once"


@pytest.mark.parametrize("first_noticed_by", ["read", "claim"])
async def test_a_lost_group_is_made_again_from_the_beginning(store: Dataset, first_noticed_by: str) -> None:
    """What was in work and what was not given out yet: nothing that is left in the stream is skipped."""
    ids = await _add(store, 6, store.shard)
    jobs = store.jobs("a")
    await jobs.open()
    assert len(await jobs.read(16 * 3)) == 3
    await store.ask("XGROUP", "DESTROY", store.shard.jobs, JOBS_GROUP)
    with pytest.raises(StoreUnavailable):
        await (jobs.read(160) if first_noticed_by == "read" else jobs.claim(idle_ms=0))
    assert _ids(await jobs.read(160)) == ids


@servers_only("fakeredis has an error of its own for a stream that is gone, and cannot lose its data")
async def test_after_all_data_were_lost_jobs_flow_again(store: Dataset) -> None:
    jobs = store.jobs("a")
    await jobs.open()
    await store.everywhere("FLUSHALL")
    with pytest.raises(StoreUnavailable):
        await jobs.read(16)
    ids = await _add(store, 32)
    assert sorted(_ids(await jobs.read(160))) == sorted(ids)


async def test_a_consumer_that_was_there_a_moment_ago_is_not_forgotten(store: Dataset) -> None:
    await store.jobs("quiet").open()
    await _add(store, 1, store.shard)
    await store.jobs("quiet").read(16)
    await store.jobs("busy").forget_gone_consumers()
    assert await _consumers(store, store.shard) == {"quiet"}


@servers_only("the age is set in a serialized stream, and fakeredis has a format of its own")
async def test_a_gone_consumer_is_forgotten_only_when_it_owns_nothing(store: Dataset) -> None:
    """Deleting a consumer deletes its list of jobs in work, and nobody could claim them any more."""
    shard = store.shard
    await store.jobs("with-nothing").open()
    ids = await _add(store, 1, shard)
    await store.jobs("with-a-job").read(16)
    for consumer in ("with-nothing", "living"):
        await store.ask("XGROUP", "CREATECONSUMER", shard.jobs, JOBS_GROUP, consumer)
    serialized = await store.ask("DUMP", shard.jobs)
    for consumer in ("with-nothing", "with-a-job"):
        serialized = _last_seen(serialized, consumer, time.time() - 2 * 3600)
    await store.ask("RESTORE", shard.jobs, 0, serialized, "REPLACE")
    assert await _consumers(store, shard) == {"with-nothing", "with-a-job", "living"}
    await store.jobs("living").forget_gone_consumers()
    assert await _consumers(store, shard) == {"with-a-job", "living"}
    (job,) = await store.jobs("living").claim(idle_ms=0)
    assert _ids([job]) == ids
    await store.payments().end_job(job)


def _last_seen(serialized: bytes, consumer: str, at_s: float) -> bytes:
    """A serialized stream in which the consumer was last seen at this time."""
    name = consumer.encode()
    # A consumer is its name and then the time as 64 bits; the name's length stands before it.
    head, found, tail = serialized.partition(bytes([len(name)]) + name)
    assert found
    shown = int.from_bytes(tail[:8], "little") / 1000
    assert abs(shown - time.time()) < 60, "the time stands elsewhere in this version's format"
    body = (head + found + int(at_s * 1000).to_bytes(8, "little") + tail[8:])[:-8]
    return body + _crc64(body).to_bytes(8, "little")


def _crc64(data: bytes) -> int:
    """The checksum at the end of a serialized value (Jones's polynomial, reflected)."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC64 if crc & 1 else 0)
    return crc
