"""Clients and packages of the M-Pesa surface that were added while running: two hashes of JSON by id."""

from __future__ import annotations

from typing import Final

import msgspec

from engine.catalogue import MpesaClient, MpesaPackage
from engine.store.batch import Batcher

CLIENTS: Final = "payments:mpesa:clients"
PACKAGES: Final = "payments:mpesa:packages"

_encode = msgspec.json.Encoder().encode
_decode_client = msgspec.json.Decoder(MpesaClient).decode
_decode_package = msgspec.json.Decoder(MpesaPackage).decode


class RedisCatalogue:
    """Read by every initiation, written by operators."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def client(self, client_id: str) -> MpesaClient | None:
        """The client, active or not."""
        raw = await self._batcher.command("HGET", CLIENTS, client_id)
        return _decode_client(raw) if raw else None

    async def package(self, package_id: str) -> MpesaPackage | None:
        """The package."""
        raw = await self._batcher.command("HGET", PACKAGES, package_id)
        return _decode_package(raw) if raw else None

    async def put_client(self, client_id: str, client: MpesaClient) -> None:
        """Add the client, or replace what was there."""
        await self._batcher.command("HSET", CLIENTS, client_id, _encode(client))

    async def put_package(self, package_id: str, package: MpesaPackage) -> None:
        """Add the package, or replace what was there."""
        await self._batcher.command("HSET", PACKAGES, package_id, _encode(package))

    async def names(self) -> tuple[list[str], list[str]]:
        """The ids of all clients and of all packages, sorted."""
        clients = await self._batcher.command("HKEYS", CLIENTS)
        packages = await self._batcher.command("HKEYS", PACKAGES)
        return sorted(raw.decode() for raw in clients), sorted(raw.decode() for raw in packages)
