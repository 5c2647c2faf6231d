"""The outbox stream of every shard: events that are committed but not yet acknowledged by the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from engine.events import OutgoingEvent, PaymentEvent, outgoing
from engine.relay import OutboxEntry
from engine.store.batch import Batcher
from engine.store.jobs import streams_of
from engine.store.keys import Keys


class RedisOutbox:
    """Reads and deletes outbox entries. There is no consumer group: a shard has one relay at a time, by lease,
    and an entry stays in the stream until the broker has it.
    """

    def __init__(self, batcher: Batcher, keys: Keys, *, topics: Mapping[str, str], one_by_one: bool) -> None:
        self._batcher = batcher
        self._keys = keys
        self._topics = dict(topics)
        self._one_by_one = one_by_one

    async def read(self, after: Mapping[int, str], *, count: int) -> list[OutboxEntry]:
        """Up to `count` entries of each shard in `after`, those behind the given entry id, oldest first."""
        if not after:
            return []
        groups = [[shard] for shard in after] if self._one_by_one else [list(after)]
        pages = await asyncio.gather(*(self._read_group(group, after, count) for group in groups))
        return [entry for page in pages for entry in page]

    async def delete(self, entries: Sequence[OutboxEntry]) -> None:
        """Forget entries that the broker has acknowledged."""
        by_shard: dict[int, list[str]] = {}
        for entry in entries:
            by_shard.setdefault(entry.shard, []).append(entry.entry_id)
        await asyncio.gather(
            *(self._batcher.command("XDEL", self._keys.shards[shard].outbox, *ids) for shard, ids in by_shard.items())
        )

    async def _read_group(self, group: list[int], after: Mapping[int, str], count: int) -> list[OutboxEntry]:
        names = {self._keys.shards[shard].outbox: shard for shard in group}
        reply = await self._batcher.command(
            "XREAD", "COUNT", count, "STREAMS", *names, *(after[shard] for shard in group)
        )
        return [
            OutboxEntry(names[name.decode()], entry_id.decode(), self._event(fields))
            for name, entries in streams_of(reply)
            for entry_id, fields in entries
        ]

    def _event(self, fields: dict[bytes, bytes]) -> OutgoingEvent:
        payment_id, surface = fields[b"p"].decode(), fields[b"f"].decode()
        sequence = int(fields[b"s"])
        event = PaymentEvent(
            type=fields[b"y"].decode(),
            id=f"{payment_id}-{sequence}",
            sequence=sequence,
            time_ms=int(fields[b"t"]),
            previous_hash=fields[b"h"].decode(),
            traceparent=fields[b"tp"].decode(),
            body=fields[b"b"],
        )
        return outgoing(event, topic=self._topics[surface], surface=surface, payment_id=payment_id)
