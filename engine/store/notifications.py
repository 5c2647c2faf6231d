"""Notifications in Redis: one hash for each event, written once, kept for a time; channels note there what they did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from engine.ids import shard_of
from engine.notifications import Notification
from engine.store.batch import Batcher
from engine.store.keys import Keys
from engine.store.repeating import Repeating
from engine.store.step import Refusal, Step

_RECORD: Final = "n"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Notification).decode


class Taken(NamedTuple):
    """A notification as it stands after it was taken in."""

    new: bool
    notification: Notification
    """As it was written first; what came again may know other channels."""
    left: tuple[str, ...]
    """Its channels that have noted nothing yet."""


class RedisNotifications:
    """A notification lies in the shard of its event's id. Taken in again, only its time to live is changed."""

    def __init__(
        self, batcher: Batcher, keys: Keys, *, kept_s: int, sleep: Callable[[float], Any] = asyncio.sleep
    ) -> None:
        self._keys = keys
        self._kept_s = kept_s
        repeating = Repeating(batcher, sleep)
        self._run = repeating.step
        self._read = repeating.command

    async def take(self, notifications: Sequence[Notification]) -> list[Taken]:
        """Write those that are new. Raises `StoreUnavailable`, `Overloaded`: then take all of them in once more."""
        return await asyncio.gather(*map(self._take, notifications))

    async def note_first(self, channel: str, states: Mapping[str, str]) -> None:
        """Note the first state of a channel, by event's id; one that is noted stays. Raises as `take` does."""
        await asyncio.gather(*(self._read("HSETNX", self._key(each), channel, state) for each, state in states.items()))

    async def note(self, event_id: str, channel: str, state: str) -> None:
        """Note the state of a channel. Raises as `take` does."""
        step = Step()
        step.do("HSET", self._key(event_id), channel, state)
        # Its time may have just come: nothing without an end.
        step.do("EXPIRE", self._key(event_id), self._kept_s)
        await self._run(step)

    async def get(self, event_id: str) -> tuple[Notification, dict[str, str]] | None:
        """A notification with the states of its channels; None when there is none any more."""
        raw = await self._read("HGETALL", self._key(event_id))
        # RESP2 answers with a list.
        fields = raw if isinstance(raw, dict) else dict(zip(raw[::2], raw[1::2], strict=True))
        if _RECORD.encode() not in fields:
            return None
        record = _decode(fields.pop(_RECORD.encode()))
        return record, {name.decode(): state.decode() for name, state in fields.items()}

    async def _take(self, notification: Notification) -> Taken:
        key = self._key(notification.id)
        step = Step()
        step.do("HSETNX", key, _RECORD, _encode(notification))
        # Again each time: a step that died in between would leave a record for ever, and who replays may do so later.
        step.do("EXPIRE", key, self._kept_s)
        step.do("HMGET", key, _RECORD, *notification.channels)
        answer = await self._run(step)
        assert not isinstance(answer, Refusal), "it has no conditions"
        new, _, (record, *states) = answer
        if new:
            return Taken(True, notification, notification.channels)
        first = _decode(record)
        done = dict(zip(notification.channels, states, strict=True))
        left = tuple(name for name in first.channels if name in done and done[name] is None)
        return Taken(False, first, left)

    def _key(self, event_id: str) -> str:
        return self._keys.shards[shard_of(event_id, len(self._keys.shards))].notification(event_id)
