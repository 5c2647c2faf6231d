"""A sample of the audit while the engine runs: payment after payment, round and round, a few a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog
from redis.exceptions import RedisClusterException, RedisError

from engine.auditing import RULES, UNREADABLE, Finding, audited, unreadable
from engine.errors import Overloaded, StoreUnavailable
from engine.ids import PaymentId, is_payment_id, shard_of_payment
from engine.relay import Leases
from engine.store.batch import Batcher, RedisClient
from engine.store.keys import Keys
from engine.store.snapshots import RedisSnapshots
from metrics.instruments import Instruments

_SCAN_COUNT: Final = 200
_FOREIGN_MAX: Final = 64
"""Names of other processes' payments that are passed over for each of ours, before the rest waits for the next pass."""


class AuditSample:
    """Holds payments of the shards that are ours against the rules of the audit, at most so many a second.

    It goes through the whole dataset and then begins anew, so every payment has its turn. The leases are the
    reconciler's, which renews them: two processes do not look at the same payments.
    """

    def __init__(
        self,
        client: RedisClient,
        batcher: Batcher,
        keys: Keys,
        leases: Leases,
        instruments: Instruments,
        *,
        payments_per_s: int,
        every_s: float = 1.0,
    ) -> None:
        self._client = client
        self._snapshots = RedisSnapshots(batcher, keys)
        self._keys = keys
        self._leases = leases
        self._checked = instruments.audit_payments_checked
        # Each from the start, so that an alert sees the first violation as a step from 0.
        self._violations = {rule: instruments.audit_violations.labels(name) for rule, name in RULES.items()}
        self._payments_max = max(1, round(payments_per_s * every_s))
        self._every_s = every_s
        self._round: AsyncIterator[bytes] | None = None

    async def run(self) -> None:
        """Look until cancelled. While the store does not answer there is nothing to look at."""
        task = asyncio.current_task()
        assert task is not None
        # Not for ever: redis-py waits within `asyncio.wait_for`, which on Python 3.11 may swallow a cancellation.
        while not task.cancelling():
            try:
                await self.pass_once()
            except (StoreUnavailable, Overloaded) as error:
                structlog.get_logger().debug("nothing audited", reason=str(error))
            await asyncio.sleep(self._every_s)

    async def pass_once(self) -> list[Finding]:
        """Check the next payments. Returns what is wrong with them."""
        by_shard: dict[int, list[str]] = {}
        for payment_id in await self._next():
            by_shard.setdefault(shard_of_payment(payment_id), []).append(payment_id)
        found: list[Finding] = []
        for shard, ids in by_shard.items():
            found += await self._check(shard, ids)
        for finding in found:
            self._violations[finding.invariant].inc()
            log = structlog.get_logger()
            log.error("audit failed", rule=RULES[finding.invariant], key=finding.key, problem=finding.problem)
        return found

    async def _check(self, shard: int, ids: Sequence[str]) -> list[Finding]:
        found: list[Finding] = []
        for payment_id, snapshot in zip(ids, await self._snapshots.of(shard, ids), strict=True):
            name = self._keys.shards[shard].payment(payment_id)
            try:
                seen = audited(payment_id, shard, snapshot)
            except UNREADABLE as error:
                found.append(Finding(3, name, unreadable(error)))
                continue
            if seen is not None:
                found += [Finding(invariant, name, problem) for invariant, problem in seen.problems]
        self._checked.inc(len(ids))
        return found

    async def _next(self) -> list[PaymentId]:
        """The next payments of this round in our shards; when it is over, those that are left, and then a new one."""
        ours = set(self._leases.held())
        ids: list[PaymentId] = []
        looked = 0
        if not ours:
            return ids
        try:
            if self._round is None:
                self._round = self._client.scan_iter(match="{p*}:payment:*", count=_SCAN_COUNT)
            async for raw in self._round:
                payment_id = PaymentId(raw.decode().split(":", 2)[2])
                if is_payment_id(payment_id) and shard_of_payment(payment_id) in ours:
                    ids.append(payment_id)
                looked += 1
                if len(ids) >= self._payments_max or looked >= self._payments_max * _FOREIGN_MAX:
                    return ids
        except (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError) as error:
            # RuntimeError is uvloop's word for a connection that was reset a moment ago.
            self._round = None
            raise StoreUnavailable("the store did not tell its payments", reason=type(error).__name__) from error
        self._round = None
        return ids
