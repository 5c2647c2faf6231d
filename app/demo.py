"""`python -m app demo`: the engine with everything it needs, on one machine, from nothing.

What is configured is used; only what is missing is embedded: a private Redis, simulators of the user service,
the order service and the acquirer, secrets, and a file for the events. All of it lives in the data folder.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from app.companions import Footing, order_service, user_service
from app.embedded import FAKE_URL, EmbeddedFailed, find_server, redis_server
from app.settings import ConfigError, Settings, from_process
from app.simulate import service_token
from app.tokens import make_token
from engine.errors import StoreUnavailable
from engine.store.connect import RedisSettings
from simulators import orders, users
from simulators.acquirer import AcquirerSim
from simulators.daraja import MERCHANT, DarajaSim
from simulators.daraja_forms import Merchant
from simulators.internal_gateway import InternalGatewaySim
from simulators.journal import JournalDamaged
from simulators.neighbours import Neighbours
from simulators.server import HasApp, serve

_HOST: Final = "127.0.0.1"
_USERS_PORT: Final = 3002
_ORDERS_PORT: Final = 3001
_ACQUIRER_PORT: Final = 3009
_GATEWAY_PORT: Final = 3008
_OPS_PORT: Final = 3007
_USER: Final = "550e8400-e29b-41d4-a716-446655440001"
_DARAJA_PORT: Final = 3010
_CLIENT: Final = "550e8400-e29b-41d4-a716-446655440000"
_PACKAGE: Final = "660e8400-e29b-41d4-a716-446655440001"
_CALLBACK: Final = ("callback_base_url", "callback_secret")
_OF_PACKAGE: Final = ("client", "name", "price")
_SECRETS: Final = "secrets.json"
_WEBHOOKS: Final = ("enabled", "allow_http", "allow_private")


class DemoPorts(msgspec.Struct, frozen=True):
    """Where the simulators listen; 0 is any free port."""

    users: int = _USERS_PORT
    orders: int = _ORDERS_PORT
    acquirer: int = _ACQUIRER_PORT
    gateway: int = _GATEWAY_PORT
    daraja: int = _DARAJA_PORT


@contextlib.asynccontextmanager
async def surroundings(config: Path | None, folder: Path, ports: DemoPorts) -> AsyncIterator[Settings]:
    """Start what is not configured; gives the settings that point to it. Raises `DemoFailed`."""
    kept = _kept_secrets(folder / _SECRETS)
    defaults: dict[str, dict[str, Any]] = {
        "auth": {"secret": kept.jwt},
        "cards": {"keys": f"demo:{kept.cards}", "fingerprint_secret": kept.fingerprints},
        "events": {"file": str(folder / "events.jsonl")},
        # For this machine only: there is no token.
        "ops": {"port": _OPS_PORT, "console": True},
        # Here every door is open.
        "orders_api": {"enabled": True},
        "gateway": {"enabled": True},
        "mpesa": {"enabled": True},
        "vault": {"enabled": True},
        # On one's own machine, where whoever is told listens there too.
        "webhooks": {"enabled": True, "allow_http": True, "allow_private": True},
    }
    configured = from_process(config, defaults)
    async with contextlib.AsyncExitStack() as stack:
        if not configured.redis.url:
            defaults["redis"] = _embedded_redis(stack, folder)
        await _companions(stack, configured, defaults, folder, ports)
        if not configured.acquirer.base_url:
            url = await stack.enter_async_context(_simulator(AcquirerSim(folder / "acquirer.jsonl"), ports.acquirer))
            defaults["acquirer"] = {"url": url}
        await _gateway(stack, configured, defaults["orders_api"], ports.gateway)
        await _phones(stack, configured, defaults["mpesa"], folder, ports.daraja, kept)
        if "users" in defaults:
            await _seed_user(defaults["users"]["url"].removesuffix("/{id}"))
        yield from_process(config, defaults)


async def _companions(
    stack: contextlib.AsyncExitStack,
    configured: Settings,
    defaults: dict[str, dict[str, Any]],
    folder: Path,
    ports: DemoPorts,
) -> None:
    """The user service and the order service, unless there are others: on our own Redis, or on files."""
    redis_url = defaults.get("redis", {}).get("url", FAKE_URL)

    def footing(name: str) -> Footing:
        kafka = configured.kafka if configured.kafka.brokers else None
        events = None if kafka else Path(configured.events.file)
        if redis_url == FAKE_URL:
            return Footing(folder / f"{name}.jsonl", None, kafka, events)
        # A database of their own: the engine does not begin in one that holds something.
        return Footing(None, RedisSettings(url=f"{redis_url}?db=1"), kafka, events)

    users_url = configured.users.url
    if not users_url:
        service = user_service(footing("users"), _HOST, ports.users, topic=users.TOPIC, jwt_secret="")
        users_url = await stack.enter_async_context(_opened(service, ports.users)) + "/api/users/{id}"
        defaults["users"] = {"url": users_url}
    if not configured.orders.url:
        engine_url = f"http://{_HOST}:{configured.core.port}" if configured.core.enabled else ""
        neighbours = Neighbours(users_url=users_url, engine_url=engine_url, token=service_token(configured))
        service = order_service(
            footing("orders"), _HOST, ports.orders,
            topic=orders.TOPIC, payments_topic=configured.events.topic, neighbours=neighbours,
        )  # fmt: skip
        url = await stack.enter_async_context(_opened(service, ports.orders))
        defaults["orders"] = {"url": url + "/api/orders/{id}"}


async def _gateway(
    stack: contextlib.AsyncExitStack, configured: Settings, orders_api: dict[str, Any], port: int
) -> None:
    """The gateway behind the orders surface, unless that is switched off or has one."""
    wanted = configured.orders_api
    missing = {"users_url": wanted.users_url, "orders_url": wanted.orders_url}
    missing = {key: path for key, path in missing.items() if not path}
    if wanted.enabled and missing:
        url = await stack.enter_async_context(_simulator(InternalGatewaySim(None), port))
        orders_api.update({key: f"{url}/internal/{key.removesuffix('_url')}/{{id}}" for key in missing})


async def _phones(
    stack: contextlib.AsyncExitStack,
    configured: Settings,
    mpesa: dict[str, Any],
    folder: Path,
    port: int,
    kept: _Secrets,
) -> None:
    """Pretend phones behind the M-Pesa surface, unless that is switched off or has real ones."""
    if not configured.mpesa.enabled or configured.mpesa.base_url:
        return
    url = await stack.enter_async_context(_simulator(DarajaSim(folder / "daraja.jsonl"), port))
    mpesa.update(
        base_url=url,
        **MERCHANT._asdict(),
        callback_base_url=f"http://127.0.0.1:{configured.mpesa.port}",
        # Made of a secret, and telling nothing about it: it stands in URLs.
        callback_secret=hashlib.blake2b(kept.fingerprints.encode(), digest_size=16, person=b"mpesa").hexdigest(),
        clients={_CLIENT: {"name": "Demo"}},
        packages={_PACKAGE: {"client": _CLIENT, "name": "Internet package - Professional Plan", "price": 1500}},
    )


def environment(settings: Settings) -> dict[str, str]:
    """What further processes of the demo need to know of its surroundings."""
    mpesa = settings.mpesa
    known = {
        "REDIS__URL": settings.redis.url,
        "CARDS__KEYS": settings.cards.keys,
        "CARDS__FINGERPRINT_SECRET": settings.cards.fingerprint_secret,
        "USERS__URL": settings.users.url,
        "ORDERS__URL": settings.orders.url,
        "ACQUIRER__URL": settings.acquirer.base_url,
        "EVENTS__FILE": settings.events.file,
        "AUTH__SECRET": settings.auth.secret,
        "OPS__PORT": str(settings.ops.port),
        "OPS__CONSOLE": str(settings.ops.console),
        "OPS__CONSOLE_TOKEN": settings.ops.console_token,
        "ORDERS_API__ENABLED": str(settings.orders_api.enabled),
        "ORDERS_API__USERS_URL": settings.orders_api.users_url,
        "ORDERS_API__ORDERS_URL": settings.orders_api.orders_url,
        "GATEWAY__ENABLED": str(settings.gateway.enabled),
        "VAULT__ENABLED": str(settings.vault.enabled),
        **{f"WEBHOOKS__{name.upper()}": str(getattr(settings.webhooks, name)) for name in _WEBHOOKS},
        "MPESA__ENABLED": str(mpesa.enabled),
        "MPESA__BASE_URL": mpesa.base_url,
        **{f"MPESA__{name.upper()}": getattr(mpesa, name) for name in (*Merchant._fields, *_CALLBACK)},
        **{f"MPESA__CLIENTS__{name}__NAME": client.name for name, client in mpesa.clients.items()},
    }
    for name, package in mpesa.packages.items():
        known |= {f"MPESA__PACKAGES__{name}__{key.upper()}": str(getattr(package, key)) for key in _OF_PACKAGE}
    return {f"PAYMENTS__{key}": value for key, value in known.items()}


def banner(settings: Settings, folder: Path) -> str:
    """What to paste first: an order at the simulator, and a payment for it."""
    base = f"http://127.0.0.1:{settings.core.port}"
    orders = settings.orders.url.removesuffix("/{id}")
    order = f"order-{secrets.token_hex(4)}"
    make_order = (
        f"curl -s {orders} -H 'Content-Type: application/json' -d "
        f'\'{{"id":"{order}","userId":"{_USER}","items":[{{"productId":"prod-1","quantity":2,"price":29.99}},'
        f'{{"productId":"prod-2","quantity":1,"price":15.50}}]}}\''
    )
    pay = (
        f"curl -s {base}/api/payments -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' "
        f"-H 'Idempotency-Key: {order}' -H 'Prefer: wait=5' -d "
        f'\'{{"orderId":"{order}","userId":"{_USER}","amount":75.48,"currency":"USD","paymentMethod":'
        f'{{"type":"credit_card","cardNumber":"4242424242424242","expiryMonth":"12","expiryYear":"2030","cvv":"123"}}}}\''
    )
    recorded = f"http://127.0.0.1:{settings.orders_api.port}"
    stored = f"http://127.0.0.1:{settings.vault.port}"
    deaf = "" if settings.kafka.brokers else "   (without Kafka nobody listens for refunds)"
    where = f"Kafka at {settings.kafka.brokers}" if settings.kafka.brokers else settings.events.file
    kept = "NOTHING IS KEPT: there is no redis-server here" if settings.redis.url == FAKE_URL else f"kept in {folder}/"
    gateway = f"http://127.0.0.1:{settings.gateway.port}"
    doors = f"\nOrders surface   {recorded}   docs {recorded}/docs" if settings.orders_api.enabled else ""
    doors += f"\nVault surface    {stored}   docs {stored}/docs{deaf}" if settings.vault.enabled else ""
    phones = f"http://127.0.0.1:{settings.mpesa.port}"
    doors += f"\nM-Pesa           {phones}   docs {phones}/docs" if settings.mpesa.enabled else ""
    doors += f"\nGateway          {gateway}   docs {gateway}/docs" if settings.gateway.enabled else ""
    doors += f"\nConsole          http://127.0.0.1:{settings.ops.port}/console" if settings.ops.console else ""
    return f"""
Payment engine   {base}   docs {base}/docs   metrics {base}/metrics{doors}
Users            {settings.users.url.removesuffix("/{id}")}
Orders           {orders}
Events           {where}
Data             {kept}

Paste a token, an order, and a payment for it:

TOKEN={_token(settings)}
{make_order}
{pay}

Stop with Ctrl-C.
"""


def demo_secret(folder: Path) -> dict[str, dict[str, Any]]:
    """The demo's signing secret as a default, when there is a demo in this folder."""
    path = folder / _SECRETS
    return {"auth": {"secret": _kept_secrets(path).jwt}} if path.is_file() else {}


def _token(settings: Settings) -> str:
    if settings.auth.mode == "none":
        return "none-needed"
    return make_token(settings.auth, subject=_USER, role="service", hours=24)


async def _seed_user(url: str) -> None:
    """The user of the banner. On a later start it is there already, and the simulator says 409."""
    user = {
        "id": _USER, "email": "jo@example.com", "username": "jo", "password": secrets.token_hex(8),
        "first_name": "Jo", "last_name": "Doe", "phone": "+1234567890",
    }  # fmt: skip
    async with aiohttp.ClientSession() as session, session.post(url, json=user) as response:
        if response.status not in (201, 409):
            raise DemoFailed(f"the user simulator answered {response.status}")


def _simulator(sim: HasApp, port: int) -> contextlib.AbstractAsyncContextManager[str]:
    return _opened(serve(sim, port=port), port)


@contextlib.asynccontextmanager
async def _opened(serving: contextlib.AbstractAsyncContextManager[str], port: int) -> AsyncIterator[str]:
    try:
        async with serving as url:
            yield url
    except OSError as error:
        raise DemoFailed(f"cannot listen on {_HOST}:{port}: {error.strerror}") from None
    except (JournalDamaged, StoreUnavailable) as error:
        raise DemoFailed(str(error)) from None


class DemoFailed(Exception):
    """The demo's surroundings did not start."""


def _embedded_redis(stack: contextlib.AsyncExitStack, folder: Path) -> dict[str, Any]:
    if server := find_server():
        try:
            return {"url": stack.enter_context(redis_server(server, folder / "redis"))}
        except EmbeddedFailed as error:
            raise DemoFailed(str(error)) from None
    return {"url": FAKE_URL, "durability": "relaxed"}


class _Secrets(msgspec.Struct, frozen=True):
    """The demo's own secrets."""

    jwt: str
    cards: str
    fingerprints: str


def _kept_secrets(path: Path) -> _Secrets:
    """Made once: with other keys the cards of the last run could not be opened. Raises `ConfigError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        _make_secrets(path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Secrets)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ConfigError(
            f"{path} is damaged, and without it the cards in {path.parent} cannot be opened: put it back from a copy, "
            f"or move {path.parent} away to begin anew"
        ) from None


def _make_secrets(path: Path) -> None:
    # Whole or not at all, and by the first of two who start at once.
    made = _Secrets(*(base64.b64encode(os.urandom(32)).decode() for _ in _Secrets.__struct_fields__))
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(made))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
