"""Messages from other services, as the use cases that listen to them see them."""

from __future__ import annotations

from typing import Final, NamedTuple

from engine.context import trace_id_of

_ID_HEADERS: Final = ("ce_id", "message-id", "message_id", "messageId")


class Message(NamedTuple):
    """One message of a topic."""

    topic: str
    partition: int
    offset: int
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def place(self) -> str:
        """Where it stands; no other message stands there."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    @property
    def traceparent(self) -> str:
        """The trace that its sender says it is part of; empty when it says nothing of the right form."""
        said = dict(self.headers).get("traceparent", b"").decode(errors="replace")
        return said if trace_id_of(said) else ""

    @property
    def id(self) -> str:
        """What its sender calls it, however often it is sent; else where it stands."""
        return self.given_id or self.place

    @property
    def given_id(self) -> str:
        """What its sender calls it; empty when it has no name."""
        headers = dict(self.headers)
        return next((headers[name] for name in _ID_HEADERS if headers.get(name)), b"").decode(errors="replace")
