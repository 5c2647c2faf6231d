"""Counts what was published, the same for every publisher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engine.events import OutgoingEvent
from metrics.instruments import Instruments


def count_events(
    instruments: Instruments | None, events: Sequence[OutgoingEvent], acknowledged: Sequence[bool]
) -> None:
    """Adds one batch to `events_published_total` and `event_publish_failures_total`."""
    if instruments is None:
        return
    published = Counter(event.event_type for event, good in zip(events, acknowledged, strict=True) if good)
    for event_type, count in published.items():
        instruments.events_published.labels(event_type).inc(count)
    failures = len(events) - published.total()
    if failures:
        instruments.publish_failures.inc(failures)
