"""Telling the outside world of events: what a notice is, and what takes notices in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Notice(NamedTuple):
    """An event that somebody may want to be told of."""

    id: str
    """Unique for ever; the same event comes again with the same id: the engine's `ce_id`, others' with their source."""
    type: str
    """For example `payment_completed`."""
    source: str
    """`/payments/core` and the like (`ce_source`)."""
    subject: str
    """What it is about: a payment, an order, a user. Notices about one subject are told in their order."""
    user_id: str
    """Whose it is; empty when the event does not say."""
    time: str
    """RFC 3339."""
    body: bytes
    """The contract's JSON, byte for byte."""
    traceparent: str = ""


class Sink(Protocol):
    """Takes notices in."""

    async def take(self, notices: Sequence[Notice]) -> None:
        """Keep all that these notices ask for, in their order; the telling itself happens later.

        What was taken comes again after a crash, so a notice that is known by its id changes nothing. Raises
        `StoreUnavailable` when it may not have been kept: the same notices are then given again.
        """
        ...
