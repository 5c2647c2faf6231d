"""Safaricom's Daraja: asks a phone to pay (STK push), and asks what became of it.

There is no idempotency key. A push whose answer was lost may be on the phone, so nothing here sends it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar, assert_never

import structlog

from clients.daraja_errors import Endpoint, Meaning, Trouble, TurnedAway, read_answer
from clients.daraja_forms import Forms, read_push, read_query
from clients.daraja_settings import DarajaSettings
from clients.daraja_token import DarajaTokens
from clients.http import HttpCounterparty
from clients.wire import parse_url
from engine.charging import NotSent, Unknown
from engine.ids import Clock, now_ms
from engine.pushes import CannotTell, PushAnswer, PushRefused, PushRequest, PushStatus, StillWaiting
from resilience.errors import CounterpartyError, Refused, Unreachable

T = TypeVar("T")

_NOT_SENT_RETRY_S: Final = 1.0
_ASK_AGAIN_S: Final = 5.0
_WRONG_SETTINGS_RETRY_S: Final = 60.0
_TRIES_WITH_A_TOKEN: Final = 2
_TOKEN_PATIENCE_S: Final = 4.0
"""Less than the five seconds by which a lease is longer than a call."""

log = structlog.get_logger()


class Daraja:
    """Pushes and queries for one shortcode. Nothing raises for trouble with Daraja. For one event loop.

    `queries` has a guard of its own: whoever asks too often must not stop the pushes.
    """

    def __init__(
        self,
        counterparty: HttpCounterparty,
        settings: DarajaSettings,
        *,
        queries: HttpCounterparty | None = None,
        clock: Clock = now_ms,
        token_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counterparty = counterparty
        self._queries = queries or counterparty
        self._forms = Forms(settings, clock)
        self._tokens = DarajaTokens(counterparty, settings, clock=token_clock)
        self._urls = {
            endpoint: parse_url(settings.base_url.rstrip("/") + endpoint.value)
            for endpoint in (Endpoint.PUSH, Endpoint.QUERY)
        }

    @property
    def name(self) -> str:
        """The configured name, as in metrics and records."""
        return self._counterparty.name

    async def push(self, request: PushRequest) -> PushAnswer:
        """Ask the phone to pay. After `Unknown` it may never be asked again, by nobody."""
        try:
            answer = await self._send(Endpoint.PUSH, lambda: self._forms.push(request), read_push, idempotent=False)
        except CounterpartyError as error:
            return Unknown(str(error)) if error.sent else NotSent(str(error), _pause_s(error, _NOT_SENT_RETRY_S))
        if not isinstance(answer, Trouble):
            return answer
        match answer.meaning:
            case Meaning.TOKEN:
                return NotSent(self._said(answer), _WRONG_SETTINGS_RETRY_S)
            case Meaning.REFUSED | Meaning.MISCONFIGURED:
                self._complain(Endpoint.PUSH, answer)
                return PushRefused(answer.code, answer.reason)
            case Meaning.UNCLEAR | Meaning.PENDING | Meaning.THROTTLED:
                return Unknown(self._said(answer))
            case _:
                assert_never(answer.meaning)

    async def query(self, checkout_id: str) -> PushStatus:
        """What became of a push. Safe to repeat."""
        try:
            answer = await self._send(
                Endpoint.QUERY,
                lambda: self._forms.query(checkout_id),
                lambda body: read_query(body, checkout_id),
                idempotent=True,
            )
        except CounterpartyError as error:
            return CannotTell(str(error), _pause_s(error, _ASK_AGAIN_S))
        if not isinstance(answer, Trouble):
            return answer
        if answer.meaning is Meaning.PENDING:
            return StillWaiting()
        # Not even a refused question is a word about the money.
        self._complain(Endpoint.QUERY, answer)
        return CannotTell(self._said(answer), _WRONG_SETTINGS_RETRY_S)

    async def _send(
        self, endpoint: Endpoint, form: Callable[[], bytes], read: Callable[[bytes], T], *, idempotent: bool
    ) -> T | Trouble:
        """Send with a token, and if that is refused (then nothing was done) once more with a new one.

        What has to come before the body is bounded apart: a lease is made for one call, not for four.
        """
        tried, counterparty = 0, self._counterparty if endpoint is Endpoint.PUSH else self._queries
        token_by = asyncio.get_running_loop().time() + _TOKEN_PATIENCE_S
        while True:
            try:
                async with asyncio.timeout_at(token_by):
                    token = await self._tokens.get()
            except TimeoutError:
                raise Unreachable(self.name, "no access token in time") from None
            answer = await counterparty.call(
                "POST",
                self._urls[endpoint],
                read_answer(self.name, endpoint, read),
                body=form(),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                idempotent=idempotent,
                read_all=True,
            )
            if not isinstance(answer, Trouble) or answer.meaning is not Meaning.TOKEN:
                return answer
            self._tokens.forget(token)
            tried += 1
            if tried == _TRIES_WITH_A_TOKEN:
                return answer

    def _said(self, trouble: Trouble) -> str:
        return f"{self.name}: answered {trouble.code} ({trouble.reason})"

    def _complain(self, endpoint: Endpoint, trouble: Trouble) -> None:
        if trouble.meaning is Meaning.MISCONFIGURED:
            log.error(
                "daraja refuses our settings", endpoint=endpoint.name.lower(), code=trouble.code, reason=trouble.reason
            )


def _pause_s(error: CounterpartyError, otherwise_s: float) -> float:
    return error.retry_after_s if isinstance(error, (Refused, TurnedAway)) else otherwise_s
