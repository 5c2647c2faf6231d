"""HTTP/1.1 to a few counterparties, on kept connections: the least that a call needs, parsed by llhttp.

Two calls leave for every payment, and aiohttp's client costs five times as much for each as this does. Nothing is
retried here but one thing: a GET on a kept connection that the peer had closed meanwhile.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httptools

_IDLE_MAX_S: Final = 4.0
"""Connections that were idle longer are not used: many servers close them after 5 s, in the middle of a request."""

_FINAL: Final = 200


class Origin(NamedTuple):
    """Where a connection leads."""

    tls: bool
    host: str
    port: int

    @property
    def host_header(self) -> str:
        """The `Host` header's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Url(NamedTuple):
    """An http or https URL, ready to be asked for."""

    origin: Origin
    target: str

    def __str__(self) -> str:
        return f"{'https' if self.origin.tls else 'http'}://{self.origin.host_header}{self.target}"


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes


class NotConnected(Exception):
    """No connection was made: nothing was sent."""


class Broken(Exception):
    """The connection ended, or what came on it is no HTTP, before there was a whole answer."""


class TooLarge(Exception):
    """The answer's body is longer than allowed."""


class TimedOut(Exception):
    """There was no whole answer in time."""


@lru_cache(maxsize=256)
def parse_url(url: str) -> Url:
    """Split an absolute URL. Raises `ValueError` if it is not one for http or https."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        raise ValueError(f"not an http or https URL: {parts.scheme}://{parts.hostname or ''}")
    tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(Origin(tls, parts.hostname, parts.port or (443 if tls else 80)), target.replace(" ", "%20"))


class Wire:
    """Connections to all counterparties, kept per origin. Use it as an async context manager, in one event loop."""

    def __init__(self, *, client_id: str, body_bytes_max: int, idle_max_s: float = _IDLE_MAX_S) -> None:
        self._head = f"User-Agent: {client_id}\r\nAccept: application/json\r\n"
        self._body_bytes_max = body_bytes_max
        self._idle_max_s = idle_max_s
        self._idle: dict[Origin, list[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Wire:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in tuple(self._open):
            connection.close()
        # The transports close in the next passes of the loop.
        await asyncio.sleep(0)

    async def exchange(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        timeout_s: float,
        connect_timeout_s: float,
    ) -> Answer:
        """Send one request and read its answer. Raises `NotConnected`, `Broken`, `TooLarge` or `TimedOut`.

        Cancelled or timed out, the connection is dropped: whether the request arrived is not known then.
        """
        request = self._request(method, url, headers, body)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        kept = self._kept(url.origin)
        if kept is not None:
            try:
                return await self._on(kept, request, deadline_s)
            except Broken:
                if method != "GET" or kept.answered:
                    raise
        fresh = await self._connect(url.origin, connect_timeout_s)
        return await self._on(fresh, request, deadline_s)

    async def _on(self, connection: _Connection, request: bytes, deadline_s: float) -> Answer:
        try:
            answer = await connection.exchange(request, deadline_s)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            connection.idle_since_s = asyncio.get_running_loop().time()
            self._idle.setdefault(connection.origin, []).append(connection)
        else:
            connection.close()
        return answer

    def _kept(self, origin: Origin) -> _Connection | None:
        idle = self._idle.get(origin)
        oldest_s = asyncio.get_running_loop().time() - self._idle_max_s
        while idle:
            # The one used last: the others may then grow old and go.
            connection = idle.pop()
            if not connection.closed and connection.idle_since_s > oldest_s:
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin, timeout_s: float) -> _Connection:
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(origin, self._open, self._body_bytes_max),
                    origin.host,
                    origin.port,
                    ssl=self._tls if origin.tls else None,
                )
        except (OSError, TimeoutError, ssl.SSLError) as error:
            raise NotConnected(type(error).__name__) from error
        return connection

    def _request(self, method: str, url: Url, headers: Mapping[str, str], body: bytes | None) -> bytes:
        lines = [f"{method} {url.target} HTTP/1.1\r\nHost: {url.origin.host_header}\r\n", self._head]
        lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}\r\n")
        lines.append("\r\n")
        # Latin-1 refuses what is no header text; our values are checked ASCII.
        head = "".join(lines).encode("latin-1")
        return head if body is None else head + body


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, origin: Origin, open_ones: set[_Connection], body_bytes_max: int) -> None:
        self.origin = origin
        self.idle_since_s = 0.0
        self.closed = False
        self.reusable = False
        self.answered = False
        """Whether a byte of the answer has come: then the request was received."""
        self._open_ones = open_ones
        self._body_bytes_max = body_bytes_max
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Answer] | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._ends_with_connection = False

    async def exchange(self, request: bytes, deadline_s: float) -> Answer:
        """Send a request and wait for its answer."""
        loop = asyncio.get_running_loop()
        if self.closed or self._transport is None:
            raise Broken("closed before the request")
        waiter: asyncio.Future[Answer] = loop.create_future()
        self._waiter = waiter
        self.reusable = self.answered = False
        timer = loop.call_at(deadline_s, self._end, TimedOut())
        try:
            self._transport.write(request)
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def close(self) -> None:
        """Drop the connection. Safe to call twice."""
        self.closed = True
        self._open_ones.discard(self)
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write"), "a stream"
        self._transport = transport  # type: ignore[assignment]
        self._open_ones.add(self)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self._distrust()
            return
        self.answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(Broken(f"no HTTP ({type(error).__name__})"))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._open_ones.discard(self)
        if self._ends_with_connection and exc is None:
            self.on_message_complete()
        else:
            self._end(Broken(type(exc).__name__ if exc else "the peer closed the connection"))

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._waiter is None or self._waiter.done():
            self._distrust()
        self._body, self._size = [], 0
        self._ends_with_connection = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._ends_with_connection = False

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._body_bytes_max:
            self._end(TooLarge())
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._ends_with_connection = False
        status = self._parser.get_status_code()
        if status < _FINAL:
            return  # 100 Continue and its like: the answer is still to come
        self.reusable = not self.closed and self._parser.should_keep_alive()
        if self._waiter is not None and not self._waiter.done():
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._waiter.set_result(Answer(status, body))

    def _distrust(self) -> None:
        # Something came that nobody asked for. It must never be taken for the next request's answer.
        self.reusable = False
        self.close()

    def _end(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
