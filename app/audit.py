"""`python -m app audit`: the invariants of a dataset, as a JSON report and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import msgspec
from prometheus_client import CollectorRegistry

from app.settings import ConfigError, Settings
from engine.store.audit import Audit
from engine.store.batch import Batcher
from engine.store.connect import connect
from engine.store.depths import RedisDepths
from engine.store.keys import DATASET, Keys
from metrics.instruments import Instruments

_FINDINGS_SHOWN_MAX = 1000


async def audit(settings: Settings) -> int:
    """Print a JSON report. Returns 0 when every invariant holds, 1 otherwise. Raises `ConfigError`."""
    if not settings.redis.url:
        raise ConfigError("redis.url (PAYMENTS__REDIS__URL) is not set")
    client = connect(settings.redis)
    batcher = Batcher(client, Instruments(CollectorRegistry()))
    batching = asyncio.ensure_future(batcher.run())
    try:
        if not await client.exists(DATASET):
            raise ConfigError("this Redis has no dataset marker: there is nothing to audit")
        keys = Keys(settings.redis.shards)
        audit_ = Audit(client, batcher, keys)
        shown: list[dict[str, object]] = []
        count = 0
        async for finding in audit_.findings():
            count += 1
            if len(shown) < _FINDINGS_SHOWN_MAX:
                shown.append(finding._asdict())
        depths = await RedisDepths(batcher, keys).now()
        report = {
            "ok": count == 0,
            "payments": dict(audit_.payments),
            "balances_compared": audit_.balances_compared,
            "waiting": {name: depth.waiting for name, depth in depths._asdict().items()},
            "findings_total": count,
            "findings": shown,
        }
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
        return 0 if count == 0 else 1
    finally:
        batching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await batching
        await client.aclose()
