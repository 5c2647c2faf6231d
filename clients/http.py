"""One HTTP counterparty: its errors in our words, each saying whether anything was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

import aiohttp
import yarl

from engine import context
from resilience.errors import BadAnswer, NoAnswer, Unreachable
from resilience.guard import Guard

T = TypeVar("T")

_TOO_MANY_REQUESTS = 429
ANSWER_BYTES_MAX = 256 * 1024
_CONNECT_SHARE = 0.75
"""How much of a try's time a connection may take. If it could take all, its silence would look like an answer's."""


def open_session(*, client_id: str) -> aiohttp.ClientSession:
    """The session that all clients share; the caller closes it. Call it in a running loop.

    The connector does not bound connections: each guard's bulkhead does, where it can be seen.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0, ttl_dns_cache=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": client_id, "Accept": "application/json"},
        auto_decompress=False,
        raise_for_status=False,
    )


class HttpCounterparty:
    """Sends one request at a time through the counterparty's guard."""

    def __init__(self, session: aiohttp.ClientSession, guard: Guard, *, timeout_s: float) -> None:
        self._session = session
        self._guard = guard
        self.name = guard.name
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=timeout_s * _CONNECT_SHARE)

    async def call(
        self,
        method: str,
        url: yarl.URL,
        read: Callable[[int, bytes], T],
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool,
    ) -> T:
        """Send, and give status and body of the answer to `read`, which raises `ValueError` for a broken promise.

        Raises a `CounterpartyError`. A 429 or 5xx is a failure; every other status is `read`'s business. What `read`
        cannot use of another 4xx is a `BadAnswer` too, but a healthy one: not tried again, not held against them.
        """

        async def try_once() -> T | BadAnswer:
            status, answer = await self._exchange(method, url, body, headers)
            if status >= 500 or status == _TOO_MANY_REQUESTS:
                raise BadAnswer(self.name, f"answered {status}", status=status)
            try:
                return read(status, answer)
            except ValueError:
                # The text of a decoding error may quote the answer, and the answer may hold anything.
                unusable = BadAnswer(self.name, f"answered {status} with an unexpected body", status=status)
                if 400 <= status < 500:
                    # Else one client with an id that they do not like would open the circuit for everybody.
                    return unusable
                raise unusable from None

        answered = await self._guard.call(try_once, idempotent=idempotent, limits_itself=True)
        if isinstance(answered, BadAnswer):
            raise answered
        return answered

    async def _exchange(
        self, method: str, url: yarl.URL, body: bytes | None, headers: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        request = context.current()
        sent = {"X-Request-Id": request.request_id, "traceparent": request.traceparent} if request.request_id else {}
        if headers:
            sent.update(headers)
        try:
            async with self._session.request(
                method, url, data=body, headers=sent, timeout=self._timeout, allow_redirects=False
            ) as response:
                answer = await response.content.read(ANSWER_BYTES_MAX + 1)
                while not response.content.at_eof() and len(answer) <= ANSWER_BYTES_MAX:
                    answer += await response.content.read(ANSWER_BYTES_MAX + 1)
                if len(answer) > ANSWER_BYTES_MAX:
                    raise BadAnswer(self.name, "answered with too large a body", status=response.status)
                return response.status, answer
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(self.name, f"cannot be reached ({type(error).__name__})") from error
        except TimeoutError as error:
            raise NoAnswer(self.name, f"did not answer within {self._timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(self.name, f"broke the connection ({type(error).__name__})") from error


def url_for(template: str, identifier: str) -> yarl.URL:
    """The URL of one thing: `{id}` in the template becomes the quoted identifier."""
    return yarl.URL(template.replace("{id}", quote(identifier, safe="")), encoded=True)
