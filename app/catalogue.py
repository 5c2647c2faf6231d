"""Commands that add clients and packages of the M-Pesa surface while it runs. The configured ones stay as they are."""

from __future__ import annotations

import argparse
import uuid

import msgspec

from app.offline import dataset, print_line
from app.settings import ConfigError, Settings
from engine.catalogue import MpesaClient, MpesaPackage
from engine.store.catalogue import RedisCatalogue


async def listed(settings: Settings, _: argparse.Namespace) -> int:
    """Print what was added, a JSON line each."""
    async with dataset(settings) as data:
        catalogue = RedisCatalogue(data.batcher)
        clients, packages = await catalogue.names()
        for client_id in clients:
            print_line({"client": client_id, **msgspec.to_builtins(await catalogue.client(client_id))})
        for package_id in packages:
            print_line({"package": package_id, **msgspec.to_builtins(await catalogue.package(package_id))})
    return 0


async def add_client(settings: Settings, given: argparse.Namespace) -> int:
    """Add a client. Refuses an id that there is."""
    client_id = _new_id(given.id)
    async with dataset(settings) as data:
        catalogue = RedisCatalogue(data.batcher)
        if client_id in settings.mpesa.clients or await catalogue.client(client_id) is not None:
            raise ConfigError(f"there is a client {client_id} already")
        await catalogue.put_client(client_id, MpesaClient(given.name))
    print_line({"client": client_id})
    return 0


async def add_package(settings: Settings, given: argparse.Namespace) -> int:
    """Add a package of a client that there is. Refuses an id that there is."""
    package_id, client_id = _new_id(given.id), given.client.lower()
    async with dataset(settings) as data:
        catalogue = RedisCatalogue(data.batcher)
        if client_id not in settings.mpesa.clients and await catalogue.client(client_id) is None:
            raise ConfigError(f"there is no client {client_id}")
        if package_id in settings.mpesa.packages or await catalogue.package(package_id) is not None:
            raise ConfigError(f"there is a package {package_id} already")
        await catalogue.put_package(package_id, MpesaPackage(client_id, given.name, given.price))
    print_line({"package": package_id})
    return 0


async def enable_client(settings: Settings, given: argparse.Namespace) -> int:
    """Let a client that was added take payments again."""
    return await _switch(settings, given.id, active=True)


async def disable_client(settings: Settings, given: argparse.Namespace) -> int:
    """Refuse a client that was added. What it has begun goes on."""
    return await _switch(settings, given.id, active=False)


async def _switch(settings: Settings, client_id: str, *, active: bool) -> int:
    client_id = client_id.lower()
    async with dataset(settings) as data:
        catalogue = RedisCatalogue(data.batcher)
        client = await catalogue.client(client_id)
        if client is None:
            raise ConfigError(f"no client {client_id} was added; a configured one is changed in the configuration")
        await catalogue.put_client(client_id, msgspec.structs.replace(client, active=active))
    print_line({"client": client_id, "active": active})
    return 0


def _new_id(given: str | None) -> str:
    if given is None:
        return str(uuid.uuid4())
    try:
        return str(uuid.UUID(given))
    except ValueError:
        raise ConfigError("--id must be a UUID") from None
