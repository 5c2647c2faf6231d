"""The user service: asked once per user and a short time, however many ask at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from clients.http import HttpCounterparty, url_for
from engine.checking import User
from engine.errors import BadUpstreamAnswer, UserServiceUnavailable
from resilience.errors import BadAnswer, CounterpartyError, Refused

_NOT_FOUND: Final = 404
_OK: Final = 200


class _UserBody(msgspec.Struct):
    """What we read of the contract's user; what else it has is not ours."""

    id: str | int
    is_active: bool


_decode = msgspec.json.Decoder(_UserBody).decode


class UserService:
    """Users by id, kept for `cache_s` seconds; one request at a time per user."""

    def __init__(
        self,
        counterparty: HttpCounterparty,
        url_template: str,
        *,
        cache_s: float,
        cache_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counterparty = counterparty
        self._url_template = url_template
        self._cache_s = cache_s
        self._cache_max = cache_max
        self._clock = clock
        self._cache: dict[str, tuple[float, User]] = {}
        self._asking: dict[str, asyncio.Future[User | None]] = {}

    def cached(self, user_id: str) -> User | None:
        """The user, if it was asked for within the last `cache_s` seconds."""
        kept = self._cache.get(user_id)
        return kept[1] if kept is not None and kept[0] > self._clock() else None

    async def get(self, user_id: str) -> User | None:
        """The user, or None if unknown. Raises `UserServiceUnavailable` or `BadUpstreamAnswer`."""
        while True:
            if (user := self.cached(user_id)) is not None:
                return user
            asking = self._asking.get(user_id)
            if asking is None:
                return await self._lead(user_id)
            try:
                return await asyncio.shield(asking)
            except asyncio.CancelledError:
                # The one who asked for all was cancelled, not we: somebody else asks. Unless we were too.
                task = asyncio.current_task()
                if not asking.cancelled() or (task is not None and task.cancelling()):
                    raise

    async def _lead(self, user_id: str) -> User | None:
        answer: asyncio.Future[User | None] = asyncio.get_running_loop().create_future()
        self._asking[user_id] = answer
        try:
            user = await self._ask(user_id)
        except Exception as error:
            answer.set_exception(error)
            answer.exception()  # seen, also when nobody waits
            raise
        except BaseException:
            answer.cancel()
            raise
        finally:
            del self._asking[user_id]
        self._keep(user_id, user)
        answer.set_result(user)
        return user

    async def _ask(self, user_id: str) -> User | None:
        def read(status: int, body: bytes) -> User | None:
            if status == _NOT_FOUND:
                return None
            user = _decode(body) if status == _OK else None
            if user is None or str(user.id) != user_id:
                raise ValueError("not the user that was asked for")
            return User(user_id, user.is_active)

        try:
            url = url_for(self._url_template, user_id)
            return await self._counterparty.call("GET", url, read, idempotent=True)
        except Refused as error:
            raise UserServiceUnavailable(
                "the user service is not asked now", retry_after_s=error.retry_after_s, counterparty="user_service"
            ) from error
        except BadAnswer as error:
            raise BadUpstreamAnswer("the user service gave no usable answer", counterparty="user_service") from error
        except CounterpartyError as error:
            raise UserServiceUnavailable("the user service does not answer", counterparty="user_service") from error

    def _keep(self, user_id: str, user: User | None) -> None:
        # Unknown and inactive users are not kept: somebody is about to change that.
        if user is None or not user.active or self._cache_s <= 0:
            return
        if len(self._cache) >= self._cache_max:
            self._cache.clear()
        self._cache[user_id] = (self._clock() + self._cache_s, user)
