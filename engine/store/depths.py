"""How much waits: jobs, events, unknown outcomes, open items, parked events, and how old the oldest of each is."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from engine.store.batch import Batcher
from engine.store.keys import Keys


class Depth(NamedTuple):
    """A number of waiting things and the time the oldest came, 0 when there are none."""

    waiting: int
    oldest_ms: int


class Depths(NamedTuple):
    """What waits, over all shards."""

    jobs: Depth
    outbox: Depth
    unknown: Depth
    items: Depth
    parked: Depth


class RedisDepths:
    """Counts over all shards, in one pipeline."""

    def __init__(self, batcher: Batcher, keys: Keys) -> None:
        self._batcher = batcher
        self._keys = keys

    async def now(self) -> Depths:
        """The depths now. Raises `StoreUnavailable`."""
        shards = self._keys.shards
        jobs, outbox, unknown, items, parked = await asyncio.gather(
            self._streams([shard.jobs for shard in shards]),
            self._streams([shard.outbox for shard in shards]),
            depth_of_sets(self._batcher, [shard.unknown for shard in shards]),
            depth_of_sets(self._batcher, [shard.items for shard in shards]),
            self._streams([shard.parked for shard in shards]),
        )
        return Depths(jobs, outbox, unknown, items, parked)

    async def _streams(self, names: list[str]) -> Depth:
        lengths = await asyncio.gather(*(self._batcher.command("XLEN", name) for name in names))
        firsts = await asyncio.gather(*(self._batcher.command("XRANGE", name, "-", "+", "COUNT", 1) for name in names))
        return _depth(lengths, [int(page[0][0].split(b"-")[0]) for page in firsts if page])


async def depth_of_sets(batcher: Batcher, names: list[str]) -> Depth:
    """The depth of sorted sets whose scores are times, together."""
    sizes = await asyncio.gather(*(batcher.command("ZCARD", name) for name in names))
    firsts: list[Any] = await asyncio.gather(*(batcher.command("ZRANGE", name, 0, 0, "WITHSCORES") for name in names))
    return _depth(sizes, [_score(page) for page in firsts if page])


def _score(page: Any) -> int:
    # RESP3 answers with pairs, RESP2 with a flat list.
    first = page[0]
    return int(float(first[1] if isinstance(first, (list, tuple)) else page[1]))


def _depth(counts: list[int], times: list[int]) -> Depth:
    return Depth(sum(counts), min(times, default=0))
