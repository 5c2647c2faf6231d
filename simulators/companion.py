"""What the user and the order service share: records that are kept with their events, readiness, metrics.

The records are in memory, and every change is written through: to the journal, or to a `State` such as Redis. One
change at a time, so what is checked still holds when it is kept. A change whose fate is unknown makes the next one
read everything again.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from engine.errors import StoreUnavailable
from engine.events import Refused
from simulators.base import Clock, Simulator, coded_error, timestamp
from simulators.companion_metrics import CompanionMetrics
from simulators.telling import Publisher, Record, encode, untold
from simulators.wire import Refusal, errors_as_json, reply

RETRY_S: Final = 0.5
PUBLISHED_AT_ONCE: Final = 200
UNTOLD_MAX: Final = 10_000
"""How many records may wait to be told of while the broker is away; beyond it nothing new is taken."""

K = TypeVar("K", bound=Record)
log = logging.getLogger(__name__)


class State(Protocol):
    """Where records are kept, for one writer at a time. Every method may raise `StoreUnavailable`."""

    async def open(self) -> list[bytes]:
        """Become the writer; every record."""
        ...

    async def read(self) -> list[bytes]:
        """Every record."""
        ...

    async def put(self, record_id: str, record: bytes) -> None:
        """Keep a record instead of its last version. When this raises, it may be kept or not."""
        ...

    async def ready(self) -> bool:
        """Whether it answers, and this is still its writer."""
        ...

    def connections(self) -> int:
        """How many are open."""
        ...


class Companion(Simulator[K]):
    """A service beside the engine, with its state and what it has to tell of it."""

    untold_max = UNTOLD_MAX

    def __init__(
        self,
        journal_path: Path | None,
        record_type: type[K],
        metrics: CompanionMetrics,
        clock: Clock,
        *,
        source: str,
        topic: str,
        state: State | None,
        publisher: Publisher | None,
    ) -> None:
        super().__init__(journal_path, record_type, coded_error)
        self._measured = metrics
        self._clock = clock
        self._source, self._topic = source, topic
        self._state, self._publisher = state, publisher
        self._kept = msgspec.json.Decoder(record_type)
        self._doubtful = False
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []
        self._turns, self._wake = asyncio.Lock(), asyncio.Event()
        self._restore([])

    @abstractmethod
    def _index(self, record: K) -> None:
        """Make it findable by more than its id."""

    @abstractmethod
    def _forget(self) -> None:
        """Empty the indexes."""

    def _middlewares(self) -> list[Middleware]:
        return [self._measured.middleware, errors_as_json(self._error_body)]

    def _own_routes(self) -> list[web.RouteDef]:
        return [web.get("/ready", self._ready), web.get("/metrics", self._metrics)]

    def _loops(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What runs while it is served."""
        return [self._publishing] if self._publisher else []

    def _restore(self, records: list[K]) -> None:
        self._records: dict[str, K] = {}
        self._untold: dict[str, None] = {}
        self._forget()
        for record in records:
            self._remember(record)

    def _remember(self, record: K) -> None:
        self._records[record.id] = record
        self._index(record)
        if record.published < len(record.events):
            self._untold[record.id] = None
            self._wake.set()
        else:
            self._untold.pop(record.id, None)

    def _now(self) -> str:
        return timestamp(self._clock())

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """The right to change something. A store that does not answer is a 503, and whatever was begun is doubtful."""
        try:
            async with self._turns:
                if self._doubtful and self._state is not None:
                    with self._measured.store("read"):
                        self._restore([self._kept.decode(each) for each in await self._state.read()])
                    self._doubtful = False
                yield
        except StoreUnavailable as error:
            raise Refusal(503, "STORE_UNAVAILABLE", "the store does not answer; it may be done or not") from error

    async def _keep(self, record: K) -> K:
        """Save a record with its events, then show it. Only within a turn."""
        try:
            with self._measured.store("save"):
                self._journal.append(record)
                if self._state is not None:
                    await self._state.put(record.id, encode(record))
        except BaseException:
            # Also a cancellation: nobody knows whether it is there.
            self._doubtful = True
            raise
        self._remember(record)
        return record

    def _refuse_when_full(self) -> None:
        if self._publisher is not None and len(self._untold) >= self.untold_max:
            raise Refusal(503, "EVENTS_WAITING", "too many events wait for the broker")

    async def _start(self, app: web.Application) -> None:
        # They belong to one loop, and a simulator may be served again in another.
        self._turns, self._wake = asyncio.Lock(), asyncio.Event()
        self._ending = False
        await super()._start(app)
        if self._state is not None:
            with self._measured.store("open"):
                self._restore([self._kept.decode(each) for each in await self._state.open()])
        if self._untold:
            self._wake.set()
        self._tasks = [asyncio.create_task(loop()) for loop in self._loops()]

    async def _close(self, app: web.Application) -> None:
        tasks, self._tasks = self._tasks, []
        # On Python 3.11 a store's client may swallow a cancellation, so the loops look for themselves as well.
        self._ending = True
        self._wake_loops()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await super()._close(app)

    def _wake_loops(self) -> None:
        self._wake.set()

    async def _publishing(self) -> None:
        """Tell what is untold, until the end: at least once, in the order of each record."""
        while not self._ending:
            await self._wake.wait()
            if not self._untold:
                self._wake.clear()
                continue
            told = False
            try:
                told = await self._publish_some()
            except Refusal:
                log.warning("published events not marked: the store does not answer")
            except Exception:
                log.exception("publishing broke")
            if not told:
                await asyncio.sleep(RETRY_S)

    async def _publish_some(self) -> bool:
        """Whether everything that was tried is told."""
        assert self._publisher is not None
        batch = [self._records[each] for each in islice(self._untold, PUBLISHED_AT_ONCE)]
        waiting = [untold(record, topic=self._topic, source=self._source) for record in batch]
        answers = iter(await self._publisher.publish([event for events in waiting for event in events]))
        whole = True
        for record, events in zip(batch, waiting, strict=True):
            taken = 0
            for event, answer in zip(events, list(islice(answers, len(events))), strict=True):
                if answer is False:
                    whole = False
                    break
                taken += 1
                if isinstance(answer, Refused):
                    log.error("the broker will never take event %s: %s", event.event_id, answer.reason)
                    self._measured.events_refused.labels(answer.reason).inc()
                else:
                    self._measured.events_published.labels(event.event_type).inc()
            if taken:
                async with self._turn():
                    # It may have changed meanwhile; only this loop moves the mark.
                    now = self._records[record.id]
                    await self._keep(msgspec.structs.replace(now, published=record.published + taken))
        return whole

    async def _ready(self, _: web.Request) -> web.Response:
        ready = False
        with suppress(StoreUnavailable):
            ready = self._state is None or await self._state.ready()
        return reply(200, {"status": "ready"}) if ready else reply(503, {"status": "not ready", "store": "unavailable"})

    async def _metrics(self, _: web.Request) -> web.Response:
        self._measured.connections.set(self._state.connections() if self._state is not None else 0)
        return self._measured.scrape()
