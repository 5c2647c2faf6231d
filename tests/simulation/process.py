"""One process of the engine, wired as `app/wiring.py` does it, with its own way to everything outside."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from prometheus_client import CollectorRegistry

from engine.accepting import Accepting
from engine.changing import Changing
from engine.charging import Acquirers, Charging
from engine.checking import Order, OrderChecks, User
from engine.errors import StoreUnavailable
from engine.idempotency import Fingerprints
from engine.ids import Clock, PaymentIds
from engine.payment import Payment
from engine.reconciler import Reconciler
from engine.relay import Relay
from engine.sealing import AesGcmSealer
from engine.store.due import RedisDue
from engine.store.jobs import RedisJobs
from engine.store.keys import Keys
from engine.store.leases import ShardLeases
from engine.store.outbox import RedisOutbox
from engine.store.payments import RedisPayments
from engine.worker import Worker
from metrics.instruments import Instruments
from tests.simulation.loop import Owner, VirtualLoop, context_of
from tests.simulation.memory import MemoryBatcher, MemoryRedis, StoreLink
from tests.simulation.outside import AcquirerLink, PublisherLink

_LEASE_S: Final = 9.0
_RECHECK_AFTER_S: Final = 40.0
_CLAIM_IDLE_S: Final = 12.0
_REDRIVE_AFTER_S: Final = 20.0
_JOBS_MAX: Final = 10_000


@dataclass(frozen=True)
class Parts:
    """The classes that a process is made of. A test plants a bug by giving another one."""

    batcher: type[MemoryBatcher] = MemoryBatcher
    payments: type[RedisPayments] = RedisPayments
    outbox: type[RedisOutbox] = RedisOutbox
    charging: type[Charging] = Charging
    changing: type[Changing] = Changing
    accepting: type[Accepting] = Accepting
    relay: type[Relay] = Relay


class Directory:
    """The user service and the order service, which never fail here: orders cost what their id says."""

    def cached(self, user_id: str) -> User | None:
        return User(user_id, active=True)

    async def get(self, order_id: str) -> Any:
        _, user, minor = order_id.split("_")
        return Order(order_id, user, "pending", f"{int(minor) // 100}.{int(minor) % 100:02}", "USD", None)


class Unobserved:
    """Nobody looks at counters here."""

    def attempt(self, payment: Payment, outcome: str) -> None: ...
    def late_success(self) -> None: ...
    def settled(self, payment: Payment) -> None: ...


class VirtualLeases(ShardLeases):
    """Leases whose list of members is on virtual time too: `ShardLeases` reads the wall clock for it."""

    now_ms: Clock

    async def _fair_share(self) -> int:
        now_ms = self.now_ms()
        await self._batcher.command("ZADD", self._members, now_ms + int(self._ttl_s * 1000), self._owner)
        await self._batcher.command("ZREMRANGEBYSCORE", self._members, "-inf", now_ms)
        members = int(await self._batcher.command("ZCARD", self._members))
        return -(-len(self._keys.shards) // max(1, members))


@lru_cache
def _instruments() -> Instruments:
    return Instruments(CollectorRegistry())


class Process:
    """It runs from `start()` to `kill()`, or until `stop()` has ended."""

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        chance: random.Random,
        clock: Clock,
        keys: Keys,
        parts: Parts,
        redis: MemoryRedis,
        link: StoreLink,
        acquirers: Sequence[AcquirerLink],
        publisher: PublisherLink,
        died: Callable[[str], None],
    ) -> None:
        self.name = name
        self.up = True
        self._killed = False
        self._loop = loop
        self._died = died
        self._owner = Owner()
        self._context = context_of(self._owner)
        self._links: tuple[StoreLink | AcquirerLink | PublisherLink, ...] = (link, *acquirers, publisher)
        self._calls: dict[asyncio.Task[Any], asyncio.Future[Any]] = {}
        batcher = parts.batcher(link, redis)
        made = asyncio.Event()
        payments = parts.payments(
            batcher, keys, jobs_max=_JOBS_MAX, outbox_max=_JOBS_MAX, cvv_ttl_s=900, sleep=asyncio.sleep, job_made=made
        )
        self._jobs = RedisJobs(batcher, keys, _instruments(), consumer=name, one_by_one=chance.random() < 0.5)
        sealer = AesGcmSealer({"t1": b"k" * 32})
        charging = parts.charging(
            payments,
            Acquirers({link.name: link for link in acquirers}, {"credit_card": [link.name for link in acquirers]}),
            sealer,
            Unobserved(),
            clock,
            lease_s=_LEASE_S,
            recheck_after_s=_RECHECK_AFTER_S,
            new_token=lambda: chance.randbytes(6).hex(),
        )
        self._worker = Worker(
            self._jobs, charging, made, concurrency=6, claim_idle_s=_CLAIM_IDLE_S, poll_s=0.05, poll_idle_max_s=1.0
        )
        outbox = parts.outbox(batcher, keys, topics={"core": "payments"}, one_by_one=False)
        self._relay = parts.relay(
            outbox, publisher, self._leases(batcher, keys, "relay", clock), _instruments(), batch_max=16, idle_s=0.5
        )
        due = RedisDue(batcher, keys, jobs_max=_JOBS_MAX)
        self._reconciler = Reconciler(
            due,
            self._leases(batcher, keys, "reconcile", clock),
            clock,
            redrive_after_s=_REDRIVE_AFTER_S,
            every_s=1.0,
        )
        fingerprints = Fingerprints(b"f" * 32)
        ids = PaymentIds(clock, chance.randbytes)
        directory = Directory()
        self.accepting = parts.accepting(
            OrderChecks(directory, directory).check, payments, sealer, fingerprints, ids, clock, lambda: None,
            redrive_after_s=_REDRIVE_AFTER_S,
        )  # fmt: skip
        self.changing = parts.changing(payments, fingerprints, ids.mint_refund, clock, lambda: None)

    def start(self) -> None:
        """Run everything."""
        self._stopping = asyncio.Event()
        self._main = self._loop.create_task(self._run(), context=self._context)
        self._main.add_done_callback(self._ended, context=Context())

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Handle a request. The answer does not come when the process is killed: then `ConnectionResetError` does."""
        answer = self._loop.create_future()
        if not self.up:
            coroutine.close()
            answer.set_exception(ConnectionRefusedError())
            return answer
        task = self._loop.create_task(coroutine, context=self._context.copy())
        self._calls[task] = answer
        task.add_done_callback(self._answered, context=Context())
        return answer

    def pause(self) -> None:
        """SIGSTOP."""
        self._loop.hold(self._owner)

    def resume(self) -> None:
        """SIGCONT."""
        if not self._killed:
            self._loop.resume(self._owner)

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more, and what it waited for is read by nobody."""
        self.up = False
        self._killed = True
        self._loop.hold(self._owner)
        for link in self._links:
            link.closed = True
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError())

    async def stop(self) -> None:
        """SIGTERM: the stages of `app/process.py`. The process refuses calls from here on."""
        self.up = False
        self._stopping.set()
        await asyncio.wait([self._main])

    async def bury(self) -> None:
        """End what a killed process has left in memory. Nothing of it reaches the world: its links are closed."""
        self.kill()
        self._main.remove_done_callback(self._ended)
        tasks = [self._main, *self._calls]
        for task in tasks:
            task.cancel()
        self._loop.resume(self._owner)
        await asyncio.wait(tasks)

    async def _run(self) -> None:
        while True:
            try:
                await self._jobs.open()
                break
            except StoreUnavailable:
                await asyncio.sleep(0.5)
        reconciling = asyncio.create_task(self._reconciler.run())
        working = asyncio.create_task(self._worker.run())
        relaying = asyncio.create_task(self._relay.run())
        stopping = asyncio.create_task(self._stopping.wait())
        parts = (reconciling, working, relaying)
        try:
            await asyncio.wait([*parts, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping.is_set():
                raise EndedByItself(next(part for part in parts if part.done()).exception())
            await _cancelled(reconciling)
            self._worker.stop()
            await asyncio.wait([working], timeout=5.0)
            await _cancelled(working)
            await _cancelled(relaying)
        finally:
            for part in (*parts, stopping):
                part.cancel()
            await asyncio.wait([*parts, stopping])

    def _ended(self, main: asyncio.Task[None]) -> None:
        self.up = False
        for link in self._links:
            link.closed = True
        if error := main.exception():
            self._died(f"process {self.name} ended by itself: {error!r}")

    def _answered(self, task: asyncio.Task[Any]) -> None:
        answer = self._calls.pop(task)
        if task.cancelled():
            return
        error = task.exception()
        if answer.done():
            return
        if error:
            answer.set_exception(error)
        else:
            answer.set_result(task.result())

    def _leases(self, batcher: MemoryBatcher, keys: Keys, role: str, clock: Clock) -> ShardLeases:
        leases = VirtualLeases(batcher, keys, role=role, owner=self.name, clock=self._loop.time)
        leases.now_ms = clock
        return leases


class EndedByItself(Exception):
    """A part of the engine has ended that should run until it is stopped."""


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
