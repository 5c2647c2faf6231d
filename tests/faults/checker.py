"""The checker: holds what clients were told against the store, the acquirer's journal and the published events.

It stands outside of the code under test: it reads the raw keys and JSON of Redis, the HTTP API, the acquirer
simulator's journal and the sink of the events, and knows of the engine only what its design promises. `collect`
gathers the evidence, `violations` judges it and needs nothing else, so that tests can spoil evidence and see it
complain.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import redis

ENDED = ("completed", "failed")
REVERSES = 12  # where an attempt's record says whose money it gives back
DECIMALS = {"USD": 2, "EUR": 2, "JPY": 0}

Row = dict[str, Any]

# How the store's records name what is judged here, where a record's names are shorter than ours.
FULL_NAMES = {
    "order": "order_id",
    "user": "user_id",
    "txn": "transaction_id",
    "captured": "captured_minor",
    "ended": "ended_ms",
    "hash": "last_event_hash",
}


class Posted(NamedTuple):
    """One `POST /api/payments`, as its client remembers it.

    `ok`: answered with a payment. `refused`: told for certain that nothing was written. `unknown`: no answer, or
    one that says that nobody knows.
    """

    order_id: str
    key: str | None
    amount_minor: int
    currency: str
    outcome: Literal["ok", "refused", "unknown"]
    payment_id: str = ""
    detail: str = ""


class Seen(NamedTuple):
    """A status that a client was shown, in the order of the answers."""

    payment_id: str
    status: str


class Told(NamedTuple):
    """One event as a consumer reads it."""

    key: str
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Evidence:
    """Everything that is judged."""

    posted: list[Posted] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    # What the store holds, by payment id unless said otherwise.
    payments: dict[str, Row] = field(default_factory=dict)
    ledger: dict[str, list[Any]] = field(default_factory=dict)
    events: dict[str, list[bytes]] = field(default_factory=dict)
    orders: dict[str, str] = field(default_factory=dict)  # order id -> payment id
    balances: Counter[str] = field(default_factory=Counter)  # account|currency -> minor units
    sealed: list[str] = field(default_factory=list)  # keys of sealed cards and CVVs
    waiting: dict[str, int] = field(default_factory=dict)  # stream or set -> how much is in it
    # What the others say.
    shown: dict[str, Row] = field(default_factory=dict)  # the HTTP API's payments
    keys: dict[str, str] = field(default_factory=dict)  # idempotency key -> payment id, by the HTTP API
    effects: list[Row] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)


def read_store(client: redis.Redis, into: Evidence) -> None:
    """Read every key of the dataset. `client` must not decode."""
    names: list[bytes] = sorted(client.scan_iter(match=b"{p*", count=1000))
    for name, value in _values(client, names):
        _, kind, rest = name.split(":", 2) if name.count(":") > 1 else (*name.split(":"), "")
        match kind:
            case "payment":
                record = json.loads(value, parse_float=Decimal)
                into.payments[rest] = {FULL_NAMES.get(name, name): each for name, each in record.items()}
            case "ledger":
                into.ledger[rest] = [json.loads(each) for each in value]
            case "events":
                into.events[rest] = list(value)
            case "order":
                into.orders[rest] = value.decode()
            case "balances":
                for account, minor in value.items():
                    into.balances[account.decode()] += int(minor)
            case "card" | "cvv":
                into.sealed.append(name)
            case "due" | "unknown" | "items":
                into.waiting[name] = len(value)
            case "jobs" | "outbox":
                into.waiting[name] = value
                if kind == "jobs":
                    into.waiting[f"{name} pending"] = _pending(client, name)


def _values(client: redis.Redis, names: Sequence[bytes]) -> Iterator[tuple[str, Any]]:
    """Each name with its value: a list, a mapping, a string, or a stream's length."""
    readers = {
        b"string": lambda pipe, name: pipe.get(name),
        b"list": lambda pipe, name: pipe.lrange(name, 0, -1),
        b"hash": lambda pipe, name: pipe.hgetall(name),
        b"zset": lambda pipe, name: pipe.zrange(name, 0, -1),
        b"stream": lambda pipe, name: pipe.xlen(name),
    }
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.type(name)
    kinds: list[bytes] = pipe.execute() if names else []
    known = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind in readers]  # else it expired
    for name, kind in known:
        readers[kind](pipe, name)
    for (name, _), value in zip(known, pipe.execute() if known else [], strict=True):
        if value is not None:
            yield name.decode(), value


def _pending(client: redis.Redis, stream: str) -> int:
    groups: Any = client.xinfo_groups(stream)
    return sum(int(group["pending"]) for group in groups)


def read_event_file(path: Path) -> list[Told]:
    """The events of a JSON-lines sink; a torn last line was never acknowledged."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [_told(line) for line in lines]


def _told(line: bytes) -> Told:
    read = json.loads(line)
    # The body byte for byte: the sink writes it last, unchanged.
    body = line[line.index(b',"value":') + len(b',"value":') : -1]
    return Told(read["key"], body, read["headers"])


def status_of(payment: Row) -> str:
    """The status that a record's facts add up to."""
    if payment.get("failure"):
        return "failed"
    return "completed" if payment.get("captured_minor") else "processing"


def violations(evidence: Evidence, *, still_open: Collection[str] = ()) -> list[str]:
    """Every broken promise, each with the name of the promise first. `still_open` may be without an outcome yet."""
    checks: Iterable[Iterator[str]] = (
        _answers(evidence),
        _life(evidence, still_open),
        _orders(evidence),
        _money(evidence, still_open),
        _ledger(evidence),
        _events(evidence),
        _sink(evidence),
        _drained(evidence, still_open),
        _secrets(evidence),
        _api(evidence),
    )
    return [problem for check in checks for problem in check]


def _answers(evidence: Evidence) -> Iterator[str]:
    """What a client was told is what was kept."""
    by_key: dict[str, set[str]] = defaultdict(set)
    fates: dict[str, set[str]] = defaultdict(set)
    for posted in evidence.posted:
        fates[posted.order_id].add(posted.outcome)
        if posted.outcome != "ok":
            continue
        if posted.key is not None:
            by_key[posted.key].add(posted.payment_id)
        payment = evidence.payments.get(posted.payment_id)
        if payment is None:
            yield f"kept: {posted.payment_id} was accepted and is gone"
        elif (payment["order_id"], *payment["amount"]) != (posted.order_id, posted.amount_minor, posted.currency):
            yield f"kept: {posted.payment_id} is not what was asked for: {payment} for {posted}"
    for key, ids in by_key.items():
        if len(ids) > 1:
            yield f"one payment per key: {key} made {sorted(ids)}"
        if evidence.keys.get(key, min(ids)) not in ids:
            yield f"one payment per key: {key} stands for {evidence.keys[key]}, its clients were told {sorted(ids)}"
    for payment in evidence.payments.values():
        fate = fates.get(payment["order_id"], set())
        if not fate:
            yield f"nobody asked: {payment['id']} for {payment['order_id']}"
        elif fate == {"refused"}:
            yield f"refused writes nothing: {payment['id']} exists for {payment['order_id']}"


def _life(evidence: Evidence, still_open: Collection[str]) -> Iterator[str]:
    """One terminal status, and it stays."""
    for payment_id, payment in evidence.payments.items():
        if payment_id != payment["id"]:
            yield f"terminal: {payment_id} holds the record of {payment['id']}"
        if status_of(payment) not in ENDED and payment_id not in still_open:
            yield f"terminal: {payment_id} is {status_of(payment)}: {payment.get('attempts')}"
    ended: dict[str, str] = {}
    now = ((payment_id, status_of(payment)) for payment_id, payment in evidence.payments.items())
    for payment_id, status in (*evidence.seen, *now):
        before = ended.setdefault(payment_id, status) if status in ENDED else ended.get(payment_id, status)
        if before != status:
            yield f"terminal stays: {payment_id} was {before}, then {status}"


def _orders(evidence: Evidence) -> Iterator[str]:
    """An order is claimed by its one payment that is not failed."""
    holders: dict[str, list[str]] = defaultdict(list)
    for payment_id, payment in evidence.payments.items():
        if status_of(payment) != "failed":
            holders[payment["order_id"]].append(payment_id)
    for order_id, ids in holders.items():
        if len(ids) > 1:
            yield f"one payment per order: {order_id} has {ids}"
        if evidence.orders.get(order_id) not in ids:
            yield f"order claim: {order_id} is claimed by {evidence.orders.get(order_id)}, not by {ids}"
    for order_id, payment_id in evidence.orders.items():
        if payment_id not in holders[order_id]:
            yield f"order claim: {order_id} is claimed by {payment_id}, which has failed or is gone"


def _money(evidence: Evidence, still_open: Collection[str]) -> Iterator[str]:
    """Money moved exactly once for what is completed, and never for anything else."""
    for attempt, times in Counter(effect["attempt"] for effect in evidence.effects).items():
        if times > 1:
            yield f"one effect per attempt: {attempt} has {times}"
    by_payment: dict[str, list[Row]] = defaultdict(list)
    for effect in evidence.effects:
        by_payment[effect["reference"]].append(effect)
    for payment_id in by_payment.keys() | evidence.payments.keys():
        payment = evidence.payments.get(payment_id)
        if payment is None:
            yield f"effect without payment: {payment_id}"
            continue
        late, effects = _late_apart(payment, by_payment[payment_id])
        yield from _gone_back(payment, late)
        if len(effects) > 1:
            yield f"one effect per payment: {payment_id} has {len(effects)}"
        if effects:
            yield from _effects_of(payment, effects, still_open)
        by_payment[payment_id] = effects
    for payment_id, payment in evidence.payments.items():
        if status_of(payment) == "completed":
            yield from _completion(payment, [effect["id"] for effect in by_payment[payment_id]])


def _late_apart(payment: Row, effects: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The effects of attempts that took the money too late, with what gave it back; and all others."""
    numbers = {late[0] for late in payment.get("late", ())}
    attempts = {
        f"{payment['id']}-a{attempt[0]}"
        for attempt in payment.get("attempts", ())
        if attempt[0] in numbers or (len(attempt) > REVERSES and attempt[REVERSES] in numbers)
    }
    late = [effect for effect in effects if effect["attempt"] in attempts]
    return late, [effect for effect in effects if effect["attempt"] not in attempts]


def _gone_back(payment: Row, effects: Sequence[Row]) -> Iterator[str]:
    """What an acquirer took too late, it has given back: all of it, once, and the record says so."""
    payment_id, states = payment["id"], {attempt[0]: attempt[2] for attempt in payment.get("attempts", ())}
    for number, *_ in payment.get("late", ()):
        taken = [each for each in effects if each["attempt"] == f"{payment_id}-a{number}"]
        charges = {each["charge"] for each in taken}
        back = [each for each in effects if each["kind"] == "refund" and each["charge"] in charges]
        if [each["amount_minor"] for each in taken] != [each["amount_minor"] for each in back]:
            yield f"late success goes back: {payment_id} had {taken}, of which {back} went back"
        if states.get(number) != "reversed":
            yield f"late success goes back: attempt {number} of {payment_id} is {states.get(number)}"


def _effects_of(payment: Row, effects: Sequence[Row], still_open: Collection[str]) -> Iterator[str]:
    payment_id = payment["id"]
    if status_of(payment) == "failed":
        yield f"unknown is not failed: {payment_id} is failed, but the acquirer took the money"
    elif status_of(payment) != "completed" and payment_id not in still_open:
        yield f"effect without completion: {payment_id} is {status_of(payment)}"
    attempts = {f"{payment_id}-a{attempt[0]}" for attempt in payment.get("attempts", ())}
    for effect in effects:
        if effect["attempt"] not in attempts:
            yield f"intent before call: {effect['attempt']} is not an attempt of {payment_id}"
        if [effect["amount_minor"], effect["currency"]] != payment["amount"]:
            yield f"same amount: {payment_id} is {payment['amount']}, the acquirer took {effect}"


def _completion(payment: Row, transaction_ids: Sequence[str]) -> Iterator[str]:
    payment_id = payment["id"]
    if not transaction_ids:
        yield f"completion without effect: {payment_id}"
    elif payment.get("transaction_id") not in transaction_ids:
        yield f"same transaction: {payment_id} names {payment.get('transaction_id')}, the acquirer {transaction_ids}"
    if payment["captured_minor"] != payment["amount"][0]:
        yield f"same amount: {payment_id} captured {payment['captured_minor']} of {payment['amount']}"


def _ledger(evidence: Evidence) -> Iterator[str]:
    """Each transaction sums to zero, each payment has the rows of what it captured, balances are the rows' sums."""
    replay: Counter[str] = Counter()
    for payment_id, transactions in evidence.ledger.items():
        ids = [transaction[0] for transaction in transactions]
        if len(set(ids)) != len(ids):
            yield f"ledger once: {payment_id} has {ids}"
        taken = suspense = 0
        for transaction_id, _, rows in transactions:
            sums: Counter[str] = Counter()
            for account, currency, minor in rows:
                sums[currency] += minor
                replay[f"{account}|{currency}"] += minor
                taken += minor if account.startswith("acquirer:") else 0
                suspense += minor if account.startswith("suspense:") else 0
            if any(sums.values()):
                yield f"ledger sums to zero: {transaction_id} sums to {dict(sums)}"
        captured = evidence.payments.get(payment_id, {}).get("captured_minor", 0)
        if taken != captured:
            yield f"ledger is what was captured: {payment_id} captured {captured}, its rows say {taken}"
        if suspense:
            yield f"late success goes back: {payment_id} has {suspense} in suspense"
    for payment_id, payment in evidence.payments.items():
        if payment.get("captured_minor") and payment_id not in evidence.ledger:
            yield f"ledger is what was captured: {payment_id} has no rows"
    for account in sorted(replay.keys() | evidence.balances.keys()):
        if replay[account] != evidence.balances[account]:
            yield f"balances are the replay: {account} is {evidence.balances[account]}, its rows {replay[account]}"


def _events(evidence: Evidence) -> Iterator[str]:
    """Each payment that ended has told exactly that, once, in the contract's JSON."""
    for payment_id in evidence.payments.keys() | evidence.events.keys():
        payment = evidence.payments.get(payment_id)
        bodies = evidence.events.get(payment_id, [])
        if payment is None:
            yield f"event of a committed state: {payment_id} has events, but is gone"
            continue
        if len(bodies) != payment.get("sequence", 0):
            yield f"sequence: {payment_id} has {len(bodies)} events, its sequence is {payment.get('sequence', 0)}"
        wanted = [] if status_of(payment) not in ENDED else [_wanted_event(payment)]
        told = [json.loads(body, parse_float=Decimal) for body in bodies]
        if told != wanted:
            yield f"expected event: {payment_id} is {status_of(payment)}, told {told}, wanted {wanted}"
        if bodies and hashlib.sha256(bodies[-1]).hexdigest() != payment.get("last_event_hash"):
            yield f"event hash: {payment_id} names another last event"


def _wanted_event(payment: Row) -> Row:
    minor, currency = payment["amount"]
    ended_at = _rfc3339(payment["ended_ms"])
    event: Row = {"payment_id": payment["id"], "order_id": payment["order_id"]}
    if status_of(payment) == "completed":
        amount = Decimal(minor).scaleb(-DECIMALS[currency])
        data: Row = {"amount": amount, "currency": currency, "transaction_id": payment["transaction_id"]}
        return {
            **event, "event_type": "payment_completed", "user_id": payment["user_id"],
            "data": {**data, "completed_at": ended_at},
        }  # fmt: skip
    _, error_code, reason = payment["failure"]
    data = {"reason": reason, "error_code": error_code, "failed_at": ended_at}
    return {**event, "event_type": "payment_failed", "data": data}


def _sink(evidence: Evidence) -> Iterator[str]:
    """What consumers read is what was committed: all of it, at least once, each copy the same."""
    committed = {
        f"{payment_id}-{number}": (body, bodies[number - 2] if number > 1 else None)
        for payment_id, bodies in evidence.events.items()
        for number, body in enumerate(bodies, start=1)
    }
    copies: dict[str, list[Told]] = defaultdict(list)
    for told in evidence.told:
        copies[told.headers.get("ce_id", "")].append(told)
    for event_id in committed.keys() - copies.keys():
        yield f"event at least once: {event_id} was committed and not published"
    for event_id, published in copies.items():
        if event_id not in committed:
            yield f"event of a committed state: {event_id} was published and not committed"
            continue
        body, before = committed[event_id]
        for told in published:
            if told.body != body:
                yield f"same event: {event_id} was published as {told.body!r}, committed as {body!r}"
            if problem := _wrong_headers(event_id, told, before):
                yield f"event headers: {event_id} {problem}"


def _wrong_headers(event_id: str, told: Told, before: bytes | None) -> str | None:
    payment_id, _, number = event_id.rpartition("-")
    wanted = {
        "ce_id": event_id,
        "ce_type": json.loads(told.body).get("event_type"),
        "ce_subject": payment_id,
        "ce_sequence": number,
        "ce_prevhash": hashlib.sha256(before).hexdigest() if before else "",
        "ce_specversion": "1.0",
        "ce_source": "/payments/core",
        "content-type": "application/json",
    }
    wrong = {name: told.headers.get(name) for name, text in wanted.items() if told.headers.get(name) != text}
    if "ce_time" not in told.headers:
        wrong["ce_time"] = None
    if told.key != payment_id:
        wrong["key"] = told.key
    return f"has {wrong}" if wrong else None


def _drained(evidence: Evidence, still_open: Collection[str]) -> Iterator[str]:
    """At rest nothing waits. Payments that may be open are due, may be unknown, and may have a job."""
    for name, waiting in evidence.waiting.items():
        allowed = 0 if name.endswith(":outbox") else len(still_open)
        if waiting > allowed:
            yield f"drained: {name} holds {waiting}"


def _secrets(evidence: Evidence) -> Iterator[str]:
    """Sealed cards live as long as their payment is open, and not longer."""
    for name in evidence.sealed:
        payment = evidence.payments.get(name.rpartition(":")[2])
        if payment is None or status_of(payment) in ENDED:
            yield f"sealed card gone: {name} is still there"


def _api(evidence: Evidence) -> Iterator[str]:
    """The API shows what the store holds."""
    for payment_id in evidence.payments.keys() ^ evidence.shown.keys():
        where = "the store" if payment_id in evidence.payments else "the API"
        yield f"api shows the store: {payment_id} is only in {where}"
    for payment_id in evidence.payments.keys() & evidence.shown.keys():
        payment, shown = evidence.payments[payment_id], evidence.shown[payment_id]
        minor, currency = payment["amount"]
        wanted = (payment["order_id"], status_of(payment), Decimal(minor).scaleb(-DECIMALS[currency]), currency)
        if (shown["orderId"], shown["status"], shown["amount"], shown["currency"]) != wanted:
            yield f"api shows the store: {payment_id} is {shown}, wanted {wanted}"


def _rfc3339(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"
