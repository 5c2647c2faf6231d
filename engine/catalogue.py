"""Who may take payments over M-Pesa, and what for: clients and their packages, with the price that counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import msgspec

from engine.errors import ClientRefused, PackageRefused


class MpesaClient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A business that takes payments. Its id is a UUID."""

    name: str
    """For people."""
    active: bool = True
    """Whether it may take payments."""


class MpesaPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something a client sells, for whole shillings. Its id is a UUID."""

    client: str
    """Whose it is: the client's id."""
    name: str
    """For people."""
    price: int
    """Whole shillings."""

    def __post_init__(self) -> None:
        if not 1 <= self.price <= 1_000_000:
            raise ValueError("price must be 1 to 1000000 whole shillings")


class Offer(NamedTuple):
    """A client's package that may be paid for now."""

    client: MpesaClient
    package: MpesaPackage


class Entries(Protocol):
    """Clients and packages that were added while running."""

    async def client(self, client_id: str) -> MpesaClient | None: ...
    async def package(self, package_id: str) -> MpesaPackage | None: ...


class Catalogue:
    """The configured entries, and behind them those that were added."""

    def __init__(
        self, clients: Mapping[str, MpesaClient], packages: Mapping[str, MpesaPackage], added: Entries
    ) -> None:
        self._clients = {name.lower(): client for name, client in clients.items()}
        self._packages = {name.lower(): package for name, package in packages.items()}
        self._added = added

    async def client(self, client_id: str) -> MpesaClient:
        """An active client. Raises `ClientRefused`."""
        client = self._clients.get(client_id) or await self._added.client(client_id)
        if client is None or not client.active:
            # One text for both: who is a client is nobody else's business.
            raise ClientRefused("Invalid or inactive client")
        return client

    async def offer(self, client_id: str, package_id: str) -> Offer:
        """An active client and its own package. Raises `ClientRefused` or `PackageRefused`."""
        client = await self.client(client_id)
        package = self._packages.get(package_id) or await self._added.package(package_id)
        if package is None or package.client.lower() != client_id:
            raise PackageRefused("Invalid package_id")
        return Offer(client, package)
