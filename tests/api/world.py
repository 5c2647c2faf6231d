"""The world of the API tests: an engine process with a Redis and simulators of its own, seen as its clients see it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import aiohttp
import redis
from multidict import CIMultiDict, CIMultiDictProxy
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from tests.support import (
    USER,
    EngineProcess,
    RedisServer,
    Sims,
    payment_body,
    service_token,
    shown,
    simulators,
    temporary_folder,
    token,
)

T = TypeVar("T")

PAYMENTS = "/api/payments"
RETRIES = {"never", "same_key", "new_key", "after"}
TIME = re.compile(r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d\.\d{3}Z")
# Written by an idle engine too: who is alive, and who leads.
_HOUSEKEEPING = re.compile(rb":lease:|:members:")


class Answer(NamedTuple):
    """What came back, already read."""

    method: str
    path: str
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        assert self.headers["Content-Type"].startswith("application/json"), self.headers
        return json.loads(self.body)

    def shows(self, secret: str) -> bool:
        """Whether this text stands anywhere in the answer, as a word of its own."""
        everything = "\n".join([self.text, *(f"{name}: {value}" for name, value in self.headers.items())])
        return shown(secret, everything)


def as_json(body: Mapping[str, Any], *, amount: str | None = None) -> bytes:
    """The body as bytes; with `amount`, that very text stands where the number would."""
    if amount is None:
        return json.dumps(body).encode()
    return json.dumps({**body, "amount": "@amount@"}).replace('"@amount@"', amount).encode()


async def eventually(look: Callable[[], Awaitable[T | None]], *, within_s: float = 30) -> T:
    """Look again and again; gives the first answer that is something."""
    ends_at = time.monotonic() + within_s
    while not (found := await look()):
        assert time.monotonic() < ends_at, f"still {found} after {within_s} s"
        await asyncio.sleep(0.02)
    return found


class World:
    """One running engine, and everything around it that a test may look at."""

    def __init__(self, server: RedisServer, sims: Sims, engine: EngineProcess, session: aiohttp.ClientSession) -> None:
        self.redis, self.sims, self.engine = server, sims, engine
        self._session = session
        self._numbers = itertools.count(1)
        self._documented: dict[str, set[str]] = {}

    async def load_document(self) -> None:
        """Learn from the OpenAPI document with which codes a payment may be refused."""
        document = (await self.send("GET", "/openapi.json", auth=None)).json
        for status, answer in document["paths"][PAYMENTS]["post"]["responses"].items():
            self._documented[status] = set(re.findall(r"`([A-Z0-9_]+)` \(retry", answer["description"]))

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | AsyncIterator[bytes] | None = None,
        auth: str | None = "",
        headers: Mapping[str, str] | CIMultiDict[str] | None = None,
    ) -> Answer:
        """Send exactly this. `auth` is a token; by default `USER`'s own, with None there is none."""
        sent = CIMultiDict(headers or {})
        if auth is not None:
            sent.setdefault("Authorization", f"Bearer {auth or token()}")
        url = URL(self.engine.base + path, encoded=True)
        skip = () if "Content-Type" in sent else ("Content-Type",)
        async with self._session.request(method, url, data=body, headers=sent, skip_auto_headers=skip) as response:
            return Answer(method, path, response.status, response.headers, await response.read())

    async def get(self, path: str, *, auth: str = "") -> Answer:
        """GET as `USER`, or with another token."""
        return await self.send("GET", path, auth=auth)

    async def pay(
        self,
        body: Mapping[str, Any] | bytes,
        *,
        key: str | None = None,
        wait_s: int | None = None,
        auth: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`POST /api/payments`."""
        sent = CIMultiDict({"Content-Type": "application/json", **(headers or {})})
        if key is not None:
            sent["Idempotency-Key"] = key
        if wait_s is not None:
            sent["Prefer"] = f"wait={wait_s}"
        raw = body if isinstance(body, bytes) else as_json(body)
        return await self.send("POST", PAYMENTS, body=raw, auth=auth, headers=sent)

    async def paid(
        self,
        *,
        user_id: str = USER,
        wait_s: int | None = 20,
        headers: Mapping[str, str] | None = None,
        **card: str,
    ) -> dict[str, Any]:
        """A payment for a new order; by default one that has ended."""
        body = payment_body(await self.order(user_id=user_id), user_id=user_id, **card)
        answer = await self.pay(body, wait_s=wait_s, auth=token(user_id), headers=headers)
        assert answer.status == 201, answer
        payment: dict[str, Any] = answer.json
        return payment

    async def ended(self, payment_id: str) -> dict[str, Any]:
        """The payment as soon as it is no longer processing."""
        return await self.engine.wait_status(payment_id)

    async def order(self, *, user_id: str = USER, price: float = 75.48, **fields: Any) -> str:
        """A new order that can be paid."""
        order_id = f"order-{next(self._numbers)}"
        await self.sims.order(order_id, user_id=user_id, price=price, **fields)
        return order_id

    async def user(self, **fields: Any) -> str:
        """A new user."""
        user_id = f"user-{next(self._numbers)}"
        await self.sims.user(user_id, **fields)
        return user_id

    async def change_order(self, order_id: str, **fields: Any) -> None:
        """Change an order behind the engine's back."""
        async with self._session.post(f"{self.sims.orders}/_orders/{order_id}", json=fields) as response:
            assert response.status == 200

    async def effects_of(self, payment_ids: Iterable[str]) -> list[dict[str, Any]]:
        """The money that the acquirer moved for these payments."""
        wanted = set(payment_ids)
        return [effect for effect in await self.sims.effects() if effect["reference"] in wanted]

    def refused(self, answer: Answer, status: int, code: str | None = None) -> dict[str, Any]:
        """Assert that this is a refusal in the contract's envelope; gives what stands inside."""
        assert answer.status == status, (answer.status, answer.text)
        error: dict[str, Any] = answer.json["error"]
        assert set(answer.json) == {"error"}
        assert set(error) == {"code", "message", "details", "request_id", "retry"}
        assert error["request_id"] == answer.headers["X-Request-Id"]
        assert error["retry"] in RETRIES
        assert isinstance(error["details"], dict)
        assert isinstance(error["message"], str)
        assert error["message"]
        if code is not None:
            assert error["code"] == code, error
        if error["retry"] == "after":
            assert int(answer.headers["Retry-After"]) >= 1
        if (answer.method, answer.path) == ("POST", PAYMENTS):
            assert error["code"] in self._documented[str(status)], "the OpenAPI document does not tell of this refusal"
        return error

    def written(self) -> dict[str, Any]:
        """Everything that Redis holds, without the engine's housekeeping and streams that are empty."""
        client: Any = redis.Redis(port=self.redis.port)
        try:
            names = [name for name in client.scan_iter(count=10_000) if not _HOUSEKEEPING.search(name)]
            with client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.type(name)
                for name, kind in zip(names, pipe.execute(), strict=True):
                    _read(pipe, kind, name)
                found = zip(names, pipe.execute(), strict=True)
            return {name.decode(): value for name, value in found if value}
        finally:
            client.close()

    async def at_rest(self, *, within_s: float = 60) -> dict[str, Any]:
        """What is written, as soon as no payment is under way or about to be, and every event is out."""

        async def resting() -> dict[str, Any] | None:
            written = self.written()
            return None if any(_is_work(name, value) for name, value in written.items()) else written

        return await eventually(resting, within_s=within_s)

    @contextlib.asynccontextmanager
    async def nothing_written(self) -> AsyncIterator[None]:
        """Asserts that Redis holds the same afterwards, that no money has moved, and that nothing broke inside."""
        written, effects = await self.at_rest(), await self.sims.effects()
        broken = await self.metric("http_requests_total", status="500")
        yield
        assert await self.at_rest() == written
        assert await self.sims.effects() == effects
        assert await self.metric("http_requests_total", status="500") == broken

    async def log_lines(self, *, within_s: float = 30) -> list[dict[str, Any]]:
        """What the engine has logged up to now; it is written a moment later than it happens."""
        mark = f"mark-{next(self._numbers)}"
        await self.paid(headers={"X-Request-Id": mark})

        async def logged() -> list[str]:
            text = self.engine.log.read_text()
            return text.splitlines() if mark in text else []

        return [json.loads(line) for line in await eventually(logged, within_s=within_s)]

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name with these labels; 0 when there is none."""
        return sum(value for has, value in await self.samples(name) if labels.items() <= has.items())

    async def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """All samples of this name."""
        text = (await self.send("GET", "/metrics", auth=None)).text
        families = text_string_to_metric_families(text)
        return [
            (dict(sample.labels), sample.value)
            for family in families
            for sample in family.samples
            if sample.name == name
        ]


def _is_work(name: str, value: Any) -> bool:
    """Whether somebody is about to change something: a job, an event to be told, or a payment that is due soon.

    A slow machine leaves an attempt without an answer now and then; it is asked about seconds later.
    """
    if name.endswith(":due"):
        return any(due_ms < (time.time() + 30) * 1000 for _, due_ms in value)
    return name.endswith((":jobs", ":outbox"))


def _read(pipe: Any, kind: bytes, name: bytes) -> None:
    match kind:
        case b"string":
            pipe.get(name)
        case b"hash":
            pipe.hgetall(name)
        case b"list":
            pipe.lrange(name, 0, -1)
        case b"zset":
            pipe.zrange(name, 0, -1, withscores=True)
        case b"set":
            pipe.smembers(name)
        case b"stream":
            # Consumers and their idle times change by looking; the entries are what was written.
            pipe.xrange(name)
        case _:
            # It has expired between the two looks.
            pipe.get(name)


@contextlib.asynccontextmanager
async def running_world(**settings: str) -> AsyncIterator[World]:
    """Start everything, with `USER` known; `settings` are environment variables of the engine."""
    async with simulators() as sims:
        await sims.user()
        async with world_around(sims, **settings) as world:
            yield world


@contextlib.asynccontextmanager
async def world_around(sims: Sims, **settings: str) -> AsyncIterator[World]:
    """As `running_world`, with counterparties that are there already."""
    with temporary_folder() as folder:
        server = RedisServer(folder)
        server.start()
        engine = EngineProcess(server.url, sims, folder, **settings)
        try:
            await engine.start()
            timeout = aiohttp.ClientTimeout(total=120)
            async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
                world = World(server, sims, engine, session)
                await world.load_document()
                yield world
        finally:
            await engine.close()
            server.stop()


__all__ = [
    "PAYMENTS",
    "TIME",
    "USER",
    "Answer",
    "World",
    "as_json",
    "eventually",
    "payment_body",
    "running_world",
    "service_token",
    "shown",
    "token",
    "world_around",
]
