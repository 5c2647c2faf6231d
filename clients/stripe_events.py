"""Stripe's webhook events: who signed one, and which attempt it is about.

An event is a hint that something is worth a look, and nothing more: what it says of the money is not read.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

TOLERANCE_S: Final = 300
"""How far the signed time may be from ours. What is older may be somebody's copy."""

_HEADER_MAX: Final = 2048
_SIGNATURES_MAX: Final = 16
_TIME: Final = re.compile(r"[0-9]{1,12}\Z")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}\Z")
_EVENT: Final = re.compile(
    r"payment_intent\.(?:succeeded|payment_failed|canceled|amount_capturable_updated|processing|requires_action)\Z"
    r"|(?:refund\.(?:created|updated|failed)|charge\.refund\.updated)\Z"
)


class _Object(msgspec.Struct):
    metadata: dict[str, str] = {}


class _Data(msgspec.Struct):
    object: _Object


class _Event(msgspec.Struct):
    type: str
    data: _Data


_decode = msgspec.json.Decoder(_Event).decode


def is_signed(header: str, body: bytes, secrets: Sequence[str], *, now_s: float) -> bool:
    """Whether the `Stripe-Signature` header holds for these bytes, under any of the secrets.

    While a secret is rolled Stripe sends a signature of the old and of the new one.
    """
    if len(header) > _HEADER_MAX:
        return False
    pairs = [item.strip().partition("=") for item in header.split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    given = [value for name, _, value in pairs if name == "v1" and _SIGNATURE.match(value)][:_SIGNATURES_MAX]
    if len(times) != 1 or not _TIME.match(times[0]) or abs(now_s - int(times[0])) > TOLERANCE_S:
        return False
    signed = times[0].encode() + b"." + body
    expected = [hmac.new(secret.encode(), signed, sha256).hexdigest() for secret in secrets if secret]
    return any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in given)


def attempt_of(body: bytes) -> str:
    """The attempt that an event is about; empty when it is none of ours or of no interest."""
    try:
        event = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return event.data.object.metadata.get("attempt_id", "") if _EVENT.match(event.type) else ""
