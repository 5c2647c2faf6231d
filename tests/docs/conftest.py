"""One engine with every door open, a worker that notifies, and pretend counterparties behind them, for all pages."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest_asyncio

from simulators.daraja import MERCHANT, DarajaSim
from simulators.internal_gateway import InternalGatewaySim
from simulators.server import serve
from tests.docs.receiving import Receiver
from tests.docs.running import Engine
from tests.notify.process import NotifyProcess
from tests.support import CARD_KEYS, USER, EngineProcess, RedisServer, free_port, simulators, temporary_folder

CLIENT = "550e8400-e29b-41d4-a716-446655440000"
PACKAGE = "660e8400-e29b-41d4-a716-446655440001"
CALLBACK_SECRET = "callback-secret-0123456789"
ORDERS = 5
SECTIONS = {"3003": "CORE", "3004": "ORDERS_API", "3005": "VAULT", "3000": "GATEWAY", "8080": "MPESA"}
HOOKS = {f"PAYMENTS__WEBHOOKS__{name}": "true" for name in ("ENABLED", "ALLOW_HTTP", "ALLOW_PRIVATE")}


def _settings(gateway: str, daraja: str, ports: dict[str, int]) -> dict[str, str]:
    """What `make run` sets too, at other places; hashes cost nothing, and a silent acquirer is given up early."""
    mpesa = {
        "BASE_URL": daraja,
        "CALLBACK_BASE_URL": f"http://127.0.0.1:{ports['8080']}",
        "CALLBACK_SECRET": CALLBACK_SECRET,
        f"CLIENTS__{CLIENT}__NAME": "Demo",
        f"PACKAGES__{PACKAGE}__CLIENT": CLIENT,
        f"PACKAGES__{PACKAGE}__NAME": "Internet package - Professional Plan",
        f"PACKAGES__{PACKAGE}__PRICE": "1500",
        **{name.upper(): value for name, value in MERCHANT._asdict().items()},
    }
    ours = {
        **{f"{section}__PORT": str(ports[port]) for port, section in SECTIONS.items()},
        **{f"{section}__ENABLED": "true" for section in SECTIONS.values()},
        "ORDERS_API__USERS_URL": gateway + "/internal/users/{id}",
        "ORDERS_API__ORDERS_URL": gateway + "/internal/orders/{id}",
        "GATEWAY__ARGON2_PASSES": "1",
        "GATEWAY__ARGON2_MEMORY_KIB": "64",
        "GATEWAY__ARGON2_LANES": "1",
        "ACQUIRER__GUARD__TIMEOUT_S": "1.5",
        "ACQUIRER__GUARD__DEADLINE_S": "1.9",
        "ACQUIRER__GUARD__SLOW_CALL_S": "1.4",
        **{f"MPESA__{name}": value for name, value in mpesa.items()},
    }
    return {f"PAYMENTS__{name}": value for name, value in ours.items()} | HOOKS


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def engine() -> AsyncIterator[Engine]:
    """The engine, with Jo and Jo's orders at their services."""
    async with contextlib.AsyncExitStack() as stack:
        sims = await stack.enter_async_context(simulators())
        gateway = await stack.enter_async_context(serve(InternalGatewaySim(None)))
        daraja = await stack.enter_async_context(serve(DarajaSim(None)))
        receiver = Receiver()
        receiving = await stack.enter_async_context(serve(receiver))
        folder = stack.enter_context(temporary_folder())
        server = RedisServer(folder)
        server.start()
        stack.callback(server.stop)
        ports = {port: free_port() for port in SECTIONS}
        process = EngineProcess(server.url, sims, folder, **_settings(gateway, daraja, ports))
        process.base = f"http://127.0.0.1:{ports['3003']}"
        stack.push_async_callback(process.close)
        await sims.user()
        for number in range(1, ORDERS + 1):
            await sims.order(f"order-{number}")
        await process.start()
        # `make run` has it in the same process.
        worker = NotifyProcess(server, folder, PAYMENTS__CARDS__KEYS=CARD_KEYS, **HOOKS)
        await stack.enter_async_context(worker)
        await worker.start()
        timeout = aiohttp.ClientTimeout(total=60)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        where = {"3001": sims.orders, "3002": sims.users, "3008": gateway, "3009": sims.acquirer, "3010": daraja}
        where["9000"] = receiving
        where |= {port: f"http://127.0.0.1:{real}" for port, real in ports.items()}
        yield Engine(where, process.environment, process.events_file, session, server, receiver.got)


__all__ = ["CALLBACK_SECRET", "USER", "engine"]
