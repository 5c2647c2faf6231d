"""Webhooks as one process has them, on a real Redis, with a clock that tests move and receivers on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from aiohttp import web
from standardwebhooks import Webhook

from clients.webhooks import WebhookPoster
from engine.accepting import Caller
from engine.ids import PaymentIds, now_ms
from engine.notifying import Notice
from engine.sealing import AesGcmSealer, parse_keys
from engine.store.deliveries import Deliveries
from engine.store.endpoints import RedisEndpoints
from engine.webhook_endpoints import WebhookEndpoints, WebhookSecrets
from engine.webhook_sender import Poster, Retrying, WebhookSender
from engine.webhook_sink import WebhookSink
from tests.store.datasets import Dataset
from tests.support import CARD_KEYS

HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S
INTERVALS: Final = (5.0, 300.0, 1800.0, 2 * HOUR_S, 5 * HOUR_S, 10 * HOUR_S, 14 * HOUR_S, 20 * HOUR_S, 24 * HOUR_S)
RETRYING: Final = Retrying(INTERVALS, DAY_S, 3 * DAY_S, 3 * DAY_S)
TIMEOUT_S: Final = 10.0
LEASE_S: Final = 30.0
ADA: Final = Caller("ada", privileged=False)
BOB: Final = Caller("bob", privileged=False)
SHOP: Final = Caller("shop", privileged=True)


class Clock:
    """The time, which stands still until a test moves it."""

    def __init__(self) -> None:
        self.ms = now_ms()

    def __call__(self) -> int:
        return self.ms

    def move(self, seconds: float) -> None:
        """Let time go by."""
        self.ms += int(seconds * 1000)


class Got(NamedTuple):
    """A message as its receiver sees it."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed_by(self, secret: str) -> bool:
        """Whether one of the signatures is by this secret, at whatever time; the library looks at today's only."""
        at = datetime.fromtimestamp(int(self.headers["webhook-timestamp"]), tz=UTC)
        signature = Webhook(secret).sign(msg_id=self.id, timestamp=at, data=self.body.decode())
        return signature in self.headers["webhook-signature"].split(" ")


class Receiver:
    """A server that keeps what it is sent. `answer` is asked what to say; by default 200."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.url = ""
        self.answer: Callable[[Got], Awaitable[web.StreamResponse] | web.StreamResponse] = lambda _: web.Response()

    def ids(self, path: str = "") -> list[str]:
        """The ids of what has come, in its order."""
        return [got.id for got in self.got if not path or got.path == path]

    async def _take(self, request: web.Request) -> web.StreamResponse:
        got = Got(request.path, dict(request.headers), await request.read())
        self.got.append(got)
        answer = self.answer(got)
        return answer if isinstance(answer, web.StreamResponse) else await answer


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver._take)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def sealer() -> AesGcmSealer:
    """Keys as they are configured."""
    return AesGcmSealer(parse_keys(CARD_KEYS))


class Hooks:
    """All parts of the webhooks, as one process has them."""

    def __init__(self, data: Dataset, clock: Clock, poster: Poster | None = None, **options: Any) -> None:
        given = {
            "each_max": 4, "waiting_max": 1000, "kept_max": 100, "endpoints_max": 3, "overlap_s": DAY_S,
            "retrying": RETRYING, "at_once": 64, "schedule": Deliveries, "endpoints": RedisEndpoints, "telling": None,
            **options,
        }  # fmt: skip
        self.data = data
        self.clock = clock
        retrying: Retrying = given["retrying"]
        self.store: RedisEndpoints = given["endpoints"](data.batcher, data.keys)
        self.deliveries: Deliveries = given["schedule"](
            data.batcher,
            data.keys,
            queue="webhooks",
            each_max=given["each_max"],
            lease_ms=int(LEASE_S * 1000),
            waiting_max=given["waiting_max"],
            kept_max=given["kept_max"],
            keep_ms=int(7 * DAY_S * 1000),
            remember_ms=int(DAY_S * 1000),
        )
        self.secrets = WebhookSecrets(sealer())
        self.endpoints = WebhookEndpoints(
            self.store,
            self.deliveries,
            self.secrets,
            PaymentIds(clock).mint_endpoint,
            clock,
            lambda: None,
            endpoints_max=given["endpoints_max"],
            overlap_s=given["overlap_s"],
            allow_http=True,
            allow_private=True,
        )
        self.sink = WebhookSink(
            self.store, self.deliveries, data.instruments, clock, disabled_keep_s=retrying.disabled_keep_s
        )
        self.poster = poster or WebhookPoster(clock, timeout_s=TIMEOUT_S, allow_http=True, allow_private=True)
        self.sender = WebhookSender(
            self.deliveries,
            self.store,
            given["telling"] or self.sink,
            self.poster,
            self.secrets,
            data.instruments,
            clock,
            retrying,
            at_once=given["at_once"],
            longest_s=TIMEOUT_S,
            idle_s=0.02,
            chance=random.Random(1).random,
        )

    async def made(self, url: str, caller: Caller = ADA, types: tuple[str, ...] = ()) -> tuple[str, str]:
        """A new endpoint: its id and its secret."""
        endpoint, secret = await self.endpoints.create(caller, url=url, event_types=types, description="")
        return endpoint.id, secret.reveal()

    async def told(self, *notices: Notice) -> None:
        """Events come in."""
        await self.sink.take(notices)

    async def sent(self, *, passes: int = 20) -> int:
        """Send all that is due now, also what becomes due by that. Returns how many tries that took."""
        tries = 0
        async with self.poster:
            for _ in range(passes):
                count = await self.sender.pass_once()
                if not count:
                    return tries
                tries += count
        raise AssertionError("what is due does not become less")

    async def listed(self, endpoint_id: str, caller: Caller = ADA) -> list[tuple[str, str, list[int]]]:
        """The endpoint's deliveries: id, state, and the status of each try."""
        page, _ = await self.endpoints.deliveries(endpoint_id, caller, limit=100, before=None)
        return [
            (each.message.id, each.message.state, [attempt.status for attempt in each.message.attempts])
            for each in page
        ]

    def outcome(self, name: str) -> float:
        """How often a try, or a message, ended like this."""
        return self.data.metric("webhook_deliveries_total", outcome=name)


def notice(
    number: int = 1, *, subject: str = "pay-1", user: str = "ada", kind: str = "payment_completed", body: bytes = b""
) -> Notice:
    """An event about a payment."""
    return Notice(
        id=f"{subject}-{number}",
        type=kind,
        source="/payments/core",
        subject=subject,
        user_id=user,
        time="2026-11-21T05:00:00.000Z",
        body=body or b'{"event_type":"%s","payment_id":"%s","number":%d}' % (kind.encode(), subject.encode(), number),
    )


@contextlib.asynccontextmanager
async def running_sender(hooks: Hooks) -> AsyncIterator[None]:
    """The sender runs until the end of the block."""
    task = asyncio.create_task(hooks.sender.run())
    try:
        yield
    finally:
        hooks.sender.stop()
        await asyncio.wait([task], timeout=60)
        assert task.done(), "the sender does not stop"
        task.result()
