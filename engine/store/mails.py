"""Mails that wait, on the durable schedule of deliveries: a lane for each user, a line for each mail."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from engine.delivering import Added, Delivery, Leased
from engine.mailing import WaitingMail
from engine.store.batch import Batcher
from engine.store.deliveries import Deliveries
from engine.store.depths import Depth
from engine.store.keys import Keys

_QUEUE: Final = "mail"
_EACH_MAX: Final = 2
"""Mails to one user that are under way at the same time."""
_WAITING_MAX: Final = 1000
"""Mails that may wait for one user."""
_KNOWN_MS: Final = 3_600_000
"""How long an ended mail is known by its id here; the notification knows for longer."""


class _Item(msgspec.Struct, array_like=True):
    notification_id: str
    user_id: str
    tries: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Item).decode


class RedisMails:
    """The schedule of mails. All methods raise `StoreUnavailable` and `Overloaded`."""

    def __init__(self, batcher: Batcher, keys: Keys, *, lease_s: float) -> None:
        self._deliveries = Deliveries(
            batcher,
            keys,
            queue=_QUEUE,
            each_max=_EACH_MAX,
            lease_ms=round(lease_s * 1000),
            waiting_max=_WAITING_MAX,
            kept_max=0,
            keep_ms=_KNOWN_MS,
            remember_ms=_KNOWN_MS,
        )

    async def add(self, mails: Sequence[tuple[str, str]], *, now_ms: int) -> list[bool]:
        """Keep notification ids with their users. Which of them are kept: one that was kept before is, too."""
        deliveries = [
            Delivery(name, _lane(user_id), name, _encode(_Item(name, user_id)), now_ms) for name, user_id in mails
        ]
        return [added is not Added.FULL for added in await self._deliveries.add(deliveries, now_ms=now_ms)]

    async def due(self, now_ms: int, limit: int) -> list[WaitingMail]:
        """Some of what is due, leased: nobody else gets it until its lease is over."""
        return [_waiting(leased) for leased in await self._deliveries.due(now_ms, limit)]

    async def done(self, mail: WaitingMail, *, now_ms: int) -> None:
        """It has ended, however."""
        await self._deliveries.done(_leased(mail), b"", now_ms=now_ms)

    async def again(self, mail: WaitingMail, *, due_ms: int) -> None:
        """Try it again at `due_ms`, with the tries that it has had by now."""
        item = _encode(_Item(mail.notification_id, mail.user_id, mail.tries))
        await self._deliveries.again(_leased(mail), item, due_ms=due_ms)

    async def give_back(self, mail: WaitingMail, *, now_ms: int) -> None:
        """It was not tried: it is due as it was."""
        await self._deliveries.rest(_leased(mail), now_ms=now_ms, until_ms=now_ms)

    async def depth(self) -> Depth:
        """How many wait, and when the oldest came."""
        return await self._deliveries.depth()


def _lane(user_id: str) -> str:
    # A user's name may contain anything, and stands in keys.
    return hashlib.blake2b(user_id.encode(errors="replace"), digest_size=12).hexdigest()


def _waiting(leased: Leased) -> WaitingMail:
    item = _decode(leased.item)
    return WaitingMail(item.notification_id, item.user_id, item.tries, leased.till_ms, leased)


def _leased(mail: WaitingMail) -> Leased:
    assert isinstance(mail.lease, Leased), "it came from here"
    return mail.lease
