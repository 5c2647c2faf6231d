"""Tokens that were logged out before they expired: one key each, which lives as long as the token would have."""

from __future__ import annotations

import hashlib

from engine.store.batch import Batcher
from engine.store.keys import REVOKED


class RedisRevocations:
    """Shared by all processes of a dataset."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def revoke(self, token_id: str, *, seconds: float) -> None:
        """Remember the token for so long. Raises `StoreUnavailable` when it is not certain that it is remembered."""
        await self._batcher.command("SET", _key(token_id), 1, "PX", max(1, int(seconds * 1000)))

    async def is_revoked(self, token_id: str) -> bool:
        """Whether the token was logged out. Raises `StoreUnavailable` when nobody can tell."""
        return bool(await self._batcher.command("EXISTS", _key(token_id)))


def _key(token_id: str) -> str:
    # What a token says is of any length and content.
    return REVOKED + hashlib.blake2b(token_id.encode(), digest_size=16).hexdigest()
