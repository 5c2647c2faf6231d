"""Open items in Redis: a string each, and an index of those that are open by when they were opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from engine.errors import StoreUnavailable
from engine.items import Item, is_item_id, shard_of_item
from engine.store.batch import Batcher, RedisClient
from engine.store.keys import Keys, ShardKeys
from engine.store.step import Refusal, Step

_PAGE: Final = 256
_TRIES_MAX: Final = 5
"""An item is opened once and closed once: whoever finds it changed that often has met something else."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Item).decode


class RedisItems:
    """The items of one dataset."""

    def __init__(self, client: RedisClient, batcher: Batcher, keys: Keys) -> None:
        self._client = client
        self._batcher = batcher
        self._keys = keys

    async def get(self, item_id: str) -> Item | None:
        """The item, or None."""
        if not is_item_id(item_id) or shard_of_item(item_id) >= len(self._keys.shards):
            return None
        raw = await self._batcher.command("GET", self._keys.shards[shard_of_item(item_id)].item(item_id))
        return _decode(raw) if raw else None

    async def put(self, item: Item) -> bool:
        """Open the item, or close it; when that is so already, nothing is written. Whether something was."""
        shard = self._keys.shards[shard_of_item(item.id)]
        for _ in range(_TRIES_MAX):
            step, found = Step(), await found_items(self._batcher, shard, (item,))
            if not put_items(step, shard, (item,), found):
                return False
            if not isinstance(await self._batcher.step(step), Refusal):
                return True
        raise StoreUnavailable(f"{item.id} changes all the time")

    async def opened(self) -> list[Item]:
        """Every open item, oldest first."""
        items = []
        for shard in self._keys.shards:
            async for raw, _ in self._client.zscan_iter(shard.items, count=_PAGE):
                item = await self.get(raw.decode())
                if item is not None and item.open:
                    items.append(item)
        return sorted(items, key=lambda item: (item.opened_ms, item.id))

    async def closed(self) -> AsyncIterator[Item]:
        """Every closed item, in no order."""
        async for raw in self._client.scan_iter(match="{p*}:item:*", count=_PAGE):
            item = await self.get(raw.decode().rpartition(":")[2])
            if item is not None and not item.open:
                yield item


async def found_items(batcher: Batcher, shard: ShardKeys, items: Sequence[Item]) -> list[bytes]:
    """What stands where these items would be written; empty where nothing does."""
    return [await batcher.command("GET", shard.item(item.id)) or b"" for item in items]


def put_items(step: Step, shard: ShardKeys, items: Sequence[Item], found: Sequence[bytes]) -> int:
    """Let a step open or close items, unless somebody writes them after they were `found`. How many it writes."""
    written = 0
    for item, raw in zip(items, found, strict=True):
        wanted = item.over(_decode(raw) if raw else None)
        if wanted is None:
            continue
        step.expect_value(shard.item(item.id), raw.decode())
        step.do("SET", shard.item(item.id), _encode(wanted))
        if wanted.open:
            step.do("ZADD", shard.items, wanted.opened_ms, wanted.id)
        else:
            step.do("ZREM", shard.items, wanted.id)
        written += 1
    return written
