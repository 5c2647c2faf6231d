"""One HTTP counterparty: its errors in our words, each saying whether anything was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar
from urllib.parse import quote

from clients.wire import Answer, Broken, NotConnected, TimedOut, TooLarge, Url, Wire, parse_url
from engine import context
from resilience.errors import BadAnswer, NoAnswer, Unreachable
from resilience.guard import Guard

T = TypeVar("T")

_TOO_MANY_REQUESTS: Final = 429
ANSWER_BYTES_MAX: Final = 256 * 1024
_CONNECT_SHARE: Final = 0.75
"""How much of a try's time a connection may take. If it could take all, its silence would look like an answer's."""


def open_session(*, client_id: str) -> Wire:
    """The connections that all clients share: an async context manager.

    Nothing here bounds how many there are: each guard's bulkhead does, where it can be seen.
    """
    return Wire(client_id=client_id, body_bytes_max=ANSWER_BYTES_MAX)


class Exchanges(Protocol):
    """Sends one request and reads its answer, as `Wire` does."""

    async def exchange(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        timeout_s: float,
        connect_timeout_s: float,
    ) -> Answer: ...


class HttpCounterparty:
    """Sends one request at a time through the counterparty's guard."""

    def __init__(self, wire: Exchanges, guard: Guard, *, timeout_s: float) -> None:
        self._wire = wire
        self._guard = guard
        self.name = guard.name
        self._timeout_s = timeout_s

    async def call(
        self,
        method: str,
        url: Url,
        read: Callable[[int, bytes], T],
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool,
        read_all: bool = False,
    ) -> T:
        """Send, and give status and body of the answer to `read`, which raises `ValueError` for a broken promise.

        Raises a `CounterpartyError`. A 429 or 5xx is a failure; every other status is `read`'s business. What `read`
        cannot use of another 4xx is a `BadAnswer` too, but a healthy one: not tried again, not held against them.

        `read_all`: for those who put news into a 500. `read` gets every status, and raises the failures itself.
        """

        async def try_once() -> T | BadAnswer:
            status, answer = await self._exchange(method, url, body, headers)
            if not read_all and (status >= 500 or status == _TOO_MANY_REQUESTS):
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
        self, method: str, url: Url, body: bytes | None, headers: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        request = context.current()
        sent = {"X-Request-Id": request.request_id, "traceparent": request.traceparent} if request.request_id else {}
        if headers:
            sent.update(headers)
        try:
            return await self._wire.exchange(
                method,
                url,
                sent,
                body,
                timeout_s=self._timeout_s,
                connect_timeout_s=self._timeout_s * _CONNECT_SHARE,
            )
        except NotConnected as error:
            raise Unreachable(self.name, f"cannot be reached ({error})") from error
        except TimedOut as error:
            raise NoAnswer(self.name, f"did not answer within {self._timeout_s:g} s") from error
        except TooLarge as error:
            raise BadAnswer(self.name, "answered with too large a body") from error
        except Broken as error:
            raise NoAnswer(self.name, f"broke the connection ({error})") from error


def url_for(template: str, identifier: str) -> Url:
    """The URL of one thing: `{id}` in the template becomes the quoted identifier."""
    url = parse_url(template)
    return url._replace(target=url.target.replace("{id}", quote(identifier, safe="")))
