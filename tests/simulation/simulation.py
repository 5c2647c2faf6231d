"""One simulated day: processes, customers and trouble; then everything heals, and the invariants are held."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import structlog

from engine.events import OutgoingEvent
from engine.ids import PaymentId
from engine.store.keys import Keys
from tests.simulation.checking import Checker, check_write, payments_in
from tests.simulation.customers import Customer, Diary
from tests.simulation.loop import Stuck, VirtualLoop
from tests.simulation.memory import MemoryRedis, StoreLink, StoreWeather
from tests.simulation.outside import AcquirerBooks, AcquirerLink, AcquirerWeather, PublisherLink, Topic
from tests.simulation.process import Parts, Process

_EPOCH_MS: Final = 1_767_225_600_000  # 2026-01-01T00:00:00Z
_STORM_S: Final = (20.0, 45.0)
_CUSTOMERS: Final = (20, 40)
_SKEW_MS_MAX: Final = 300
_NIGHTS_MAX: Final = 40
_ANSWERS_WITHIN_S: Final = 600.0
_QUIET_MS: Final = 12_000
_ACQUIRER_TROUBLES: Final = {
    "acquirer refuses": "refused", "acquirer lies": "lying", "acquirer silent": "silent",
    "acquirer loses answers": "answer_lost", "acquirer late": "late", "acquirer slow": "slow",
}  # fmt: skip
_TROUBLES: Final = (
    "kill", "stop", "pause", "store refuses", "store loses answers", "store stalls", *_ACQUIRER_TROUBLES, "broker down",
    "broker loses",
)  # fmt: skip

SOMETIMES: Final = (
    "process killed", "process stopped", "process paused", "store refused", "store answer lost", "store stalled",
    "store ran late", "acquirer refused", "acquirer silent", "acquirer answer lost", "acquirer request late",
    "acquirer slow", "acquirer does not know yet", "acquirer never saw it", "acquirer told of a retryable decline",
    "acquirer lied", "late success", "late success of a failed payment", "reversal refused",
    "broker down", "broker took a part", "broker acknowledgement lost", "same key at once", "two keys for one order",
    "same key, other body", "pay unanswered", "refund unanswered", "refund ok", "refund refused", "capture ok",
    "capture refused", "cancel ok", "cancel refused", "charge approved", "charge declined", "authorize approved",
    "authorize declined", "capture approved", "capture declined", "void approved", "void declined", "refund approved",
    "refund declined", "night",
)  # fmt: skip
"""What must have happened at least once over enough seeds; else the simulation does not test what it says."""


@dataclass
class Report:
    """What became of one seed."""

    seed: int
    violations: list[str]
    digest: str
    """A hash of everything that happened, in order."""
    trace: list[str]
    fired: Counter[str]
    payments: int
    virtual_s: float

    def story_of(self, violation: str, *, lines: int = 40) -> list[str]:
        """The end of the trace, of the payment that a violation names, if it names one."""
        names = [word.strip(":,") for word in violation.split() if word.startswith("pay-")]
        told = [line for line in self.trace if names and names[0][:34] in line] if names else self.trace
        return told[-lines:]


class Simulation:
    """Everything that one seed decides."""

    def __init__(self, seed: int, parts: Parts, troubles: Sequence[str] = ()) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.fired: Counter[str] = Counter()
        self.diary = Diary()
        self._loop = VirtualLoop()  # type: ignore[abstract]
        self._parts = parts
        self._trace: list[str] = []
        self._violations: list[str] = []
        self._keys = Keys(self.chance.randint(1, 4))
        self._redis = MemoryRedis(self._now_ms, self._written)
        self._weather = StoreWeather()
        self._acquirers = [
            AcquirerBooks(name, self._loop, self._now_ms, self.chance, self.fired, self.trace)
            for name in ("north", "south")
        ]
        self._topic = Topic(self._loop, self.chance, self.fired, self._told)
        self._processes: list[Process] = []
        self._buried: list[Process] = []
        self._started = 0
        # Not every trouble in every run: what happens rarely beside much else would never be alone.
        self._troubles = list(troubles) or [trouble for trouble in _TROUBLES if self.chance.random() < 0.6]

    def run(self) -> Report:
        """Live through it and judge."""
        with _logs_kept_by(self._logged), contextlib.suppress(Stuck):
            self._loop.run(self._live())
        self._violations += self.diary.complaints
        self._violations += [f"a callback broke: {problem}" for problem in self._loop.broken]
        digest = hashlib.blake2b("\n".join(self._trace).encode(), digest_size=16).hexdigest()
        found = list(dict.fromkeys(self._violations))
        return Report(
            self.seed, found, digest, self._trace, self.fired, len(payments_in(self._redis)), self._loop.time()
        )

    def pick(self) -> Process | None:
        """Some process that is up, perhaps one that is paused."""
        up = [process for process in self._processes if process.up]
        return self.chance.choice(up) if up else None

    def trace(self, text: str) -> None:
        """Note what happens."""
        self._trace.append(f"{self._loop.time():9.3f} {text}")

    async def _live(self) -> None:
        count = self.chance.randint(1, 3)
        for _ in range(count):
            self._start()
        storm_s = self.chance.uniform(*_STORM_S)
        customers = [
            asyncio.ensure_future(Customer(self, number).live(self.chance.uniform(0.0, storm_s)))
            for number in range(self.chance.randint(*_CUSTOMERS))
        ]
        await self._storm(storm_s, count)
        self._heal()
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                await asyncio.gather(*customers)
            await self._come_to_rest()
        except TimeoutError:
            self._violations.append("1: customers wait for an answer for ever")
        end = len(self._trace)
        checker = Checker(self._redis, self._acquirers, self._topic.events, self.diary)
        self._violations += checker.complaints()
        for customer in customers:
            customer.cancel()
        for process in (*self._processes, *self._buried):
            await process.bury()
        del self._trace[end:]

    # Trouble.

    async def _storm(self, storm_s: float, count: int) -> None:
        ends_at = self._loop.time() + storm_s
        async with asyncio.TaskGroup() as troubles:
            while self._troubles and self._loop.time() < ends_at:
                await asyncio.sleep(self.chance.expovariate(0.5))
                trouble = self.chance.choice(self._troubles)
                self.trace(f"trouble: {trouble}")
                troubles.create_task(self._trouble(trouble))
            await asyncio.sleep(max(0.0, ends_at - self._loop.time()))
        while len(self._up()) < count:
            self._start()

    async def _trouble(self, trouble: str) -> None:
        chance = self.chance
        for_s = chance.uniform(0.5, 6.0)
        books = chance.choice(self._acquirers)
        much = chance.uniform(0.05, 1.0)
        match trouble:
            case "kill" | "stop" | "pause":
                await self._process_trouble(trouble)
            case "store refuses":
                await self._for_a_while(self._weather, "refused", chance.choice((0.1, 1.0)), for_s / 2)
            case "store loses answers":
                await self._for_a_while(self._weather, "lost", much / 2, for_s)
            case "store stalls":
                await self._for_a_while(self._weather, "stalled", much / 4, for_s)
            case "broker down":
                await self._for_a_while(self._topic, "down", True, for_s)
            case "broker loses":
                await self._for_a_while(self._topic, "lost_acks", much, for_s)
            case _:
                await self._for_a_while(books.weather, _ACQUIRER_TROUBLES[trouble], much, for_s)

    async def _for_a_while(self, where: object, what: str, value: float, for_s: float) -> None:
        setattr(where, what, value)
        await asyncio.sleep(for_s)
        setattr(where, what, type(value)(0))

    async def _process_trouble(self, trouble: str) -> None:
        up = self._up()
        if not up:
            return
        process = self.chance.choice(up)
        if trouble == "pause":
            self.fired["process paused"] += 1
            self.trace(f"{process.name} is paused")
            process.pause()
            # Often longer than the lease of an attempt, and than the leases of the shards.
            await asyncio.sleep(self.chance.choice((0.5, 4.0, 15.0)) * (0.5 + self.chance.random()))
            self.trace(f"{process.name} goes on")
            process.resume()
            return
        self.trace(f"{process.name} is asked to {trouble}")
        self.fired["process killed" if trouble == "kill" else "process stopped"] += 1
        self._processes.remove(process)
        self._buried.append(process)
        if trouble == "kill":
            process.kill()
        else:
            await process.stop()
        await asyncio.sleep(self.chance.uniform(0.1, 5.0))
        self._start()

    def _heal(self) -> None:
        self.trace("all heals")
        self._weather.refused = self._weather.lost = self._weather.stalled = 0.0
        for books in self._acquirers:
            books.weather = AcquirerWeather()
        self._topic.down, self._topic.lost_acks = False, 0.0

    # Rest.

    async def _come_to_rest(self) -> None:
        for _ in range(_NIGHTS_MAX):
            for _ in range(30):
                if self._at_rest():
                    return
                if self._only_due_later():
                    break
                await asyncio.sleep(1.0)
            await self._sleep_over()
        self._violations.append("9: it does not come to rest")

    async def _sleep_over(self) -> None:
        """Stop everything until a payment is due: hours pass for nothing."""
        self.fired["night"] += 1
        for process in self._up():
            process.kill()
            self._buried.append(process)
            self._processes.remove(process)
        dues = self._dues()
        await asyncio.sleep(max(0.0, (min(dues) - self._now_ms()) / 1000 if dues else 0.0) + 0.5)
        self._start()

    def _at_rest(self) -> bool:
        return not self._dues() and not self._waiting() and self._nothing_under_way()

    def _only_due_later(self) -> bool:
        dues = self._dues()
        return bool(dues) and min(dues) > self._now_ms() + _QUIET_MS and not self._waiting()

    def _waiting(self) -> bool:
        streams = (*self._redis.names("jobs"), *self._redis.names("outbox"))
        return any(self._redis.execute(("XLEN", name)) for name in streams)

    def _nothing_under_way(self) -> bool:
        return not any(count for books in self._acquirers for count in books.under_way.values())

    def _dues(self) -> list[int]:
        return [
            int(self._redis.execute(("ZSCORE", name, member)))
            for name in self._redis.names("due")
            for member in self._redis.execute(("ZRANGEBYSCORE", name, "-inf", "+inf", "LIMIT", 0, 1_000))
        ]

    # Parts.

    def _start(self) -> None:
        self._started += 1
        name = f"engine-{self._started}"
        skew_ms = self.chance.randint(-_SKEW_MS_MAX, _SKEW_MS_MAX)
        link = StoreLink(
            self._loop, self._redis, self._weather, self.chance, self.fired, lambda text: self.trace(f"{name} {text}")
        )
        process = Process(
            name,
            self._loop,
            self.chance,
            lambda: self._now_ms() + skew_ms,
            self._keys,
            self._parts,
            self._redis,
            link,
            [AcquirerLink(books) for books in self._acquirers],
            PublisherLink(self._topic),
            self._violations.append,
        )
        self.trace(f"{name} starts")
        self._processes.append(process)
        process.start()

    def _up(self) -> list[Process]:
        return [process for process in self._processes if process.up]

    def _now_ms(self) -> int:
        return _EPOCH_MS + int(self._loop.time() * 1000)

    def _written(self, key: str, before: bytes | None, after: bytes) -> None:
        self.trace(f"wrote {key} {after[:24].decode()}")
        self._violations += check_write(before, after)

    def _told(self, event: OutgoingEvent) -> None:
        self.trace(f"told {event.event_id} {event.event_type}")
        sequence = int(dict(event.headers)["ce_sequence"])
        payment_id = PaymentId(event.key)
        bodies = self._redis.execute(("LRANGE", self._keys.of(payment_id).events(payment_id), 0, -1))
        if len(bodies) < sequence or bodies[sequence - 1] != event.value:
            self._violations.append(f"4: {event.event_id} was told before it was committed")

    def _logged(self, event: MutableMapping[str, Any]) -> None:
        if event["event"] in ("late success", "reversal refused"):
            # Errors of an acquirer. The checker looks whether each was one.
            failed = event["event"] == "late success" and event["status"] == "failed"
            self.fired["late success of a failed payment" if failed else event["event"]] += 1
            self.trace(f"{event['event']} {event['payment_id']} {event['attempt']}")
            return
        # A worker outlives a bug in one job; here it must not go unseen.
        self._violations.append(f"the engine logs an error: {dict(event)}")


@contextlib.contextmanager
def _logs_kept_by(keep: Any) -> Iterator[None]:
    """Hand errors over, drop the rest: a log line costs more than a payment."""

    def hand_over(_: Any, __: str, event: MutableMapping[str, Any]) -> NoReturn:
        keep(event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, hand_over],
        wrapper_class=structlog.make_filtering_bound_logger(40),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def simulate(seed: int, parts: Parts | None = None, troubles: Sequence[str] = ()) -> Report:
    """Run one seed. `troubles` are all that may happen; without them the seed chooses."""
    return Simulation(seed, parts or Parts(), troubles).run()
