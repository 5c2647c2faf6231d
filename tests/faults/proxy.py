"""A TCP proxy on loopback that breaks things on order, and counts what it broke."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from enum import StrEnum
from types import TracebackType
from typing import Self

_READ_BYTES = 1 << 18
_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds


class Fate(StrEnum):
    """What becomes of a request that a rule has chosen. The server sees it only in the last two."""

    HOLD = "hold"
    """It stands still until the rule is released; whoever asked waits, or dies."""
    RESET = "reset"
    """The client's connection is reset and the request thrown away."""
    HOLD_REPLY = "hold_reply"
    """It is executed; the reply stands still until the rule is released."""
    LOSE_REPLY = "lose_reply"
    """It is executed; then the client's connection is reset instead of the reply."""


class Rule:
    """Chooses requests by a pattern in their bytes, `times` at most (None: always)."""

    def __init__(self, pattern: bytes, fate: Fate, times: int | None) -> None:
        self.pattern, self.fate, self.times = re.compile(pattern, re.DOTALL), fate, times
        self.fired = 0
        self.released = asyncio.Event()
        self._seen = asyncio.Event()

    async def seen(self, timeout_s: float = 60.0) -> None:
        """Wait until it has fired."""
        async with asyncio.timeout(timeout_s):
            await self._seen.wait()

    def take(self, data: bytes) -> bool:
        """Whether it chooses this request."""
        if self.times is not None and self.fired >= self.times:
            return False
        if self.pattern.search(data) is None:
            return False
        self.fired += 1
        self._seen.set()
        return True


class _Connection:
    """One client's connection and ours to the server."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.replies_held_by: Rule | None = None
        self.reply_lost = False
        self.bytes_left: int | None = proxy.cut_after_bytes

    def reset(self) -> None:
        """RST to the client, and good-bye to the server."""
        transport = self.client.transport
        if not transport.is_closing():
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            transport.abort()
        self.server.transport.abort()

    async def requests(self, reader: asyncio.StreamReader) -> None:
        """From the client to the server, until one of them leaves."""
        while data := await reader.read(_READ_BYTES):
            rule = self.proxy.choose(data)
            match rule.fate if rule else None:
                case Fate.HOLD if rule:
                    held = await _hold(rule, reader, data)
                    if held is None:
                        return
                    data = held
                case Fate.RESET:
                    self.reset()
                    return
                case Fate.HOLD_REPLY:
                    self.replies_held_by = rule
                case Fate.LOSE_REPLY:
                    self.reply_lost = True
            self.server.write(data)
            await self.server.drain()

    async def replies(self, reader: asyncio.StreamReader) -> None:
        """From the server to the client, until one of them leaves."""
        while data := await reader.read(_READ_BYTES):
            if self.reply_lost:
                self.reset()
                return
            if self.replies_held_by is not None:
                await self.replies_held_by.released.wait()
                self.replies_held_by = None
            if self.proxy.delay_s:
                self.proxy.fired["delay"] += 1
                await asyncio.sleep(self.proxy.delay_s)
            if self.bytes_left is not None and len(data) >= self.bytes_left:
                self.proxy.fired["cut_after_bytes"] += 1
                self.client.write(data[: self.bytes_left])
                with contextlib.suppress(OSError):
                    await self.client.drain()
                self.reset()
                return
            if self.bytes_left is not None:
                self.bytes_left -= len(data)
            self.client.write(data)
            await self.client.drain()


async def _hold(rule: Rule, reader: asyncio.StreamReader, held: bytes) -> bytes | None:
    """All that came until the rule was released; None if the client left before."""
    releasing = asyncio.ensure_future(rule.released.wait())
    try:
        while True:
            reading = asyncio.ensure_future(reader.read(_READ_BYTES))
            await asyncio.wait((releasing, reading), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                await asyncio.wait((reading,))
                return held
            more = reading.result()
            if not more:
                return None
            held += more
    finally:
        releasing.cancel()


class Proxy:
    """Stands before `port` of this machine. Use it with `async with`; `fired` counts faults that are no rules."""

    def __init__(self, port: int, *, listen: int = 0) -> None:
        self.fired: Counter[str] = Counter()
        self.port = listen
        self.delay_s = 0.0
        """Each reply comes so much later."""
        self.cut_after_bytes: int | None = None
        """A connection opened from now on is reset when so many bytes of replies have passed."""
        self._to = port
        self._rules: list[Rule] = []
        self._connections: set[_Connection] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in tuple(self._connections):
            connection.reset()
        for handler in tuple(self._handlers):
            handler.cancel()
        if self._handlers:
            await asyncio.wait(self._handlers)
        await self._server.wait_closed()

    def on(self, pattern: bytes, fate: Fate, *, times: int | None = 1) -> Rule:
        """From now on, requests with these bytes (a regular expression) meet their fate."""
        rule = Rule(pattern, fate, times)
        self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """No more rules, no delay, no cuts. What is held stays held."""
        self._rules.clear()
        self.delay_s, self.cut_after_bytes = 0.0, None
        for connection in self._connections:
            connection.bytes_left = None

    def cut_now(self) -> int:
        """Reset every connection that is open. Returns how many there were."""
        open_now = tuple(self._connections)
        for connection in open_now:
            connection.reset()
        self.fired["cut_now"] += len(open_now)
        return len(open_now)

    def choose(self, data: bytes) -> Rule | None:
        """The oldest rule that takes this request."""
        return next((rule for rule in self._rules if rule.take(data)), None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            # Cancelled only by us at the end; asyncio's streams would log it as an error.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            writer.close()
            self._handlers.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The server may be down: then the client sees its connection end, as it would without a proxy.
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        connection = _Connection(self, writer, to_server)
        self._connections.add(connection)
        both = [
            asyncio.ensure_future(connection.requests(reader)),
            asyncio.ensure_future(connection.replies(from_server)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections.discard(connection)
            to_server.transport.abort()
            for pump in both:
                pump.cancel()
            await asyncio.gather(*both, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server of this URL, and the same URL through the proxy."""
    found = re.fullmatch(r"(.*://127\.0\.0\.1):(\d+)(.*)", url)
    assert found is not None, url
    async with Proxy(int(found[2])) as proxy:
        yield proxy, f"{found[1]}:{proxy.port}{found[3]}"
