"""The schedule of a shard: a sorted set of every payment without an outcome, by when it should be looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from engine.store.batch import Batcher
from engine.store.keys import Keys, ShardKeys
from engine.store.step import Refusal, Step

_PAGE = 100


class RedisDue:
    """Gives payments that are due a new job."""

    def __init__(self, batcher: Batcher, keys: Keys, *, jobs_max: int) -> None:
        self._batcher = batcher
        self._keys = keys
        # Half the queue stays free for new payments; with that many jobs waiting nobody is idle anyway.
        self._jobs_max = max(1, jobs_max // (2 * len(keys.shards)))

    async def redrive(self, shards: Sequence[int], *, now_ms: int, again_ms: int) -> int:
        """Give each payment that is due a job, and make it due again at `again_ms`. Returns how many."""
        counts = await asyncio.gather(
            *(self._redrive_shard(self._keys.shards[shard], now_ms, again_ms) for shard in shards)
        )
        return sum(counts)

    async def _redrive_shard(self, shard: ShardKeys, now_ms: int, again_ms: int) -> int:
        ids = await self._batcher.command("ZRANGEBYSCORE", shard.due, "-inf", now_ms, "LIMIT", 0, _PAGE)
        if not ids:
            return 0
        step = Step()
        step.expect_below(shard.jobs, self._jobs_max)
        for payment_id in ids:
            step.do("ZADD", shard.due, "XX", again_ms, payment_id)
            step.do("XADD", shard.jobs, "*", "p", payment_id)
        return 0 if isinstance(await self._batcher.step(step), Refusal) else len(ids)
