"""The outbox stream of every shard: events that are committed but not yet acknowledged by the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.events import OutgoingEvent, PaymentEvent, outgoing
from engine.relay import OutboxEntry, Parking
from engine.store.batch import Batcher
from engine.store.jobs import streams_of
from engine.store.keys import Keys
from engine.store.step import Refusal, Step

Fields = dict[bytes, bytes]
REASON: Final = b"why"
"""The field that a parked entry has beyond those of the event."""


class RedisOutbox:
    """Reads and deletes outbox entries. There is no consumer group: a shard has one relay at a time, by lease,
    and an entry stays in the stream until the broker has it, or it is parked.
    """

    def __init__(
        self, batcher: Batcher, keys: Keys, *, topics: Mapping[str, str], one_by_one: bool, parked_max: int = 10_000
    ) -> None:
        self._batcher = batcher
        self._keys = keys
        self._topics = dict(topics)
        self._one_by_one = one_by_one
        self._parked_max = max(1, parked_max // len(keys.shards))

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

    async def park(self, parking: Sequence[Parking]) -> int:
        """Move entries to their shard's parked stream, in order, until one has no room there. Returns how many."""
        for done, (entry, reason) in enumerate(parking):
            shard = self._keys.shards[entry.shard]
            fields = await read_entry(self._batcher, shard.outbox, entry.entry_id)
            step = moving(shard.outbox, entry.entry_id, shard.parked, {**fields, REASON: reason.encode()})
            step.expect_below(shard.parked, self._parked_max)
            refusal = await self._batcher.step(step)
            # No such entry any more: another relay has parked or published it, or our own first try had run.
            if isinstance(refusal, Refusal) and refusal.check == 1:
                return done
        return len(parking)

    async def _read_group(self, group: list[int], after: Mapping[int, str], count: int) -> list[OutboxEntry]:
        names = {self._keys.shards[shard].outbox: shard for shard in group}
        reply = await self._batcher.command(
            "XREAD", "COUNT", count, "STREAMS", *names, *(after[shard] for shard in group)
        )
        return [
            self._entry(names[name.decode()], entry_id.decode(), fields)
            for name, entries in streams_of(reply)
            for entry_id, fields in entries
        ]

    def _entry(self, shard: int, entry_id: str, fields: Fields) -> OutboxEntry:
        try:
            event, surface = event_of(fields)
        except (KeyError, ValueError):
            # Not ours. It must not stop the relay, and with it the process, again and again.
            nothing = OutgoingEvent("", "", b"", (("ce_id", f"{shard}/{entry_id}"), ("ce_type", "unreadable")))
            return OutboxEntry(shard, entry_id, nothing, "unreadable")
        topic = self._topics.get(surface)
        payment_id = fields[b"p"].decode()
        leaving = outgoing(event, topic=topic or "", surface=surface, payment_id=payment_id)
        return OutboxEntry(shard, entry_id, leaving, "no_topic" if topic is None else "")


def event_of(fields: Fields) -> tuple[PaymentEvent, str]:
    """The event of an entry, and its surface. Raises `KeyError` or `ValueError` when it is none."""
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
    return event, surface


async def read_entry(batcher: Batcher, stream: str, entry_id: str) -> Fields:
    """The fields of an entry, none when it is gone."""
    page = await batcher.command("XRANGE", stream, entry_id, entry_id)
    return entries_of(page)[0][1] if page else {}


def entries_of(page: Any) -> list[tuple[str, Fields]]:
    """The entries of an `XRANGE` reply, whatever the protocol version."""
    return [
        (entry_id.decode(), fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True)))
        for entry_id, fields in page
    ]


def moving(source: str, entry_id: str, target: str, fields: Fields) -> Step:
    """The step that moves an entry to the end of another stream: it is always in exactly one of the two."""
    step = Step()
    # Done a second time, after a lost answer or by another process, it must not add a copy.
    step.expect_entry(source, entry_id)
    step.do("XADD", target, "*", *(part for pair in fields.items() for part in pair))
    step.do("XDEL", source, entry_id)
    return step
