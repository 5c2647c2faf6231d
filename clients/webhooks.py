"""Posting to addresses that strangers have chosen, without being led into the private network, or held up.

A name is looked up once for a connection, every address it has is looked at, and the connection goes to what was
looked at: who answers differently a moment later (DNS rebinding) has been asked for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from engine.ids import Clock
from engine.webhook_sender import PostAnswer
from engine.webhook_urls import is_public

BODY_BYTES_MAX: Final = 4096
"""Read of an answer's body, so that the connection can be used again. Whoever sends more is hung up on."""
_BODY_TIMEOUT_S: Final = 1.0
_HEADER_BYTES_MAX: Final = 8190
_LOOKUPS_AT_ONCE: Final = 256
"""More than the tries that a sender lets endpoints have that failed before, so that their names do not fill it."""
_KEEPALIVE_S: Final = 4.0
_ADDRESSES_MAX: Final = 16

Lookup = Callable[..., list[tuple[Any, ...]]]
_Name = tuple[str, int]
_Found = asyncio.Future[list[tuple[Any, ...]]]


class AddressRefused(OSError):
    """The host has an address that may not be connected to."""


class NotLookedUp(OSError):
    """There was no thread to look the name up in."""


class _Asked:
    """A name that somebody has asked for, and how many wait for it."""

    def __init__(self, found: _Found) -> None:
        self.found = found
        self.waiters = 0

    def fail(self, error: Exception) -> None:
        """Tell all who wait."""
        if not self.found.done():
            self.found.set_exception(error)
            self.found.exception()  # seen, also when everybody has left


class CheckedResolver(AbstractResolver):
    """Looks names up in threads of its own, one look-up for a name at a time, and refuses what is not public.

    The loop's own threads are few: some names whose servers never answer would hold up everybody.
    """

    def __init__(self, allowed: Callable[[str], bool], lookup: Lookup = socket.getaddrinfo) -> None:
        self._allowed = allowed
        self._lookup = lookup
        self._asked: dict[_Name, _Asked] = {}
        self._queued: dict[_Name, _Asked] = {}
        """Those of them that wait for room, in the order in which they came."""
        self._under_way = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of the host. Raises `AddressRefused` when one of them is not allowed, else `OSError`."""
        found = await self._looked_up(host, port)
        addresses = [(kind, str(place[0])) for kind, _, _, _, place in found[:_ADDRESSES_MAX]]
        if not addresses or not all(self._allowed(address) for _, address in addresses):
            raise AddressRefused("an address that is not allowed")
        return [_resolved(host, address, port, kind) for kind, address in addresses]

    async def close(self) -> None:
        """Begin no other look-up. A thread that waits for a name's server ends by itself."""
        self._queued.clear()
        for asked in self._asked.values():
            asked.found.cancel()

    async def _looked_up(self, host: str, port: int) -> list[tuple[Any, ...]]:
        name = (host, port)
        asked = self._asked.get(name)
        if asked is None:
            asked = self._asked[name] = self._queued[name] = _Asked(asyncio.get_running_loop().create_future())
            self._begin()
        asked.waiters += 1
        try:
            # Whoever runs out of time leaves the look-up to those who still wait for it.
            return await asyncio.shield(asked.found)
        finally:
            asked.waiters -= 1
            if not asked.waiters and self._queued.get(name) is asked:
                # Nobody is left: a thread for it would only take the place of a name that somebody waits for.
                del self._queued[name], self._asked[name]

    def _begin(self) -> None:
        """Begin what waits, as far as there is room. What gets no thread ends here: nobody else would end it."""
        while self._queued and self._under_way < _LOOKUPS_AT_ONCE:
            name = next(iter(self._queued))
            asked = self._queued.pop(name)
            # Not of a pool: the end of the process would wait for those, and names' servers may be silent.
            values = (name, asyncio.get_running_loop())
            try:
                threading.Thread(target=self._look_up, args=values, name="webhook-name", daemon=True).start()
            except Exception as error:
                del self._asked[name]
                refused = NotLookedUp("no thread for a look-up")
                refused.__cause__ = error
                asked.fail(refused)
            else:
                self._under_way += 1

    def _look_up(self, name: _Name, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own."""
        found: list[tuple[Any, ...]] | Exception
        try:
            found = self._lookup(*name, type=socket.SOCK_STREAM)
        except Exception as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._end, name, found)

    def _end(self, name: _Name, found: list[tuple[Any, ...]] | Exception) -> None:
        self._under_way -= 1
        asked = self._asked.pop(name)
        if isinstance(found, Exception):
            asked.fail(found)
        elif not asked.found.done():
            asked.found.set_result(found)
        self._begin()


class WebhookPoster:
    """Posts and tells what came of it. An async context manager.

    No redirect is followed, no proxy of the environment used, no cookie kept, no body of an answer kept. All of it
    within `timeout_s`.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        timeout_s: float,
        allow_http: bool = False,
        allow_private: bool = False,
        user_agent: str = "payment-engine-webhooks",
        lookup: Lookup = socket.getaddrinfo,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls`: whose certificates are believed; the system's authorities when it is not given."""
        self._clock = clock
        self._timeout_s = timeout_s
        self._schemes = ("https", "http") if allow_http else ("https",)
        self._allow_private = allow_private
        self._user_agent = user_agent
        self._lookup = lookup
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> WebhookPoster:
        self._resolver = CheckedResolver(self._allowed, self._lookup)
        connector = aiohttp.TCPConnector(
            limit=0,
            use_dns_cache=False,
            resolver=self._resolver,
            socket_factory=self._socket,
            keepalive_timeout=_KEEPALIVE_S,
            ssl=self._tls or ssl.create_default_context(),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the whole has one, see `post`
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            max_line_size=_HEADER_BYTES_MAX,
            max_field_size=_HEADER_BYTES_MAX,
            headers={"User-Agent": self._user_agent, "Content-Type": "application/json", "Accept": "*/*"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        # A session closes no resolver that it was given.
        await self._resolver.close()

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> PostAnswer:
        """Post once. Whatever goes wrong is the answer's `reason`."""
        assert self._session is not None, "opened"
        answer: PostAnswer | None = None
        try:
            target = URL(url, encoded=True)
            # What was allowed when the endpoint was made may be so no longer.
            if target.scheme not in self._schemes:
                return PostAnswer(0, "url_refused")
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(target, data=body, headers=headers, allow_redirects=False) as response,
            ):
                answer = PostAnswer(response.status, "", self._retry_after_s(response.headers.get("Retry-After")))
                await _drain(response)
        except TimeoutError:
            return answer or PostAnswer(0, "timeout")
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            # Also uvloop's: it answers a write to a connection that was reset a moment ago with a RuntimeError.
            return answer or PostAnswer(0, _reason(error))
        return answer

    def _allowed(self, address: str) -> bool:
        return self._allow_private or is_public(address)

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        # Addresses that stand in the URL are not looked up, so this is where they are seen, like all others.
        family, kind, protocol, _, place = info
        if not self._allowed(str(place[0])):
            raise AddressRefused("an address that is not allowed")
        return socket.socket(family, kind, protocol)

    def _retry_after_s(self, text: str | None) -> float | None:
        """Seconds to wait (RFC 9110 §10.2.3), or None when nothing was said that can be understood."""
        if text is None:
            return None
        if text.isascii() and text.isdecimal():
            return float(text[:9])
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - self._clock() / 1000)
        except (ValueError, OverflowError):
            return None


def _resolved(host: str, address: str, port: int, family: int) -> ResolveResult:
    tcp, numeric = socket.IPPROTO_TCP, socket.AI_NUMERICHOST
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=tcp, flags=numeric)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the little that a good answer has behind its head; its status has said everything."""
    left = BODY_BYTES_MAX
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            while left > 0 and (chunk := await response.content.read(left)):
                left -= len(chunk)
    if not response.content.at_eof():
        response.close()


def _reason(error: BaseException) -> str:
    """A word, never the error's text: it may quote what a stranger has sent."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressRefused):
            return "address_refused"
        if isinstance(cause, NotLookedUp):
            return "not_looked_up"
        cause = cause.__cause__
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "name_not_found"
        case aiohttp.ClientSSLError():
            return "tls"
        case aiohttp.ClientConnectorError():
            return "not_connected"
        case aiohttp.InvalidURL():
            return "url_refused"
        case aiohttp.ClientResponseError():
            return "bad_answer"
        case _:
            return "connection_broken"
