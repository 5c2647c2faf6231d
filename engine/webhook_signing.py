"""Standard Webhooks (standardwebhooks.com): what is signed, with what, and how a message looks."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from engine.secret import Secret

_PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32


class WebhookSecret(Secret):
    """What a receiver verifies our messages with: `whsec_` and base64."""

    __slots__ = ()


def secret_of(key: bytes) -> WebhookSecret:
    """The secret that carries this key."""
    return WebhookSecret(_PREFIX + base64.b64encode(key).decode())


def signed_headers(message_id: str, seconds: int, body: bytes, secrets: Sequence[WebhookSecret]) -> dict[str, str]:
    """The three headers; one signature for each secret, the current one's first."""
    content = f"{message_id}.{seconds}.".encode() + body
    signatures = [f"v1,{_signature(secret, content)}" for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(signatures),
    }


def _signature(secret: WebhookSecret, content: bytes) -> str:
    key = base64.b64decode(secret.reveal().removeprefix(_PREFIX))
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
