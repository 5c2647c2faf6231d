"""A TCP proxy that loses answers: the command was executed, and nobody is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

_CHUNK_BYTES: Final = 65_536


class Proxy:
    """Passes everything through; after `lose_answers_to`, cuts the line instead of passing an answer on."""

    def __init__(self, port: int, delay_s: float) -> None:
        self._port = port
        self._delay_s = delay_s
        self.port = 0
        self.lost = 0
        self._marker = b""
        self._losses_left = 0

    def lose_answers_to(self, marker: str, *, times: int) -> None:
        """The next so many times that a client sends something with this text in it."""
        self._marker = marker.encode()
        self._losses_left = times

    async def serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        with contextlib.closing(client_writer), contextlib.suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
            with contextlib.closing(server_writer):
                await self._pass_on(client_reader, client_writer, server_reader, server_writer)

    async def _pass_on(
        self,
        client_reader: asyncio.StreamReader,
        client_writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        answers = asyncio.create_task(_copy(server_reader, client_writer, self._delay_s))
        try:
            while data := await client_reader.read(_CHUNK_BYTES):
                if not self._losses_left or self._marker not in data:
                    server_writer.write(data)
                    continue
                # From here on nothing goes back to the client.
                answers.cancel()
                await asyncio.wait([answers])
                server_writer.write(data)
                assert await server_reader.read(_CHUNK_BYTES), "the server did not answer"
                self._losses_left -= 1
                self.lost += 1
                return
        finally:
            answers.cancel()
            await asyncio.wait([answers])


@contextlib.asynccontextmanager
async def proxy_to(port: int, *, listen_on: int = 0, delay_s: float = 0.0) -> AsyncIterator[Proxy]:
    """A proxy to a port of this machine; every answer takes `delay_s` longer."""
    proxy = Proxy(port, delay_s)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", listen_on)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        await asyncio.sleep(delay_s)
        writer.write(data)
