"""The world of the console's tests: two engine processes on one Redis, seen as an operator sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from handlers.console.access import COOKIE, MARK
from tests.api.world import Answer, World, world_around
from tests.faults.world import Engine
from tests.support import EngineProcess, Sims, free_port, simulators, temporary_folder, token

OPERATOR = "ada"
_TIMEOUT = aiohttp.ClientTimeout(total=60)
CONSOLE_TOKEN = "console-token-console-token-0123456789"


def admin_token() -> str:
    """A token with the role that may touch circuits."""
    return token(OPERATOR, role="admin")


class Event(NamedTuple):
    """A server-sent event."""

    id: str
    data: str

    @property
    def picture(self) -> dict[str, Any]:
        """What it shows."""
        shown: dict[str, Any] = json.loads(self.data)
        return shown


class Watcher:
    """Reads a stream of events, as a browser does."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def block(self) -> dict[str, str]:
        """The fields of the next block; a comment is a field without a name. Empty at the end of the stream."""
        fields: dict[str, str] = {}
        while line := (await self.response.content.readuntil(b"\n")).decode():
            if line == "\n":
                return fields
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name.rstrip(":")] = value
        return {}

    async def event(self) -> Event:
        """The next event."""
        while fields := await self.block():
            if "data" in fields:
                return Event(fields["id"], fields["data"])
        raise EOFError


class Operator:
    """Somebody who looks at two processes of one engine, and may touch their circuits."""

    def __init__(self, world: World, second: Engine) -> None:
        self.world, self.second = world, second
        self.console, self.guarded = (
            f"http://127.0.0.1:{engine.environment['PAYMENTS__OPS__PORT']}" for engine in (world.engine, second)
        )
        """The ops ports: of the first process, for this machine only, and of the second, with a token."""

    async def order(
        self, name: str, action: str, reason: Any = "tests", *, auth: str | None = None, body: bytes | None = None
    ) -> Answer:
        """`POST /api/circuit-breaker/{name}/{action}` at the first process."""
        raw = json.dumps({"reason": reason}).encode() if body is None else body
        return await self.world.send(
            "POST",
            f"/api/circuit-breaker/{name}/{action}",
            body=raw,
            auth=admin_token() if auth is None else auth or None,
            headers={"Content-Type": "application/json"},
        )

    async def ask(
        self,
        method: str,
        path: str,
        *,
        guarded: bool = False,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        cookie: str = "",
    ) -> Answer:
        """Ask a console, the first process's by default. A text body is sent as it is."""
        base = self.guarded if guarded else self.console
        sent = {"Content-Type": "application/json", **(headers or {})} if body is not None else dict(headers or {})
        if cookie:
            sent["Cookie"] = f"{COOKIE}={cookie}"
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        url = URL(base + path, encoded=True)
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=_TIMEOUT) as session,
            session.request(method, url, data=data, headers=sent, skip_auto_headers=("Content-Type",)) as response,
        ):
            # A stream that was let in has no end.
            streams = response.content_type == "text/event-stream"
            text = b"" if streams else await response.read()
            return Answer(method, path, response.status, response.headers, text)

    def own(self, *, guarded: bool = False) -> dict[str, str]:
        """The headers that only the console's own page can send."""
        return {MARK: "1", "Origin": self.guarded if guarded else self.console}

    async def sign_in(self, token: str = CONSOLE_TOKEN) -> Answer:
        """Sign in at the second process."""
        headers = self.own(guarded=True)
        return await self.ask("POST", "/console/session", guarded=True, body={"token": token}, headers=headers)

    def forget_tries(self) -> None:
        """Nobody has tried to sign in."""
        with contextlib.closing(self.world.redis.client()) as client:
            for name in client.scan_iter("payments:limits:*"):
                client.delete(name)

    @contextlib.asynccontextmanager
    async def watching(self, *, last_id: str = "") -> AsyncIterator[Watcher]:
        """Read the first process's stream."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{self.console}/console/stream", headers=headers) as response,
        ):
            yield Watcher(response)

    async def seen(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The first picture of the stream that shows what is wanted."""
        async with self.watching() as watcher, asyncio.timeout(60):
            while not wanted(shown := (await watcher.event()).picture):
                pass
            return shown

    async def states(self, engine: EngineProcess | None = None) -> dict[str, str]:
        """The state of each circuit in a process, the first by default."""
        response = await (engine or self.world.engine).get("/api/circuit-breaker/status")
        assert response.status == 200
        return {name: circuit["state"] for name, circuit in (await response.json()).items()}

    async def reset_all(self) -> None:
        """Leave every circuit to itself."""
        for name in await self.states():
            assert (await self.order(name, "reset")).status == 200


@contextlib.asynccontextmanager
async def operator_around(sims: Sims, **settings: str) -> AsyncIterator[Operator]:
    """Two processes: the console of the first is for this machine, that of the second asks for the token."""
    async with world_around(sims, **console_settings(), **settings) as world:
        with temporary_folder() as folder:
            guarded = console_settings(PAYMENTS__OPS__CONSOLE_TOKEN=CONSOLE_TOKEN)
            other = Engine(world.redis.url, sims, folder, **guarded, **settings)
            try:
                await other.start()
                yield Operator(world, other)
            finally:
                await other.close()


@contextlib.asynccontextmanager
async def running_operator(**settings: str) -> AsyncIterator[Operator]:
    """Start everything."""
    async with simulators() as sims:
        await sims.user()
        async with operator_around(sims, **settings) as operator:
            yield operator


def console_settings(**more: str) -> dict[str, str]:
    """An engine's environment for a console on a port of its own."""
    return {"PAYMENTS__OPS__PORT": str(free_port()), "PAYMENTS__OPS__CONSOLE": "true", **more}
