"""One engine process for most of the folder: starting one costs more than most tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.mpesa.world import Mpesa, running_mpesa


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def mpesa() -> AsyncIterator[Mpesa]:
    """The engine with the contract's client and package, without a limit; at the end its books are right."""
    async with running_mpesa() as running:
        yield running
        await running.audit_is_clean()
