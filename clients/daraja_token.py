"""Daraja's access token: fetched once for all who need it, renewed early, and given up when it was refused."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import structlog

from clients.daraja_errors import Endpoint, Meaning, Throttled, Trouble, TurnedAway, read_answer
from clients.daraja_settings import DarajaSettings
from clients.http import HttpCounterparty
from clients.wire import parse_url
from resilience.errors import CounterpartyError, Refused

_RETRY_S: Final = 5.0
_MISCONFIGURED_RETRY_S: Final = 60.0
_LIFE_MAX_S: Final = 86_400.0
# It goes into a header: RFC 6750 §2.1.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{1,4096}=*")

log = structlog.get_logger()


class NoToken(TurnedAway):
    """There is no access token now, so nothing else could be sent."""


class _TokenBody(msgspec.Struct):
    """The answer; the number is a string there."""

    access_token: str
    expires_in: str | int | float


class _Token(NamedTuple):
    text: str
    renew_at: float
    ends_at: float

    def __repr__(self) -> str:
        return "_Token(…)"


_decode = msgspec.json.Decoder(_TokenBody).decode


class DarajaTokens:
    """The token of one consumer key. For one event loop."""

    def __init__(
        self, counterparty: HttpCounterparty, settings: DarajaSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        pair = f"{settings.consumer_key}:{settings.consumer_secret}".encode()
        self._headers = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        self._url = parse_url(settings.base_url.rstrip("/") + Endpoint.TOKEN.value)
        self._counterparty = counterparty
        self._early_s = settings.token_early_s
        self._clock = clock
        self._kept: _Token | None = None
        self._fetching: asyncio.Future[str] | None = None

    async def get(self) -> str:
        """A token that should be good. Raises `NoToken`."""
        while True:
            if self._kept is not None and self._clock() < self._kept.renew_at:
                return self._kept.text
            if self._fetching is None:
                return await self._lead()
            fetching = self._fetching
            try:
                return await asyncio.shield(fetching)
            except asyncio.CancelledError:
                # The one who fetched for all was cancelled, not we: somebody else fetches. Unless we were too.
                task = asyncio.current_task()
                if not fetching.cancelled() or (task is not None and task.cancelling()):
                    raise

    def forget(self, refused: str) -> None:
        """Use this token no more. One that has replaced it meanwhile stays."""
        if self._kept is not None and self._kept.text == refused:
            self._kept = None

    async def _lead(self) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._fetching = answer
        try:
            text = await self._renewed()
        except Exception as error:
            answer.set_exception(error)
            answer.exception()  # seen, also when nobody waits
            raise
        except BaseException:
            answer.cancel()
            raise
        finally:
            self._fetching = None
        answer.set_result(text)
        return text

    async def _renewed(self) -> str:
        old = self._kept
        try:
            self._kept = await self._fetch()
        except NoToken as error:
            now = self._clock()
            # Renewed early, so that a failure now is not yet one for those who want to pay. Unless it was refused.
            if old is None or self._kept is not old or now >= old.ends_at:
                raise
            log.warning("daraja token not renewed", reason=str(error))
            self._kept = old._replace(renew_at=min(old.ends_at, now + _RETRY_S))
        return self._kept.text

    async def _fetch(self) -> _Token:
        asked_at = self._clock()

        def read(body: bytes) -> _Token:
            told = _decode(body)
            life_s = min(float(told.expires_in), _LIFE_MAX_S)
            if not life_s > 0 or not _TOKEN.fullmatch(told.access_token):
                raise ValueError("no token")
            # From when it was asked for: the answer may have been long on its way.
            ends_at = asked_at + life_s
            return _Token(told.access_token, ends_at - min(self._early_s, life_s / 10), ends_at)

        name = self._counterparty.name
        try:
            answer = await self._counterparty.call(
                "GET",
                self._url,
                read_answer(name, Endpoint.TOKEN, read),
                headers=self._headers,
                idempotent=True,
                read_all=True,
            )
        except CounterpartyError as error:
            retry_after_s = error.retry_after_s if isinstance(error, (Refused, Throttled)) else _RETRY_S
            raise NoToken(name, f"no access token ({error})", retry_after_s=retry_after_s) from error
        if isinstance(answer, Trouble):
            if answer.meaning is Meaning.MISCONFIGURED:
                log.error("daraja refuses our consumer key", code=answer.code, reason=answer.reason)
            why = f"gives no access token ({answer.code})"
            raise NoToken(name, why, retry_after_s=_MISCONFIGURED_RETRY_S)
        return answer
