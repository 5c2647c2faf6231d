"""Idempotency keys: the same key and request is the same payment; the same key and another request is refused.

A record keeps one short keyed hash per field of the request, in a fixed order, so that a refusal can name the
first field that differs without any card number being stored. The CVV is left out: it must not outlive its use.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Final

import msgspec

from engine.ids import PaymentId

KEY_LENGTH_MAX: Final = 255
_KEY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z")
_HASH_BYTES: Final = 6  # eight base64 characters a field


class KeyRecord(msgspec.Struct, frozen=True, array_like=True):
    """What a key stands for: the payment id minted for it, and the fingerprint of the request."""

    payment_id: PaymentId
    fingerprint: str
    created_ms: int
    subject: str = ""
    """What else was minted for it: a refund's id."""


def is_key(text: str) -> bool:
    """Whether `text` is 1 to 255 printable ASCII characters without blanks at the ends."""
    return len(text) <= KEY_LENGTH_MAX and _KEY.match(text) is not None


class Fingerprints:
    """Makes and compares fingerprints under one secret, which must stay the same as long as records live."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, values: Sequence[str]) -> str:
        """One hash per value, in order."""
        return "".join([self._short(value) for value in values])

    def key_digest(self, caller: str, key: str) -> str:
        """The name under which a caller's key is stored: the key itself may be long or telling."""
        text = f"{len(caller)}:{caller}{key}".encode()
        return hashlib.blake2b(text, digest_size=16, key=self._secret).hexdigest()

    def _short(self, value: str) -> str:
        digest = hashlib.blake2b(value.encode(), digest_size=_HASH_BYTES, key=self._secret).digest()
        return b64encode(digest).decode()


def first_difference(names: Sequence[str], ours: str, theirs: str) -> str | None:
    """The name of the first field whose hashes differ, or None."""
    if ours == theirs:
        return None
    for index, name in enumerate(names):
        place = slice(index * 8, index * 8 + 8)
        if ours[place] != theirs[place]:
            return name
    return "request"
