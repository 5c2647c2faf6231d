"""Bytes on a bare socket, for requests that no HTTP client would send."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

from tests.support import token


class RawAnswer(NamedTuple):
    """What came back: 0 and nothing when the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def head(*lines: str, length: int | None = None, path: str = "/api/payments") -> bytes:
    """The head of a POST that carries JSON and a good token."""
    more = [*lines, *([] if length is None else [f"Content-Length: {length}"])]
    fixed = ["Host: engine", f"Authorization: Bearer {token()}", "Content-Type: application/json"]
    return "\r\n".join([f"POST {path} HTTP/1.1", *fixed, *more, "", ""]).encode()


async def exchange(port: int, data: bytes, *, within_s: float = 60) -> RawAnswer:
    """Send these bytes and read one answer, or until the engine closes. Raises `TimeoutError`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(within_s):
            return await read_answer(reader)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> RawAnswer:
    """One answer."""
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return RawAnswer(0, {}, b"")
    pairs = [line.partition(":") for line in lines[1:] if line]
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return RawAnswer(int(lines[0].split(" ")[1]), headers, body)
