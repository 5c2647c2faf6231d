"""Commands for operators who settle what the machine cannot: unknown outcomes, statements, events told again."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from app.offline import Dataset, dataset
from app.settings import ConfigError, Settings, topics
from clients.event_file import EventFile
from clients.kafka import KafkaPublisher
from engine.events import OutgoingEvent, history, outgoing
from engine.ids import PaymentId, from_rfc3339, now_ms, rfc3339
from engine.payment import AttemptState, Payment, attempt_id
from engine.settling import Approved, Declined, settled
from engine.statement import Reconciliation, read_statement

_REPLAY_BATCH: Final = 256
_REPLAY_TRIES: Final = 5


async def list_unknown(settings: Settings) -> int:
    """Print every attempt whose outcome nobody knows, a JSON line each, oldest first."""
    async with dataset(settings) as data:
        for payment, since_ms in await data.scan.unknown():
            attempt = payment.attempts[-1]
            _print(
                {
                    "payment": payment.id,
                    "attempt": attempt_id(payment),
                    "kind": attempt.kind.value,
                    "acquirer": attempt.acquirer,
                    "amount_minor": attempt.minor,
                    "currency": payment.amount.currency,
                    "since": rfc3339(since_ms),
                    "asked": attempt.asked,
                }
            )
    return 0


async def resolve_unknown(settings: Settings, given: argparse.Namespace) -> int:
    """Settle an unknown attempt by an operator's word. Refuses what is not unknown; changes nothing without --yes."""
    async with dataset(settings) as data:
        payment = await _unknown_payment(data, given.attempt)
        answer = (
            Approved(given.transaction)
            if given.outcome == "approved"
            else Declined("settled_by_operator", "Settled by an operator")
        )
        if given.outcome == "approved" and not given.transaction:
            raise ConfigError("an approved attempt needs the acquirer's --transaction")
        signed = payment.sign(f"{given.actor}: {given.reason}")
        change = settled(signed, answer, now_ms=now_ms())
        about = {"attempt": given.attempt, "outcome": given.outcome, "from": payment.status.value,
                 "to": change.payment.status.value, "actor": given.actor, "reason": given.reason}  # fmt: skip
        if not given.yes:
            _print({**about, "done": False, "hint": "add --yes to do it"})
            return 1
        if await data.payments.apply(change) is not None:
            raise ConfigError("the payment has changed meanwhile; look again")
        _print({**about, "done": True})
    return 0


async def replay(settings: Settings, given: argparse.Namespace) -> int:
    """Publish events again, with the ids that they had. Consumers dedupe by them."""
    first, last = from_rfc3339(given.first), from_rfc3339(given.last)
    publisher = (
        KafkaPublisher(settings.kafka) if settings.kafka.brokers else EventFile(Path(settings.events.file or "."))
    )
    if not settings.kafka.brokers and not settings.events.file:
        raise ConfigError("kafka.brokers (KAFKA_BROKER) is not set, nor events.file")
    published = 0
    async with dataset(settings) as data:
        try:
            batch: list[OutgoingEvent] = []
            async for payment in _chosen(data, given.payment):
                for event in history(payment, await data.scan.events_of(payment.id)):
                    if first <= event.time_ms <= last:
                        topic = topics(settings)[payment.surface]
                        batch.append(outgoing(event, topic=topic, surface=payment.surface, payment_id=payment.id))
                if len(batch) >= _REPLAY_BATCH:
                    published += await _publish(publisher, batch)
                    batch = []
            published += await _publish(publisher, batch)
        finally:
            await publisher.close()
    _print({"published": published})
    return 0


async def reconcile(settings: Settings, given: argparse.Namespace) -> int:
    """Hold an acquirer's statement against the ledger. Exit code 1 when they differ."""
    try:
        with given.statement.open(newline="") as file:
            statement = read_statement(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{given.statement}: {error}") from None
    reconciliation = Reconciliation(statement, given.acquirer or settings.acquirer.name)
    counts: dict[str, int] = {"matched": 0, "missing_here": 0, "missing_there": 0, "different": 0}
    async with dataset(settings) as data:
        seen: set[str] = set()
        async for payment in data.scan.payments():
            if payment.id in seen or not payment.attempts:
                continue
            for difference in reconciliation.payment(payment):
                seen.add(payment.id)
                counts[difference.what] += 1
                _print(difference._asdict())
        for difference in reconciliation.rest():
            counts[difference.what] += 1
            _print(difference._asdict())
    counts["matched"] = reconciliation.matched
    _print({"ok": not sum(counts.values()) - counts["matched"], **counts})
    return 1 if sum(counts.values()) - counts["matched"] else 0


async def _unknown_payment(data: Dataset, attempt: str) -> Payment:
    payment = await data.payments.get(PaymentId(attempt.rpartition("-a")[0]))
    if payment is None or not payment.attempts or attempt_id(payment) != attempt:
        raise ConfigError("there is no such attempt, or it is not its payment's latest")
    if payment.attempts[-1].state is not AttemptState.UNKNOWN:
        raise ConfigError(f"the attempt is {payment.attempts[-1].state.value}: there is nothing to resolve")
    return payment


async def _chosen(data: Dataset, payment_id: str | None) -> AsyncIterator[Payment]:
    if payment_id is None:
        async for payment in data.scan.payments():
            yield payment
        return
    one = await data.payments.get(PaymentId(payment_id))
    if one is None:
        raise ConfigError("there is no such payment")
    yield one


async def _publish(publisher: KafkaPublisher | EventFile, batch: list[OutgoingEvent]) -> int:
    left = batch
    for _ in range(_REPLAY_TRIES):
        if not left:
            return len(batch)
        acknowledged = await publisher.publish(left)
        left = [event for event, ok in zip(left, acknowledged, strict=True) if not ok]
        await asyncio.sleep(0.5 if left else 0)
    raise ConfigError(f"{len(left)} events were not acknowledged; those before are published")


def _print(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
