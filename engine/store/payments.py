"""Payments in Redis: each method is one step, or one pipeline of reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

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
from engine.store.step import Refusal, Step

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
decode_payment = msgspec.json.Decoder(Payment).decode
_decode_key = msgspec.json.Decoder(KeyRecord).decode

_TRIES_MAX = 3


class RedisPayments:
    """The payments of one dataset.

    A step that Redis did not confirm is repeated here, `_TRIES_MAX` times in all: every step carries what it is
    about and compares before it sets, so the second execution of a step that had run finds its own trace.
    Still no answer: `StoreUnavailable`, and the caller must not assume either way.
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
    ) -> None:
        self._batcher = batcher
        self._keys = keys
        self._jobs_max = max(1, jobs_max // len(keys.shards))
        self._outbox_max = max(1, outbox_max // len(keys.shards))
        self._cvv_ttl_ms = cvv_ttl_s * 1000
        self._sleep = sleep

    def shard_of(self, name: str) -> int:
        """The shard of an order, by its qualified name, which is the shard of its payments."""
        return shard_of(name, len(self._keys.shards))

    async def create(self, payment: Payment, sealed: SealedInstrument, *, due_ms: int) -> PaymentId:
        """Write a new payment with its claim on the order, if it is for one, and its job, if it is not held.

        Returns the id of the payment that holds the order afterwards: this one's (also when an earlier try had
        already created it), or that of another payment that was there first, and then nothing was written.
        Raises `Overloaded` when the jobs or the events waiting have reached their bound.
        """
        shard = self._keys.of(payment.id)
        record = _encode(payment)
        step = Step()
        # An earlier try may have run with its answer lost, and the payment may have failed and freed its order since:
        # without this, the repeated step would take the free order and bring the failed payment back to life.
        step.expect_version(shard.payment(payment.id), 0)
        order = shard.order(payment.order_key) if payment.order_key else shard.payment(payment.id)
        step.expect_value(order, "")
        self._expect_room(step, shard)
        step.do("SET", shard.payment(payment.id), record)
        if payment.order_key:
            step.do("SET", order, payment.id)
        step.do("SET", shard.card(payment.id), sealed.body)
        if sealed.cvv is not None:
            step.do("SET", shard.cvv(payment.id), sealed.cvv, "PX", self._cvv_ttl_ms)
        step.do("ZADD", shard.user(payment.user_key), 0, payment.id)
        step.do("ZADD", shard.due, due_ms, payment.id)
        if not payment.held_until_ms:
            step.do("XADD", shard.jobs, "*", "p", payment.id, "b", record)
        match await self._run(step):
            case Refusal(check=0):
                return payment.id
            case Refusal(check=1) as refusal:
                return PaymentId(refusal.found.decode())
            case Refusal() as refusal:
                raise _full(refusal.check - 2)
            case _:
                return payment.id

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
        """Write a change, and end the job with it. A conflict writes nothing and leaves the job."""
        shard = self._keys.of(change.payment.id)
        record = _encode(change.payment)
        for _ in range(_TRIES_MAX):
            step = self._step_of(change, shard, record, await found_items(self._batcher, shard, change.items))
            if job is not None:
                _end(step, shard, job)
            refusal = await self._run(step)
            if not isinstance(refusal, Refusal) or refusal.found == record:
                return None
            if refusal.check == 0:
                return _conflict(refusal)
            # Somebody else has opened or closed an item in between: the change is as good with what stands there now.
        raise StoreUnavailable(f"the items of {change.payment.id} change all the time")

    def _step_of(self, change: Change, shard: ShardKeys, record: bytes, found: list[bytes]) -> Step:
        payment = change.payment
        step = Step()
        step.expect_version(shard.payment(payment.id), payment.version - 1)
        put_items(step, shard, change.items, found)
        step.do("SET", shard.payment(payment.id), record)
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
        self._expect_room(step, shard)
        step.do("SET", shard.payment(payment.id), record)
        step.do("ZADD", shard.due, change.due_ms or 0, payment.id)
        step.do("XADD", shard.jobs, "*", "p", payment.id, "b", record)
        match await self._run(step):
            case Refusal(check=0) as refusal:
                return None if refusal.found == record else _conflict(refusal)
            case Refusal() as refusal:
                raise _full(refusal.check - 1)
            case _:
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
        payments = await asyncio.gather(*(self.get(payment_id) for payment_id in ids))
        return [payment for payment in payments if payment is not None]

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

    def _expect_room(self, step: Step, shard: ShardKeys) -> None:
        """Two more conditions of a step that brings new work: room among the jobs, and among the events."""
        step.expect_below(shard.jobs, self._jobs_max)
        step.expect_below(shard.outbox, self._outbox_max)

    def _key_name(self, digest: str) -> str:
        return self._keys.shards[shard_of(digest, len(self._keys.shards))].idempotency(digest)

    async def _run(self, step: Step) -> list[Any] | Refusal:
        tries = 1
        while True:
            try:
                return await self._batcher.step(step)
            except StoreUnavailable:
                if tries >= _TRIES_MAX:
                    raise
                tries += 1
                await self._sleep(0.05 * tries)

    async def _read(self, *command: str | int) -> Any:
        try:
            return await self._batcher.command(*command)
        except StoreUnavailable:
            return await self._batcher.command(*command)


def _full(bound: int) -> Overloaded:
    """Which of the two conditions of `_expect_room` did not hold."""
    return Overloaded("jobs") if bound == 0 else Overloaded("outbox", retry_after_s=5.0)


def _end(step: Step, shard: ShardKeys, job: Job) -> None:
    step.do("XACK", shard.jobs, JOBS_GROUP, job.entry_id)
    step.do("XDEL", shard.jobs, job.entry_id)


def _conflict(refusal: Refusal) -> Conflict:
    return Conflict(decode_payment(refusal.found) if refusal.found else None)
