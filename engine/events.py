"""Events: what the world is told, in the JSON that it was promised."""

from __future__ import annotations

from typing import NamedTuple


class OutgoingEvent(NamedTuple):
    """One event on its way to the broker.

    `value` is the contract's JSON body, byte for byte. `headers` are the CloudEvents extras
    (`ce_id`, `ce_type`, `ce_source`, `ce_time`, `ce_subject`, `ce_sequence`, `ce_prevhash`, `traceparent`).
    `key` is the payment id, so that one payment's events stay in order.
    """

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...]

    @property
    def event_id(self) -> str:
        """The id that consumers dedupe by."""
        return dict(self.headers)["ce_id"]

    @property
    def event_type(self) -> str:
        """The contract's event name, for example `payment_completed`."""
        return dict(self.headers)["ce_type"]
