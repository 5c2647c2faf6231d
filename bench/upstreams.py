"""The user service, the order service and the acquirer of the benchmark: as little work a request as Python can do.

    python -m bench.upstreams PORT

An order's id tells everything about it: `<anything>.<user id>` is a pending order of that user over `TOTAL`.
The acquirer approves everything and counts the attempts that it was sent twice. `GET /stats` tells the counts.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import cast

import msgspec
import uvloop

TOTAL = "75.48"
TOTAL_MINOR = 7548
CURRENCY = "USD"

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_KEY = b"idempotency-key:"


class _ChargeBody(msgspec.Struct):
    amount_minor: int
    currency: str


_decode = msgspec.json.Decoder(_ChargeBody).decode


class Stats(msgspec.Struct):
    """What was asked for so far."""

    users: int = 0
    orders: int = 0
    charges: int = 0
    questions: int = 0
    attempts: int = 0
    attempts_twice: int = 0
    other: int = 0


class Books:
    """All answers. Attempts are remembered, because seeing one twice is the error to look for."""

    def __init__(self) -> None:
        self.stats = Stats()
        self._attempts: set[bytes] = set()

    def answer(self, method: bytes, path: bytes, head: bytes, body: bytes) -> bytes:
        """The whole answer to a request."""
        if method == b"POST" and path == b"/charges":
            return self._charge(_header(head, _KEY), _decode(body))
        if path.startswith(b"/api/orders/"):
            return self._order(path[12:])
        if path.startswith(b"/api/users/"):
            self.stats.users += 1
            return _ok(b'{"id":"%b","is_active":true}' % path[11:])
        if path.startswith(b"/internal/"):
            return _ok(b'{"id":%b}' % path.rpartition(b"/")[2])
        if path.startswith(b"/charges/"):
            return self._find(path[9:])
        if path == b"/stats":
            return _ok(msgspec.json.encode(self.stats))
        self.stats.other += 1
        return _answer(b"404 Not Found", b"{}")

    def _order(self, order_id: bytes) -> bytes:
        self.stats.orders += 1
        user = order_id.rpartition(b".")[2]
        return _ok(
            b'{"id":"%b","userId":"%b","status":"pending","totalAmount":%b,"currency":"%b"}'
            % (order_id, user, TOTAL.encode(), CURRENCY.encode())
        )

    def _charge(self, attempt: bytes, charge: _ChargeBody) -> bytes:
        self.stats.charges += 1
        if attempt in self._attempts:
            self.stats.attempts_twice += 1
        self._attempts.add(attempt)
        self.stats.attempts = len(self._attempts)
        return _approved(attempt, charge.amount_minor, charge.currency.encode())

    def _find(self, attempt: bytes) -> bytes:
        self.stats.questions += 1
        if attempt in self._attempts:
            return _approved(attempt, TOTAL_MINOR, CURRENCY.encode())
        return _answer(b"404 Not Found", b"{}")


class Connection(asyncio.Protocol):
    """HTTP/1.1 as far as the engine speaks it: keep-alive, pipelining, bodies with a length."""

    def __init__(self, answer: Callable[[bytes, bytes, bytes, bytes], bytes]) -> None:
        self._answer = answer
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are not subclasses of asyncio's, so `isinstance` says no.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is there as a whole, and keep the rest."""
        data = self._rest + data if self._rest else data
        answers = []
        while (end := data.find(_END)) >= 0:
            head = data[:end]
            stop = end + 4 + int(_header(head, _LENGTH) or 0)
            if len(data) < stop:
                break
            method, path, _ = head.split(b" ", 2)
            answers.append(self._answer(method, path, head, data[end + 4 : stop]))
            data = data[stop:]
        self._rest = data
        if answers and self._transport is not None:
            self._transport.write(b"".join(answers))


def _header(head: bytes, name: bytes) -> bytes:
    """The value of the header whose lower-case name, with its colon, is `name`; empty without one."""
    start = head.lower().find(b"\n" + name)
    if start < 0:
        return b""
    start += len(name) + 1
    end = head.find(b"\r", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _approved(attempt: bytes, minor: int, currency: bytes) -> bytes:
    return _ok(
        b'{"id":"ch-%b","attempt":"%b","status":"approved","amount_minor":%d,"currency":"%b"}'
        % (attempt[4:30], attempt, minor, currency)
    )


def _ok(body: bytes) -> bytes:
    return _answer(b"200 OK", body)


def _answer(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    books = Books()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(books.answer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
