"""The public keys of a token issuer (JWKS, RFC 7517): fetched once for all, kept, and asked for again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import jwt
import msgspec
import structlog

from clients.http import HttpCounterparty
from clients.wire import parse_url
from engine.errors import SigningKeysUnavailable
from resilience.errors import CounterpartyError, Refused

_UNKNOWN_KEY_PAUSE_S: Final = 10.0
"""A token that names an unknown key may be signed with a new one, or by somebody who makes names up."""
_RETRY_S: Final = 5.0
_KEYS_MAX: Final = 100
_OK: Final = 200


class _KeySet(msgspec.Struct):
    """What we read of a key set."""

    keys: list[dict[str, Any]]


_decode = msgspec.json.Decoder(_KeySet).decode


class JwksKeys:
    """Keys by id. What was fetched is used on while the issuer cannot be reached."""

    def __init__(
        self,
        counterparty: HttpCounterparty,
        url: str,
        *,
        cache_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counterparty = counterparty
        self._url = parse_url(url)
        self._cache_s = cache_s
        self._clock = clock
        self._keys: dict[str, Any] = {}
        self._fetched_at = -cache_s
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str) -> Any | None:
        """The public key of this id (the only one, for an empty id), or None. Raises `SigningKeysUnavailable`."""
        missing_and_asked = self._known(key_id) is None and self._fetching.locked()
        if missing_and_asked or self._is_due(key_id):
            async with self._fetching:
                # Whoever waited here finds what the first one fetched.
                if self._is_due(key_id):
                    await self._fetch()
        if not self._keys:
            raise SigningKeysUnavailable(
                "the keys that tokens are signed with cannot be fetched now", retry_after_s=_RETRY_S
            )
        return self._known(key_id)

    def _known(self, key_id: str) -> Any | None:
        if not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _is_due(self, key_id: str) -> bool:
        now = self._clock()
        if self._tried_at is not None and now < self._tried_at + (_UNKNOWN_KEY_PAUSE_S if self._keys else 1.0):
            return False
        return now >= self._fetched_at + self._cache_s or self._known(key_id) is None

    async def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            self._keys = await self._counterparty.call("GET", self._url, _read, idempotent=True)
            self._fetched_at = self._clock()
        except (Refused, CounterpartyError) as error:
            structlog.get_logger().warning("signing keys not fetched", reason=str(error), kept=len(self._keys))


def _read(status: int, body: bytes) -> dict[str, Any]:
    if status != _OK:
        raise ValueError("no key set")
    keys = {}
    for entry in _decode(body).keys[:_KEYS_MAX]:
        if entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # of a kind that we do not know: the issuer may have others for others
        if key.key_type in ("RSA", "EC", "OKP"):
            keys[str(entry.get("kid", ""))] = key.key
    if not keys:
        raise ValueError("no key of a kind that we know")
    return keys
