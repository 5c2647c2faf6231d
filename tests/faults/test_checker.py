"""The checker is proven on spoiled evidence: each broken promise is found, and the audit agrees where it can see it."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from engine.store.connect import RedisSettings
from simulators import cards
from tests.faults.checker import FULL_NAMES, Evidence, Posted, Row, Seen, Told, read_store, violations
from tests.faults.world import audit_findings, world
from tests.support import RedisServer, temporary_folder


class Healthy(NamedTuple):
    """A dataset in which nothing is wrong, and its parts by name."""

    server: RedisServer
    evidence: Evidence
    keys: dict[bytes, bytes]
    completed: str
    other: str
    failed: str

    def restore(self) -> redis.Redis:
        """Put the healthy dataset back; gives a client to spoil it with."""
        client = redis.Redis(port=self.server.port)
        client.flushall()
        for name, value in self.keys.items():
            client.restore(name, 0, value)
        return client

    def key(self, kind: str, payment_id: str) -> str:
        """The name of one of the payment's keys, or of one of its shard's."""
        name = f"{{p{payment_id[-2:]}}}:{kind}"
        if kind == "order":
            return f"{name}:{self.evidence.payments[payment_id]['order_id']}"
        return f"{name}:{payment_id}" if kind in ("payment", "ledger", "events", "card") else name


@pytest.fixture(scope="module")
def healthy() -> Iterator[Healthy]:
    """Made by a real engine that has stopped since: two completed payments, one failed, all healed."""
    with temporary_folder() as folder, temporary_folder() as data:
        server = RedisServer(data)
        server.start()
        yield asyncio.run(_made(folder, server))
        server.stop()


async def _made(folder: Path, server: RedisServer) -> Healthy:
    async with world(folder) as w:
        ids = [
            (await w.shop.insist(await w.shop.wish(card))).payment_id
            for card in ({}, {}, {"cardNumber": cards.INSUFFICIENT_FUNDS})
        ]
        for payment_id in ids:
            await w.engine.wait_status(payment_id)
            await w.shop.look(payment_id)
        evidence = await w.judge()
        client = redis.Redis(port=w.redis.port)
        names: Any = client.keys("{p*")
        kept: dict[bytes, Any] = {name: client.dump(name) for name in names if b":lease:" not in name}
        client.close()
    return Healthy(server, evidence, kept, *ids)


def test_nothing_is_wrong_with_a_healthy_dataset(healthy: Healthy) -> None:
    """Neither for the checker nor for the audit; a second copy of an event is no fault."""
    client = healthy.restore()
    evidence = _read_again(client, healthy)
    evidence.told.append(evidence.told[0])
    assert violations(evidence) == []
    assert asyncio.run(audit_findings(RedisSettings(url=healthy.server.url, timeout_s=60))) == []
    client.close()


Spoil = Callable[[redis.Redis, Healthy], None]


def _edit(client: redis.Redis, name: str, **changes: Any) -> None:
    raw: Any = client.get(name)
    record = json.loads(raw)
    stored = {full: short for short, full in FULL_NAMES.items()}
    for field, value in ((stored.get(each, each), value) for each, value in changes.items()):
        if value is None:
            record.pop(field, None)
        else:
            record[field] = value
    client.set(name, json.dumps(record, separators=(",", ":")))


def _payment_gone(client: redis.Redis, healthy: Healthy) -> None:
    client.delete(healthy.key("payment", healthy.completed))


def _ended_is_processing_again(client: redis.Redis, healthy: Healthy) -> None:
    _edit(client, healthy.key("payment", healthy.completed), captured=None, ended=None)


def _failed_is_completed(client: redis.Redis, healthy: Healthy) -> None:
    amount = healthy.evidence.payments[healthy.failed]["amount"][0]
    _edit(client, healthy.key("payment", healthy.failed), failure=None, captured=amount, txn="t")


def _completed_is_failed(client: redis.Redis, healthy: Healthy) -> None:
    failure = ["PAY_002", "INSUFFICIENT_FUNDS", "Insufficient funds"]
    _edit(client, healthy.key("payment", healthy.completed), failure=failure, captured=None)


def _other_amount(client: redis.Redis, healthy: Healthy) -> None:
    _edit(client, healthy.key("payment", healthy.completed), amount=[1, "USD"], captured=1)


def _row_off_by_one(client: redis.Redis, healthy: Healthy) -> None:
    name = healthy.key("ledger", healthy.completed)
    transaction: Any = json.loads(client.lindex(name, 0) or b"")
    transaction[2][0][2] += 1
    client.lset(name, 0, json.dumps(transaction))


def _ledger_twice(client: redis.Redis, healthy: Healthy) -> None:
    name = healthy.key("ledger", healthy.completed)
    client.rpush(name, client.lindex(name, 0) or b"")


def _ledger_gone(client: redis.Redis, healthy: Healthy) -> None:
    client.delete(healthy.key("ledger", healthy.completed))


def _balance_off_by_one(client: redis.Redis, healthy: Healthy) -> None:
    client.hincrby(healthy.key("balances", healthy.completed), "merchant:core|USD", 1)


def _event_gone(client: redis.Redis, healthy: Healthy) -> None:
    client.delete(healthy.key("events", healthy.completed))


def _event_twice(client: redis.Redis, healthy: Healthy) -> None:
    name = healthy.key("events", healthy.completed)
    client.rpush(name, client.lindex(name, 0) or b"")


def _event_of_another_state(client: redis.Redis, healthy: Healthy) -> None:
    name = healthy.key("events", healthy.completed)
    body: Any = client.lindex(name, 0)
    client.lset(name, 0, body.replace(b"payment_completed", b"payment_failed"))


def _event_of_another_amount(client: redis.Redis, healthy: Healthy) -> None:
    name = healthy.key("events", healthy.completed)
    body: Any = client.lindex(name, 0)
    client.lset(name, 0, body.replace(b'"amount":10', b'"amount":11'))


def _claim_gone(client: redis.Redis, healthy: Healthy) -> None:
    client.delete(healthy.key("order", healthy.completed))


def _claim_of_a_failed(client: redis.Redis, healthy: Healthy) -> None:
    client.set(healthy.key("order", healthy.failed), healthy.failed)


def _second_payment_of_an_order(client: redis.Redis, healthy: Healthy) -> None:
    second = healthy.completed[:4] + "1" + healthy.completed[5:]
    raw: Any = client.get(healthy.key("payment", healthy.completed))
    name = healthy.key("payment", healthy.completed).replace(healthy.completed, second)
    client.set(name, raw.replace(healthy.completed.encode(), second.encode()))


def _card_left(client: redis.Redis, healthy: Healthy) -> None:
    client.set(healthy.key("card", healthy.completed), b"sealed")


def _card_without_payment(client: redis.Redis, healthy: Healthy) -> None:
    client.set(healthy.key("card", healthy.completed)[:-6] + "zzzz" + healthy.completed[-2:], b"sealed")


def _still_due(client: redis.Redis, healthy: Healthy) -> None:
    client.zadd(healthy.key("due", healthy.completed), {healthy.completed: 1})


def _still_unknown(client: redis.Redis, healthy: Healthy) -> None:
    client.zadd(healthy.key("unknown", healthy.completed), {healthy.completed: 1})


def _job_left(client: redis.Redis, healthy: Healthy) -> None:
    client.xadd(healthy.key("jobs", healthy.completed), {"p": healthy.completed})


def _job_read_and_left(client: redis.Redis, healthy: Healthy) -> None:
    name = healthy.key("jobs", healthy.completed)
    entry: Any = client.xadd(name, {"p": healthy.completed})
    client.xreadgroup("workers", "somebody", {name: ">"})
    client.xdel(name, entry)


def _event_unpublished(client: redis.Redis, healthy: Healthy) -> None:
    client.xadd(healthy.key("outbox", healthy.completed), {"p": healthy.completed})


@pytest.mark.parametrize(
    ("spoil", "promise", "audited"),
    [
        (_payment_gone, "kept", True),
        (_ended_is_processing_again, "terminal", True),
        (_ended_is_processing_again, "terminal stays", True),
        (_ended_is_processing_again, "effect without completion", True),
        (_failed_is_completed, "completion without effect", True),
        (_completed_is_failed, "unknown is not failed", True),
        (_other_amount, "same amount", True),
        (_row_off_by_one, "ledger sums to zero", True),
        (_ledger_twice, "ledger once", True),
        (_ledger_gone, "ledger is what was captured", True),
        (_balance_off_by_one, "balances are the replay", True),
        (_event_gone, "sequence", True),
        (_event_gone, "event of a committed state", True),
        (_event_twice, "sequence", True),
        (_event_of_another_state, "expected event", True),
        (_event_of_another_amount, "expected event", True),
        (_event_of_another_amount, "event hash", True),
        (_claim_gone, "order claim", True),
        (_claim_of_a_failed, "order claim", True),
        (_second_payment_of_an_order, "one payment per order", True),
        (_card_left, "sealed card gone", True),
        (_card_without_payment, "sealed card gone", True),
        (_still_due, "drained", True),
        (_still_unknown, "drained", True),
        # What waits is in the audit's report, but it is no finding: a live dataset always has some of it.
        (_job_left, "drained", False),
        (_job_read_and_left, "drained", False),
        (_event_unpublished, "drained", False),
    ],
)
def test_a_spoiled_store_is_found(healthy: Healthy, spoil: Spoil, promise: str, audited: bool) -> None:
    """By the checker, and by the audit if it is about the store alone."""
    client = healthy.restore()
    spoil(client, healthy)
    found = violations(_read_again(client, healthy))
    client.close()
    assert promise in {problem.partition(":")[0] for problem in found}, found
    assert bool(asyncio.run(audit_findings(RedisSettings(url=healthy.server.url, timeout_s=60)))) is audited


def _effect(evidence: Evidence, payment_id: str) -> dict[str, Any]:
    return next(effect for effect in evidence.effects if effect["reference"] == payment_id)


def _told(evidence: Evidence, payment_id: str) -> Told:
    return next(told for told in evidence.told if told.key == payment_id)


def _change(evidence: Evidence, healthy: Healthy, **changes: Any) -> None:
    told = _told(evidence, healthy.completed)
    headers = {**told.headers, **changes.pop("headers", {})}
    evidence.told[evidence.told.index(told)] = told._replace(headers=headers, **changes)


def _refuse(evidence: Evidence, healthy: Healthy) -> None:
    evidence.posted = [
        posted._replace(outcome="refused") if posted.payment_id == healthy.completed else posted
        for posted in evidence.posted
    ]


def _forget(evidence: Evidence, healthy: Healthy) -> None:
    evidence.posted = [posted for posted in evidence.posted if posted.payment_id != healthy.completed]


def _accept(evidence: Evidence, payment_id: str, key: str = "another") -> None:
    evidence.posted.append(Posted("order-1", key, 1001, "USD", "ok", payment_id))


IN_MIND: dict[str, tuple[Callable[[Evidence, Healthy], Any], str]] = {
    "an attempt charged twice": (lambda e, h: e.effects.append(_effect(e, h.completed)), "one effect per attempt"),
    "a payment charged twice": (
        lambda e, h: e.effects.append({**_effect(e, h.completed), "attempt": f"{h.completed}-a2"}),
        "one effect per payment",
    ),
    "charged under an attempt that was never written": (
        lambda e, h: _effect(e, h.completed).update(attempt=f"{h.completed}-a9"), "intent before call",
    ),
    "completed and not charged": (lambda e, h: e.effects.remove(_effect(e, h.completed)), "completion without effect"),
    "charged another amount": (lambda e, h: _effect(e, h.completed).update(amount_minor=1), "same amount"),
    "charged in another currency": (lambda e, h: _effect(e, h.completed).update(currency="EUR"), "same amount"),
    "charged and failed": (
        lambda e, h: e.effects.append({**_effect(e, h.completed), "reference": h.failed, "attempt": f"{h.failed}-a1"}),
        "unknown is not failed",
    ),
    "charged for nobody": (
        lambda e, h: e.effects.append({**_effect(e, h.completed), "reference": "pay-x"}), "effect without payment",
    ),
    "another transaction": (lambda e, h: _effect(e, h.completed).update(id="txn-x"), "same transaction"),
    "an event lost": (lambda e, h: e.told.remove(_told(e, h.completed)), "event at least once"),
    "an event changed": (lambda e, h: _change(e, h, body=_told(e, h.other).body), "same event"),
    "a second copy that differs": (
        lambda e, h: e.told.append(_told(e, h.completed)._replace(body=b"{}")), "same event",
    ),
    "an event of nothing": (
        lambda e, h: _change(e, h, headers={"ce_id": "pay-x-1"}), "event of a committed state",
    ),
    "an event with a gap before it": (
        lambda e, h: _change(e, h, headers={"ce_id": f"{h.completed}-2"}), "event of a committed state",
    ),
    "a wrong sequence": (lambda e, h: _change(e, h, headers={"ce_sequence": "2"}), "event headers"),
    "a wrong hash": (lambda e, h: _change(e, h, headers={"ce_prevhash": "00"}), "event headers"),
    "a wrong type": (lambda e, h: _change(e, h, headers={"ce_type": "payment_failed"}), "event headers"),
    "under another key": (lambda e, h: _change(e, h, key=h.other), "event headers"),
    "completed, then processing": (
        lambda e, h: e.seen.extend([Seen(h.completed, "completed"), Seen(h.completed, "processing")]),
        "terminal stays",
    ),
    "seen failed, now completed": (lambda e, h: e.seen.append(Seen(h.completed, "failed")), "terminal stays"),
    "accepted and gone": (lambda e, h: _accept(e, "pay-x"), "kept"),
    "two payments of one key": (lambda e, h: _accept(e, h.other, key="key-1"), "one payment per key"),
    "a key that stands for another": (lambda e, h: e.keys.update({"key-1": h.other}), "one payment per key"),
    "refused and written": (_refuse, "refused writes nothing"),
    "written for nobody": (_forget, "nobody asked"),
    "shown with another status": (lambda e, h: e.shown[h.failed].update(status="completed"), "api shows the store"),
    "shown with another amount": (
        lambda e, h: e.shown[h.completed].update(amount=Decimal("0.1")), "api shows the store",
    ),
    "not shown": (lambda e, h: e.shown.pop(h.completed), "api shows the store"),
}  # fmt: skip


@pytest.mark.parametrize("fault", IN_MIND)
def test_what_clients_acquirer_and_consumers_know_better_is_found(healthy: Healthy, fault: str) -> None:
    """The store alone looks healthy here; only somebody outside can tell."""
    spoil, promise = IN_MIND[fault]
    evidence = copy.deepcopy(healthy.evidence)
    spoil(evidence, healthy)
    found = violations(evidence)
    assert promise in {problem.partition(":")[0] for problem in found}, found


def _late(evidence: Evidence, healthy: Healthy) -> Row:
    """The failed payment's attempt took the money after all, and it has gone back: nothing is wrong. Its record."""
    payment, effect = evidence.payments[healthy.failed], _effect(evidence, healthy.completed)
    first = payment["attempts"][0]
    first[2] = "reversed"
    payment["attempts"].append([2, first[1], "approved", *first[3:7], "refund", first[8], "", "", "", first[0]])
    payment["late"] = [[first[0], "txn-late", 0, ""]]
    minor, currency = payment["amount"]
    charge = {
        **effect, "reference": healthy.failed, "attempt": f"{healthy.failed}-a1", "id": "txn-late",
        "charge": "txn-late", "amount_minor": minor, "currency": currency,
    }  # fmt: skip
    evidence.effects += [charge, {**charge, "kind": "refund", "attempt": f"{healthy.failed}-a2", "id": "txn-back"}]
    rows = [[f"acquirer:{first[1]}", currency, minor], ["suspense:late", currency, -minor]]
    back = [[account, each, -much] for account, each, much in rows]
    evidence.ledger[healthy.failed] = [["late", 0, rows], ["reversed", 0, back]]
    return payment


LATE: dict[str, Callable[[Evidence, Row], Any]] = {
    "not given back": lambda e, _: e.effects.pop(),
    "given back twice": lambda e, _: e.effects.append({**e.effects[-1], "attempt": e.effects[-1]["attempt"] + "0"}),
    "given back in part": lambda e, _: e.effects[-1].update(amount_minor=1),
    "given back of another charge": lambda e, _: e.effects[-1].update(charge="txn-x"),
    "recorded as still late": lambda _, payment: payment["attempts"][0].__setitem__(2, "late"),
    "left in suspense": lambda e, payment: e.ledger[payment["id"]].pop(),
    "an item left open": lambda e, payment: e.waiting.update({f"{{p{payment['id'][-2:]}}}:items": 1}),
}


def test_a_late_success_that_went_back_is_no_breach(healthy: Healthy) -> None:
    evidence = copy.deepcopy(healthy.evidence)
    _late(evidence, healthy)
    assert violations(evidence) == []


@pytest.mark.parametrize("fault", LATE)
def test_a_late_success_that_did_not_go_back_is_found(healthy: Healthy, fault: str) -> None:
    evidence = copy.deepcopy(healthy.evidence)
    payment = _late(evidence, healthy)
    LATE[fault](evidence, payment)
    assert violations(evidence)


def _read_again(client: redis.Redis, healthy: Healthy) -> Evidence:
    old = copy.deepcopy(healthy.evidence)
    evidence = Evidence(posted=old.posted, seen=old.seen, shown=old.shown, effects=old.effects, told=old.told)
    read_store(client, evidence)
    return evidence
