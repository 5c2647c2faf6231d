"""The audit: reads a dataset key by key and holds it against the invariants. It writes nothing.

Each payment is read at one moment, so a dataset may be audited while it works. Memory stays flat: only the
findings and one sum per account are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from engine.auditing import UNREADABLE, Finding, audited, unreadable
from engine.ids import is_payment_id
from engine.items import Item
from engine.ledger import Transaction
from engine.payment import Payment
from engine.settling import late_item
from engine.store.batch import Batcher, RedisClient
from engine.store.keys import Keys, ShardKeys
from engine.store.snapshots import RedisSnapshots
from engine.store.step import Refusal, Step
from engine.store.vault_audit import card_problems, move_of, purchase_problems

_PAGE: Final = 2048
"""Names looked at together. Below what may wait in the batcher, since the worst case is a command for each."""
_OWNED: Final = {"card": 11, "cvv": 11, "ledger": 3, "events": 4}
"""The keys that belong to a payment of the same name, and the invariant that one without breaks."""

_decode_item = msgspec.json.Decoder(Item).decode
_decode_transaction = msgspec.json.Decoder(Transaction).decode


class Audit:
    """One pass over a dataset."""

    def __init__(
        self,
        client: RedisClient,
        batcher: Batcher,
        keys: Keys,
        told: Callable[[Payment, Sequence[bytes]], None] | None = None,
    ) -> None:
        """`told` is given every payment that can be read, with the bodies of its events."""
        self._client = client
        self._told = told
        self._batcher = batcher
        self._keys = keys
        self._snapshots = RedisSnapshots(batcher, keys)
        self._by_tag = {shard.tag: shard for shard in keys.shards}
        self._replayed: Counter[tuple[str, str]] = Counter()
        self.payments: Counter[str] = Counter()
        """Payments seen, by status."""
        self.balances_compared = False

    async def findings(self) -> AsyncIterator[Finding]:
        """Everything that is wrong. Read `payments` and `balances_compared` afterwards."""
        before = await self._balances()
        async for page in self._pages("{p*"):
            for finding in await self._check_page(page):
                yield finding
        after = await self._balances()
        # While payments settle, the rows and the balances are read at different moments.
        self.balances_compared = before == after
        if self.balances_compared and _nonzero(self._replayed) != _nonzero(after):
            await self._replay_again()
        for finding in self._check_balances(after):
            yield finding

    async def _pages(self, match: str) -> AsyncIterator[list[str]]:
        page: list[str] = []
        async for raw in self._client.scan_iter(match=match, count=_PAGE):
            page.append(raw.decode())
            if len(page) >= _PAGE:
                yield page
                page = []
        yield page

    async def _check_page(self, names: Sequence[str]) -> list[Finding]:
        found: list[Finding] = []
        sorted_out: dict[tuple[str, str], list[str]] = {}
        for name in names:
            tag, kind, rest = (*name.split(":", 2), "")[:3]
            if tag in self._by_tag:
                sorted_out.setdefault((tag, kind), []).append(rest)
            else:
                found.append(Finding(1, name, "belongs to no shard of this dataset"))
        checks = (self._check(self._by_tag[tag], kind, rests) for (tag, kind), rests in sorted_out.items())
        for findings in await asyncio.gather(*checks):
            found += findings
        return found

    async def _check(self, shard: ShardKeys, kind: str, rests: Sequence[str]) -> list[Finding]:
        """Check a shard's keys of one kind; `rests` are their names behind it."""
        match kind:
            case "payment":
                return await self._check_payments(shard, rests)
            case "order":
                return await self._check_claims(shard, rests)
            case "card" | "cvv" | "ledger" | "events":
                missing = await self._missing(shard, rests)
                name = f"{shard.tag}:{kind}:"
                return [Finding(_OWNED[kind], name + rest, "its payment does not exist") for rest in missing]
            case "due":
                return await self._check_due(shard)
            case "item":
                return await self._check_items(shard, rests)
            case "items":
                return await self._check_listed_items(shard)
            case "vault":
                return [found for rest in rests for found in await self._check_stored_card(shard, rest)]
            case "purchase":
                return [found for rest in rests for found in await self._check_purchase(shard, rest)]
            case "cardmove":
                return [found for rest in rests for found in await self._check_move(shard.card_move(rest))]
            case _:
                return []

    async def _check_payments(self, shard: ShardKeys, ids: Sequence[str]) -> list[Finding]:
        found: list[Finding] = []
        for payment_id, snapshot in zip(ids, await self._snapshots.of(shard.shard, ids), strict=True):
            name = shard.payment(payment_id)
            try:
                seen = audited(payment_id, shard.shard, snapshot)
            except UNREADABLE as error:
                found.append(Finding(3, name, unreadable(error)))
                continue
            if seen is None:
                continue  # gone since the scan: nothing deletes payments, so the owner checks will tell
            self.payments[seen.payment.status.value] += 1
            if self._told is not None:
                self._told(seen.payment, snapshot.events)
            for transaction in seen.transactions:
                self._replay(transaction)
            problems = [
                *seen.problems,
                *await self._without_items(seen.payment, shard),
                *await self._number(seen.payment),
            ]
            found += [Finding(invariant, name, problem) for invariant, problem in problems]
        return found

    async def _without_items(self, payment: Payment, shard: ShardKeys) -> list[tuple[int, str]]:
        """Every late success has its item; it is open until the money has gone back."""
        found = []
        for late in payment.late:
            item = late_item(payment, late.number, late.transaction_id, now_ms=0)
            if not await self._batcher.command("EXISTS", shard.item(item.id)):
                found.append((2, f"attempt {late.number} took money too late, and {item.id} does not exist"))
        return found

    async def _check_stored_card(self, shard: ShardKeys, card_id: str) -> list[Finding]:
        return _found(shard.stored_card(card_id), await card_problems(self._batcher, shard, card_id))

    async def _check_purchase(self, shard: ShardKeys, payment_id: str) -> list[Finding]:
        return _found(shard.purchase(payment_id), await purchase_problems(self._batcher, shard, payment_id))

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

    async def _check_items(self, shard: ShardKeys, ids: Sequence[str]) -> list[Finding]:
        return [finding for item_id in ids for finding in await self._check_item(shard, item_id)]

    async def _check_item(self, shard: ShardKeys, item_id: str) -> list[Finding]:
        name = shard.item(item_id)
        step = Step()
        step.do("GET", name)
        step.do("ZSCORE", shard.items, item_id)
        replies = await self._batcher.step(step)
        assert not isinstance(replies, Refusal), "the step has no conditions"
        record, listed = replies
        if record is None:
            return []
        try:
            item = _decode_item(record)
        except UNREADABLE as error:
            return [Finding(2, name, unreadable(error))]
        if item.open is (listed is not None):
            return []
        return [Finding(2, name, "is open, but not listed" if item.open else "is closed, but still listed")]

    async def _check_listed_items(self, shard: ShardKeys) -> list[Finding]:
        found: list[Finding] = []
        async for raw, _ in self._client.zscan_iter(shard.items, count=_PAGE):
            if not await self._batcher.command("EXISTS", shard.item(raw.decode())):
                found.append(Finding(2, shard.items, f"{raw.decode()} is listed as open, but does not exist"))
        return found

    async def _check_claims(self, shard: ShardKeys, orders: Sequence[str]) -> list[Finding]:
        holders = await self._batcher.command("MGET", *map(shard.order, orders))
        claims = {order: holder.decode() for order, holder in zip(orders, holders, strict=True) if holder is not None}
        missing = set(await self._missing(shard, list(claims.values())))
        return [
            Finding(1, shard.order(order), f"is claimed by {holder}, which does not exist")
            for order, holder in claims.items()
            if holder in missing
        ]

    async def _check_due(self, shard: ShardKeys) -> list[Finding]:
        missing: list[str] = []
        page: list[str] = []
        async for raw, _ in self._client.zscan_iter(shard.due, count=_PAGE):
            page.append(raw.decode())
            if len(page) >= _PAGE:
                missing += await self._missing(shard, page)
                page = []
        missing += await self._missing(shard, page)
        return [Finding(1, shard.due, f"{payment_id} is due, but does not exist") for payment_id in missing]

    async def _missing(self, shard: ShardKeys, ids: Sequence[str]) -> list[str]:
        """Which of these payments do not exist."""
        if not ids:
            return []
        possible = [payment_id for payment_id in ids if is_payment_id(payment_id)]
        # Nearly always all are there, and then one number says so.
        if possible and await self._batcher.command("EXISTS", *map(shard.payment, possible)) == len(ids):
            return []
        there = await asyncio.gather(*(self._batcher.command("EXISTS", shard.payment(each)) for each in possible))
        known = {payment_id for payment_id, exists in zip(possible, there, strict=True) if exists}
        return [payment_id for payment_id in ids if payment_id not in known]

    async def _balances(self) -> dict[tuple[str, str], int]:
        found: Counter[tuple[str, str]] = Counter()
        for shard in self._keys.shards:
            kept: dict[Any, Any] = await self._client.hgetall(shard.balances)
            for field, value in kept.items():
                account, _, currency = field.decode().rpartition("|")
                found[account, currency] += int(value)
        return dict(found)

    async def _replay_moves(self, shard: ShardKeys) -> None:
        seen: set[str] = set()
        async for page in self._pages(shard.card_move("*")):
            for name in page:
                if name not in seen:
                    seen.add(name)
                    await self._check_move(name)

    async def _replay_again(self) -> None:
        """Sum the rows once more, each payment once: a scan of keys may show one twice while Redis resizes.

        Shard by shard, so that what was seen is one shard's names and not the dataset's.
        """
        self._replayed.clear()
        for shard in self._keys.shards:
            await self._replay_moves(shard)
            seen: set[str] = set()
            async for page in self._pages(f"{shard.tag}:ledger:*"):
                names = [name for name in dict.fromkeys(page) if name not in seen]
                seen.update(names)
                replies = await asyncio.gather(*(self._batcher.command("LRANGE", name, 0, -1) for name in names))
                for raw in (raw for reply in replies for raw in reply):
                    # One that cannot be read is a finding of its payment already; the audit goes on.
                    with contextlib.suppress(*UNREADABLE):
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
