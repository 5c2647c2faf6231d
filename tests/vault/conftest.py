"""One engine process for most of the folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.vault.world import VaultWorld, vault_world


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def world() -> AsyncIterator[VaultWorld]:
    """The engine with its defaults, and a Redis of its own."""
    async with vault_world() as running:
        yield running
