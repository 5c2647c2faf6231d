"""Users' mail addresses, as the user service knows them, kept for a moment."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

import msgspec

from clients.http import HttpCounterparty, url_for
from engine.errors import BadUpstreamAnswer, UserServiceUnavailable
from resilience.errors import BadAnswer, CounterpartyError

_NOT_FOUND: Final = 404
_OK: Final = 200
_CACHE_MAX: Final = 10_000
# ASCII alone: other addresses need a server that takes them (RFC 6531), and ours may not.
_ADDRESS: Final = re.compile(r"[!#-'*+./0-9=?A-Z^_`a-z{|}~-]{1,64}@[0-9A-Za-z.-]{1,189}\Z")


class _UserBody(msgspec.Struct):
    """What we read of the contract's user."""

    id: str | int
    email: str | None = None


_decode = msgspec.json.Decoder(_UserBody).decode


class UserAddresses:
    """Asks the user service for one user at a time."""

    def __init__(
        self,
        counterparty: HttpCounterparty,
        url_template: str,
        *,
        cache_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counterparty = counterparty
        self._url_template = url_template
        self._cache_s = cache_s
        self._clock = clock
        self._cache: dict[str, tuple[float, str]] = {}

    async def of(self, user_id: str) -> str | None:
        """The user's address; None when there is no such user, or no address that mail can be sent to.

        Raises `UserServiceUnavailable` or `BadUpstreamAnswer`.
        """
        kept = self._cache.get(user_id)
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        address = await self._ask(user_id)
        if address is not None and self._cache_s:
            if len(self._cache) >= _CACHE_MAX:
                self._cache.clear()
            self._cache[user_id] = (self._clock() + self._cache_s, address)
        return address

    async def _ask(self, user_id: str) -> str | None:
        def read(status: int, body: bytes) -> str | None:
            if status == _NOT_FOUND:
                return None
            user = _decode(body) if status == _OK else None
            if user is None or str(user.id) != user_id:
                raise ValueError("not the user that was asked for")
            return user.email if user.email and _ADDRESS.match(user.email) else None

        try:
            return await self._counterparty.call("GET", url_for(self._url_template, user_id), read, idempotent=True)
        except BadAnswer as error:
            raise BadUpstreamAnswer("the user service gave no usable answer", counterparty="user_service") from error
        except CounterpartyError as error:
            raise UserServiceUnavailable("the user service does not answer", counterparty="user_service") from error
