"""All that is kept of some payments, each read whole at one moment, many in one command."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from redis.exceptions import NoScriptError

from engine.auditing import Snapshot
from engine.ids import qualified
from engine.store.batch import Batcher
from engine.store.keys import Keys, ShardKeys

PAGE: Final = 64
"""So many payments in one script: it holds up everybody else for less than a millisecond."""

# A pipeline would show a payment half before and half after a change, as a broken rule that nobody has broken.
_SCRIPT: Final = """
local found = {}
for i, id in ipairs(ARGV) do
  local at = 2 + (i - 1) * 6
  found[i] = {
    redis.call('GET', KEYS[at + 1]), redis.call('GET', KEYS[at + 2]),
    redis.call('ZSCORE', KEYS[1], id), redis.call('ZSCORE', KEYS[2], id),
    redis.call('EXISTS', KEYS[at + 3]), redis.call('EXISTS', KEYS[at + 4]),
    redis.call('LRANGE', KEYS[at + 5], 0, -1), redis.call('LRANGE', KEYS[at + 6], 0, -1)
  }
end
return found
"""
_SHA: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class _Order(msgspec.Struct):
    """What of a record another key's name comes from; it never changes."""

    order: str = ""
    surface: str = "core"


_decode_order = msgspec.json.Decoder(_Order).decode


class RedisSnapshots:
    """Reads payments whole. It writes nothing."""

    def __init__(self, batcher: Batcher, keys: Keys) -> None:
        self._batcher = batcher
        self._keys = keys

    async def of(self, shard: int, ids: Sequence[str]) -> list[Snapshot]:
        """Snapshots of a shard's payments, in the order of `ids`; each is of one moment, all are of about the same."""
        pages = [ids[start : start + PAGE] for start in range(0, len(ids), PAGE)]
        found = await asyncio.gather(*(self._page(self._keys.shards[shard], page) for page in pages))
        return [snapshot for page in found for snapshot in page]

    async def _page(self, shard: ShardKeys, ids: Sequence[str]) -> list[Snapshot]:
        records = await self._batcher.command("MGET", *map(shard.payment, ids))
        keys = [shard.due, shard.unknown]
        for payment_id, record in zip(ids, records, strict=True):
            keys += (
                shard.payment(payment_id), shard.order(_order_of(record)), shard.card(payment_id),
                shard.cvv(payment_id), shard.ledger(payment_id), shard.events(payment_id),
            )  # fmt: skip
        replies = await self._run(len(keys), *keys, *ids)
        return [Snapshot(*reply) for reply in replies]

    async def _run(self, *arguments: str | int) -> Any:
        try:
            return await self._batcher.command("EVALSHA", _SHA, *arguments)
        except NoScriptError:
            return await self._batcher.command("EVAL", _SCRIPT, *arguments)


def _order_of(record: bytes | None) -> str:
    try:
        made = _decode_order(record) if record else _Order()
    except msgspec.MsgspecError:
        return ""
    return qualified(made.surface, made.order) if made.order else ""
