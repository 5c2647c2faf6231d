"""The audit: reads a dataset key by key and holds it against the invariants. It writes nothing.

Each payment is read in one step, so a dataset may be audited while it works. Memory stays flat: only the
findings and one sum per account are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from engine import events as told
from engine import purchase as bought
from engine.events import event_hash
from engine.ids import PaymentId, is_payment_id, shard_of_payment
from engine.ledger import Transaction
from engine.payment import AttemptState, Payment, RefundState, Status
from engine.recorded import contradictions
from engine.store.batch import Batcher, RedisClient
from engine.store.keys import Keys, ShardKeys
from engine.store.step import Refusal, Step
from engine.store.vault_audit import card_problems, move_of, purchase_problems

_PAGE: Final = 256
_decode_payment = msgspec.json.Decoder(Payment).decode
_decode_transaction = msgspec.json.Decoder(Transaction).decode
_decode_event = msgspec.json.Decoder(dict[str, Any]).decode


class Finding(NamedTuple):
    """A broken invariant: which one of the design's list, where, and what is wrong."""

    invariant: int
    key: str
    problem: str


class _Snapshot(NamedTuple):
    """All that belongs to one payment, at one moment."""

    payment: bytes | None
    order: bytes | None
    due: Any
    unknown: Any
    card: int
    cvv: int
    ledger: list[bytes]
    events: list[bytes]


class Audit:
    """One pass over a dataset."""

    def __init__(self, client: RedisClient, batcher: Batcher, keys: Keys) -> None:
        self._client = client
        self._batcher = batcher
        self._keys = keys
        self._by_tag = {shard.tag: shard for shard in keys.shards}
        self._replayed: Counter[tuple[str, str]] = Counter()
        self.payments: Counter[str] = Counter()
        """Payments seen, by status."""
        self.balances_compared = False

    async def findings(self) -> AsyncIterator[Finding]:
        """Everything that is wrong. Read `payments` and `balances_compared` afterwards."""
        before = await self._balances()
        page: list[str] = []
        async for raw in self._client.scan_iter(match="{p*", count=_PAGE):
            page.append(raw.decode())
            if len(page) >= _PAGE:
                for finding in await self._check_page(page):
                    yield finding
                page = []
        for finding in await self._check_page(page):
            yield finding
        after = await self._balances()
        # While payments settle, the rows and the balances are read at different moments.
        self.balances_compared = before == after
        if self.balances_compared and _nonzero(self._replayed) != _nonzero(after):
            await self._replay_again()
        for finding in self._check_balances(after):
            yield finding

    async def _check_page(self, names: list[str]) -> list[Finding]:
        found = await asyncio.gather(*(self._check_key(name) for name in names))
        return [finding for findings in found for finding in findings]

    async def _check_key(self, name: str) -> list[Finding]:
        tag, kind, rest = (*name.split(":", 2), "")[:3]
        shard = self._by_tag.get(tag)
        if shard is None:
            return [Finding(1, name, "belongs to no shard of this dataset")]
        match kind:
            case "payment":
                return await self._check_payment(shard, PaymentId(rest))
            case "order":
                return await self._check_claim(shard, name)
            case "card" | "cvv":
                return await self._check_owner(11, shard, name, rest)
            case "ledger" | "events":
                return await self._check_owner(3 if kind == "ledger" else 4, shard, name, rest)
            case "due":
                return await self._check_due(shard)
            case "vault":
                return _found(name, await card_problems(self._batcher, shard, rest))
            case "purchase":
                return _found(name, await purchase_problems(self._batcher, shard, rest))
            case "cardmove":
                return await self._check_move(name)
            case _:
                return []

    async def _check_payment(self, shard: ShardKeys, payment_id: PaymentId) -> list[Finding]:
        snapshot = await self._snapshot(shard, payment_id)
        if snapshot.payment is None:
            return []  # gone since the scan: nothing deletes payments, so the owner checks will tell
        name = shard.payment(payment_id)
        try:
            payment = _decode_payment(snapshot.payment)
            transactions = [_decode_transaction(raw) for raw in snapshot.ledger]
            events = [_decode_event(raw) for raw in snapshot.events]
        except (msgspec.MsgspecError, ValueError) as error:
            return [Finding(3, name, f"cannot be read: {type(error).__name__}: {error}")]
        self.payments[payment.status.value] += 1
        for transaction in transactions:
            self._replay(transaction)
        problems = (
            *_place(payment, payment_id, shard),
            *_life(payment, snapshot),
            *_rows(payment, transactions),
            *_events(payment, events, snapshot.events),
            *await self._number(payment),
        )
        return [Finding(invariant, name, problem) for invariant, problem in problems]

    async def _check_move(self, name: str) -> list[Finding]:
        move = await move_of(self._batcher, name)
        if move is not None and move.transaction is not None:
            self._replay(move.transaction)
        return [] if move is not None else [Finding(3, name, "cannot be read")]

    async def _number(self, payment: Payment) -> list[tuple[int, str]]:
        if not payment.public_number:
            return []
        holder = await self._batcher.command("GET", self._keys.number(payment.surface, payment.public_number))
        if holder is not None and holder.decode() == payment.id:
            return []
        return [(1, f"its number {payment.public_number} leads to {holder.decode() if holder else 'nothing'}")]

    async def _snapshot(self, shard: ShardKeys, payment_id: PaymentId) -> _Snapshot:
        record = await self._batcher.command("GET", shard.payment(payment_id))
        order_key = _decode_payment(record).order_key if record else ""
        step = Step()
        step.do("GET", shard.payment(payment_id))
        step.do("GET", shard.order(order_key))
        step.do("ZSCORE", shard.due, payment_id)
        step.do("ZSCORE", shard.unknown, payment_id)
        step.do("EXISTS", shard.card(payment_id))
        step.do("EXISTS", shard.cvv(payment_id))
        step.do("LRANGE", shard.ledger(payment_id), 0, -1)
        step.do("LRANGE", shard.events(payment_id), 0, -1)
        replies = await self._batcher.step(step)
        assert not isinstance(replies, Refusal), "the step has no conditions"
        return _Snapshot(*replies)

    async def _check_claim(self, shard: ShardKeys, name: str) -> list[Finding]:
        holder = await self._batcher.command("GET", name)
        if holder is None or await self._exists(shard, holder.decode()):
            return []
        return [Finding(1, name, f"is claimed by {holder.decode()}, which does not exist")]

    async def _check_owner(self, invariant: int, shard: ShardKeys, name: str, payment_id: str) -> list[Finding]:
        if await self._exists(shard, payment_id):
            return []
        return [Finding(invariant, name, "its payment does not exist")]

    async def _check_due(self, shard: ShardKeys) -> list[Finding]:
        found: list[Finding] = []
        async for raw, _ in self._client.zscan_iter(shard.due, count=_PAGE):
            if not await self._exists(shard, raw.decode()):
                found.append(Finding(1, shard.due, f"{raw.decode()} is due, but does not exist"))
        return found

    async def _exists(self, shard: ShardKeys, payment_id: str) -> bool:
        return is_payment_id(payment_id) and bool(await self._batcher.command("EXISTS", shard.payment(payment_id)))

    async def _balances(self) -> dict[tuple[str, str], int]:
        found: Counter[tuple[str, str]] = Counter()
        for shard in self._keys.shards:
            kept: dict[Any, Any] = await self._client.hgetall(shard.balances)
            for field, value in kept.items():
                account, _, currency = field.decode().rpartition("|")
                found[account, currency] += int(value)
        return dict(found)

    async def _replay_again(self) -> None:
        """Sum the rows once more, each payment once: a scan of keys may show one twice while Redis resizes."""
        self._replayed.clear()
        seen: set[bytes] = set()
        async for name in self._client.scan_iter(match="{p*:cardmove:*", count=_PAGE):
            if name not in seen:
                seen.add(name)
                await self._check_move(name)
        async for name in self._client.scan_iter(match="{p*:ledger:*", count=_PAGE):
            if name not in seen:
                seen.add(name)
                for raw in await self._batcher.command("LRANGE", name, 0, -1):
                    # One that cannot be read is a finding of its payment already; the audit goes on.
                    with contextlib.suppress(ValueError):
                        self._replay(_decode_transaction(raw))

    def _replay(self, transaction: Transaction) -> None:
        for row in transaction.rows:
            self._replayed[row.account, row.currency] += row.minor

    def _check_balances(self, balances: dict[tuple[str, str], int]) -> Iterator[Finding]:
        sums: Counter[str] = Counter()
        for (_, currency), minor in balances.items():
            sums[currency] += minor
        for currency, minor in sums.items():
            if minor and self.balances_compared:
                yield Finding(3, "balances", f"{currency} accounts sum to {minor}, not to 0")
        if not self.balances_compared:
            return
        for account in sorted(balances.keys() | self._replayed.keys()):
            kept, replayed = balances.get(account, 0), self._replayed[account]
            if kept != replayed:
                yield Finding(3, "balances", f"{account[0]} {account[1]} is {kept}, its rows sum to {replayed}")


def _found(name: str, problems: list[tuple[int, str]]) -> list[Finding]:
    return [Finding(invariant, name, problem) for invariant, problem in problems]


def _nonzero(balances: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    return {account: minor for account, minor in balances.items() if minor}


def _place(payment: Payment, payment_id: str, shard: ShardKeys) -> Iterator[tuple[int, str]]:
    if payment.id != payment_id or shard_of_payment(payment.id) != shard.shard:
        yield 1, "lies under another payment's name, or in another's shard"
    taken, given = payment.captured_minor, payment.refunded_minor + payment.refund_pending_minor
    if not 0 <= given <= taken <= payment.authorized_minor <= payment.amount.minor:
        yield 5, f"refunds {given}, captured {taken}, authorized {payment.authorized_minor} of {payment.amount.minor}"


def _life(payment: Payment, snapshot: _Snapshot) -> Iterator[tuple[int, str]]:
    if payment.at_rest:
        if snapshot.due is not None:
            yield 1, "is at rest, but still due"
        if snapshot.unknown is not None:
            yield 7, "is at rest, but counts as unknown"
    elif snapshot.due is None:
        yield 1, "is not at rest, and nobody will look at it again"
    if payment.ended and (snapshot.card or snapshot.cvv):
        yield 11, "its charge has ended, but its sealed card is still there"
    claimed = snapshot.order == payment.id.encode()
    if payment.order_key and claimed is (payment.status in (Status.FAILED, Status.CANCELLED)):
        yield 6, f"is {payment.status.value}, but holds its order" if claimed else "does not hold its order"
    attempt = payment.attempt
    if attempt is not None and attempt.state is AttemptState.UNKNOWN and snapshot.unknown is None:
        yield 7, "has an unknown attempt that is not listed as one"


def _rows(payment: Payment, transactions: list[Transaction]) -> Iterator[tuple[int, str]]:
    if len({transaction.id for transaction in transactions}) != len(transactions):
        yield 3, "a ledger transaction was written twice"
    held = sum(
        row.minor
        for transaction in transactions
        for row in transaction.rows
        if row.account.startswith("acquirer:") and row.currency == payment.amount.currency
    )
    if held != payment.captured_minor - payment.refunded_minor:
        yield 3, f"captured {payment.captured_minor}, refunded {payment.refunded_minor}, but its rows say {held}"


def _events(payment: Payment, events: list[dict[str, Any]], bodies: list[bytes]) -> Iterator[tuple[int, str]]:
    if len(events) != payment.sequence:
        yield 4, f"has {len(events)} events, its sequence says {payment.sequence}"
    if bodies and event_hash(bodies[-1]) != payment.last_event_hash:
        yield 4, "its last event is not the one that its hash names"
    if payment.rail:
        said = bought.contradictions if payment.surface == bought.SURFACE else contradictions
        yield from ((4, problem) for problem in said(payment, events))
        return
    types = [event.get("event_type") for event in events]
    if Counter(types) != _owed(payment):
        yield 4, f"is {payment.status.value}, but told {types}"
    if any(event.get("payment_id") != payment.id for event in events):
        yield 4, "has an event of another payment"


def _owed(payment: Payment) -> Counter[Any]:
    """The events that the facts of a payment call for."""
    owed: Counter[Any] = Counter()
    owed[told.AUTHORIZED] = int(payment.manual and payment.authorized_minor > 0)
    owed[told.COMPLETED] = int(payment.captured_minor > 0)
    owed[told.FAILED] = int(payment.failure is not None)
    owed[told.CANCELLED] = int(payment.cancelled)
    for refund in payment.refunds:
        owed[told.REFUNDED] += refund.state is RefundState.COMPLETED
        owed[told.REFUND_FAILED] += refund.state is RefundState.FAILED
    return +owed
