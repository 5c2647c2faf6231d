"""`python -m app audit`: the invariants of a dataset, as a JSON report and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import AsyncIterator

import msgspec

from app.offline import Dataset, dataset
from app.settings import Settings
from app.topic_audit import TopicAudit
from engine.auditing import Finding
from engine.ids import from_rfc3339
from engine.store.audit import Audit
from engine.store.depths import RedisDepths

_FINDINGS_SHOWN_MAX = 1000


async def audit(settings: Settings, given: argparse.Namespace) -> int:
    """Print a JSON report. Returns 0 when every invariant holds, 1 otherwise. Raises `ConfigError`."""
    since_ms = from_rfc3339(given.since) if given.since else 0
    async with contextlib.AsyncExitStack() as opened:
        topic = (
            opened.enter_context(contextlib.closing(TopicAudit(settings, since_ms=since_ms))) if given.topic else None
        )
        data = await opened.enter_async_context(dataset(settings))
        audit_ = Audit(data.client, data.batcher, data.keys, topic.told if topic else None)
        shown: list[dict[str, object]] = []
        count = 0
        async for finding in _findings(data, audit_, topic):
            count += 1
            if len(shown) < _FINDINGS_SHOWN_MAX:
                shown.append(finding._asdict())
        depths = await RedisDepths(data.batcher, data.keys).now()
    report = {
        "ok": count == 0,
        "payments": dict(audit_.payments),
        "balances_compared": audit_.balances_compared,
        "waiting": {name: depth.waiting for name, depth in depths._asdict().items()},
        **({"topic": topic.counts} if topic else {}),
        "findings_total": count,
        "findings": shown,
    }
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    return 0 if count == 0 else 1


async def _findings(data: Dataset, audit_: Audit, topic: TopicAudit | None) -> AsyncIterator[Finding]:
    async for finding in audit_.findings():
        yield finding
    if topic is not None:
        async for finding in topic.findings(data):
            yield finding
