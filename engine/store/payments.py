"""Payments in Redis: each method is one step, or one pipeline of reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from engine.cards import SealedInstrument
from engine.changes import Change, Conflict, Job
from engine.errors import Overloaded, StoreUnavailable
from engine.idempotency import KeyRecord
from engine.ids import PaymentId, is_payment_id, shard_of, shard_of_payment
from engine.payment import Payment
from engine.store.batch import Batcher
from engine.store.items import found_items, put_items
from engine.store.keys import JOBS_GROUP, Keys, ShardKeys
from engine.store.repeating import Repeating
from engine.store.step import Refusal, Step

_encode = msgspec.json.Encoder().encode
_ITEMS_TRIES_MAX: Final = 3

decode_payment = msgspec.json.Decoder(Payment).decode
_decode_key = msgspec.json.Decoder(KeyRecord).decode


class RedisPayments:
    """The payments of one dataset.

    A step that Redis did not confirm is repeated: every step carries what it is about and compares before it sets, so
    the second execution of a step that had run finds its own trace. Still no answer: `StoreUnavailable`, and the
    caller must not assume either way. `job_made` is set after each step that brought a job.
    """

    def __init__(
        self,
        batcher: Batcher,
        keys: Keys,
        *,
        jobs_max: int,
        outbox_max: int,
        cvv_ttl_s: int,
        sleep: Callable[[float], Any] = asyncio.sleep,
        job_made: asyncio.Event | None = None,
    ) -> None:
        self._keys = keys
        self._jobs_max = max(1, jobs_max // len(keys.shards))
        self._outbox_max = max(1, outbox_max // len(keys.shards))
        self._cvv_ttl_ms = cvv_ttl_s * 1000
        self._batcher = batcher
        self._job_made = job_made or asyncio.Event()
        repeating = Repeating(batcher, sleep)
        self._run = repeating.step
        self._read = repeating.command

    def shard_of(self, name: str) -> int:
        """The shard of an order, by its qualified name, which is the shard of its payments."""
        return shard_of(name, len(self._keys.shards))

    async def create(self, payment: Payment, sealed: SealedInstrument, *, due_ms: int) -> Payment | None:
        """Write a new payment to be charged, with its claim on the order, if it is for one, and its job, if it is not
        held.

        Returns what stands under its id afterwards: this payment, or what an earlier try or another request with the
        same id has made and perhaps moved on. None: another payment holds the order, and nothing was written.
        Raises `Overloaded` when the jobs or the events waiting have reached their bound.
        """
        return await self._make(Change(payment, due_ms), sealed)

    async def record(self, change: Change) -> Payment | None:
        """Write a new payment that nobody charges, with what is true of it already. Returns as `create` does."""
        return await self._make(change, None)

    async def _make(self, change: Change, sealed: SealedInstrument | None) -> Payment | None:
        payment = change.payment
        shard = self._keys.of(payment.id)
        record = _encode(payment)
        step = Step()
        # An earlier try may have run with its answer lost, and the payment may have failed and freed its order since:
        # without this, the repeated step would take the free order and bring the failed payment back to life.
        step.expect_version(shard.payment(payment.id), 0)
        order = shard.order(payment.order_key) if payment.order_key else shard.payment(payment.id)
        step.expect_value(order, "")
        bounds = self._expect_room(step, shard, job=not payment.rail)
        step.do("SET", shard.payment(payment.id), record)
        if payment.order_key:
            step.do("SET", order, payment.id)
        if sealed is not None:
            step.do("SET", shard.card(payment.id), sealed.body)
            if sealed.cvv is not None:
                step.do("SET", shard.cvv(payment.id), sealed.cvv, "PX", self._cvv_ttl_ms)
        step.do("ZADD", shard.user(payment.user_key), 0, payment.id)
        if change.due_ms is not None:
            step.do("ZADD", shard.due, change.due_ms, payment.id)
        book_and_tell(step, shard, change)
        if payment.operation is not None:
            step.do("XADD", shard.jobs, "*", "p", payment.id, "b", record)
        match await self._run(step):
            case Refusal(check=0) as refusal:
                return decode_payment(refusal.found)
            case Refusal(check=1):
                return None
            case Refusal() as refusal:
                raise _full(bounds[refusal.check - 2])
            case _:
                self._job_made.set()
                return payment

    async def holder_of(self, order_key: str) -> PaymentId | None:
        """The payment that holds the order, by the order's qualified name."""
        holder = await self._read("GET", self._keys.shards[self.shard_of(order_key)].order(order_key))
        return PaymentId(holder.decode()) if holder else None

    async def begin(self, payment: Payment, *, due_ms: int) -> SealedInstrument | Conflict:
        """Write the intent to send (`payment` is the next version) and fetch what is to be charged.

        The body is empty when the sealed instrument is gone.
        """
        shard = self._keys.of(payment.id)
        record = _encode(payment)
        step = Step()
        step.expect_version(shard.payment(payment.id), payment.version - 1)
        step.do("SET", shard.payment(payment.id), record)
        step.do("ZADD", shard.due, due_ms, payment.id)
        card = step.do("GET", shard.card(payment.id))
        cvv = step.do("GET", shard.cvv(payment.id))
        replies = await self._run(step)
        if isinstance(replies, Refusal):
            if replies.found != record:
                return _conflict(replies)
            # Our own earlier try had run and only its answer was lost.
            body, code = await asyncio.gather(
                self._read("GET", shard.card(payment.id)), self._read("GET", shard.cvv(payment.id))
            )
            return SealedInstrument(body or b"", code)
        return SealedInstrument(replies[card] or b"", replies[cvv])

    async def apply(self, change: Change, job: Job | None = None) -> Conflict | None:
        """Write a change, and end the job with it. A conflict writes nothing and leaves the job.

        A change that waits for room raises `Overloaded` when the events waiting have reached their bound.
        """
        shard = self._keys.of(change.payment.id)
        record = _encode(change.payment)
        for _ in range(_ITEMS_TRIES_MAX):
            step = self._step_of(change, shard, record, await found_items(self._batcher, shard, change.items))
            if job is not None:
                _end(step, shard, job)
            refusal = await self._run(step)
            if not isinstance(refusal, Refusal) or refusal.found == record:
                return None
            if refusal.check == 0:
                return _conflict(refusal)
            if change.needs_room and refusal.check == 1:
                raise _full("outbox")
            # Somebody else has opened or closed an item in between: the change is as good with what stands there now.
        raise StoreUnavailable(f"the items of {change.payment.id} change all the time")

    def _step_of(self, change: Change, shard: ShardKeys, record: bytes, found: list[bytes]) -> Step:
        payment = change.payment
        step = Step()
        step.expect_version(shard.payment(payment.id), payment.version - 1)
        if change.needs_room:
            self._expect_room(step, shard, job=False)
        put_items(step, shard, change.items, found)
        step.do("SET", shard.payment(payment.id), record)
        book_and_tell(step, shard, change)
        if change.due_ms is None:
            step.do("ZREM", shard.due, payment.id)
        else:
            step.do("ZADD", shard.due, change.due_ms, payment.id)
        if change.unknown:
            attempt = payment.attempts[-1]
            step.do("ZADD", shard.unknown, attempt.started_ms, payment.id)
        elif len(payment.attempts) and payment.attempts[-1].asked:
            step.do("ZREM", shard.unknown, payment.id)
        if change.forget_instrument:
            step.do("DEL", shard.card(payment.id))
            step.do("DEL", shard.cvv(payment.id))
        if change.release_order and payment.order_key:
            step.do("DEL", shard.order(payment.order_key))
        return step

    async def apply_and_enqueue(self, change: Change) -> Conflict | None:
        """Write a change that asks for something, with the job to do it.

        A conflict writes nothing. Raises `Overloaded` when the jobs or the events waiting have reached their bound.
        """
        payment = change.payment
        shard = self._keys.of(payment.id)
        record = _encode(payment)
        step = Step()
        step.expect_version(shard.payment(payment.id), payment.version - 1)
        bounds = self._expect_room(step, shard)
        step.do("SET", shard.payment(payment.id), record)
        step.do("ZADD", shard.due, change.due_ms or 0, payment.id)
        step.do("XADD", shard.jobs, "*", "p", payment.id, "b", record)
        match await self._run(step):
            case Refusal(check=0) as refusal:
                return None if refusal.found == record else _conflict(refusal)
            case Refusal() as refusal:
                raise _full(bounds[refusal.check - 1])
            case _:
                self._job_made.set()
                return None

    async def end_job(self, job: Job) -> None:
        """Take a job off the stream for which nothing is left to do."""
        step = Step()
        _end(step, self._keys.of(job.payment_id), job)
        await self._run(step)

    async def put_off(self, payment_id: PaymentId, job: Job | None, *, due_ms: int) -> None:
        """Leave a payment as it is until `due_ms`, and end the job."""
        shard = self._keys.of(payment_id)
        step = Step()
        step.do("ZADD", shard.due, "XX", due_ms, payment_id)
        if job is not None:
            _end(step, shard, job)
        await self._run(step)

    async def get(self, payment_id: PaymentId) -> Payment | None:
        """The payment, or None. An id that was made for another dataset is just unknown."""
        if not is_payment_id(payment_id) or shard_of_payment(payment_id) >= len(self._keys.shards):
            return None
        raw = await self._read("GET", self._keys.of(payment_id).payment(payment_id))
        return decode_payment(raw) if raw else None

    async def of_user(self, user_key: str, *, limit: int, before: PaymentId | None) -> list[Payment]:
        """A user's payments on one surface, by the user's qualified name: newest first, at most `limit`, older than
        `before`. Asks all shards in one pipeline.
        """
        top = f"({before}" if before else "+"
        found = await asyncio.gather(
            *(
                self._read("ZREVRANGEBYLEX", shard.user(user_key), top, "-", "LIMIT", 0, limit)
                for shard in self._keys.shards
            )
        )
        ids = sorted((PaymentId(raw.decode()) for page in found for raw in page), reverse=True)[:limit]
        payments = await self._get_all(ids)
        return [payments[payment_id] for payment_id in ids if payment_id in payments]

    async def _get_all(self, ids: Sequence[PaymentId]) -> dict[PaymentId, Payment]:
        """Those that are there, one command a shard: a thousand would fill what may wait for Redis."""
        by_shard: dict[int, list[str]] = {}
        for payment_id in ids:
            shard = self._keys.of(payment_id)
            by_shard.setdefault(shard.shard, []).append(shard.payment(payment_id))
        pages = await asyncio.gather(*(self._read("MGET", *names) for names in by_shard.values()))
        payments = (decode_payment(raw) for page in pages for raw in page if raw is not None)
        return {payment.id: payment for payment in payments}

    async def events_of(self, payment_id: PaymentId) -> list[bytes]:
        """The bodies of the payment's events, in sequence."""
        return list(await self._read("LRANGE", self._keys.of(payment_id).events(payment_id), 0, -1))

    async def key(self, digest: str) -> KeyRecord | None:
        """What an idempotency key stands for."""
        raw = await self._read("GET", self._key_name(digest))
        return _decode_key(raw) if raw else None

    async def claim_key(self, digest: str, record: KeyRecord) -> KeyRecord:
        """Write the record unless the key has one. Returns the record that stands."""
        name = self._key_name(digest)
        step = Step()
        step.expect_value(name, "")
        step.do("SET", name, _encode(record))
        refusal = await self._run(step)
        return _decode_key(refusal.found) if isinstance(refusal, Refusal) else record

    def _expect_room(self, step: Step, shard: ShardKeys, *, job: bool = True) -> Sequence[str]:
        """More conditions of a step that brings new work: room among the jobs, and among the events. Returns which."""
        if job:
            step.expect_below(shard.jobs, self._jobs_max)
        step.expect_below(shard.outbox, self._outbox_max)
        return ("jobs", "outbox") if job else ("outbox",)

    def _key_name(self, digest: str) -> str:
        return self._keys.shards[shard_of(digest, len(self._keys.shards))].idempotency(digest)


def _full(bound: str) -> Overloaded:
    """One of the conditions of `_expect_room` did not hold."""
    return Overloaded(bound, retry_after_s=5.0 if bound == "outbox" else 1.0)


def book_and_tell(step: Step, shard: ShardKeys, change: Change) -> None:
    """The ledger rows of a change with their balances, and its events, for the history and for the relay."""
    payment = change.payment
    for transaction in change.transactions:
        step.do("RPUSH", shard.ledger(payment.id), _encode(transaction))
        for row in transaction.rows:
            step.do("HINCRBY", shard.balances, f"{row.account}|{row.currency}", row.minor)
    for event in change.events:
        step.do("RPUSH", shard.events(payment.id), event.body)
        step.do(
            "XADD", shard.outbox, "*",
            "p", payment.id, "f", payment.surface, "y", event.type, "s", event.sequence, "t", event.time_ms,
            "h", event.previous_hash, "tp", event.traceparent, "b", event.body,
        )  # fmt: skip


def _end(step: Step, shard: ShardKeys, job: Job) -> None:
    step.do("XACK", shard.jobs, JOBS_GROUP, job.entry_id)
    step.do("XDEL", shard.jobs, job.entry_id)


def _conflict(refusal: Refusal) -> Conflict:
    return Conflict(decode_payment(refusal.found) if refusal.found else None)
