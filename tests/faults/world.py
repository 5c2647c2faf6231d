"""A world of its own for each scenario: a Redis, the simulators, engines as processes, and a shop that buys.

The numbers of `QUICK` are small, so that what heals by itself heals in seconds. The order of things stays as in
production: a lease outlives every call to the acquirer, and nobody takes a job over before its lease is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import redis
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from engine.store.audit import Audit
from engine.store.batch import Batcher
from engine.store.check import RedisCheck
from engine.store.connect import RedisSettings, connect
from engine.store.keys import Keys
from metrics.instruments import Instruments
from simulators import cards
from tests.faults.checker import Evidence, Posted, Seen, Told, read_event_file, read_store, violations
from tests.faults.proxy import Proxy, proxy_to
from tests.support import (
    ROOT,
    USER,
    EngineProcess,
    RedisServer,
    Sims,
    payment_body,
    service_token,
    simulators,
    temporary_folder,
    token,
)

QUICK: Mapping[str, str] = {
    "PAYMENTS__ACQUIRER__GUARD__TIMEOUT_S": "1.5",
    "PAYMENTS__ACQUIRER__GUARD__DEADLINE_S": "1.9",
    "PAYMENTS__ACQUIRER__GUARD__SLOW_CALL_S": "1.4",
    # The breakers have tests of their own; here a counterparty in trouble is asked again and again.
    "PAYMENTS__ACQUIRER__GUARD__FAILURES_TO_OPEN": "100000",
    "PAYMENTS__ACQUIRER__GUARD__WINDOW_CALLS_MIN": "100000",
    "PAYMENTS__WORKER__LEASE_S": "7",
    "PAYMENTS__WORKER__CLAIM_IDLE_S": "7",
    "PAYMENTS__WORKER__REDRIVE_AFTER_S": "3",
    "PAYMENTS__REDIS__TIMEOUT_S": "5",
    "PAYMENTS__REDIS__CHECK_EVERY_S": "0.5",
}
LEASE_S = 7.0

# No time-out strikes between the moment that a scenario waits for and its kill or pause.
STEADY: Mapping[str, str] = {
    "PAYMENTS__ACQUIRER__GUARD__TIMEOUT_S": "8",
    "PAYMENTS__ACQUIRER__GUARD__DEADLINE_S": "8.5",
    "PAYMENTS__WORKER__LEASE_S": "13.5",
    "PAYMENTS__WORKER__CLAIM_IDLE_S": "13.5",
    "PAYMENTS__REDIS__TIMEOUT_S": "30",
}

HEALED_WITHIN_S = 120.0
# Answers that leave open whether something was written: the client must repeat with the same key to know.
_TELLS_NOTHING = ("INTERNAL", "STORE_UNAVAILABLE")
_BROKEN = re.compile(r'Traceback|"level":"error"|never retrieved|never awaited')
# Errors that belong to the faults that these tests make: ours, aiokafka's without a broker, and aiohttp's for a body
# that is not gzip.
_EXPECTED = re.compile(
    r'store is not fit|event file not written|process ended by itself|"logger":"aiokafka|RequestPayloadError'
)


class Engine(EngineProcess):
    """The engine as a process, with what a saboteur needs. The dataset marker must be there."""

    async def start(self, *arguments: str, ready: bool = True) -> None:
        """Start; with `ready`, wait for `/ready`."""
        environment = {**os.environ, **self.environment}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve", *arguments],
                env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        if ready:
            await self.wait_ready(timeout_s=120)

    @property
    def running(self) -> bool:
        """Whether it was started and has not been ended by us."""
        return self._process is not None

    async def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM, and wait. Returns the exit code. If it does not end, it still runs."""
        process = self._process
        try:
            return await super().stop(timeout_s)
        except subprocess.TimeoutExpired:
            self._process = process
            raise

    def signal(self, number: signal.Signals) -> None:
        """Send a signal and go on."""
        os.kill(self.pid, number)

    async def ended(self, timeout_s: float) -> int:
        """Wait for its end. Returns the exit code."""
        assert self._process is not None
        code = await asyncio.to_thread(self._process.wait, timeout_s)
        self._process = None
        return code

    async def wait_status(self, payment_id: str, *, timeout_s: float = 120) -> dict[str, Any]:
        """The payment, as soon as it is no longer processing."""
        return await super().wait_status(payment_id, timeout_s=timeout_s)

    async def ready_parts(self) -> tuple[int, dict[str, str]]:
        """The status of `/ready`, and what it says of each part."""
        answer = await self.get("/ready")
        return answer.status, (await answer.json())["parts"]

    async def metric(self, name: str, **labels: str) -> float:
        """A metric's value, summed over all series that have these labels."""
        text = await (await self.get("/metrics")).text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


class Wish(NamedTuple):
    """Something to buy."""

    order_id: str
    key: str | None
    amount_minor: int
    card: Mapping[str, str]

    def body(self) -> dict[str, Any]:
        """The request's body."""
        return payment_body(self.order_id, amount=self.amount_minor / 100, **self.card)


class NoStatus(Exception):
    """The engine could not say how the payment stands."""


class Shop:
    """Buys, repeats with the same key when it was not answered, and remembers every answer."""

    def __init__(self, engines: Callable[[], Sequence[Engine]], session: aiohttp.ClientSession, sims: Sims) -> None:
        self.posted: list[Posted] = []
        self.seen: list[Seen] = []
        self.answers: list[bytes] = []
        """The bodies and headers of all answers, to be searched."""
        self.answer_timeout_s = 30.0
        self._engines = engines
        self._session = session
        self._sims = sims
        self._numbers = itertools.count(1)
        self._turn = itertools.count()

    async def wish(self, card: Mapping[str, str] | None = None, *, key: bool = True) -> Wish:
        """An order at the order service, and the wish to pay it; `card` are fields of the payment method."""
        number = next(self._numbers)
        minor = 1000 + number
        await self._sims.order(f"order-{number}", price=minor / 100)
        return Wish(f"order-{number}", f"key-{number}" if key else None, minor, card or {})

    async def post(self, wish: Wish, *, wait_s: int = 0) -> Posted:
        """Post once. No answer is an answer too: `unknown`."""
        headers = {"Authorization": f"Bearer {token()}"}
        if wish.key is not None:
            headers["Idempotency-Key"] = wish.key
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        engines = self._engines()
        base = engines[next(self._turn) % len(engines)].base
        try:
            async with self._session.post(
                f"{base}/api/payments", json=wish.body(), headers=headers, timeout=self._timeout
            ) as response:
                status, body = response.status, await response.json()
                self.answers.append(repr((response.headers, body)).encode())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            return self._remember(wish, "unknown" if sent else "refused", detail=repr(error))
        if status == 201:
            self.seen.append(Seen(body["id"], body["status"]))
            return self._remember(wish, "ok", payment_id=body["id"])
        code = body["error"]["code"]
        return self._remember(wish, "unknown" if code in _TELLS_NOTHING else "refused", detail=f"{status} {code}")

    async def insist(self, wish: Wish, *, patience_s: float = 120.0) -> Posted:
        """Post until it is accepted."""
        ends_at = time.monotonic() + patience_s
        while (posted := await self.post(wish)).outcome != "ok":
            assert time.monotonic() < ends_at, f"not accepted: {posted}"
            await asyncio.sleep(0.1)
        return posted

    async def load(self, count: int, *, concurrency: int = 16, keys: bool = True) -> list[Posted]:
        """Buy many things: most approved, some declined, some with an answer that tells nothing."""
        wishes = [await self.wish(_some_card(number), key=keys) for number in range(count)]
        left = iter(wishes)
        done: list[Posted] = []

        async def buy() -> None:
            for wish in left:
                posted = await self.insist(wish) if keys else await self.post(wish)
                done.append(posted)

        await asyncio.gather(*(buy() for _ in range(concurrency)))
        return done

    @contextlib.asynccontextmanager
    async def buying(self, *, customers: int = 8) -> AsyncIterator[None]:
        """Buy one thing after the other meanwhile; at the end, everything that was wanted is accepted."""
        enough = asyncio.Event()
        tasks = [asyncio.create_task(self._buy_until(enough)) for _ in range(customers)]
        try:
            yield
            enough.set()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _buy_until(self, enough: asyncio.Event) -> None:
        for number in itertools.count():
            if enough.is_set():
                return
            await self.insist(await self.wish(_some_card(number)))

    async def until_accepted(self, count: int) -> None:
        """Wait until so many payments were accepted."""
        await eventually(lambda: len(self.accepted) >= count)

    @property
    def accepted(self) -> set[str]:
        """The ids of all payments that a client was told of."""
        return {posted.payment_id for posted in self.posted if posted.outcome == "ok"}

    @contextlib.asynccontextmanager
    async def watching(self, *, every_s: float = 0.05) -> AsyncIterator[None]:
        """Look at accepted payments again and again meanwhile: a terminal status must stay."""
        task = asyncio.create_task(self._watch(every_s))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def _watch(self, every_s: float) -> None:
        for number in itertools.count():
            accepted = [posted.payment_id for posted in self.posted if posted.outcome == "ok"]
            if accepted:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, NoStatus):
                    await self.look(accepted[(number * 7919) % len(accepted)])
            await asyncio.sleep(every_s)

    async def look(self, payment_id: str) -> str:
        """The payment's status now."""
        headers = {"Authorization": f"Bearer {token()}"}
        base = self._engines()[0].base
        async with self._session.get(
            f"{base}/api/payments/{payment_id}", headers=headers, timeout=self._timeout
        ) as response:
            body = await response.json()
            self.answers.append(repr((response.headers, body)).encode())
        if response.status != 200:
            raise NoStatus(body)
        status: str = body["status"]
        self.seen.append(Seen(payment_id, status))
        return status

    @property
    def _timeout(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(self.answer_timeout_s)

    def _remember(self, wish: Wish, outcome: Any, *, payment_id: str = "", detail: str = "") -> Posted:
        posted = Posted(wish.order_id, wish.key, wish.amount_minor, "USD", outcome, payment_id, detail)
        self.posted.append(posted)
        return posted


def _some_card(number: int) -> dict[str, str]:
    if number % 7 == 3:
        return {"cardNumber": cards.INSUFFICIENT_FUNDS}
    return {"cardNumber": cards.ERROR_AFTER_CHARGE} if number % 29 == 5 else {}


@dataclass
class World:
    """What a scenario plays with."""

    folder: Path
    redis: RedisServer
    sims: Sims
    shop: Shop
    session: aiohttp.ClientSession
    engine: Engine
    engines: list[Engine] = field(default_factory=list)
    redis_proxy: Proxy | None = None
    acquirer_proxy: Proxy | None = None
    told: Callable[[], Awaitable[list[Told]]] | None = None
    """Reads the sink of the events, if that is not the file."""

    def another_engine(self, **settings: str) -> Engine:
        """One more engine on the same data, not started."""
        folder = self.folder / f"engine-{len(self.engines) + 1}"
        folder.mkdir()
        engine = Engine(self.engine.environment["PAYMENTS__REDIS__URL"], self.sims, folder)
        engine.events_file = self.engine.events_file
        port = engine.environment["PAYMENTS__CORE__PORT"]
        engine.environment = {**self.engine.environment, **settings, "PAYMENTS__CORE__PORT": port}
        self.engines.append(engine)
        return engine

    @property
    def proxy(self) -> Proxy:
        """The proxy before Redis."""
        assert self.redis_proxy is not None, "this world has no proxy before Redis"
        return self.redis_proxy

    async def restart(self) -> None:
        """Start the engine again after a kill."""
        await self.engine.start()

    def waiting(self) -> dict[str, int]:
        """How much is due, queued and unpublished now."""
        with contextlib.closing(self.redis.client()) as client:
            pipe = client.pipeline(transaction=False)
            for shard in range(16):
                pipe.zcard(f"{{p{shard:02x}}}:due")
                pipe.xlen(f"{{p{shard:02x}}}:jobs")
                pipe.xlen(f"{{p{shard:02x}}}:outbox")
            counts = pipe.execute()
        return {"due": sum(counts[0::3]), "jobs": sum(counts[1::3]), "outbox": sum(counts[2::3])}

    def record(self, payment_id: str) -> dict[str, Any] | None:
        """The payment's raw record."""
        evidence = Evidence()
        with contextlib.closing(redis.Redis(port=self.redis.port)) as client:
            read_store(client, evidence)
        return evidence.payments.get(payment_id)

    async def healed(self, *, still_open: int = 0) -> float:
        """Wait until nothing waits, except what is still open. Returns the seconds."""
        started = time.monotonic()
        while True:
            waiting = self.waiting()
            if waiting["due"] <= still_open and waiting["jobs"] <= still_open and not waiting["outbox"]:
                return time.monotonic() - started
            assert time.monotonic() - started < HEALED_WITHIN_S, f"not healed: {waiting}\n{self.engine_log()[-3000:]}"
            await asyncio.sleep(0.05)

    async def evidence(self) -> Evidence:
        """All there is to judge, now. An engine must be running."""
        evidence = Evidence(posted=list(self.shop.posted), seen=list(self.shop.seen))
        with contextlib.closing(redis.Redis(port=self.redis.port)) as client:
            await asyncio.to_thread(read_store, client, evidence)
        evidence.effects = await self.sims.effects()
        if self.told is None:
            evidence.told = await asyncio.to_thread(read_event_file, self.engine.events_file)
        else:
            evidence.told = await self.told()
        evidence.shown = await self._shown()
        for key in [posted.key for posted in self.shop.posted[:: max(1, len(self.shop.posted) // 20)] if posted.key]:
            answer = await self._ask(f"/api/idempotency-keys/{key}", token())
            if "paymentId" in answer:
                evidence.keys[key] = answer["paymentId"]
        return evidence

    async def judge(self, *, still_open: Collection[str] = ()) -> Evidence:
        """Wait until all is healed; then the checker and the audit must both be content, and no engine was broken."""
        await self.healed(still_open=len(still_open))
        evidence = await self.evidence()
        problems = violations(evidence, still_open=still_open)
        findings = await self.findings()
        assert not problems, "\n".join((*problems[:20], self.engine_log()[-2000:]))
        assert not findings, "the audit disagrees with the checker:\n" + "\n".join(findings)
        lines = self.engine_log().splitlines()
        broken = [line for line in lines if _BROKEN.search(line) and not _EXPECTED.search(line)]
        assert not broken, "\n".join(broken[:5])
        return evidence

    async def findings(self) -> list[str]:
        """What the audit finds wrong, without a process of its own."""
        return await audit_findings(RedisSettings(url=f"redis://127.0.0.1:{self.redis.port}/0", timeout_s=60))

    async def audit(self) -> tuple[int, str]:
        """`python -m app audit`: its exit code, and what it printed."""
        url = f"redis://127.0.0.1:{self.redis.port}/0"
        environment = {**os.environ, **self.engine.environment, "PAYMENTS__REDIS__URL": url}
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "app", "audit"],
            env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stdout + ran.stderr

    def engine_log(self) -> str:
        """What all engines have logged."""
        return "".join(engine.log.read_text() for engine in self.engines if engine.log.exists())

    async def _shown(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        cursor = ""
        while True:
            page = await self._ask(f"/api/payments/user/{USER}?limit=100{cursor}", service_token())
            found |= {payment["id"]: payment for payment in page["payments"]}
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    async def _ask(self, path: str, bearer: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {bearer}"}
        engine = next(engine for engine in self.engines if engine.running)
        async with self.session.get(engine.base + path, headers=headers) as response:
            text = await response.text()
            return _exactly(text)


def _exactly(text: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(text, parse_float=Decimal, parse_int=int)
    return read


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    *,
    redis_proxy: bool = False,
    acquirer_proxy: bool = False,
    acquirer: Mapping[str, Any] | None = None,
    appendfsync: str = "everysec",
    server: RedisServer | None = None,
    start: bool = True,
    arguments: Sequence[str] = (),
) -> AsyncIterator[World]:
    """Everything started, with one user; at the end the engines must stop in order, with exit code 0.

    A Redis `server` that is given must run; whoever gives it stops it.
    """
    async with contextlib.AsyncExitStack() as stack:
        server = server or stack.enter_context(_redis(appendfsync))
        await _create_dataset(server.url)
        sims = await stack.enter_async_context(simulators(**(acquirer or {})))
        await sims.user()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        before_redis, redis_url = None, server.url
        if redis_proxy:
            before_redis, redis_url = await stack.enter_async_context(proxy_to(server.url))
        before_acquirer, acquirer_url = None, sims.acquirer
        if acquirer_proxy:
            before_acquirer, acquirer_url = await stack.enter_async_context(proxy_to(sims.acquirer))
        own = {**QUICK, "PAYMENTS__ACQUIRER__URL": acquirer_url, **(settings or {})}
        engine = Engine(redis_url, sims, folder, **own)
        engines = [engine]
        shop = Shop(lambda: [each for each in engines if each.running] or engines[:1], session, sims)
        made = World(folder, server, sims, shop, session, engine, engines, before_redis, before_acquirer)
        try:
            if start:
                await engine.start(*arguments)
            yield made
            for each in engines:
                if each.running:
                    code = await each.stop()
                    assert code == 0, f"the engine ended with {code}: {made.engine_log()[-2000:]}"
        finally:
            for each in engines:
                if each.running:
                    with contextlib.suppress(ProcessLookupError):
                        each.signal(signal.SIGCONT)
                    each.kill()


@contextlib.contextmanager
def _redis(appendfsync: str) -> Iterator[RedisServer]:
    with temporary_folder() as data:
        server = RedisServer(data, {"appendfsync": appendfsync})
        server.start()
        try:
            yield server
        finally:
            server.stop()


async def audit_findings(settings: RedisSettings) -> list[str]:
    """What the engine's own audit finds wrong in a dataset."""
    client = connect(settings)
    batcher = Batcher(client, Instruments(CollectorRegistry()))
    batching = asyncio.ensure_future(batcher.run())
    try:
        return [str(finding) async for finding in Audit(client, batcher, Keys(settings.shards)).findings()]
    finally:
        batching.cancel()
        await asyncio.wait([batching])
        await client.aclose()


async def _create_dataset(url: str) -> None:
    settings = RedisSettings(url=url, timeout_s=60)
    client = connect(settings)
    try:
        assert await RedisCheck(client, settings).create_dataset()
    finally:
        await client.aclose()


async def eventually(condition: Callable[[], Any], *, timeout_s: float = 120.0, every_s: float = 0.02) -> None:
    """Wait until the condition holds; it may be a plain or an async function."""
    ends_at = time.monotonic() + timeout_s
    while True:
        held = condition()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        assert time.monotonic() < ends_at, "it did not come true in time"
        await asyncio.sleep(every_s)
