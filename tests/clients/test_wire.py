"""The wire over real sockets: what HTTP allows is read, what it does not is never taken for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from clients.wire import Answer, Broken, NotConnected, TimedOut, TooLarge, Wire, parse_url
from tests.support import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[str]:
    """A server that speaks bytes."""
    ended: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ended.append(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/thing"
    finally:
        listening.close()
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)


def scripted(*answers: bytes, keep: bool = True) -> Serve:
    """One answer per request, then silence; `keep=False` closes after each connection's first."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(left.pop(0))
            await writer.drain()
            if not keep:
                return
        await reader.read()

    return serve


async def ask(wire: Wire, url: str, *, method: str = "GET", timeout_s: float = 30.0) -> Answer:
    return await wire.exchange(
        method, parse_url(url), {"X-Request-Id": "r"}, None, timeout_s=timeout_s, connect_timeout_s=timeout_s
    )


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with Wire(client_id="tests", body_bytes_max=1000) as opened:
        yield opened


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (OK, Answer(200, b"ok")),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Answer(404, b"")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", Answer(200, b"ok")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Answer(204, b"")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, Answer(200, b"ok")),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, Answer(200, b"ok")),
    ],
)
async def test_every_framing_of_an_answer_is_read(wire: Wire, raw: bytes, answer: Answer) -> None:
    async with server(scripted(raw)) as url:
        assert await ask(wire, url) == answer


async def test_an_answer_without_a_length_ends_with_its_connection(wire: Wire) -> None:
    async with server(scripted(b"HTTP/1.1 200 OK\r\n\r\nall of it", keep=False)) as url:
        assert await ask(wire, url) == Answer(200, b"all of it")


async def test_an_answer_that_is_cut_short_is_broken_not_shorter(wire: Wire) -> None:
    async with server(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", keep=False)) as url:
        with pytest.raises(Broken):
            await ask(wire, url, method="POST")


async def test_a_connection_is_used_again_and_sends_what_was_asked(wire: Wire) -> None:
    seen: list[bytes] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)

    async with server(serve) as url:
        for _ in range(3):
            assert await ask(wire, url) == Answer(200, b"ok")
        host = url.removeprefix("http://").removesuffix("/thing")
    assert connections == 1
    assert (
        seen[0]
        == (
            f"GET /thing HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tests\r\n"
            "Accept: application/json\r\nX-Request-Id: r\r\n\r\n"
        ).encode()
    )


async def test_an_answer_that_nobody_asked_for_is_never_the_next_requests_answer(wire: Wire) -> None:
    """Two answers to one request: with the second one kept, every later payment would hear another's outcome."""
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    async with server(scripted(OK + forged, OK)) as url:
        assert await ask(wire, url) == Answer(200, b"ok")
        assert await ask(wire, url) == Answer(200, b"ok")


async def test_a_late_second_answer_is_never_the_next_requests_answer(wire: Wire) -> None:
    answered = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await answered.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    async with server(serve) as url:
        assert await ask(wire, url) == Answer(200, b"ok")
        answered.set()
        async with asyncio.timeout(30):
            while wire._open:  # noqa: ASYNC110 - it has come when it has cost its connection
                await asyncio.sleep(0.001)
        assert await ask(wire, url) == Answer(200, b"ok")


async def test_a_kept_connection_that_the_peer_closed_costs_a_get_nothing_and_a_post_is_not_repeated(
    wire: Wire,
) -> None:
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        writer.write(OK)
        # The next request on this connection is read and not answered.
        await reader.readuntil(b"\r\n\r\n")
        requests += 1

    async with server(serve) as url:
        assert await ask(wire, url) == Answer(200, b"ok")
        assert await ask(wire, url) == Answer(200, b"ok")
        assert requests == 3
        with pytest.raises(Broken):
            await ask(wire, url, method="POST")
        assert requests == 4


async def test_silence_is_a_time_out_and_the_connection_is_not_used_again(wire: Wire) -> None:
    async with server(scripted()) as url:
        with pytest.raises(TimedOut):
            await ask(wire, url, timeout_s=0.1)
        assert not wire._idle and not wire._open


async def test_a_cancelled_request_drops_its_connection(wire: Wire) -> None:
    async with server(scripted()) as url:
        asking = asyncio.ensure_future(ask(wire, url))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not wire._open


@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\x00" * 99]
)
async def test_what_is_no_http_is_broken(wire: Wire, raw: bytes) -> None:
    async with server(scripted(raw)) as url:
        with pytest.raises(Broken):
            await ask(wire, url, method="POST")


async def test_a_body_above_its_bound_is_refused_while_it_comes(wire: Wire) -> None:
    async with server(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001)) as url:
        with pytest.raises(TooLarge):
            await ask(wire, url)


async def test_nobody_there_is_not_connected(wire: Wire) -> None:
    with pytest.raises(NotConnected):
        await ask(wire, f"http://127.0.0.1:{free_port()}/")


async def test_an_idle_connection_grows_too_old_to_be_trusted() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)

    async with Wire(client_id="tests", body_bytes_max=1000, idle_max_s=0.05) as short, server(serve) as url:
        await ask(short, url)
        await asyncio.sleep(0.1)
        await ask(short, url)
    assert connections == 2


@pytest.mark.parametrize("url", ["ftp://h/x", "h/x", "http:///x", "http://h/\u00e9", "http://h/a\nb"])
def test_only_http_urls_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        parse_url(url)
