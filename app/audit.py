"""`python -m app audit`: the invariants of a dataset, as a JSON report and an exit code."""

from __future__ import annotations

import sys

import msgspec

from app.offline import dataset
from app.settings import Settings
from engine.store.audit import Audit
from engine.store.depths import RedisDepths

_FINDINGS_SHOWN_MAX = 1000


async def audit(settings: Settings) -> int:
    """Print a JSON report. Returns 0 when every invariant holds, 1 otherwise. Raises `ConfigError`."""
    async with dataset(settings) as data:
        audit_ = Audit(data.client, data.batcher, data.keys)
        shown: list[dict[str, object]] = []
        count = 0
        async for finding in audit_.findings():
            count += 1
            if len(shown) < _FINDINGS_SHOWN_MAX:
                shown.append(finding._asdict())
        depths = await RedisDepths(data.batcher, data.keys).now()
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
