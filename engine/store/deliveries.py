"""Deliveries that wait in Redis: what is to be told to whom, in which order, and when to try next.

A lane is one recipient: an endpoint, a mailbox. In a lane there are lines: what is in one line goes out in its order,
one at a time, and a line does not wait for the others. A lane never has more than `each_max` under way, whoever sends.

Everything of a lane shares a hash tag, `{pNN}:<queue>:…`:

| key | type | what |
|---|---|---|
| `due` | sorted set | lanes, by when one of them is to be looked at next |
| `lines:<lane>` | sorted set | lines that are not empty, by when their first is due, or its lease ends |
| `line:<lane>|<line>` | list | ids, first in first out |
| `item:<lane>|<id>` | string | what is to be delivered; ended, it lives for a while; empty: known, not kept |
| `busy:<lane>` | sorted set | lines that are leased, by the lease's end |
| `open:<lane>`, `ended:<lane>` | sorted set | ids that wait, and that have ended, by number |
| `numbers:<lane>` | string | the counter of those numbers |
| `waiting` | sorted set | `<lane>|<id>` of all that wait, by when they came |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError

from engine.delivering import Added, Delivery, Leased, Listed
from engine.errors import StoreUnavailable
from engine.ids import shard_of
from engine.store.batch import Batcher
from engine.store.deliveries_lua import ADD, AGAIN, DROP, FINISH, RESEND, REST, TAKE, WAKE, Script
from engine.store.depths import Depth, depth_of_sets
from engine.store.keys import Keys, ShardKeys
from engine.store.step import Argument

_ADDED_AT_ONCE: Final = 100
_LANES_AT_ONCE: Final = 128
"""What is asked of Redis together stays far below what may wait in the batcher."""
_TRIES_MAX: Final = 3
_PAUSE_S: Final = 0.05


class Deliveries:
    """The durable schedule of one kind of deliveries. All methods raise `StoreUnavailable` and `Overloaded`.

    An ended delivery is kept for `keep_ms`, the last `kept_max` of a lane; of older ones only the id is remembered,
    for `remember_ms`. A lane has at most `waiting_max` that wait.
    """

    def __init__(
        self,
        batcher: Batcher,
        keys: Keys,
        *,
        queue: str,
        each_max: int,
        lease_ms: int,
        waiting_max: int,
        kept_max: int,
        keep_ms: int,
        remember_ms: int,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._batcher = batcher
        self._keys = keys
        self._queue = queue
        self._each_max = each_max
        self._lease_ms = lease_ms
        self._waiting_max = waiting_max
        self._kept_max = kept_max
        self._keep_ms = keep_ms
        self._remember_ms = remember_ms
        self._sleep = sleep
        self._first_shard = 0

    async def add(self, deliveries: Iterable[Delivery], *, now_ms: int) -> list[Added]:
        """Keep them all, in their order; what is known by its id changes nothing. Some may be kept when it raises."""
        given = list(deliveries)
        lanes: dict[str, list[int]] = {}
        for at, delivery in enumerate(given):
            if "|" in delivery.lane or not delivery.item:
                raise ValueError("a lane's name has no |, and an item is not empty")
            lanes.setdefault(delivery.lane, []).append(at)
        outcomes = [Added.KNOWN] * len(given)

        async def add_to(lane: str, places: Sequence[int]) -> None:
            # One after the other: two scripts that are sent at once may arrive in either order.
            for first in range(0, len(places), _ADDED_AT_ONCE):
                some = places[first : first + _ADDED_AT_ONCE]
                values: list[Argument] = [now_ms, self._waiting_max, 2 * self._keep_ms + self._remember_ms]
                for at in some:
                    delivery = given[at]
                    values += (delivery.line, delivery.id, delivery.item, delivery.due_ms)
                for at, reply in zip(some, await self._run(ADD, lane, *values), strict=True):
                    outcomes[at] = Added(reply)

        every = list(lanes.items())
        for first in range(0, len(every), _LANES_AT_ONCE):
            await asyncio.gather(*(add_to(lane, places) for lane, places in every[first : first + _LANES_AT_ONCE]))
        return outcomes

    async def due(self, now_ms: int, limit: int) -> list[Leased]:
        """Some of what is due, at most `limit`, leased: nobody else gets it until its lease is over.

        A lease that its worker did not live to end comes back by itself. Raises when nothing was found and some of
        the shards did not answer.
        """
        till_ms = now_ms + self._lease_ms
        every = len(self._keys.shards)
        together = max(1, min(limit, every))
        for asked in range(0, every if limit > 0 else 0, together):
            shards = self._next_shards(min(together, every - asked))
            # Not repeated: of an answer that was lost the leases come back, and a second one would take more.
            pages = await asyncio.gather(
                *(self._once(TAKE, shard.tag, "", now_ms, till_ms, limit // together) for shard in shards),
                return_exceptions=True,
            )
            # What some shards have leased is not left lying because others did not answer.
            broken = [page for page in pages if isinstance(page, BaseException)]
            found = [page for page in pages if page and not isinstance(page, BaseException)]
            if found:
                return [leased for page in found for leased in _leased(page, till_ms)]
            if broken:
                raise broken[0]
        return []

    async def done(self, leased: Leased, item: bytes, *, now_ms: int) -> bool:
        """It has ended, well or not: the next in its line is due. False when the lease was another's already."""
        kept = (self._keep_ms, self._remember_ms, self._kept_max)
        return await self._settle(FINISH, leased, item, now_ms, *kept)

    async def again(self, leased: Leased, item: bytes, *, due_ms: int) -> bool:
        """Try it again at `due_ms`; its line waits. False when the lease was another's already."""
        return await self._settle(AGAIN, leased, item, due_ms)

    async def rest(self, leased: Leased, *, now_ms: int, until_ms: int) -> bool:
        """Give it back untried, and do not look at its lane before `until_ms`, unless it is woken or added to."""
        return await self._settle(REST, leased, now_ms, until_ms)

    async def wake(self, lane: str, *, now_ms: int) -> None:
        """Make all that waits in the lane due now."""
        await self._run(WAKE, lane, now_ms)

    async def resend(self, lane: str, line: str, delivery_id: str, *, known: bytes, item: bytes, now_ms: int) -> bool:
        """Deliver once more what has ended, at the end of its line; what still waits is due now, when it is first.

        False when the item was no longer `known`, or the lane is full.
        """
        values = (line, delivery_id, known, item, now_ms, self._waiting_max)
        return bool(await self._run(RESEND, lane, *values) == 1)

    async def drop(self, lane: str, *, ended_too: bool) -> None:
        """Forget what waits in the lane; `ended_too`: everything."""
        await self._run(DROP, lane, "all" if ended_too else "waiting")

    async def find(self, lane: str, delivery_id: str) -> bytes | None:
        """The delivery's item, while it waits or is kept."""
        found: bytes | None = await self._batcher.command("GET", self._name(lane, "item", f"{lane}|{delivery_id}"))
        return found or None

    async def page(self, lane: str, *, limit: int, before: int | None = None) -> list[Listed]:
        """Deliveries of the lane, the latest first; those whose number is below `before`."""
        last = "+inf" if before is None else f"({before}"
        pages = await asyncio.gather(
            *(
                self._batcher.command(
                    "ZREVRANGEBYSCORE", self._name(lane, kind, lane), last, "-inf", "WITHSCORES", "LIMIT", 0, limit
                )
                for kind in ("open", "ended")
            )
        )
        found = [(int(float(number)), name, waits) for page, waits in zip(pages, (True, False), strict=True)
                 for name, number in _pairs(page)]  # fmt: skip
        found = sorted(found, reverse=True)[:limit]
        if not found:
            return []
        names = [self._name(lane, "item", f"{lane}|{name.decode()}") for _, name, _ in found]
        items = await self._batcher.command("MGET", *names)
        # An item that has come to its end of life leaves its id behind for a while.
        return [Listed(number, name.decode(), item or b"", waits)
                for (number, name, waits), item in zip(found, items, strict=True)]  # fmt: skip

    async def depth(self) -> Depth:
        """How many wait, and when the oldest came."""
        return await depth_of_sets(self._batcher, [self._prefix(shard.tag) + "waiting" for shard in self._keys.shards])

    def _next_shards(self, count: int) -> Sequence[ShardKeys]:
        """Those whose turn it is: when few are asked, it must not always be the same ones."""
        every = self._keys.shards
        first, self._first_shard = self._first_shard, (self._first_shard + count) % len(every)
        return (every[first:] + every[:first])[:count]

    async def _settle(self, script: Script, leased: Leased, *values: Argument) -> bool:
        return bool(await self._run(script, leased.lane, leased.line, leased.id, leased.till_ms, *values))

    async def _run(self, script: Script, lane: str, *values: Argument) -> Any:
        """Up to three times: whatever has run once finds its own trace."""
        tries = 1
        while True:
            try:
                return await self._once(script, self._tag(lane), lane, *values)
            except StoreUnavailable:
                if tries >= _TRIES_MAX:
                    raise
                tries += 1
                await self._sleep(_PAUSE_S * tries)

    async def _once(self, script: Script, tag: str, lane: str, *values: Argument) -> Any:
        prefix = self._prefix(tag)
        arguments = (1, prefix + "due", prefix, lane, self._each_max, *values)
        try:
            return await self._batcher.command("EVALSHA", script.sha, *arguments)
        except NoScriptError:
            return await self._batcher.command("EVAL", script.text, *arguments)

    def _name(self, lane: str, kind: str, of: str) -> str:
        return f"{self._prefix(self._tag(lane))}{kind}:{of}"

    def _tag(self, lane: str) -> str:
        return self._keys.shards[shard_of(lane, len(self._keys.shards))].tag

    def _prefix(self, tag: str) -> str:
        return f"{tag}:{self._queue}:"


def _leased(page: Sequence[bytes], till_ms: int) -> Iterator[Leased]:
    for lane, line, name, item in zip(*(page[at::4] for at in range(4)), strict=True):
        yield Leased(lane.decode(), line.decode(), name.decode(), item, till_ms)


def _pairs(page: Sequence[Any]) -> list[tuple[bytes, Any]]:
    # RESP3 answers with pairs, RESP2 with a flat list.
    if page and not isinstance(page[0], (list, tuple)):
        return list(zip(page[::2], page[1::2], strict=True))
    return [(name, number) for name, number in page]
