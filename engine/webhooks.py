"""Webhooks: who wants to be told of events, what a message is, and what became of it."""

from __future__ import annotations

import hashlib
import re
from typing import Final, Literal

import msgspec

from engine import events, purchase, recorded
from engine.ids import rfc3339
from engine.notifying import Notice

ENDPOINT_DISABLED: Final = "webhook_endpoint_disabled"
EVENT_TYPES: Final = (
    events.AUTHORIZED, events.COMPLETED, events.FAILED, events.CANCELLED, events.REFUNDED, events.REFUND_FAILED,
    recorded.CREATED, recorded.STATUS_UPDATED,
    purchase.COMPLETED, purchase.FAILED, purchase.REFUNDED,
    "user_created", "user_verified", "order_created", "order_confirmed", "order_cancelled",
    ENDPOINT_DISABLED,
)  # fmt: skip
"""What an endpoint can ask for by name: the engine's own events, those of the services around it, and that another
endpoint was disabled."""

ATTEMPTS_KEPT_MAX: Final = 30
"""Of one message, the latest."""

EARLIER_SECRETS_MAX: Final = 3
"""Of one endpoint, that sign along."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")

_encode = msgspec.json.Encoder().encode

Disabled = Literal["", "failing", "gone"]


class Earlier(msgspec.Struct, frozen=True):
    """A secret that was the current one, sealed, and until when it signs along."""

    secret: bytes
    until_ms: int


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename={"version": "v"}):
    """Where somebody wants to be told of events. `version` stands first: the store's compare-and-set reads it there."""

    version: int
    id: str
    owner: str
    """The subject of the token that made it."""
    everything: bool
    """Of everybody's payments, not only of the owner's."""
    url: str
    event_types: tuple[str, ...]
    """None: all."""
    description: str
    created_ms: int
    secret: bytes
    """Sealed, as `previous` is."""
    previous: bytes = b""
    """The secret before, which signs along until `previous_until_ms`."""
    previous_until_ms: int = 0
    older: tuple[Earlier, ...] = ()
    """Secrets before `previous` that signed along when it came, the latest first."""
    failing_since_ms: int = 0
    """When the first of the tries failed that have all failed since; 0: the last one was delivered."""
    disabled: Disabled = ""
    disabled_ms: int = 0
    disabled_told: bool = False
    """Whether the owner's other endpoints have been told of it."""

    def __repr__(self) -> str:
        return f"Endpoint({self.id})"

    def earlier(self, now_ms: int) -> tuple[Earlier, ...]:
        """The secrets that sign along now, the latest first."""
        every = (Earlier(self.previous, self.previous_until_ms), *self.older)
        return tuple(each for each in every if each.secret and now_ms < each.until_ms)

    def wants(self, event_type: str) -> bool:
        """Whether it is to be told of events of this type."""
        return not self.event_types or event_type in self.event_types


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One try at telling an endpoint. Of what it answered only the status is kept."""

    at_ms: int
    status: int = 0
    """0: there was no answer."""
    reason: str = ""
    """Why there was none, in a word; empty when there was one."""
    duration_ms: int = 0


State = Literal["waiting", "delivered", "failed"]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way to one endpoint. The body that is sent lies behind it in its item, the same in every try."""

    id: str
    """`webhook-id`: the same for the same event, however often it is sent."""
    type: str
    subject: str
    created_ms: int
    state: State = "waiting"
    tries: int = 0
    """Since it was made, or was asked to be sent again."""
    attempts: tuple[Try, ...] = ()

    def tried(self, attempt: Try, state: State) -> Message:
        """The message after one more try."""
        attempts = (*self.attempts, attempt)[-ATTEMPTS_KEPT_MAX:]
        return msgspec.structs.replace(self, state=state, tries=self.tries + 1, attempts=attempts)


_decode = msgspec.json.Decoder(Message).decode


def message_of(notice: Notice, *, now_ms: int) -> Message:
    """The message that tells of an event."""
    return Message(id=_plain("msg_", notice.id), type=notice.type, subject=notice.subject[:128], created_ms=now_ms)


def disabled_notice(endpoint: Endpoint) -> Notice:
    """What the owner's other endpoints are told of one that is disabled."""
    disabled_at = rfc3339(endpoint.disabled_ms)
    data = {"reason": endpoint.disabled, "disabled_at": disabled_at}
    if endpoint.failing_since_ms:
        data["failing_since"] = rfc3339(endpoint.failing_since_ms)
    body = {"event_type": ENDPOINT_DISABLED, "endpoint_id": endpoint.id, "user_id": endpoint.owner, "data": data}
    return Notice(
        id=f"{endpoint.id}-disabled-{endpoint.disabled_ms}",
        type=ENDPOINT_DISABLED,
        source="/webhooks",
        subject=endpoint.id,
        user_id=endpoint.owner,
        time=disabled_at,
        body=_encode(body),
    )


def line_of(message: Message) -> str:
    """What it must not overtake: messages of one line go out in their order."""
    return _plain("sub_", message.subject or message.id)


def body_of(notice: Notice) -> bytes:
    """What is sent, in the form that Standard Webhooks recommends: the event's own JSON is its `data`."""
    return b"".join(
        (b'{"type":', _encode(notice.type), b',"timestamp":', _encode(notice.time), b',"data":', notice.body, b"}")
    )


def pack(message: Message, body: bytes) -> bytes:
    """A message with its body, as one item of the schedule."""
    return _encode(message) + b"\n" + body


def unpack(item: bytes) -> tuple[Message, bytes]:
    """The message and its body. Raises `ValueError`."""
    head, _, body = item.partition(b"\n")
    return _decode(head), body


def _plain(prefix: str, name: str) -> str:
    # Names come from topics that anybody may write to; in a header, a path or a key they must be harmless.
    if _PLAIN.match(name):
        return name
    return prefix + hashlib.blake2b(name.encode(errors="replace"), digest_size=16).hexdigest()
