"""Server-sent events over real sockets: everybody sees the newest picture, and nobody can make the engine wait."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from engine.store.keys import CIRCUIT_LOG, PROCESS, PROCESSES
from handlers.console.stream import Frame, Stream
from handlers.http import HttpRefused
from tests.api.world import eventually
from tests.console.world import Operator, Watcher, console_settings
from tests.faults.world import Engine
from tests.support import temporary_folder


class Pictures:
    """Counts how often somebody looked."""

    def __init__(self, *, size: int = 10) -> None:
        self._numbers = itertools.count(1)
        self.looks = 0
        self._more = b"x" * size

    async def __call__(self) -> Frame:
        self.looks = next(self._numbers)
        return Frame(str(self.looks), b'{"number": %d, "more": "%b"}' % (self.looks, self._more))


@contextlib.asynccontextmanager
async def served(
    stream: Stream, connections: list[web.Server] | None = None, *, may: Callable[[], bool] = lambda: True
) -> AsyncIterator[str]:
    """The stream on a real port; its server, which knows its connections, comes into the list."""

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            return await stream.serve(request, may)
        except HttpRefused as refused:
            return web.Response(status=refused.status, text=str(refused))

    application = web.Application()
    application.router.add_get("/", serve)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    if connections is not None:
        assert runner.server is not None
        connections.append(runner.server)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    running = asyncio.create_task(stream.run())
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        stream.close()
        running.cancel()
        await asyncio.wait([running])
        await runner.cleanup()


@contextlib.asynccontextmanager
async def watching(url: str, **headers: str) -> AsyncIterator[Watcher]:
    """A viewer."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, headers=sent) as response:
        yield Watcher(response)


async def until(condition: Any) -> None:
    async def look() -> bool:
        return bool(condition())

    await eventually(look)


async def test_a_viewer_gets_the_newest_picture_again_and_again() -> None:
    stream = Stream(Pictures(), {"X-Own": "1"}, every_s=0.01)
    async with served(stream) as url, watching(url) as watcher:
        assert watcher.response.headers["Content-Type"].startswith("text/event-stream")
        assert watcher.response.headers["X-Own"] == "1"
        assert await watcher.block() == {"retry": "2000"}
        ids = [int((await watcher.event()).id) for _ in range(3)]
        assert ids == sorted(set(ids))


async def test_nobody_looks_while_nobody_watches() -> None:
    pictures = Pictures()
    stream = Stream(pictures, {}, every_s=0.01)
    async with served(stream) as url:
        await asyncio.sleep(0.1)
        assert pictures.looks == 0
        async with watching(url) as watcher:
            await watcher.event()
        await until(lambda: stream.viewers == 0)
        await asyncio.sleep(0.05)  # a look that is under way may end
        looks = pictures.looks
        await asyncio.sleep(0.1)
        assert pictures.looks == looks


async def test_who_comes_back_gets_what_is_newer_than_what_it_saw_last() -> None:
    pictures = Pictures()
    # It looks once in a test's life, so what is there is what was seen.
    stream = Stream(pictures, {}, every_s=3600, heartbeat_s=0.05)
    async with served(stream) as url:
        async with watching(url) as watcher:
            seen = await watcher.event()
        async with watching(url, Last_Event_ID=seen.id) as again:
            assert await again.block() == {"retry": "2000"}
            assert await again.block() == {"": "alive"}, "nothing is sent twice"
        async with watching(url, Last_Event_ID="0") as behind:
            assert (await behind.event()).id == seen.id, "at once, and not with the next picture"


async def test_one_viewer_too_many_is_refused_until_one_goes() -> None:
    stream = Stream(Pictures(), {}, every_s=0.01, viewers_max=2)
    async with served(stream) as url, watching(url) as first:
        async with watching(url) as second:
            await first.event()
            await second.event()
            async with watching(url) as third:
                assert third.response.status == 503
        await until(lambda: stream.viewers == 1)
        async with watching(url) as third:
            assert (await third.event()).id


async def test_a_viewer_who_does_not_read_is_dropped_and_the_others_go_on() -> None:
    stream = Stream(Pictures(size=20_000), {}, every_s=0.005, patience_s=0.2)
    servers: list[web.Server] = []
    async with served(stream, servers) as url, watching(url) as good:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            port = int(url.rpartition(":")[2].strip("/"))
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", port))
            await loop.sock_sendall(slow, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            ids = []
            await until(lambda: stream.viewers == 2)
            while stream.viewers == 2:
                ids.append(int((await good.event()).id))
            # It has still not read a byte: what was waiting for it here is thrown away, not kept until it does.
            await until(lambda: len(servers[0].connections) == 1)
        ids += [int((await good.event()).id) for _ in range(3)]
        assert ids == sorted(set(ids))


async def test_closing_ends_every_stream_at_once_also_one_that_nobody_reads() -> None:
    stream = Stream(Pictures(size=20_000), {}, every_s=0.005, patience_s=3600)
    async with served(stream) as url, watching(url) as good:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", int(url.rpartition(":")[2].strip("/"))))
            slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: stream.viewers == 2)
            for _ in range(100):
                await good.event()
            stream.close()
            await until(lambda: stream.viewers == 0)
        with pytest.raises((EOFError, aiohttp.ClientError)):
            while True:
                await good.event()
        async with watching(url) as late:
            assert late.response.status == 503


async def test_a_stream_ends_with_its_viewers_session() -> None:
    """Else a page that was left open would show everything long after its session's end."""
    may, stream = [True], Stream(Pictures(), {}, every_s=0.01)
    async with served(stream, may=lambda: may[0]) as url, watching(url) as watcher:
        await watcher.event()
        may[0] = False
        with pytest.raises(EOFError):
            while True:
                await watcher.event()
        await until(lambda: stream.viewers == 0)


async def test_a_silent_store_is_bridged_by_heartbeats() -> None:
    stuck = asyncio.Event()

    async def look() -> Frame:
        await stuck.wait()
        return Frame("1", b"{}")

    async with served(Stream(look, {}, heartbeat_s=0.05)) as url, watching(url) as watcher:
        assert [await watcher.block() for _ in range(3)] == [{"retry": "2000"}, {"": "alive"}, {"": "alive"}]
        stuck.set()
        assert (await watcher.event()).data == "{}"


async def test_a_look_that_finds_nothing_to_be_understood_ends_nothing() -> None:
    looks = itertools.count(1)

    async def look() -> Frame | None:
        number = next(looks)
        return None if number == 2 else Frame(str(number), b"{}")

    async with served(Stream(look, {}, every_s=0.01)) as url, watching(url) as watcher:
        assert [(await watcher.event()).id for _ in range(2)] == ["1", "3"]


@pytest.mark.asyncio(loop_scope="package")
async def test_what_cannot_be_read_in_the_store_stops_neither_payments_nor_the_page(operator: Operator) -> None:
    """The process is there for payments; the page waits until somebody has put right what is wrong."""
    with contextlib.closing(operator.world.redis.client()) as client:
        kept = client.lrange(CIRCUIT_LOG, 0, -1)
        try:
            client.lpush(CIRCUIT_LOG, "rubbish")
            client.set(PROCESS + "rubbish", "rubbish")
            client.sadd(PROCESSES, "rubbish")

            async def said() -> bool:
                async with operator.watching() as watcher:
                    await watcher.block()
                return "the console cannot look" in operator.world.engine.log.read_text()

            assert await eventually(said)
            assert (await operator.world.paid())["status"] == "completed"
        finally:
            client.delete(CIRCUIT_LOG, PROCESS + "rubbish")
            if kept:
                client.rpush(CIRCUIT_LOG, *kept)
    assert len((await operator.seen(lambda shown: len(shown["processes"]) == 2))["processes"]) == 2


@pytest.mark.asyncio(loop_scope="package")
async def test_a_real_stream_goes_on_where_it_was_cut(operator: Operator) -> None:
    async with operator.watching() as watcher:
        first, second = await watcher.event(), await watcher.event()
        assert int(second.id) > int(first.id)
        assert watcher.response.headers["Cache-Control"] == "no-store"
    async with operator.watching(last_id=second.id) as watcher:
        assert int((await watcher.event()).id) > int(second.id)


@pytest.mark.asyncio(loop_scope="package")
async def test_a_stop_ends_the_streams_first_and_is_not_held_up_by_them(operator: Operator) -> None:
    """The process goes on for a while, as balancers need it to; the stream has ended by then."""
    settings = console_settings(PAYMENTS__SERVER__UNREADY_S="60", PAYMENTS__SERVER__STOP_S="120")
    with temporary_folder() as folder:
        engine = Engine(operator.world.redis.url, operator.world.sims, folder, **settings)
        await engine.start()
        try:
            url = f"http://127.0.0.1:{settings['PAYMENTS__OPS__PORT']}/console/stream"
            async with watching(url) as watcher:
                await watcher.event()
                engine.signal(signal.SIGTERM)
                with pytest.raises((EOFError, aiohttp.ClientError)):
                    while True:
                        await watcher.event()
            assert (await engine.get("/ready")).status == 503, "the engine itself is still there"
        finally:
            engine.kill()
