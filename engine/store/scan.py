"""Looking through a whole dataset, page by page, in flat memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from engine.ids import PaymentId
from engine.payment import Payment
from engine.store.batch import Batcher, RedisClient
from engine.store.keys import Keys
from engine.store.payments import decode_payment

_PAGE = 256


class RedisScan:
    """Reads payments in no order. One that changes meanwhile is seen as before or as after; none is left out."""

    def __init__(self, client: RedisClient, batcher: Batcher, keys: Keys) -> None:
        self._client = client
        self._batcher = batcher
        self._keys = keys

    async def payments(self) -> AsyncIterator[Payment]:
        """Every payment. Redis may show one twice while it resizes."""
        page: list[str] = []
        async for raw in self._client.scan_iter(match="{p*}:payment:*", count=_PAGE):
            page.append(raw.decode())
            if len(page) >= _PAGE:
                for payment in await self._read(page):
                    yield payment
                page = []
        for payment in await self._read(page):
            yield payment

    async def unknown(self) -> list[tuple[Payment, int]]:
        """Payments with an attempt of unknown outcome, and since when (ms), oldest first."""
        found = []
        for shard in self._keys.shards:
            async for raw, since_ms in self._client.zscan_iter(shard.unknown, count=_PAGE):
                record = await self._batcher.command("GET", shard.payment(raw.decode()))
                if record is not None:
                    found.append((decode_payment(record), int(since_ms)))
        return sorted(found, key=lambda pair: pair[1])

    async def events_of(self, payment_id: PaymentId) -> list[bytes]:
        """The bodies of a payment's events, in sequence."""
        return list(await self._batcher.command("LRANGE", self._keys.of(payment_id).events(payment_id), 0, -1))

    async def _read(self, names: list[str]) -> list[Payment]:
        records = await asyncio.gather(*(self._batcher.command("GET", name) for name in names))
        return [decode_payment(record) for record in records if record is not None]
