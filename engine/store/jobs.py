"""The job stream of every shard: read by a consumer group, taken over from the dead, deleted when done."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError

from engine.changes import Job
from engine.errors import StoreUnavailable
from engine.ids import PaymentId
from engine.payment import Payment
from engine.store.batch import Batcher
from engine.store.keys import JOBS_GROUP, Keys, ShardKeys
from metrics.instruments import Instruments

_decode_payment = msgspec.json.Decoder(Payment).decode
_GONE_CONSUMER_IDLE_MS = 3_600_000


class RedisJobs:
    """Reads jobs as one consumer. Reading never blocks in Redis: on a cluster each shard is asked by itself,
    elsewhere one command asks all shards, and both travel with the other steps.
    """

    def __init__(
        self, batcher: Batcher, keys: Keys, instruments: Instruments, *, consumer: str, one_by_one: bool
    ) -> None:
        self._batcher = batcher
        self._keys = keys
        self._instruments = instruments
        self._consumer = consumer
        self._groups = [[shard] for shard in keys.shards] if one_by_one else [list(keys.shards)]

    async def open(self) -> None:
        """Create the consumer groups that are missing, from the stream's beginning. Safe to call again."""
        await asyncio.gather(*(self._create_group(shard) for shard in self._keys.shards))

    async def read(self, count: int) -> list[Job]:
        """New jobs, about `count` in all, possibly none."""
        per_shard = max(1, count // len(self._keys.shards))
        pages = await asyncio.gather(*(self._read_group(group, per_shard) for group in self._groups))
        return [job for page in pages for job in page]

    async def claim(self, *, idle_ms: int) -> list[Job]:
        """Jobs whose worker has not ended them for `idle_ms`: its process is dead, or lost its answer."""
        pages = await asyncio.gather(*(self._claim_shard(shard, idle_ms) for shard in self._keys.shards))
        jobs = [job for page in pages for job in page]
        if jobs:
            self._instruments.jobs_claimed.inc(len(jobs))
        return jobs

    async def forget_gone_consumers(self) -> None:
        """Delete consumers that own nothing and have been silent for an hour."""
        await asyncio.gather(*(self._forget_gone(shard) for shard in self._keys.shards))

    async def _read_group(self, group: list[ShardKeys], count: int) -> list[Job]:
        streams = [shard.jobs for shard in group]
        try:
            reply = await self._batcher.command(
                "XREADGROUP",
                "GROUP",
                JOBS_GROUP,
                self._consumer,
                "COUNT",
                count,
                "STREAMS",
                *streams,
                *">" * len(group),
            )
        except StoreUnavailable as error:
            await self._heal(error)
            raise
        return [_job(entry) for _, entries in streams_of(reply) for entry in entries]

    async def _claim_shard(self, shard: ShardKeys, idle_ms: int) -> list[Job]:
        jobs: list[Job] = []
        cursor: bytes | str = "0-0"
        while True:
            try:
                reply = await self._batcher.command(
                    "XAUTOCLAIM", shard.jobs, JOBS_GROUP, self._consumer, idle_ms, cursor, "COUNT", 100
                )
            except StoreUnavailable as error:
                await self._heal(error)
                raise
            cursor = reply[0]
            jobs += [_job(entry) for entry in reply[1] if entry[1] is not None]
            lost = [entry.decode() for entry in reply[2]] if len(reply) > 2 else []
            if lost:
                self._instruments.stream_entries_lost.inc(len(lost))
                structlog.get_logger().error("pending jobs were deleted by somebody", stream=shard.jobs, entries=lost)
            if cursor in (b"0-0", "0-0"):
                return jobs

    async def _forget_gone(self, shard: ShardKeys) -> None:
        for reply in await self._batcher.command("XINFO", "CONSUMERS", shard.jobs, JOBS_GROUP):
            facts = _facts(reply)
            if facts["pending"] == 0 and facts["idle"] > _GONE_CONSUMER_IDLE_MS:
                await self._batcher.command("XGROUP", "DELCONSUMER", shard.jobs, JOBS_GROUP, facts["name"])

    async def _heal(self, error: StoreUnavailable) -> None:
        # After a loss of data the group may be gone: recreated at 0, so that nothing that is left is skipped.
        if "NOGROUP" in str(error.__cause__):
            await self.open()

    async def _create_group(self, shard: ShardKeys) -> None:
        try:
            await self._batcher.command("XGROUP", "CREATE", shard.jobs, JOBS_GROUP, "0", "MKSTREAM")
        except StoreUnavailable as error:
            if not (isinstance(error.__cause__, ResponseError) and "BUSYGROUP" in str(error.__cause__)):
                raise


def streams_of(reply: Any) -> list[tuple[bytes, list[Any]]]:
    """The streams of an `XREAD` or `XREADGROUP` reply with their entries, whatever the protocol version."""
    if not reply:
        return []
    # RESP3 answers with a map of lists of pages, RESP2 with a list of pairs.
    if isinstance(reply, dict):
        return [(name, [entry for page in pages for entry in page]) for name, pages in reply.items()]
    return list(reply)


def _facts(reply: Any) -> dict[str, Any]:
    # RESP3 answers with a map, RESP2 with a flat list; the names are bytes, but text from fakeredis.
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {name if isinstance(name, str) else name.decode(): value for name, value in pairs}


def _job(entry: Any) -> Job:
    entry_id, fields = entry
    if not isinstance(fields, dict):
        fields = dict(zip(fields[::2], fields[1::2], strict=True))
    record = fields.get(b"b")
    hint = _decode_payment(record) if record else None
    return Job(PaymentId(fields[b"p"].decode()), hint, entry_id.decode())
