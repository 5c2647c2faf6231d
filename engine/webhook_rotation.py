"""Sealing the secrets of webhook endpoints anew under the first key, while they sign."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec
import structlog

from engine.cards import SealBroken
from engine.errors import Overloaded
from engine.ids import Clock
from engine.sealing import key_id_of
from engine.webhook_endpoints import WebhookSecrets, changed
from engine.webhooks import Earlier, Endpoint


class ScannedEndpoints(Protocol):
    """Where endpoints live."""

    def pages(self) -> AsyncIterator[Sequence[str]]:
        """The ids of all endpoints, some at a time; one may come twice."""
        ...

    async def get(self, endpoint_id: str) -> Endpoint | None: ...
    async def change(self, endpoint: Endpoint) -> bool: ...


class SecretsRotated(msgspec.Struct):
    """What a run has found and done. `left`: endpoints whose secrets could not be sealed anew."""

    endpoints: int = 0
    resealed: int = 0
    left: int = 0


class SecretRotation:
    """Safe to kill and to run again. Secrets before the current one that sign no more are forgotten meanwhile."""

    def __init__(self, store: ScannedEndpoints, secrets: WebhookSecrets, sealing_id: str, clock: Clock) -> None:
        self._store = store
        self._secrets = secrets
        self._sealing_id = sealing_id
        self._clock = clock

    async def run(self) -> SecretsRotated:
        """Look at every endpoint once."""
        rotated = SecretsRotated()
        async for page in self._store.pages():
            for outcome in await asyncio.gather(*(self._one(endpoint_id) for endpoint_id in page)):
                rotated.endpoints += 1
                rotated.resealed += outcome == "resealed"
                rotated.left += outcome == "left"
        return rotated

    async def _one(self, endpoint_id: str) -> str:
        version = 0

        def reseal(endpoint: Endpoint) -> Endpoint:
            nonlocal version
            version = endpoint.version
            return self._resealed(endpoint)

        try:
            after = await changed(self._store, endpoint_id, reseal)
        except (SealBroken, Overloaded) as broken:
            structlog.get_logger().error("webhook secret not sealed anew", endpoint_id=endpoint_id, reason=str(broken))
            return "left"
        return "resealed" if after is not None and after.version > version else "already"

    def _resealed(self, endpoint: Endpoint) -> Endpoint:
        now_ms = self._clock()
        previous = endpoint.previous if now_ms < endpoint.previous_until_ms else b""
        secret, previous = (self._under_first(endpoint.id, sealed) for sealed in (endpoint.secret, previous))
        older = tuple(
            Earlier(self._under_first(endpoint.id, each.secret), each.until_ms)
            for each in endpoint.older
            if now_ms < each.until_ms
        )
        return msgspec.structs.replace(endpoint, secret=secret, previous=previous, older=older)

    def _under_first(self, endpoint_id: str, sealed: bytes) -> bytes:
        if not sealed or key_id_of(sealed) == self._sealing_id:
            return sealed
        return self._secrets.resealed(endpoint_id, sealed)
