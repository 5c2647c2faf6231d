"""Leases: which process does a role for which shard, so that one payment's events never pass each other."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.errors import Overloaded, StoreUnavailable
from engine.ids import Clock, now_ms
from engine.store.batch import Batcher
from engine.store.keys import Keys
from engine.store.step import Refusal, Step


class ShardLeases:
    """A fair share of the shards, for one role of one process. Call `renew()` more often than `ttl_s / 3`.

    A lease is a hint that keeps work apart, not a lock that protects state: whoever pauses past its end may
    overlap with the next holder, and then events are sent twice, which consumers dedupe.
    """

    def __init__(
        self,
        batcher: Batcher,
        keys: Keys,
        *,
        role: str,
        owner: str,
        ttl_s: float = 6.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Clock = now_ms,
    ) -> None:
        self._batcher = batcher
        self._keys = keys
        self._role = role
        self._owner = owner
        self._ttl_s = ttl_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._members = f"payments:members:{role}"
        self._held: dict[int, float] = {}

    def held(self) -> list[int]:
        """The shards that are ours now."""
        now = self._clock()
        return [shard for shard, until in self._held.items() if until > now]

    async def renew(self) -> None:
        """Keep our share, take what is free up to it, give back what is above it. Trouble costs the leases only."""
        try:
            share = await self._fair_share()
            for shard in self.held()[share:]:
                await self._give_back(shard)
            for shard in range(len(self._keys.shards)):
                if shard in self._held or len(self._held) < share:
                    await self._take(shard)
        except (StoreUnavailable, Overloaded):
            return

    async def release(self) -> None:
        """Give everything back, so that others need not wait for the end of the leases."""
        try:
            for shard in list(self._held):
                await self._give_back(shard)
            await self._batcher.command("ZREM", self._members, self._owner)
        except (StoreUnavailable, Overloaded):
            self._held.clear()

    async def _fair_share(self) -> int:
        now = self._wall_clock()
        await self._batcher.command("ZADD", self._members, now + int(self._ttl_s * 1000), self._owner)
        await self._batcher.command("ZREMRANGEBYSCORE", self._members, "-inf", now)
        members = int(await self._batcher.command("ZCARD", self._members))
        return -(-len(self._keys.shards) // max(1, members))

    async def _take(self, shard: int) -> None:
        key = self._keys.shards[shard].lease(self._role)
        started = self._clock()
        ttl_ms = int(self._ttl_s * 1000)
        step = Step()
        if shard in self._held:
            step.expect_value(key, self._owner)
            step.do("PEXPIRE", key, ttl_ms)
        else:
            step.expect_value(key, "")
            step.do("SET", key, self._owner, "PX", ttl_ms)
        reply = await self._batcher.step(step)
        if isinstance(reply, Refusal):
            self._held.pop(shard, None)
        else:
            # Counted from before the question, so that we stop earlier than Redis lets the next one start.
            self._held[shard] = started + self._ttl_s * 0.9

    async def _give_back(self, shard: int) -> None:
        del self._held[shard]
        key = self._keys.shards[shard].lease(self._role)
        step = Step()
        step.expect_value(key, self._owner)
        step.do("DEL", key)
        await self._batcher.step(step)
