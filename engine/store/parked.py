"""The parked stream of every shard: events that the broker would never take, until an operator puts them back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from engine.store.batch import Batcher
from engine.store.keys import Keys
from engine.store.outbox import REASON, Fields, entries_of, event_of, moving
from engine.store.step import Refusal

_PAGE: Final = 100


class Parked(NamedTuple):
    """A parked event. `id` is its `ce_id`, or, when it cannot be read, the place where it lies."""

    id: str
    payment: str
    type: str
    surface: str
    reason: str
    since_ms: int
    body_bytes: int
    shard: int
    entry_id: str


class RedisParked:
    """Lists parked events and puts them back into the outbox."""

    def __init__(self, batcher: Batcher, keys: Keys) -> None:
        self._batcher = batcher
        self._keys = keys

    async def all(self) -> AsyncIterator[Parked]:
        """Every parked event, oldest first within each shard."""
        for shard in self._keys.shards:
            after = "-"
            while page := entries_of(await self._batcher.command("XRANGE", shard.parked, after, "+", "COUNT", _PAGE)):
                for entry_id, fields in page:
                    yield _parked(shard.shard, entry_id, fields)
                after = f"({page[-1][0]}"

    async def put_back(self, parked: Parked) -> bool:
        """Move it to the end of its outbox, from where the relay takes it. False when it is parked no more."""
        shard = self._keys.shards[parked.shard]
        page = entries_of(await self._batcher.command("XRANGE", shard.parked, parked.entry_id, parked.entry_id))
        if not page:
            return False
        fields = {name: text for name, text in page[0][1].items() if name != REASON}
        step = moving(shard.parked, parked.entry_id, shard.outbox, fields)
        return not isinstance(await self._batcher.step(step), Refusal)


def _parked(shard: int, entry_id: str, fields: Fields) -> Parked:
    reason, since_ms = fields.get(REASON, b"").decode(), int(entry_id.partition("-")[0])
    try:
        event, surface = event_of(fields)
    except (KeyError, ValueError):
        return Parked(f"{shard}/{entry_id}", "", "unreadable", "", reason, since_ms, 0, shard, entry_id)
    payment_id = fields[b"p"].decode()
    return Parked(
        event.id, payment_id, event.type, surface, reason, since_ms, len(event.body), shard, entry_id
    )  # fmt: skip
